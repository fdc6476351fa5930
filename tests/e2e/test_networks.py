"""Whom functions may reach, on a real platform in a world of network namespaces: metadata service, private hosts, an internet.

Each driver holds the same table (docs/explanation/networks.md), from function.yaml to the packet filter.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dockerd import Dockerd
from tests.e2e.platform import Platform, leftovers, until
from tests.integration.netlab import METADATA, OTHER_PUBLIC, PRIVATE, PUBLIC, WAN, world

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

NAMES = {
    "api.test": [PUBLIC],
    "db.test": [PRIVATE[0]],
    "other.test": [OTHER_PUBLIC],
    "metadata.test": [METADATA],
}
_NAME_SERVER = """
import json, socket, sys
from dnslib import A, QTYPE, RR, DNSHeader, DNSRecord
names = json.loads(sys.argv[1])
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); sock.bind(("127.0.0.1", 53)); print("up", flush=True)
while True:
    data, peer = sock.recvfrom(2000)
    asked = DNSRecord.parse(data); name = str(asked.q.qname).rstrip(".").lower(); found = names.get(name)
    head = DNSHeader(id=asked.header.id, qr=1, ra=1, rcode=3 if found is None else 0)
    kept = [RR(asked.q.qname, QTYPE.A, rdata=A(one), ttl=60) for one in found or () if asked.q.qtype == QTYPE.A]
    sock.sendto(DNSRecord(head, q=asked.q, rr=kept).pack(), peer)
"""
PROBE = """
import json, socket

def handler(event, context):
    said = {}
    for host, port in json.loads(event["body"]):
        try:
            with socket.create_connection((host, port), timeout=3) as sock:
                said[f"{host}:{port}"] = sock.recv(100).decode().partition("|")[0]
        except OSError as error:
            said[f"{host}:{port}"] = type(error).__name__
    return said
