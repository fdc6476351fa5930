"""A database as the queries see it: operations go to the one writer or to a few readers, off the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sqlalchemy import Connection, Engine

from hearth.core.errors import StoreUnavailable
from hearth.ports.clock import Clock, Ids
from hearth.store.errors import translate
from hearth.store.writer import Tx, Writer

T = TypeVar("T")
READERS = 4  # threads and connections


class Database:
    """Runs operations: plain functions of a connection. Every one is a transaction of its own.

    Args:
        writer, readers: engines on the same database.
        publish: gets the topic of every committed change.
    """

    def __init__(
        self, writer: Engine, readers: Engine, clock: Clock, ids: Ids, publish: Callable[[str], None]
    ) -> None:
        self.clock = clock
        self.ids = ids
        self._readers = readers
        self._writer = Writer(writer, clock.now_ms, publish)
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="hearth-store-reader")

    async def write(self, operation: Callable[[Tx], T]) -> T:
        """Run it in the writer's next transaction. Raises what it raises, StoreUnavailable."""
        return await self._writer.run(operation)

    async def read(self, operation: Callable[[Connection], T]) -> T:
        """Run it on a snapshot. Raises what it raises, StoreUnavailable."""

        def work() -> T:
            try:
                with self._readers.begin() as connection:
                    return operation(connection)
            except Exception as error:  # one table decides what a caller sees
                translated = translate(error)
                if translated is error:
                    raise
                raise translated from error

        loop = asyncio.get_running_loop()
        try:
            pending = loop.run_in_executor(self._threads, work)
        except RuntimeError as error:  # the pool has shut down
            raise StoreUnavailable("the database is closed", hint="the platform is stopping") from error
        return await pending

    async def close(self) -> None:
        """Commit what is queued and let go of the file."""

        def work() -> None:
            self._writer.close()
            self._threads.shutdown()
            self._readers.dispose()

        await asyncio.to_thread(work)
