"""`hearth up` as an ordinary user: the whole way, and what happens when it is killed."""

from __future__ import annotations

import json
import os
import signal
import stat
from pathlib import Path

import pytest

from tests.e2e.platform import Platform, until
from tests.patience import patient
from tests.user.conftest import held, sandboxes

HANDLERS = {
    "python": {"handler.py": "def handler(event, context):\n    return 'from python'\n"},
    "node": {"handler.mjs": "export const handler = async () => 'from node'\n"},
    "go": {
        "go.mod": "module example\n\ngo 1.21\n",
        "handler.go": (
            'package main\n\nimport (\n\t"fmt"\n\t"net/http"\n)\n\n'
            'func Handler(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "from go") }\n'
        ),
    },
}
PROBE = """
import json, os, socket, time

def attempt(work, *arguments):
    try:
        work(*arguments)
    except OSError as error:
        return os.strerror(error.errno) if error.errno else str(error)
    return "done"

def dial(address, port):
    with socket.socket() as sock:
        sock.settimeout(5)
        sock.connect((address, port))

def forks():
    kids = []
    try:
        while len(kids) < 400:
            pid = os.fork()
            if not pid:
                time.sleep(60)
                os._exit(0)
            kids.append(pid)
    except OSError:
        pass
    for pid in kids:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    return len(kids)

def heap(size):
    return len(bytearray(size))

def handler(event, context):
    return {"said": answer(event)}

def answer(event):
    asked = json.loads(event["body"])
    what = asked.pop("do")
    if what == "dial":
        return {target: attempt(dial, *target.rsplit(":", 1)[:1], int(target.rsplit(":", 1)[1])) for target in asked["targets"]}
    if what == "write":
        return {path: attempt(open, path, "w") for path in asked["paths"]}
    if what == "fork":
        return forks()
    if what == "heap":
        try:
            return heap(asked["size"])
        except MemoryError:
            return "MemoryError"
    if what == "name":
        return attempt(socket.getaddrinfo, asked["name"], 80)
    if what == "reverse":
        try:
            return socket.gethostbyaddr(asked["address"])[0]
        except OSError as error:
            return str(error)
    if what == "who":
        return {"uid": os.getuid(), "links": sorted(os.listdir("/sys/class/net")) if os.path.isdir("/sys") else sorted(name for _, name in socket.if_nameindex())}
"""


def ask(platform: Platform, function: str, **what: object) -> object:
    answer = platform.call(
        f"/fn/ann/{function}", data=json.dumps(what).encode(), content_type="application/json"
    )
    assert answer.status == 200, (answer.status, answer.body)
    return json.loads(answer.body)["said"]


@pytest.fixture(scope="module")
def probe(platform: Platform) -> Platform:
    """Two functions that try things: one with the internet, one without any network."""
    platform.deploy("net", "python", {"handler.py": PROBE}, network="internet")
    platform.deploy("alone", "python", {"handler.py": PROBE}, network="none")
    return platform


@pytest.mark.network
@pytest.mark.timeout(900)  # a first Go build compiles the standard library
@pytest.mark.parametrize("runtime", ["python", "node", "go"])
def test_deploy_and_invoke(platform: Platform, runtime: str) -> None:
    platform.deploy(f"from-{runtime}", runtime, HANDLERS[runtime])
    answer = platform.call(f"/fn/ann/from-{runtime}")
    assert (answer.status, answer.body.strip(b'"\n')) == (200, f"from {runtime}".encode())


def test_a_function_without_a_network_calls_another(platform: Platform) -> None:
    told = "def handler(event, context):\n    return event['headers']['x-hearth-caller']\n"
    asks = """
import os, urllib.request

def handler(event, context):
    return urllib.request.urlopen(os.environ["HEARTH_URL"] + "/fn/ann/called").read().decode()
"""
    platform.deploy("called", "python", {"handler.py": told}, auth="members")
    for network in ("none", "internet"):
        platform.deploy(f"calls-{network}", "python", {"handler.py": asks}, network=network)
        answer = platform.call(f"/fn/ann/calls-{network}")
        assert answer.body.startswith(b"function:fn_"), answer.body