"""
REFUSED, UNKNOWN = "ConnectionRefusedError", "gaierror"
NOTHING = {REFUSED, UNKNOWN, "OSError"}
PUBLIC6 = "2606:4700::1"
SIX = {f"{PUBLIC6}:8080": "OSError", f"::ffff:{METADATA}:8080": REFUSED}  # sandboxes have no IPv6
# What is tried by every function: (host, port).
TRIED = (
    (PUBLIC, 8080),
    (PUBLIC, 443),
    ("api.test", 443),
    ("other.test", 8080),
    ("db.test", 8080),
    ("metadata.test", 8080),
    (PRIVATE[0], 8080),
    (PRIVATE[0], 443),
    (PRIVATE[1], 8080),
    (METADATA, 8080),
    (WAN, 8080),
    (PUBLIC6, 8080),
    (f"::ffff:{METADATA}", 8080),
)
ONLY = {"internet": False, "allow": ["api.test:443", "db.test:8080"]}


@pytest.fixture(scope="module", params=["bubblewrap", pytest.param("docker", marks=pytest.mark.docker)])
def platform(request: pytest.FixtureRequest) -> Iterator[Platform]:
    """Its operator lets functions reach 10.0.0.0/24. This thread's network is its host's until the end."""
    flags: tuple[str, ...] = ("--isolation", request.param, "--private-networks", "10.0.0.0/24")
    if request.param == "docker":
        dockerd: Dockerd = request.getfixturevalue("dockerd")
        flags += ("--docker-socket", str(dockerd.socket))
    home = Path(tempfile.mkdtemp(prefix="hearth-e2e-"))
    (home / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    own_names = f'mount --bind {home}/resolv.conf /etc/resolv.conf && exec "$@"'
    starter = ("unshare", "--mount", "sh", "-c", own_names, "sh")
    with world(), name_server():
        platform = Platform(home, flags=flags, starter=starter)
        try:
            platform.start()
            platform.register()
            yield platform
            assert platform.stop() == 0
            assert leftovers(platform.instance, platform.data) == []
        finally:
            platform.put_down()
            shutil.rmtree(home, ignore_errors=True)


@contextlib.contextmanager
def name_server() -> Iterator[None]:
    command = [sys.executable, "-c", _NAME_SERVER, json.dumps(NAMES)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "up\n"
            yield
        finally:
            process.kill()


def reached(platform: Platform, name: str, network: object) -> dict[str, str]:
    """What a function with this network reaches of `TRIED`."""
    platform.deploy(name, "python", {"handler.py": PROBE}, network=network, timeout="60s")
    answer = platform.call(f"/fn/ann/{name}", json.dumps(TRIED).encode())
    assert answer.status == 200, answer.body
    return dict(answer.json())


def logged(platform: Platform, name: str, text: str) -> None:
    """Its log says this."""
    until(lambda: text in platform.cli("logs", name), what=f"{text!r} is not in the log of {name}")


def test_internet(platform: Platform) -> None:
    assert reached(platform, "web", "internet") == {
        f"{PUBLIC}:8080": PUBLIC,
        f"{PUBLIC}:443": PUBLIC,
        "api.test:443": PUBLIC,
        "other.test:8080": OTHER_PUBLIC,
        "db.test:8080": UNKNOWN,
        "metadata.test:8080": UNKNOWN,
        f"{PRIVATE[0]}:8080": REFUSED,
        f"{PRIVATE[0]}:443": REFUSED,
        f"{PRIVATE[1]}:8080": REFUSED,
        f"{METADATA}:8080": REFUSED,
        f"{WAN}:8080": REFUSED,
        **SIX,
    }
    logged(platform, "web", f"network: tcp to {METADATA} port 8080 was refused: a link-local address")
    logged(platform, "web", f"network: tcp to {PRIVATE[1]} port 8080 was refused: a private address")
    logged(platform, "web", "network: the name metadata.test was refused: it leads to 169.254.169.254")


def test_none(platform: Platform) -> None:
    said = reached(platform, "shut", "none")
    assert set(said.values()) <= NOTHING - {REFUSED}, said


def test_an_allowlist(platform: Platform) -> None:
    said = reached(platform, "listed", ONLY)
    assert said == {
        f"{PUBLIC}:8080": REFUSED,
        f"{PUBLIC}:443": REFUSED,  # not looked up yet: a name is opened when it is
        "api.test:443": PUBLIC,
        "other.test:8080": UNKNOWN,
        "db.test:8080": PRIVATE[0],
        "metadata.test:8080": UNKNOWN,
        f"{PRIVATE[0]}:8080": PRIVATE[0],
        f"{PRIVATE[0]}:443": REFUSED,
        f"{PRIVATE[1]}:8080": REFUSED,
        f"{METADATA}:8080": REFUSED,
        f"{WAN}:8080": REFUSED,
        **SIX,
    }
    logged(
        platform, "listed", f"network: tcp to {PUBLIC} port 8080 was refused: network.allow does not name it"
    )
    logged(platform, "listed", "network: the name other.test was refused: network.allow does not name it")
    assert "only api.test:443, db.test:8080" in platform.cli("describe", "listed")


def test_an_allowlist_of_ranges(platform: Platform) -> None:
    network = {"internet": False, "allow": [f"{PUBLIC}/32:443", "10.0.0.0/24:8080"]}
    said = reached(platform, "ranges", network)
    assert {target for target, what in said.items() if what not in NOTHING} == {
        f"{PUBLIC}:443",
        f"{PRIVATE[0]}:8080",
    }, said


def test_internet_with_a_private_host(platform: Platform) -> None:
    said = reached(platform, "both", {"internet": True, "allow": ["db.test:8080"]})
    assert {target for target, what in said.items() if what not in NOTHING} == {
        f"{PUBLIC}:8080",
        f"{PUBLIC}:443",
        "api.test:443",
        "other.test:8080",
        "db.test:8080",
        f"{PRIVATE[0]}:8080",
    }, said


def test_what_the_operator_does_not_allow_is_refused_at_deploy(platform: Platform) -> None:
    network = {"internet": False, "allow": [f"{PRIVATE[1]}/32:8080"]}
    folder = platform.function("private", "python", {"handler.py": PROBE}, network=network)
    said = platform.cli("deploy", str(folder), code=1)
    assert f"network.allow names {PRIVATE[1]}/32:8080, a private address" in said
    assert f"--private-networks 10.0.0.0/24,{PRIVATE[1]}/32" in said
    for never in ("169.254.169.254:80", "127.0.0.1:8080"):
        folder = platform.function("never", "python", {"handler.py": PROBE}, network={"allow": [never]})
        assert "are never reached" in platform.cli("deploy", str(folder), code=1)


def test_functions_do_not_reach_each_other(platform: Platform) -> None:
    """By the address that one has, another dials it."""
    server = """
import json, socket, threading
def serve():
    sock = socket.create_server(("0.0.0.0", 8080))
    while True:
        peer, _ = sock.accept(); peer.sendall(b"found|"); peer.close()
threading.Thread(target=serve, daemon=True).start()
def handler(event, context):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("93.184.216.34", 9)); return {"address": sock.getsockname()[0]}
"""
    platform.deploy("peer", "python", {"handler.py": server}, network="internet", scale={"min": 1})
    address = platform.call("/fn/ann/peer", b"{}").json()["address"]
    platform.deploy("dialler", "python", {"handler.py": PROBE}, network="internet")
    said = platform.call("/fn/ann/dialler", json.dumps([[address, 8080]]).encode()).json()
    assert said == {f"{address}:8080": REFUSED}
    logged(platform, "dialler", f"network: tcp to {address} port 8080 was refused")
