"""Who may do what on a running platform: its own processes without privileges, and a hostile function among them."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import subprocess
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from hearth.protocol import keeper as protocol
from tests.e2e.platform import Platform, groups, members

pytestmark = pytest.mark.root

PLAIN = ("control", "shard", "resolver")
CAPS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def pid_of(platform: Platform, kind: str) -> int:
    (pid,) = platform.pids(kind)
    return pid


def platform_uid(platform: Platform) -> int:
    return int(status_of(pid_of(platform, "control"))["Uid"].split()[0])


def as_platform(platform: Platform, *command: str, kind: str = "shard") -> subprocess.CompletedProcess[bytes]:
    """Run a program with all that a process that was taken over has: its uid, in its mount namespace."""
    pid = pid_of(platform, kind)
    uid = status_of(pid)["Uid"].split()[0]
    enter = ["nsenter", "-t", str(pid), "-m", "--"]
    drop = [
        "setpriv",
        "--reuid",
        uid,
        "--regid",
        uid,
        "--clear-groups",
        "--no-new-privs",
        "--bounding-set=-all",
        "--",
    ]
    return subprocess.run([*enter, *drop, *command], capture_output=True, check=False)


def in_memory(pid: int, secret: bytes) -> bool:
    """Whether a process has these bytes anywhere in its writable memory."""
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, mode, *_ = line.split()
            if not mode.startswith("rw"):
                continue
            start, end = (int(number, 16) for number in span.split("-"))
            try:
                if secret in os.pread(memory.fileno(), end - start, start):
                    return True
            except OSError:
                continue  # such as [vvar], which nobody reads
    return False


@pytest.mark.parametrize("kind", PLAIN)
def test_a_process_has_no_privileges(platform: Platform, kind: str) -> None:
    status = status_of(pid_of(platform, kind))
    uids, gids = set(status["Uid"].split()), set(status["Gid"].split())
    assert len(uids) == len(gids) == 1
    assert "0" not in uids | gids
    assert status["Groups"] == ""
    assert {name: status[name] for name in CAPS} == dict.fromkeys(CAPS, "0" * 16)
    assert status["NoNewPrivs"] == "1"


def test_the_keeper_alone_has_privileges(platform: Platform) -> None:
    """What shows that the looks above see privileges where there are some."""
    status = status_of(pid_of(platform, "keeper"))
    assert set(status["Uid"].split()) == {"0"}
    assert int(status["CapEff"], 16) != 0


@pytest.mark.parametrize("kind", ["keeper", *PLAIN])
def test_nothing_of_the_starters_environment(platform: Platform, kind: str) -> None:
    text = Path(f"/proc/{pid_of(platform, kind)}/environ").read_bytes().rstrip(b"\0")
    assert {part.partition(b"=")[0] for part in text.split(b"\0")} == {b"PATH", b"LANG"}


def links_of(pid: int) -> list[str]:
    """What its descriptors are; those that it closes meanwhile are passed over."""
    found = []
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found.append(os.readlink(fd))
    return found


def test_the_root_key_is_with_control_alone(platform: Platform) -> None:
    key = platform.data / "key"
    secret = key.read_bytes()
    assert (key.stat().st_uid, key.stat().st_mode & 0o777) == (0, 0o600)
    for kind in ("keeper", *PLAIN):
        pid = pid_of(platform, kind)
        links = links_of(pid)
        assert links
        assert not [link for link in links if "memfd" in link or link.endswith("/key")], kind
    found = {kind: in_memory(pid_of(platform, kind), secret) for kind in ("keeper", *PLAIN)}
    assert found == {"keeper": False, "control": True, "shard": False, "resolver": False}


def test_the_data_directory_is_the_platforms_alone(platform: Platform) -> None:
    uid = platform_uid(platform)
    place = platform.data.stat()
    assert (place.st_uid, place.st_mode & 0o777) == (uid, 0o700)
    owners = {
        path.name: (path.stat().st_uid, path.stat().st_mode & 0o077) for path in platform.data.iterdir()
    }
    assert {name for name, (owner, _) in owners.items() if owner == 0} == {"key", "lock", "instance", "disks"}
    assert {name for name, (owner, _) in owners.items() if owner not in (0, uid)} == set()
    assert {name for name, (_, others) in owners.items() if others} <= {"instance"}  # a name, no secret


def test_what_a_shard_that_was_taken_over_can_do(platform: Platform) -> None:
    control, keeper = pid_of(platform, "control"), pid_of(platform, "keeper")
    may = {
        "its own database": ["test", "-r", str(platform.data / "hearth.db")],
        "the way to the keeper": ["test", "-S", f"/run/hearth-{platform.instance}/keeper.sock"],
    }
    may_not = {
        "the root key": ["cat", str(platform.data / "key")],
        "disks": ["ls", str(platform.data / "disks")],
        "memory of control": ["dd", f"if=/proc/{control}/mem", "count=0"],
        "descriptors of control": ["ls", f"/proc/{control}/fd"],
        "environment of control": ["cat", f"/proc/{control}/environ"],
        "descriptors of the keeper": ["ls", f"/proc/{keeper}/fd"],
        "the keeper's life": ["kill", "-9", str(keeper)],
        "shadow": ["cat", "/etc/shadow"],
        "slots": ["mkdir", f"/run/hearth-{platform.instance}/slots/x"],
        "shims": ["touch", f"/run/hearth-{platform.instance}/shims/python/main.py"],
        "a mount": ["mount", "-t", "tmpfs", "x", "/mnt"],
        "the rules": ["nft", "list", "ruleset"],
        "a limit": ["test", "-w", str(_groups(platform)[0] / "cgroup.procs")],
    }
    assert {
        what: as_platform(platform, *command).returncode == 0 for what, command in may.items()
    } == dict.fromkeys(may, True)
    done = {what: as_platform(platform, *command) for what, command in may_not.items()}
    assert {what for what, result in done.items() if result.returncode == 0} == set(), done
    assert platform.pids("keeper") == [keeper]


VERSION = str(protocol.VERSION)
ASKING = """
import json, socket, sys
path, op, owner, version = sys.argv[1:]
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.settimeout(20)
try: s.connect(path)
except OSError as e: sys.exit(type(e).__name__)
said = []
for n, message in enumerate([{"op": "hello", "version": int(version), "owner": owner, "role": "control"}, {"op": op, "owner": None}]):
    s.sendall(json.dumps({"n": n, **message}).encode())
    answer = json.loads(s.recv(1 << 17) or "{}")
    said.append(answer.get("error", {}).get("code", "ok") if answer else "closed")
