"""What this daemon holds containers to, found out by making some that try to break each limit; and what its images contain."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from dataclasses import dataclass, field
from typing import Protocol

from hearth.core.errors import HearthError
from hearth.core.finding import Finding, State, found_by, not_held, note
from hearth.core.ids import new_id
from hearth.core.launch import WITHOUT_NETWORK, Exit, Handle, Limits, Probe, SandboxSpec
from hearth.drivers.docker.machine import Machine
from hearth.drivers.docker.spec import is_gvisor
from hearth.linux.commands import by_root

_TIMEOUT = 60.0  # seconds for one trial
_MIB = 1 << 20

# Prints ``runtime version path`` for each language that an image has, in the form in which `build.discover` tells of the host's.
_LOOK = """
for p in /usr/bin/python3.* /usr/local/bin/python3.*; do
  case $p in *[!0-9]) continue;; esac; [ -x "$p" ] && v=$("$p" -I -S --version 2>/dev/null) && echo "python ${v#Python } $p"
done
for d in /usr/bin /usr/local/bin; do
  [ -x $d/node ] && [ -e $d/npm ] && v=$($d/node --version 2>/dev/null) && echo "node ${v#v} $d/node"
done
for d in /usr/local/go /usr/lib/go /usr/lib/go-1.*; do
  [ -x $d/bin/go ] && read -r v < $d/VERSION && echo "go ${v#go} $d/bin/go"
done
exit 0
"""
_BUSY = """
read -r a _ < /proc/uptime; i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done; read -r b _ < /proc/uptime; echo "$a $b"; times
"""


class _Driver(Protocol):
    async def start(self, spec: SandboxSpec, deadline: float) -> Handle: ...
    async def wait(self, handle: Handle) -> Exit: ...
    async def stop(self, handle: Handle, grace: float) -> Exit: ...
    def output(self, handle: Handle) -> tuple[int, int]: ...


@dataclass
class _Findings:
    enforces: set[str] = field(default_factory=set)
    missing: list[Finding] = field(default_factory=list)

    def add(self, name: str, holds: bool, why: str) -> None:
        if holds:
            self.enforces.add(name)
        else:
            self.missing.append(not_held(name, why))


async def probe(driver: _Driver, machine: Machine) -> Probe:
    """Make and remove a handful of containers."""
    found = _Findings()
    facts = [
        ("cgroup", f"v{machine.info.get('CgroupVersion', '1')}"),
        ("docker", str(machine.info.get("ServerVersion", ""))),
        ("isolation runtimes", " ".join(sorted(machine.runtimes))),
        ("isolation runtime", machine.default_runtime or str(machine.info.get("DefaultRuntime", ""))),
        (WITHOUT_NETWORK, " ".join(sorted(filter(is_gvisor, machine.runtimes)))),
        ("attach", "mounts" if machine.mounted else "copies"),
        ("disk", machine.disks.backing if machine.disks is not None else "none"),
        ("uids", f"{machine.uids.range.start}-{machine.uids.range[-1]}"),
    ]
    try:
        for trial in (_identity, _memory, _pids, _tmp, _cpu):
            await trial(driver, found, is_gvisor(machine.default_runtime))
        for language in machine.images:
            facts += await _languages(driver, language)
    except HearthError as error:
        found.missing.append(found_by(error, "containers", State.REFUSED))
        return Probe("docker", False, frozenset(), tuple(found.missing), tuple(facts))
    if machine.networks is None:
        found.missing.append(not_held("network", "no network of containers is set up: only network: none"))
    elif is_gvisor(machine.default_runtime):
        found.missing.append(not_held("network", "with gVisor containers have none: only network: none"))
    else:
        missing = machine.networks.missing()
        found.missing.extend(missing)
        if not missing:
            found.enforces.add("network")
    if machine.uids.shared:
        found.enforces.discard("uids")
        says = "functions run as the user who runs Hearth, kept apart by their containers only"
        found.missing.append(note("uids", says, by_root("hearth up")))
    if machine.disks is not None and not machine.disks.finding.holds:
        found.missing.append(machine.disks.finding)
    return Probe("docker", True, frozenset(found.enforces), tuple(found.missing), tuple(facts))


async def _languages(driver: _Driver, language: str) -> list[tuple[str, str]]:
    """An image's languages, as facts: (``toolchain of LANGUAGE``, ``runtime version path``)."""
    ended, out = await _run(driver, _LOOK, Limits(), language)
    return [(f"toolchain of {language}", line) for line in out.splitlines()] if ended.code == 0 else []