@pytest.mark.network
def test_a_build_fetches_packages(platform: Platform) -> None:
    files = {"handler.py": HANDLERS["python"]["handler.py"] + "import segno\n", "requirements.txt": "segno\n"}
    platform.deploy("fetched", "python", files)
    assert platform.call("/fn/ann/fetched").body == b"from python"


def test_it_says_what_it_holds_and_what_not(platform: Platform) -> None:
    said = " ".join(line.partition("not held: ")[2].partition(":")[0] for line in platform.output)
    assert {"pids", "tmp", "network", "seccomp"} <= held(platform)
    for limit in {"memory", "cpu"} - held(platform):
        assert limit in said
    assert any("Warning    uids: functions run as the user" in line for line in platform.output)
    assert stat.S_IMODE(platform.data.stat().st_mode) == 0o700


def test_code_is_read_only_and_nothing_of_the_user_is_there(probe: Platform) -> None:
    paths = [
        "/hearth/code/new",
        "/hearth/new",
        "/usr/new",
        "/etc/passwd",
        str(probe.data / "key"),
        "/tmp/new",
    ]
    seen = ask(probe, "net", do="write", paths=paths)
    assert isinstance(seen, dict)
    assert seen.pop("/tmp/new") == "done"
    assert set(seen.values()) <= {"Read-only file system", "No such file or directory", "Permission denied"}
    assert seen["/hearth/code/new"] == "Read-only file system"
    assert seen[str(probe.data / "key")] == "No such file or directory"


def test_private_targets_are_refused(probe: Platform) -> None:
    """What docs/explanation/networks.md says of `internet`; which public ones are reached is in
    tests/integration/test_egress_own.py."""
    port = probe.url.rsplit(":", 1)[1]
    targets = [f"{address}:{port}" for address in (*own_addresses(), "192.0.2.2", "192.0.2.3")]
    targets += ["169.254.169.254:80", "172.16.0.1:80", "192.168.0.1:80", "100.64.0.1:80", "10.0.0.5:8080"]
    seen = ask(probe, "net", do="dial", targets=targets)
    assert seen == dict.fromkeys(targets, "Connection refused")
    loopback = ask(probe, "net", do="dial", targets=[f"127.0.0.1:{port}"])
    assert loopback == {f"127.0.0.1:{port}": "Connection refused"}  # its own, where nobody listens


def test_what_is_refused_is_told_in_the_functions_log(probe: Platform) -> None:
    ask(probe, "net", do="dial", targets=["169.254.169.254:80"])
    line = "network: tcp to 169.254.169.254 port 80 was refused: a link-local address"
    until(lambda: line in probe.cli("logs", "net"), what=line)


def test_an_allowlist_is_held(platform: Platform) -> None:
    allow = ["93.184.216.34/32:443", "allowed.invalid:443"]
    platform.deploy("listed", "python", {"handler.py": PROBE}, network={"internet": False, "allow": allow})
    targets = ["93.184.216.34:80", "93.184.216.35:443", "169.254.169.254:80", "192.0.2.2:80", "10.0.0.5:443"]
    seen = ask(platform, "listed", do="dial", targets=targets)
    assert seen == dict.fromkeys(targets, "Connection refused")
    assert ask(platform, "listed", do="name", name="other.invalid") != "done"
    for line in (
        "network: tcp to 93.184.216.35 port 443 was refused: network.allow does not name it",
        "network: the name other.invalid was refused: network.allow does not name it",
    ):
        until(lambda line=line: line in platform.cli("logs", "listed"), what=line)  # type: ignore[misc]
    folder = platform.function("private", "python", {"handler.py": PROBE}, network={"allow": ["10.0.0.5:80"]})
    assert "--private-networks 10.0.0.5/32" in platform.cli("deploy", str(folder), code=1)


def own_addresses() -> list[str]:
    """This machine's, private or not, but for loopback."""
    words = Path("/proc/net/fib_trie").read_text().splitlines()
    found = {words[at - 1].split()[-1] for at, line in enumerate(words) if "host LOCAL" in line}
    return sorted(address for address in found if not address.startswith("127."))