sys.exit(" ".join(said))
"""


@pytest.mark.parametrize(
    ("kind", "sock", "op", "said"),
    [
        ("resolver", "resolver", "resolver", "ok ok"),
        ("resolver", "resolver", "list_owned", "ok forbidden"),
        ("resolver", "resolver", "start", "ok forbidden"),
        ("resolver", "resolver", "refusal", "ok forbidden"),
        ("resolver", "resolver", "attach", "ok forbidden"),
        ("resolver", "keeper", "list_owned", "PermissionError"),
        ("shard", "keeper", "list_owned", "ok ok"),
        ("shard", "keeper", "resolver", "ok forbidden"),
        ("shard", "keeper", "learned", "ok forbidden"),
        ("shard", "keeper", "refused", "ok forbidden"),
        ("shard", "resolver", "resolver", "PermissionError"),
    ],
)
def test_the_keeper_hears_each_for_what_it_is(
    platform: Platform, kind: str, sock: str, op: str, said: str
) -> None:
    path = f"/run/hearth-{platform.instance}/{sock}.sock"
    asked = as_platform(platform, "/usr/bin/python3", "-c", ASKING, path, op, "own_x", VERSION, kind=kind)
    assert asked.stderr.decode().strip() == said


def test_nobody_speaks_to_the_keeper_in_anothers_name(platform: Platform) -> None:
    """What control has started, a build say, is no shard's to stop."""
    with closing(sqlite3.connect(platform.data / "hearth.db")) as database:
        ((owner,),) = database.execute("SELECT id FROM owners WHERE kind = 'control' AND ended_ms IS NULL")
    path = f"/run/hearth-{platform.instance}/keeper.sock"
    asked = as_platform(platform, "/usr/bin/python3", "-c", ASKING, path, "list_owned", owner, VERSION)
    assert asked.stderr.decode().strip() == "forbidden protocol_violation"


def test_a_resolver_that_was_taken_over_is_nobody(platform: Platform) -> None:
    uid = status_of(pid_of(platform, "resolver"))["Uid"].split()[0]
    assert int(uid) not in (0, platform_uid(platform))
    may_not = {
        "the database": ["cat", str(platform.data / "hearth.db")],
        "what is deployed": ["ls", str(platform.data / "artifacts")],
        "control's sockets": ["ls", f"/run/hearth-{platform.instance}/control"],
        "a shard's life": ["kill", "-0", str(pid_of(platform, "shard"))],
        "a shard's memory": ["dd", f"if=/proc/{pid_of(platform, 'shard')}/mem", "count=0"],
    }
    done = {what: as_platform(platform, *command, kind="resolver") for what, command in may_not.items()}
    assert {what for what, result in done.items() if result.returncode == 0} == set(), done
    assert as_platform(platform, "cat", "/etc/resolv.conf", kind="resolver").returncode == 0  # its work


def _groups(platform: Platform) -> list[Path]:
    return [path for path in groups(platform.instance) if path.name == f"hearth-{platform.instance}"]


