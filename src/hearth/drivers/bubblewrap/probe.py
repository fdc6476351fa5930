"""What this machine enforces, found out by making sandboxes that try to break each limit."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import secrets
import time
from dataclasses import dataclass, field
from typing import Protocol

from hearth.core.errors import HearthError
from hearth.core.finding import Finding, State, found_by, not_held, note, ok
from hearth.core.ids import new_id
from hearth.core.launch import Exit, Handle, Limits, Mount, Network, Probe, SandboxSpec, Usage
from hearth.drivers.bubblewrap.machine import Machine
from hearth.linux.commands import by_root, install

_TIMEOUT = 60.0  # seconds for one trial: what a slow or busy machine does late, it does all the same
_MIB = 1 << 20
_NO_NETWORK = Network()
_SHARED = "functions run as the user who runs Hearth, kept apart by namespaces and filters only (docs/explanation/isolation.md)"


class _Driver(Protocol):
    async def start(self, spec: SandboxSpec, deadline: float) -> Handle: ...
    async def wait(self, handle: Handle) -> Exit: ...
    async def usage(self, handle: Handle) -> Usage: ...
    async def stop(self, handle: Handle, grace: float) -> Exit: ...
    def output(self, handle: Handle) -> tuple[int, int]: ...


@dataclass
class _Result:
    exit: Exit
    usage: Usage
    out: str
    seconds: float
    said: str = ""  # the end of what it wrote to stderr, on one line


@dataclass
class _Findings:
    enforces: set[str] = field(default_factory=set)
    missing: list[Finding] = field(default_factory=list)

    def add(self, name: str, holds: bool, why: str) -> None:
        if holds:
            self.enforces.add(name)
        else:
            self.missing.append(not_held(name, why))


def found_before(known: Probe, machine: Machine) -> Probe | None:
    """What an earlier keeper of this run found by trying, for one that follows it; None where the machine differs now."""
    lacks = {found.name for found in known.missing}
    networked = machine.networks is not None and not machine.networks.missing()
    if not known.usable or not set(machine.groups.missing) <= lacks:
        return None
    if networked != ("network" in known.enforces):
        return None
    return dataclasses.replace(known, facts=_facts(machine))


async def probe(driver: _Driver, machine: Machine) -> Probe:
    """Make and remove a handful of sandboxes."""
    found = _Findings()
    found.missing += machine.groups.missing.values()
    try:
        await _identity(driver, found)
        for name, trial in (("memory", _memory), ("pids", _pids), ("tmp", _tmp), ("cpu", _cpu)):
            if name not in machine.groups.missing:
                await trial(driver, found)
    except HearthError as error:
        found.missing.append(found_by(error, "sandboxes", State.REFUSED))
        return Probe("bubblewrap", False, frozenset(), tuple(found.missing), _facts(machine))
    await _network(driver, machine, found)
    if machine.uids.shared:
        found.enforces.discard("uids")
        found.missing.append(note("uids", _SHARED, by_root("hearth up")))
    elif not machine.disks.finding.holds:
        found.missing.append(machine.disks.finding)
    return Probe("bubblewrap", True, frozenset(found.enforces), tuple(found.missing), _facts(machine))


def _facts(machine: Machine) -> tuple[tuple[str, str], ...]:
    uids = machine.uids.range
    return (
        ("cgroup", machine.groups.version),
        ("disk", machine.disks.backing),
        (
            "uids",
            f"{uids.start}-{uids[-1]}" if not machine.uids.shared else f"{uids.start}, the platform's own",
        ),
        ("bubblewrap", machine.tools["bwrap"]),
    )


async def _network(driver: _Driver, machine: Machine, found: _Findings) -> None:
    if machine.networks is None:
        found.missing.append(not_held("network", "no network of sandboxes is set up: only network: none"))
        return
    missing = machine.networks.missing()
    if not missing and machine.uids.shared:  # it depends on programs that have not been tried yet
        try:
            await _run(driver, "exit 0", Limits(), Network("internet"))
        except HearthError as error:
            missing = (found_by(error, "network", State.NOT_HELD),)
    found.missing.extend(missing)
    if not missing:
        found.enforces.add("network")


async def _identity(driver: _Driver, found: _Findings) -> None:
    result = await _run(
        driver, 'while read -r line; do echo "$line"; done < /proc/self/status; echo; id -u', Limits()
    )
    status = dict(line.split(":", 1) for line in result.out.splitlines() if ":" in line)
    filtered = status.get("Seccomp", "").strip() == "2" and status.get("NoNewPrivs", "").strip() == "1"
    found.add("seccomp", filtered, "the kernel takes no seccomp filters")
    found.add("uids", result.out.split()[-1:] == ["1000"], "a sandbox has no uid of its own")


async def _memory(driver: _Driver, found: _Findings) -> None:
    limits = Limits(memory=24 * _MIB, tmp=64 * _MIB)
    result = await _run(driver, "dd if=/dev/zero of=/tmp/full bs=1M count=48 2>/dev/null", limits)
    found.add(
        "memory", result.exit.oom, "more memory could be used than was allowed (is the memory controller on?)"
    )


async def _pids(driver: _Driver, found: _Findings) -> None:
    script = "i=0; while [ $i -lt 12 ]; do sleep 0.1 & i=$((i+1)); done; wait; exit 77"
    result = await _run(driver, script, Limits(pids=4))
    found.add("pids", result.exit.code != 77, "more processes could be started than were allowed")


async def _tmp(driver: _Driver, found: _Findings) -> None:
    result = await _run(driver, "dd if=/dev/zero of=/tmp/full bs=64k count=40 2>/dev/null", Limits(tmp=_MIB))
    found.add("tmp", result.exit.code == 1, "/tmp could be filled beyond its size")


async def _cpu(driver: _Driver, found: _Findings) -> None:
    script = "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done"
    result = await _run(driver, script, Limits(cpu=0.2))
    share = result.usage.cpu_seconds / max(result.seconds, 0.001)
    found.add("cpu", share < 0.6, "a sandbox had more of the processors than it was allowed")


async def runs(driver: _Driver, program: str, mount: Mount | None) -> Finding:
    """Whether sandboxes can use an interpreter of Python's: its program is started in one.

    Args:
        program: its path inside.
        mount: what it needs to be there.
    """
    name, mounts = "python for functions", () if mount is None else (mount,)
    try:
        result = await _run(driver, f"exec {program} -I -S -c pass", Limits(), mounts=mounts)
    except HearthError as error:
        return found_by(error, name, State.NOT_HELD)
    if result.exit.code == 0:
        return ok(name, program)
    return not_held(
        name, f"{program} does not run in a sandbox: {result.said or result.exit}", install("python3")
    )


async def _run(
    driver: _Driver,
    script: str,
    limits: Limits,
    network: Network = _NO_NETWORK,
    mounts: tuple[Mount, ...] = (),
) -> _Result:
    now = time.monotonic()
    spec = SandboxSpec(
        id=new_id("sandbox", time.time_ns() // 1_000_000, secrets.token_bytes(10)),
        owner=new_id("owner", time.time_ns() // 1_000_000, secrets.token_bytes(10)),
        argv=("/bin/sh", "-c", script),
        env=(("PATH", "/usr/bin:/bin"),),
        limits=limits,
        network=network,
        mounts=mounts,
        guest=False,
    )
    handle = await driver.start(spec, now + _TIMEOUT)
    try:
        out, err = driver.output(handle)
        try:
            async with asyncio.timeout_at(now + _TIMEOUT):
                ended = await driver.wait(handle)
            printed, said = _read(out), _read(err)
        finally:
            os.close(out)
            os.close(err)
        used = await driver.usage(handle)
        return _Result(ended, used, printed, time.monotonic() - now, " ".join(said.split())[-400:])
    except TimeoutError:
        return _Result(Exit(None, 9, reason="it took too long"), await driver.usage(handle), "", _TIMEOUT)
    finally:
        await driver.stop(handle, 0)


def _read(fd: int) -> str:
    with contextlib.suppress(BlockingIOError):
        return os.read(fd, 65536).decode("utf-8", "replace")
    return ""