async def _identity(driver: _Driver, found: _Findings, gvisor: bool) -> None:
    script = 'while read -r line; do echo "$line"; done < /proc/self/status; echo; id -u'
    _, out = await _run(driver, script, Limits())
    status = dict(line.split(":", 1) for line in out.splitlines() if ":" in line)
    filtered = status.get("Seccomp", "").strip() == "2" and status.get("NoNewPrivs", "").strip() == "1"
    found.add("seccomp", filtered or gvisor, "the kernel takes no seccomp filters")
    uid = (out.split() or [""])[-1]
    found.add(
        "uids", uid.isdigit() and uid not in ("0", str(os.getuid())), "a container has no uid of its own"
    )


async def _memory(driver: _Driver, found: _Findings, gvisor: bool) -> None:
    limits = Limits(memory=(128 if gvisor else 24) * _MIB, tmp=256 * _MIB)
    ended, _ = await _run(driver, "dd if=/dev/zero of=/tmp/full bs=1M count=200 2>/dev/null", limits)
    found.add(
        "memory", ended.oom, "more memory could be used than was allowed (is the memory controller on?)"
    )


async def _pids(driver: _Driver, found: _Findings, gvisor: bool) -> None:
    script = "i=0; while [ $i -lt 12 ]; do sleep 0.1 & i=$((i+1)); done; wait; exit 77"
    ended, _ = await _run(driver, script, Limits(pids=4))
    found.add("pids", ended.code != 77, "more processes could be started than were allowed")


async def _tmp(driver: _Driver, found: _Findings, gvisor: bool) -> None:
    ended, _ = await _run(
        driver, "dd if=/dev/zero of=/tmp/full bs=64k count=40 2>/dev/null", Limits(tmp=_MIB)
    )
    found.add("tmp", ended.code == 1, "/tmp could be filled beyond its size")


async def _cpu(driver: _Driver, found: _Findings, gvisor: bool) -> None:
    _, out = await _run(driver, _BUSY, Limits(cpu=0.2))
    found.add("cpu", _share(out) < 0.6, "a container had more of the processors than it was allowed")


def _share(out: str) -> float:
    """Of a processor that a busy loop had: what the shell's `times` says by what the clock says."""
    try:
        clock, own = out.splitlines()[:2]
        began, ended = (float(word) for word in clock.split())
        used = sum(float(m) * 60 + float(s.rstrip("s")) for m, s in (word.split("m") for word in own.split()))
    except ValueError:
        return 1.0
    return used / max(ended - began, 0.01)


async def _run(driver: _Driver, script: str, limits: Limits, language: str = "") -> tuple[Exit, str]:
    now = time.monotonic()
    spec = SandboxSpec(
        id=new_id("sandbox", time.time_ns() // 1_000_000, secrets.token_bytes(10)),
        owner=new_id("owner", time.time_ns() // 1_000_000, secrets.token_bytes(10)),
        argv=("/bin/sh", "-c", script),
        env=(("PATH", "/usr/bin:/bin"),),
        limits=limits,
        guest=False,
        language=language,
    )
    handle = await driver.start(spec, now + _TIMEOUT)
    try:
        out, err = driver.output(handle)
        async with asyncio.timeout_at(now + _TIMEOUT):
            said, _, ended = await asyncio.gather(_read(out), _read(err), driver.wait(handle))
        return ended, said
    except TimeoutError:
        return Exit(None, 9, reason="it took too long"), ""
    finally:
        await driver.stop(handle, 0)


async def _read(pipe: int) -> str:
    """All that comes of a pipe, which is closed at its end: read as it comes, for a few lines may fill it (each has a page)."""
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(pipe, "rb")
    )
    try:
        return (await reader.read()).decode("utf-8", "replace")
    finally:
        transport.close()