def test_none_has_no_network_at_all(probe: Platform) -> None:
    seen = ask(probe, "alone", do="dial", targets=["192.0.2.2:80", "93.184.216.34:80"])
    assert set(seen.values()) == {"Network is unreachable"}  # type: ignore[attr-defined]
    assert ask(probe, "alone", do="who")["links"] == ["lo"]  # type: ignore[index]
    assert ask(probe, "alone", do="name", name="example.com") != "done"


def test_names_are_answered_by_the_platforms_own_resolver(probe: Platform) -> None:
    """It knows by itself, without asking anybody, that private addresses have no names."""
    assert "Unknown host" in str(ask(probe, "net", do="reverse", address="10.0.0.5"))
    assert "Unknown host" not in str(ask(probe, "alone", do="reverse", address="10.0.0.5"))
    for pid in pids_of("hearth.bootstrap.resolver"):
        os.kill(pid, signal.SIGKILL)
    until(lambda: "Unknown host" in str(ask(probe, "net", do="reverse", address="10.0.0.5")), 60)


def test_the_number_of_processes_is_held_and_is_each_functions_own(probe: Platform) -> None:
    for name in ("net", "alone", "net"):
        assert 200 <= ask(probe, name, do="fork") <= 257  # type: ignore[operator]


def test_a_written_limit_that_is_not_held_is_refused(platform: Platform) -> None:
    folder = platform.function("small", "python", HANDLERS["python"], auth="public", memory="128MiB", cpu=0.5)
    if {"memory", "cpu"} <= held(platform):
        platform.cli("deploy", str(folder))
        return
    said = platform.cli("deploy", str(folder), code=1)
    assert "can't hold the limit" in said
    assert "--allow-unenforced" in said
    platform.deploy("plain", "python", HANDLERS["python"])
    warnings = json.loads(platform.cli("describe", "plain", "--json"))["warnings"]
    assert any(line.startswith("memory: the limit is not held") for line in warnings)


def test_allowed_the_heap_is_stopped_though_not_held(own_platform: Platform) -> None:
    own_platform.flags = ("--allow-unenforced", "memory,cpu")
    own_platform.start().register()
    own_platform.deploy("small", "python", {"handler.py": PROBE}, memory="64MiB")
    if "memory" not in held(own_platform):
        assert ask(own_platform, "small", do="heap", size=2 << 30) == "MemoryError"
    assert own_platform.cli("deploy", str(own_platform.home / "small")).count("not held") <= 1


@pytest.mark.parametrize("whom", ["supervisor", "both", "keeper"])
def test_killed_it_leaves_nothing_and_starts_again(own_platform: Platform, whom: str) -> None:
    before = set(sandboxes())
    own_platform.start().register()
    own_platform.deploy("hello", "python", HANDLERS["python"])
    assert own_platform.process is not None
    keepers = [
        pid for pid in pids_of("hearth.bootstrap.keeper") if pid not in {int(b.split()[0]) for b in before}
    ]
    assert len(keepers) == 2  # the keeper, process 1 of its namespace, and the shell around it
    if whom != "keeper":
        own_platform.process.send_signal(signal.SIGKILL)
    for pid in keepers if whom != "supervisor" else ():
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue  # the other one's end has ended it
    if whom == "keeper":
        until(lambda: own_platform.call("/fn/ann/hello").status == 200, what="calls don't work again")
        return
    own_platform.process.wait(patient(20))
    until(lambda: not set(sandboxes()) - before, what="something of it is left")
    own_platform.start()
    assert own_platform.call("/fn/ann/hello").status == 200


def pids_of(word: str) -> list[int]:
    return [int(line.split()[0]) for line in sandboxes() if word in line]


def test_two_platforms_on_one_data_directory(own_platform: Platform) -> None:
    own_platform.start()
    assert "another hearth runs" in own_platform.cli("up", "--data-dir", str(own_platform.data), code=1)
