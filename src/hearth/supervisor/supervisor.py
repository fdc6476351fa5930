"""Starts the platform's processes in order, starts again what dies, and stops all in the opposite order."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

from hearth.core.errors import HearthError, StartupFailed
from hearth.supervisor.child import Child, ChildSpec, stop

log = logging.getLogger(__name__)

_STEADY = 10.0  # seconds after which a process counts as having started well
_BACKOFF_MAX = 5.0
_STOP_SLACK = 10.0  # seconds beyond the drain that a process may take to end


class Supervisor:
    """Runs a set of children until told to stop.

    Args:
        specs: what to run.
        grace: seconds that requests in work may go on after SIGTERM.
    """

    def __init__(self, specs: Sequence[ChildSpec], grace: float) -> None:
        self._specs = sorted(specs, key=lambda spec: spec.stage)
        self._grace = grace
        self._lifeline, self._life = os.pipe2(os.O_CLOEXEC)
        self._children: dict[str, Child] = {}
        self._watchers: list[asyncio.Task[None]] = []
        self._stopping = asyncio.Event()

    async def run(self, on_ready: Callable[[dict[str, dict[str, Any]]], None]) -> None:
        """Start everything, call `on_ready` with what each child said, and return after a drained stop.

        Raises:
            StartupFailed (or what a child reported): a first start failed; everything is stopped again.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked_to_stop)
        try:
            said = await self._start_all()
            if not self._stopping.is_set():
                on_ready(said)
                await self._stopping.wait()
        finally:
            await self._stop_all()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
            os.close(self._lifeline)
            os.close(self._life)

    def _asked_to_stop(self) -> None:
        if self._stopping.is_set():  # asked twice: at once
            log.warning("stopping at once")
            for child in self._children.values():
                child.send(signal.SIGKILL if child.spec.stage > 0 else signal.SIGTERM)
            return
        log.info("stopping: requests in work may go on for %.0f s", self._grace)
        self._stopping.set()

    async def _start_all(self) -> dict[str, dict[str, Any]]:
        said: dict[str, dict[str, Any]] = {}
        for _, stage in groupby(self._specs, key=lambda spec: spec.stage):
            specs = list(stage)
            for spec in specs:
                self._children[spec.name] = Child(spec, self._lifeline)
            for spec in specs:
                message = await self._until_ready(self._children[spec.name])
                if message is None:
                    return said
                said[spec.name] = message
                self._watchers.append(asyncio.get_running_loop().create_task(self._keep_alive(spec)))
        return said

    async def _until_ready(self, child: Child) -> dict[str, Any] | None:
        """What it said; None when a stop was asked for first."""
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

    async def _keep_alive(self, spec: ChildSpec) -> None:
        delay = 0.0
        while True:
            child = self._children[spec.name]
            code = await asyncio.shield(child.ended)  # this watcher may be cancelled, the future not
            if self._stopping.is_set():
                return
            lived = time.monotonic() - child.started
            delay = (
                0.0
                if lived > _STEADY
                else min(_BACKOFF_MAX, max(0.1, delay * 2))
                if delay or lived < 1
                else 0.0
            )
            how = f"signal {-code}" if code < 0 else f"code {code}"
            log.error(
                "the %s ended (%s); starting it again%s",
                spec.name,
                how,
                f" in {delay:.1f} s" if delay else "",
            )
            if delay:
                await asyncio.sleep(delay)
            if self._stopping.is_set():
                return
            try:
                self._children[spec.name] = Child(spec, self._lifeline)
            except HearthError as error:
                log.error("%s", error.message)

    async def _stop_all(self) -> None:
        self._stopping.set()
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        stages = sorted({spec.stage for spec in self._specs}, reverse=True)
        for stage in stages:
            children = [child for child in self._children.values() if child.spec.stage == stage]
            await stop(children, self._grace + _STOP_SLACK)
