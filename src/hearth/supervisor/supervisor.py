"""Starts the platform's processes in order, starts again what dies, replaces them, and stops all in the opposite order.

Signals: SIGTERM and Ctrl-C drain and stop, the second one hurries, the third one kills. SIGHUP replaces control,
resolver and shards one by one: the successor is up before the one before it drains, on the same listening socket.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

from hearth.core.errors import HearthError, StartupFailed
from hearth.supervisor.child import CLOSING, HURRY, Child, ChildSpec
from hearth.supervisor.family import Family

log = logging.getLogger(__name__)

_STOP_SLACK = 10.0  # seconds beyond the drain that a process may take to end
_HURRY_SLACK = 3.0  # seconds that a hurried process may take to end
_STOPS = (signal.SIGTERM, signal.SIGINT)


class Supervisor:
    """Runs a set of children until told to stop.

    Args:
        specs: what to run.
        grace: seconds that requests in work may go on after SIGTERM.
        listeners: public sockets; closed as soon as nobody is left who accepts from them.
        again: makes the specs anew at SIGHUP, from what may have changed since.
    """

    def __init__(
        self,
        specs: Sequence[ChildSpec],
        grace: float,
        listeners: Sequence[socket.socket] = (),
        again: Callable[[], Sequence[ChildSpec]] | None = None,
    ) -> None:
        self._specs = sorted(specs, key=lambda spec: spec.stage)
        self._grace = grace
        self._listeners = listeners
        self._again = again or (lambda: self._specs)
        self._lifeline, self._life = os.pipe2(os.O_CLOEXEC)
        self._children: dict[str, Child] = {}  # who is at work under each name
        self._family = Family(self._lifeline)  # those, who comes after them, and who still drains
        self._watchers: dict[str, asyncio.Task[None]] = {}
        self._going: set[asyncio.Task[None]] = set()
        self._changing = asyncio.Lock()  # who is at work is changed by one at a time
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        self._hung_up = asyncio.Event()
        self._terminal = _has_terminal() and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN

    async def run(self, on_ready: Callable[[dict[str, dict[str, Any]]], None]) -> None:
        """Start everything, call `on_ready` with what each child said, and return after a drained stop.

        Raises:
            StartupFailed (or what a child reported): a first start failed; everything is stopped again.
        """
        loop = asyncio.get_running_loop()
        for number in _STOPS:
            loop.add_signal_handler(number, self._asked_to_stop)
        loop.add_signal_handler(signal.SIGHUP, self._asked_to_renew)
        renewing: asyncio.Task[None] | None = None
        try:
            said = await self._start_all()
            if not self._stopping.is_set():
                renewing = loop.create_task(self._renew_when_asked())
                on_ready(said)
                await self._stopping.wait()
        finally:
            if renewing is not None:
                renewing.cancel()
                await asyncio.gather(renewing, return_exceptions=True)
            await self._stop_all()
            for number in (*_STOPS, signal.SIGHUP):
                loop.remove_signal_handler(number)
            os.close(self._lifeline)
            os.close(self._life)

    # Signals only set events.

    def _asked_to_stop(self) -> None:
        if not self._stopping.is_set():
            log.info("stopping: requests in work may go on for %.0f s; ask again to hurry", self._grace)
            self._stopping.set()
        elif not self._hurry.is_set():
            log.warning("hurrying: requests in work are cut")
            self._hurry.set()
            for child in self._family.alive:
                if child.spec.drains:
                    child.send(HURRY)
        else:
            log.warning("stopping at once")
            for child in self._family.alive:
                child.send(signal.SIGKILL if child.spec.stage > 0 else signal.SIGTERM)

    def _asked_to_renew(self) -> None:
        if self._terminal and not _has_terminal():
            if not self._stopping.is_set():
                log.info("the terminal has gone")
                self._asked_to_stop()
            return
        self._hung_up.set()

    # Starting.

    async def _start_all(self) -> dict[str, dict[str, Any]]:
        said: dict[str, dict[str, Any]] = {}
        for _, stage in groupby(self._specs, key=lambda spec: spec.stage):
            specs = list(stage)
            for spec in specs:
                self._children[spec.name] = self._family.start(spec)
            for spec in specs:
                message = await self._until_ready(self._children[spec.name])
                if message is None:
                    return said
                said[spec.name] = message
                self._watch(spec.name)
        return said

    async def _until_ready(self, child: Child) -> dict[str, Any] | None:
        """What it said; None when a stop was asked for first. Raises what the child reported, or StartupFailed."""
        stopping = asyncio.get_running_loop().create_task(self._stopping.wait())
        either: list[asyncio.Future[Any]] = [child.ready, stopping]
        try:
            await asyncio.wait(either, timeout=child.spec.ready_timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
        if self._stopping.is_set():
            return None
        if not child.ready.done():
            raise StartupFailed(f"the {child.spec.name} was not ready after {child.spec.ready_timeout:.0f} s")
        return child.ready.result()

    # Keeping alive.

    def _watch(self, name: str) -> None:
        """Follow who is at work under a name from now on."""
        before = self._watchers.get(name)
        if before is not None and before is not asyncio.current_task():
            before.cancel()
        self._watchers[name] = asyncio.get_running_loop().create_task(self._keep_alive(name))

    async def _keep_alive(self, name: str) -> None:
        while True:
            child = self._children[name]
            await asyncio.shield(child.leaving)  # this watcher may be cancelled, the future not
            if child.spec.overlaps and not child.ended.done() and not self._stopping.is_set():
                log.info("the %s goes; another takes over", name)
                await asyncio.sleep(self._family.pause(child))
                async with self._changing:
                    if self._children[name] is not child or await self._replace(child, child.spec):
                        return
            code = await asyncio.shield(child.ended)
            if self._stopping.is_set():
                return
            delay = self._family.pause(child)
            log.error(
                "the %s ended (%s); starting it again%s",
                name,
                f"signal {-code}" if code < 0 else f"code {code}",
                f" in {delay:.1f} s" if delay else "",
            )
            await asyncio.sleep(delay)
            async with self._changing:
                if self._stopping.is_set() or self._children[name] is not child:
                    return
                try:
                    self._children[name] = self._family.start(child.spec)
                except HearthError as error:
                    log.error("%s", error.message)

    # Replacing.

    async def _renew_when_asked(self) -> None:
        while True:
            await self._hung_up.wait()
            self._hung_up.clear()
            try:
                await self._renew()
            except Exception:  # a configuration that can't be read must not end a platform that runs
                log.exception("nothing was replaced")

    async def _renew(self) -> None:
        """Put a successor in the place of every child that allows it, one by one; stop at the first that does not start."""
        log.info("replacing control, resolver and shards; the keeper stays as it is until the next start")
        for spec in sorted(self._again(), key=lambda spec: spec.stage):
            if not spec.overlaps or spec.name not in self._children:
                continue
            async with self._changing:
                if self._stopping.is_set():
                    return
                if not await self._replace(self._children[spec.name], spec):
                    log.error("the %s before goes on; the others were not replaced", spec.name)
                    return
        log.info("replaced")

    async def _replace(self, old: Child, spec: ChildSpec) -> bool:
        """Start a successor; once it is ready the old one drains, for as long as it may. Says whether it came to that."""
        try:
            new = self._family.start(spec, successor=True)
        except HearthError as error:
            log.error("%s", error.message)
            return False
        try:
            ready = await self._until_ready(new)
        except HearthError as error:
            log.error("%s%s", error.message, f" (hint: {error.hint})" if error.hint else "")
            new.send(signal.SIGKILL)
            return False
        if ready is None:  # the platform stops, and it with it
            return False
        self._children[spec.name] = new
        self._watch(spec.name)
        going = asyncio.get_running_loop().create_task(self._let_go(old))
        self._going.add(going)
        going.add_done_callback(self._going.discard)
        return True

    async def _let_go(self, old: Child) -> None:
        old.send(signal.SIGTERM)
        await asyncio.wait([old.ended], timeout=self._grace + _STOP_SLACK)
        old.send(signal.SIGKILL)

    # Stopping.

    async def _stop_all(self) -> None:
        self._stopping.set()
        tasks = [*self._watchers.values(), *self._going]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for child in self._family.alive:
            if child.spec.drains:
                child.send(CLOSING)
        for stage in sorted({spec.stage for spec in self._specs}, reverse=True):
            await self._end([child for child in self._family.alive if child.spec.stage == stage])
            for listener in self._listeners:  # nobody accepts any more: who waits there hears it now
                listener.close()

    async def _end(self, children: Sequence[Child]) -> None:
        """Have them end, and kill whoever does not in time; returns when all have ended."""
        if not children:
            return
        for child in children:
            if not child.spec.drains:
                child.send(signal.SIGTERM)
        ended = asyncio.gather(*(asyncio.shield(child.ended) for child in children))
        hurry = asyncio.get_running_loop().create_task(self._hurry.wait())
        either: list[asyncio.Future[Any]] = [ended, hurry]
        await asyncio.wait(either, timeout=self._grace + _STOP_SLACK, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        if self._hurry.is_set() and not ended.done():
            drains = all(child.spec.drains for child in children)
            await asyncio.wait([ended], timeout=_HURRY_SLACK if drains else _STOP_SLACK)
        for child in children:
            child.send(signal.SIGKILL)
        await ended


def _has_terminal() -> bool:
    """Whether this process has a controlling terminal: one that hung up is none (tty(4))."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True
