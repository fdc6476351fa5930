"""A driver for the tests of builds: it honours the spec's environment, mounts, disk and stop, and isolates nothing."""

from __future__ import annotations

import os
import signal
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

from hearth.core.launch import Exit, Handle, Probe, SandboxSpec, Usage


@dataclass
class Started:
    spec: SandboxSpec
    process: subprocess.Popen[bytes]
    fds: tuple[int, int]
    ended: Exit | None = None


class SubprocessDriver:
    """Runs builds as plain processes; places inside become places below `root`.

    `folders` is where each kind of mount has its names. `oom` has the next exits say that the kernel killed for memory.
    """

    name = "subprocess"

    def __init__(self, root: Path, folders: dict[str, Path]) -> None:
        self.root = root
        self.folders = folders
        self.started: dict[str, Started] = {}
        self.specs: list[SandboxSpec] = []
        self.oom = False

    async def probe(self) -> Probe:
        return Probe("subprocess", True, frozenset())

    async def prepare(self, artifact: str) -> None:
        return None

    async def start(self, spec: SandboxSpec, deadline: float) -> Handle:
        self.specs.append(spec)
        assert spec.disk is not None
        used = {one.spec.disk.name for one in self.started.values() if one.spec.disk is not None}
        disk = self.root / (spec.id if spec.disk.name in used else spec.disk.name)
        disk.mkdir(parents=True, exist_ok=True)
        places = {spec.disk.target: str(disk)}
        for mount in spec.mounts:
            if mount.kind != "prefix":
                places[mount.target] = str(self.folders[mount.kind] / mount.name)

        def moved(text: str) -> str:
            for inside, outside in sorted(places.items(), reverse=True):
                text = ":".join(
                    outside + part[len(inside) :] if part == inside or part.startswith(inside + "/") else part
                    for part in text.split(":")
                )
            return text

        stdout, stdout_in = os.pipe()
        stderr, stderr_in = os.pipe()
        process = subprocess.Popen(
            spec.argv,
            env={name: moved(value) for name, value in spec.env},
            stdin=subprocess.DEVNULL,
            stdout=stdout_in,
            stderr=stderr_in,
            start_new_session=True,
        )
        os.close(stdout_in)
        os.close(stderr_in)
        for fd in (stdout, stderr):
            os.set_blocking(fd, False)
        self.started[spec.id] = Started(spec, process, (stdout, stderr))
        return Handle(spec.id)

    def output(self, handle: Handle) -> tuple[int, int]:
        return self.started[handle].fds

    async def connect(self, handle: Handle, deadline: float) -> int:
        raise NotImplementedError

    async def wait(self, handle: Handle) -> Exit:
        import asyncio

        started = self.started[handle]
        fd = os.pidfd_open(started.process.pid)
        loop = asyncio.get_running_loop()
        gone = asyncio.Event()
        loop.add_reader(fd, gone.set)
        try:
            await gone.wait()
        finally:
            loop.remove_reader(fd)
            os.close(fd)
        return self._ended(started)

    def _ended(self, started: Started) -> Exit:
        code = started.process.wait()
        try:  # pid 1 of a sandbox takes all others along
            os.killpg(started.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        result = Exit(code) if code >= 0 else Exit(None, -code)
        return replace(result, oom=self.oom)

    async def stop(self, handle: Handle, grace: float) -> Exit:
        started = self.started.pop(handle, None)
        if started is None:
            return Exit(None, reason="gone")
        if started.process.poll() is None:
            os.killpg(started.process.pid, signal.SIGKILL)
        return self._ended(started)

    async def list_owned(self, owner: str | None) -> list[Handle]:
        return [Handle(name) for name in self.started]

    async def usage(self, handle: Handle) -> Usage:
        return Usage(0, 0, 0.0, 0)
