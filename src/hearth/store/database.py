"""A database as the queries see it: operations go to the one writer or to a few readers, off the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sqlalchemy import Connection, Engine

from hearth.core.errors import StoreUnavailable
from hearth.ports.clock import Clock, Ids
from hearth.store.errors import is_lost, overrun, too_slow, translate
from hearth.store.writer import Tx, Writer

T = TypeVar("T")
READERS = 4  # threads and connections
READS_MAX = 2_000  # reads in work and waiting


class Database:
    """Runs operations: plain functions of a connection. Every one is a transaction of its own.

    Args:
        writer, readers: engines on the same database.
        publish: gets the topic of every committed change.
        wait: seconds that a caller waits at most; None: as long as it takes.
    """

    def __init__(
        self,
        writer: Engine,
        readers: Engine,
        clock: Clock,
        ids: Ids,
        publish: Callable[[str], None],
        wait: float | None = None,
    ) -> None:
        self.clock = clock
        self.ids = ids
        self._readers = readers
        self._wait = wait
        self._reading = 0
        self._writer = Writer(writer, clock.now_ms, publish, wait)
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="hearth-store-reader")

    async def write(self, operation: Callable[[Tx], T]) -> T:
        """Run it in the writer's next transaction. Raises what it raises, StoreUnavailable."""
        return await self._writer.run(operation)

    async def read(self, operation: Callable[[Connection], T]) -> T:
        """Run it on a snapshot. Raises what it raises, StoreUnavailable."""
        if self._reading >= READS_MAX:
            raise overrun()
        self._reading += 1
        try:
            async with asyncio.timeout(self._wait) as limit:
                return await self._start(operation)
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise too_slow() from error
        finally:
            self._reading -= 1

    def _start(self, operation: Callable[[Connection], T]) -> asyncio.Future[T]:
        try:
            return asyncio.get_running_loop().run_in_executor(self._threads, self._read, operation)
        except RuntimeError as error:  # the pool has shut down
            raise StoreUnavailable("the database is closed", hint="the platform is stopping") from error

    def _read(self, operation: Callable[[Connection], T]) -> T:
        try:
            try:
                return self._once(operation)
            except Exception as error:
                if not is_lost(error):
                    raise
            return self._once(operation)  # the server was restarted meanwhile: all connections are new now
        except Exception as error:  # one table decides what a caller sees
            translated = translate(error)
            if translated is error:
                raise
            raise translated from error

    def _once(self, operation: Callable[[Connection], T]) -> T:
        with self._readers.begin() as connection:
            return operation(connection)

    async def close(self) -> None:
        """Commit what is queued and let go of the file."""

        def work() -> None:
            self._writer.close()
            self._threads.shutdown()
            self._readers.dispose()

        await asyncio.to_thread(work)
