"""What is seen from outside of an ordinary user's sandboxes, and what their programs can't do to their limits and networks.

Runs in namespaces like those of his keeper: tests/user/inside.py.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import resource
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from hearth.core.errors import LimitUnenforceable, SandboxFailed
from hearth.core.launch import Handle, Limits, Network
from hearth.drivers.bubblewrap import cgroups
from hearth.drivers.bubblewrap.kin import below
from hearth.drivers.common import mounts
from hearth.egress import own_rules
from hearth.linux.netns import alone
from tests.contract.driver_cases import Rig, read_until, soon
from tests.patience import patient
from tests.security.jail import drop_options, told
from tests.security.outside import look, pids_of

pytestmark = [pytest.mark.root, pytest.mark.own]

WAIT = "s = dial(); s.sendall(b'up\\n'); s.recv(1)"
_NS_GET_USERNS, _NS_GET_PARENT = 0xB701, 0xB702  # ioctl_ns(2)
# No group of the sandbox's own, and the user's further groups stay: docs/explanation/isolation.md says so.
LESS = {"cgroup", "Groups"}


async def up(rig: Rig, **more: Any) -> tuple[Handle, int]:
    handle = await rig.start(WAIT, **more)
    fd = await rig.driver.connect(handle, soon())
    await read_until(fd, b"\n")
    return handle, fd


async def test_every_process_of_it_is_confined(rig: Rig) -> None:
    handle, fd = await up(rig)
    assert await look(rig, handle) <= LESS
    os.close(fd)
    await rig.driver.stop(handle, 0)


async def test_a_program_without_filters_is_not_run_on(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    drop_options(monkeypatch, "--add-seccomp-fd")
    with pytest.raises(SandboxFailed, match="less confined"):
        await rig.start(WAIT)


async def test_the_number_of_processes_is_set_before_the_program_and_on_all_of_it(rig: Rig) -> None:
    handle, fd = await up(rig, limits=Limits(pids=40))
    wanted = (40 + cgroups.OWN_PIDS,) * 2
    for pid in pids_of(rig, handle):
        assert resource.prlimit(pid, resource.RLIMIT_NPROC) == wanted
    with pytest.raises(LimitUnenforceable):
        await rig.attach(handle, rig.artifact(), limits=Limits(pids=41))
    os.close(fd)
    await rig.driver.stop(handle, 0)


async def test_sandboxes_are_counted_apart(rig: Rig) -> None:
    """Ten that fill themselves leave room for the eleventh: the limit is each one's own."""
    code = """
kids = []
try:
    while True:
        pid = os.fork()
        if not pid: time.sleep(100); os._exit(0)
        kids.append(pid)
except OSError: pass
s = dial(); s.sendall(b'%d\\n' % len(kids)); s.recv(1)
"""
    full = [await rig.start(code, limits=Limits(pids=20)) for _ in range(10)]
    fds = [await rig.driver.connect(handle, soon()) for handle in full]
    counts = [int(await read_until(fd, b"\n")) for fd in fds]
    assert all(17 <= count <= 22 for count in counts), counts
    handle, fd = await up(rig, limits=Limits(pids=20))
    for one in (*fds, fd):
        os.close(one)
    await asyncio.gather(*(rig.driver.stop(one, 0) for one in (*full, handle)))


async def test_a_start_that_is_cancelled_anywhere_leaves_nobody(rig: Rig) -> None:
    for turns in (0, 1, 2, 3, 5, 8, 13, 21):
        task = asyncio.ensure_future(rig.start(WAIT))
        for _ in range(turns):
            await asyncio.sleep(0.001)
        task.cancel()
        results = await asyncio.gather(task, return_exceptions=True)
        if isinstance(results[0], str):
            await rig.driver.stop(Handle(results[0]), 0)
        async with asyncio.timeout(patient(20)):  # what it does goes on when its caller is cancelled
            while below(os.getpid()):
                await asyncio.sleep(0.01)


async def test_the_network_belongs_to_a_namespace_above_the_programs(networked: Rig) -> None:
    """Whatever capabilities the program might win in its own user namespace, they mean nothing there."""
    handle, fd = await up(networked, networked=True)
    _, payload = pids_of(networked, handle)
    net = os.open(f"/proc/{payload}/ns/net", os.O_RDONLY)
    owner = fcntl.ioctl(net, _NS_GET_USERNS)
    above = os.open(f"/proc/{payload}/ns/user", os.O_RDONLY)
    steps = 0
    while not os.path.samestat(os.fstat(above), os.fstat(owner)):
        parent = fcntl.ioctl(above, _NS_GET_PARENT)
        os.close(above)
        above, steps = parent, steps + 1
    assert steps >= 1
    assert not os.path.samestat(os.fstat(owner), os.stat("/proc/self/ns/user"))
    for one in (net, owner, above, fd):
        os.close(one)
    await networked.driver.stop(handle, 0)


ATTACK = """
import subprocess, socket as S
def run(*words):
    done = subprocess.run(words, capture_output=True, text=True)
    return 'done' if done.returncode == 0 else (done.stderr.strip().splitlines() or ['refused'])[0]
def dial(a, p):
    with S.socket() as s:
        s.settimeout(5)
        return attempt(s.connect, (a, p))
print(json.dumps({
  'flush': run('/usr/sbin/nft', 'flush', 'ruleset'), 'address': run('/usr/sbin/ip', 'addr', 'add', '10.9.9.9/32', 'dev', 'tap0'),
  'down': run('/usr/sbin/ip', 'link', 'set', 'tap0', 'down'), 'userns': run('/usr/bin/unshare', '-Ur', 'true'),
  'raw': attempt(S.socket, S.AF_INET, S.SOCK_RAW, 6), 'port': attempt(S.socket().bind, ('127.0.0.53', 53)),
  'links': sorted(n for _, n in S.if_nameindex()), 'targets': {t: dial(*t) for t in ()} or [dial(a, p) for a, p in TARGETS]}))
"""


