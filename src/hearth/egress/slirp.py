"""slirp4netns: the program that carries an ordinary user's sandbox's packets (slirp4netns(1))."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess

from hearth.core.errors import SandboxFailed
from hearth.core.finding import RUN
from hearth.egress.own_rules import CARRIERS, TAP

PROGRAM = "slirp4netns"
MAKE_TUN = "sudo sh -c 'modprobe tun; chmod 0666 /dev/net/tun'"  # udev's own rules make it so; containers often don't
_READY = 10.0  # seconds until it has its device; it takes 0.03
_LEAVE = 2.0
_OPTIONS = (
    "--configure",
    "--mtu=65520",
    f"--cidr={CARRIERS}",
    "--disable-host-loopback",  # else its second address is this host's 127.0.0.1
    "--disable-dns",  # else its third is this host's name server
    "--enable-sandbox",  # it sees no files
    "--enable-seccomp",
)


class Slirp:
    """One running slirp4netns; made by `start`.

    Args:
        process: it.
        life: while this descriptor is open, it runs.
        said: what it prints, mostly nothing; never full, because its end doesn't wait.
    """

    def __init__(self, process: subprocess.Popen[bytes], life: int, said: int) -> None:
        self._process = process
        self._life = life
        self._said = said
        self._pidfd = os.pidfd_open(process.pid)
        self.ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._pidfd, self._end)

    def _end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        self._process.wait()
        self.ended.set()

    async def stop(self) -> None:
        """End it; returns when it is gone. Idempotent."""
        if self._life >= 0:
            os.close(self._life)
            self._life = -1
        if not self.ended.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LEAVE):
                    await self.ended.wait()
            if not self.ended.is_set():
                self._process.kill()
                await self.ended.wait()
        if self._said >= 0:
            os.close(self._said)
            os.close(self._pidfd)
            self._said = self._pidfd = -1

    def last_words(self) -> str:
        """What it printed, on one line."""
        data = b""
        if self._said < 0:
            return "it was stopped"
        with contextlib.suppress(BlockingIOError):
            data = os.read(self._said, 65536)
        return " ".join(data.decode("utf-8", "replace").split())[-400:] or "it said nothing"


async def start(program: str, pid: int) -> Slirp:
    """Put a tap device into the network namespace of `pid`, up and with its route.

    Args:
        program: path of slirp4netns.
        pid: a process in the namespaces, of a user namespace that this user has made.

    Raises SandboxFailed; then nothing is left.
    """
    slirp, ready = _spawn(program, pid)
    try:
        async with asyncio.timeout(_READY):
            if await _heard(ready):
                return slirp
            await slirp.ended.wait()
        failed = SandboxFailed(
            f"slirp4netns gave a sandbox no network: {slirp.last_words()}",
            hint=RUN + MAKE_TUN,
        )
    except TimeoutError:
        failed = SandboxFailed(f"slirp4netns was not ready after {_READY:.0f} s")
    except BaseException:
        await slirp.stop()
        raise
    finally:
        os.close(ready)
    await slirp.stop()
    raise failed


def _spawn(program: str, pid: int) -> tuple[Slirp, int]:
    """It, and the pipe on which it tells that it is ready."""
    life_end, life = os.pipe2(os.O_CLOEXEC)
    ready, ready_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    said, said_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        process = subprocess.Popen(
            [program, *_OPTIONS, f"--exit-fd={life_end}", f"--ready-fd={ready_end}", str(pid), TAP],
            pass_fds=(life_end, ready_end),
            stdin=subprocess.DEVNULL,
            stdout=said_end,
            stderr=said_end,
            env={"PATH": "/usr/bin:/bin"},
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        for fd in (life, ready, said):
            os.close(fd)
        raise SandboxFailed(f"{program} can't be run: {error.strerror}") from error
    finally:
        for fd in (life_end, ready_end, said_end):
            os.close(fd)
    return Slirp(process, life, said), ready


async def _heard(fd: int) -> bool:
    """Wait for a byte; False at the end without one."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(fd, readable.set)
    try:
        await readable.wait()
        return os.read(fd, 1) != b""
    finally:
        loop.remove_reader(fd)