HOSTILE = """
import errno, json, os, signal, socket
def attempt(f, *a):
    try: f(*a)
    except OSError as e: return errno.errorcode.get(e.errno, str(e))
    return "ok"
def dial(path):
    for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
        with socket.socket(socket.AF_UNIX, kind) as s: s.connect(path)
def tcp(host, port):
    with socket.create_connection((host, port), 3): pass
def handler(event, context):
    asked = json.loads(event["body"])
    gateways = []
    for line in open("/proc/net/route").read().splitlines()[1:]:
        word = line.split()[2]
        if word != "00000000": gateways.append(socket.inet_ntoa(bytes.fromhex(word)[::-1]))
    text = ""
    for name in ("mountinfo", "environ", "cgroup"):
        text += open("/proc/self/" + name).read()
    return {"statusCode": 200, "body": json.dumps({
        "paths": [p for p in asked["paths"] if os.path.lexists(p)],
        "dial": {p: attempt(dial, p) for p in asked["sockets"]},
        "signals": [attempt(os.kill, p, n) for p in asked["pids"] for n in (0, 9)],
        "ports": {f"{host}:{port}": attempt(tcp, host, port) for host in ["127.0.0.1", *gateways, *asked["hosts"]] for port in asked["ports"]},
        "gateways": gateways, "text": text, "uid": os.getuid(), "files": sorted(os.listdir("/hearth/code")),
        "first": open("/proc/1/environ").read(), "names": sorted(os.environ),
    })}
"""


def sandboxes(platform: Platform) -> dict[int, dict[str, str]]:
    """Status by pid of every process that is in a sandbox."""
    return {
        pid: status
        for pid in members(platform.instance)
        if len((status := status_of(pid))["NSpid"].split()) == 2
    }


def test_a_hostile_function_reaches_nothing_of_the_platform(platform: Platform) -> None:
    platform.deploy(
        "victim", "python", {"handler.py": "def handler(e, c): return 'mine'\n", "private.txt": "x"}
    )
    platform.deploy("hostile", "python", {"handler.py": HOSTILE}, network="internet")
    assert platform.call("/fn/ann/victim").body == b"mine"
    run = f"/run/hearth-{platform.instance}"
    sockets = [
        f"{run}/keeper.sock",
        f"{run}/resolver.sock",
        f"{run}/control/api.sock",
        f"{run}/control/bus.sock",
        "/hearth/guest.sock",
    ]
    artifacts = [str(path) for path in (platform.data / "artifacts").iterdir()]
    pids = [pid for kind in ("keeper", *PLAIN) for pid in platform.pids(kind)]
    assert len(artifacts) >= 2 and len(pids) == 4
    assert all(pid > 100 for pid in pids)  # smaller numbers might be its own
    inside = Path(f"/proc/{pid_of(platform, 'shard')}/root")
    assert all((inside / path.lstrip("/")).exists() for path in sockets[:4])
    port = int(platform.url.rpartition(":")[2])
    listener = socket.create_server(("0.0.0.0", 0))  # on every address of this machine
    asked = {
        "paths": [run, str(platform.data), str(platform.home), "/root", "/home", *sockets, *artifacts],
        "sockets": sockets,
        "pids": pids,
        "hosts": own_addresses(),
        "ports": [port, listener.getsockname()[1]],
    }
    with listener:
        answer = platform.call(
            "/fn/ann/hostile", data=json.dumps(asked).encode(), Content_Type="application/json"
        )
    assert answer.status == 200, answer.body
    seen: dict[str, Any] = answer.json()
    assert seen["paths"] == []
    assert seen["dial"] == dict.fromkeys(sockets, "ENOENT")
    assert set(seen["signals"]) == {"ESRCH"}
    assert "ok" not in seen["ports"].values(), seen["ports"]
    assert seen["gateways"], "it has a network: else that it reaches nothing says nothing"
    assert "private.txt" not in seen["files"]
    assert str(platform.home) not in seen["first"]
    assert set(seen["first"].strip("\0").split("\0")) <= {"PATH=/usr/bin:/bin", "PWD=/"}
    assert {"HEARTH_FUNCTION", "PATH"} <= set(seen["names"])
    assert not {name for name in seen["names"] if name in ("XDG_CONFIG_HOME", "NO_COLOR", "HEARTH_KEY_FILE")}
    digests = {Path(path).name for path in artifacts}
    assert sum(digest in seen["text"] for digest in digests) <= 1  # its own
    for pid in pids:
        os.kill(pid, 0)


def own_addresses() -> list[str]:
    said = subprocess.run(["ip", "-4", "-j", "addr"], capture_output=True, check=False).stdout
    return [info["local"] for link in json.loads(said or b"[]") for info in link["addr_info"]]


def test_every_sandbox_has_a_uid_that_nobody_else_has(platform: Platform) -> None:
    platform.deploy("first-uid", "python", {"handler.py": "def handler(e, c): return 'x'\n"})
    platform.deploy("second-uid", "python", {"handler.py": "def handler(e, c): return 'x'\n"})
    assert platform.call("/fn/ann/first-uid").status == platform.call("/fn/ann/second-uid").status == 200
    groups: dict[str, set[str]] = {}
    for pid, status in sandboxes(platform).items():
        group = (
            Path(f"/proc/{pid}/cgroup")
            .read_text()
            .partition(f"hearth-{platform.instance}/")[2]
            .split("\n")[0]
        )
        groups.setdefault(group, set()).update(status["Uid"].split())
    assert len(groups) >= 2
    uids = [uid for group in groups.values() for uid in group]
    assert len(uids) == len(set(uids)) == len(groups)  # one each, and each another
    assert not {"0", str(platform_uid(platform))} & set(uids)