async def test_the_program_cannot_change_its_network(networked: Rig) -> None:
    targets = [
        (name, 80) for name in ("10.0.2.2", "10.0.2.3", "169.254.169.254", "192.168.1.1", "172.17.0.1")
    ]
    seen = await told(networked, f"TARGETS = {targets!r}\n" + ATTACK, network=Network("internet"))
    assert seen.pop("links") == ["lo", "tap0"]
    assert set(seen.pop("targets")) == {"ECONNREFUSED"}
    assert "done" not in seen.values(), seen
    assert seen["raw"] == "EPERM"
    assert seen["port"] in ("EADDRINUSE", "EACCES")


async def test_without_the_rules_the_same_targets_are_reached(
    networked: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: it is the rules that refuse. This host's own address is dialled, where the test listens."""
    import socket

    host = next(iter(await asyncio.to_thread(host_addresses)))
    with socket.socket() as listening:
        listening.bind((host, 0))
        listening.listen()
        code = f"""
with socket.socket() as s:
    s.settimeout(10)
    print(json.dumps(attempt(s.connect, {listening.getsockname()!r})))
"""
        assert await told(networked, code, network=Network("internet")) == "ECONNREFUSED"
        allowed = Network("internet", allow=(listening.getsockname(),))
        assert await told(networked, code, network=allowed) == "ok"
        chains = tuple(chain for chain in own_rules.CHAINS if chain.name in ("refuse", "counted"))
        monkeypatch.setattr("hearth.egress.own_rules.CHAINS", chains)
        monkeypatch.setattr("hearth.egress.furnish.CHAINS", chains)
        assert await told(networked, code, network=Network("internet")) == "ok"


def host_addresses() -> set[str]:
    from hearth.egress.machine import own_addresses
    from hearth.egress.netlink import ROUTE, Netlink

    with Netlink(ROUTE) as netlink:
        return {str(address) for address in own_addresses(netlink)}


async def test_a_slot_is_closed_until_it_is_attached(networked: Rig) -> None:
    handle, fd = await up(networked, networked=True)
    networks = networked.inner._machine.networks
    (place,) = (place for place in networks._places.values() if place is not None)
    assert "10.0.2.100" not in await listed(place.namespace)
    await networked.attach(handle, networked.artifact(), network=Network("internet"))
    assert "10.0.2.100" in await listed(place.namespace)
    os.close(fd)
    await networked.driver.stop(handle, 0)


async def test_a_new_address_of_this_host_is_refused_in_sandboxes_that_run(
    networked: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle, fd = await up(networked, networked=True)
    networks = networked.inner._machine.networks
    (place,) = (place for place in networks._places.values() if place is not None)
    assert "93.184.216.34" not in await listed(place.namespace, "host4")
    now = frozenset({IPv4Address("93.184.216.34")})
    monkeypatch.setattr("hearth.egress.own_networks._host_addresses", lambda: now)
    await networks._look()
    assert "93.184.216.34" in await listed(place.namespace, "host4")
    os.close(fd)
    await networked.driver.stop(handle, 0)


async def test_look_ups_are_told_of_all_that_are_there_and_then_of_each(networked: Rig) -> None:
    networks = networked.inner._machine.networks
    first, fd = await up(networked, networked=True)
    news = networks.look_ups()
    one = await news.next()
    assert one.sockets is not None
    second, other = await up(networked, networked=True)
    two = await news.next()
    assert two.sockets is not None and two.sandbox != one.sandbox
    await networked.driver.stop(first, 0)
    gone = await news.next()
    assert (gone.sandbox, gone.sockets) == (one.sandbox, None)
    await networked.driver.stop(second, 0)
    news.close()
    for descriptor in (fd, other, *one.sockets, *two.sockets):
        os.close(descriptor)


async def listed(namespace: int, name: str = "inet4") -> str:
    from contextlib import closing

    from hearth.egress.nft import Library
    from hearth.linux.libc import CLONE_NEWNET, setns

    def show() -> str:
        setns(namespace, CLONE_NEWNET)
        with closing(Library()) as nft:
            return json.dumps(nft.show(f"set inet {own_rules.TABLE} {name}"))

    return await alone(show)


async def test_a_carrier_that_dies_is_started_again(networked: Rig) -> None:
    handle, fd = await up(networked, networked=True)
    networks = networked.inner._machine.networks
    (place,) = (place for place in networks._places.values() if place is not None)
    first = place.slirp
    first._process.kill()
    async with asyncio.timeout(patient(20)):
        while place.slirp is first:
            await asyncio.sleep(0.02)
    assert Path(f"/proc/{place.slirp._process.pid}").exists()
    os.close(fd)
    await networked.driver.stop(handle, 0)


async def test_mounts_of_the_keeper_are_its_own(rig: Rig) -> None:
    """What it mounts is in no other namespace: nothing of it is left on the host when it is killed."""
    handle, fd = await up(rig)
    slots = str(rig.inner._machine.slots)
    assert mounts.mount_points(Path(slots))
    assert os.readlink("/proc/self/ns/mnt") != os.readlink(f"/proc/{pids_of(rig, handle)[0]}/ns/mnt")
    os.close(fd)
    await rig.driver.stop(handle, 0)
