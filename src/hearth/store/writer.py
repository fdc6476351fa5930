"""One writer per process: a thread with one connection that commits whatever has queued up as one transaction.

Measured: three processes that each commit with ``synchronous=FULL`` have a p99.9 of 79 ms, one writer with
group commit 2.6 ms (TRAPS). Each operation runs in a savepoint of its own, so that one that is refused takes
nothing from the others, and is answered only after the commit.

Lines of the outbox are written last, by one process at a time: who reads it sees a number only after all numbers below it
(docs/decisions/0010-postgresql.md). A transaction that PostgreSQL has undone for another's sake, or whose connection was lost before its commit was
asked for, is run once more: operations are functions of the rows alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from hearth.core.errors import StoreUnavailable
from hearth.store import tables
from hearth.store.dialect import Alone, alone, database_ms
from hearth.store.errors import is_beaten, is_lost, lost_in_commit, overrun, too_slow, translate

T = TypeVar("T")
BATCH = 256  # operations in one transaction at most
BATCH_TIME = 1.0  # seconds after which a transaction takes in no more: others wait for its locks
WAITING_MAX = 20_000  # operations that may wait
TRIES = 4  # of a transaction that PostgreSQL undoes
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Tx:
    """One operation's view of its transaction.

    `now_ms` is the process's clock, for what is shown; `database_ms()` is what leases are judged by. `events` are
    lines of the outbox to be written with it.
    """

    connection: Connection
    now_ms: int
    topics: set[str] = field(default_factory=set)
    events: list[dict[str, Any]] = field(default_factory=list)

    def database_ms(self) -> int:
        return database_ms(self.connection)


@dataclass(slots=True)
class _Job(Generic[T]):
    run: Callable[[Tx], T]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[T]
    result: T | None = None
    error: BaseException | None = None
    given_up: bool = False  # its caller was told so, and nothing is done for him any more


class Writer:
    """The queue and its thread.

    Args:
        engine: of one connection; SQLite's transactions begin with the write lock.
        now_ms: the process's wall clock, milliseconds.
        publish: called with a topic, on the loop that asked, after the commit of what changed it.
        wait: seconds that a caller waits at most; None: as long as it takes.
    """

    def __init__(
        self,
        engine: Engine,
        now_ms: Callable[[], int],
        publish: Callable[[str], None],
        wait: float | None = None,
    ) -> None:
        self._engine = engine
        self._now_ms = now_ms
        self._publish = publish
        self._wait = wait
        self._queue: queue.SimpleQueue[_Job[Any] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="hearth-store-writer", daemon=True)
        self._thread.start()

    async def run(self, operation: Callable[[Tx], T]) -> T:
        """Run an operation and return its result once it is committed.

        An operation that is queued is done, even when the caller leaves. Raises what the operation raised,
        translated; StoreUnavailable when its commit failed, it took too long (a commit may have been under way then), or the
        store is closed.
        """
        loop = asyncio.get_running_loop()
        job: _Job[T] = _Job(operation, loop, loop.create_future())
        with self._lock:
            if self._closed:
                raise StoreUnavailable(
                    "the database is closed", hint="the platform is stopping", retry_after=1.0
                )
            if self._queue.qsize() >= WAITING_MAX:
                raise overrun()
            self._queue.put(job)
        try:
            async with asyncio.timeout(self._wait) as limit:
                return await job.future
        except TimeoutError as error:
            if not limit.expired():
                raise
            job.given_up = True
            raise too_slow() from error

    def close(self) -> None:
        """Finish what is queued, then end the thread. Blocks; call it off the loop."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while True:
            jobs, last = self._collect()
            while jobs:
                settled, topics = self._commit(jobs)
                _answer(settled, topics, self._publish)
            if last:
                self._engine.dispose()
                return

    def _collect(self) -> tuple[deque[_Job[Any]], bool]:
        """Wait for one job, take along those that are there; and whether the queue has ended."""
        jobs: deque[_Job[Any]] = deque()
        job = self._queue.get()
        while job is not None:
            jobs.append(job)
            if len(jobs) == BATCH:
                return jobs, False
            try:
                job = self._queue.get_nowait()
            except queue.Empty:
                return jobs, False
        return jobs, True

    def _commit(self, jobs: deque[_Job[Any]]) -> tuple[list[_Job[Any]], set[str]]:
        """Run the first jobs in one transaction. Returns them, each with a result or an error, and the topics that changed."""
        for left in reversed(range(TRIES)):
            batch = _Batch(self._engine, self._now_ms(), jobs, last=not left)
            try:
                batch.run()
            except BaseException as error:  # this thread outlives every failure: each job is told, none hangs
                with contextlib.suppress(SQLAlchemyError):
                    self._engine.dispose()  # a new connection: this one's state is not known
                if left and (is_beaten(error) or (is_lost(error) and not batch.committing)):
                    continue
                if not isinstance(error, SQLAlchemyError):
                    _log.exception("the store's writer failed")
                unheard = batch.committing and is_lost(error)
                failure = lost_in_commit() if unheard else translate(error)
                # What was not begun would fare no better, but for one that can't be repeated: the next transaction may.
                settled = _taken(jobs, len(batch.done) if unheard else len(jobs))
                for job in settled:
                    job.error = failure  # also what was refused: it was judged by rows that never came to be
                return settled, set()
            return _taken(jobs, len(batch.done)), batch.topics
        raise AssertionError("the last try has returned")


def _taken(jobs: deque[_Job[Any]], count: int) -> list[_Job[Any]]:
    """The first so many, which are no longer in the queue."""
    return [jobs.popleft() for _ in range(count)]


class _Batch:
    """One transaction.

    Args:
        jobs: to be run, as many as there is time for.
        last: it is not repeated.
    """

    def __init__(self, engine: Engine, now_ms: int, jobs: deque[_Job[Any]], *, last: bool) -> None:
        self.done: list[_Job[Any]] = []
        self.topics: set[str] = set()
        self.committing = False  # from then on nobody knows, when the connection is lost
        self._engine = engine
        self._now_ms = now_ms
        self._jobs = jobs
        self._last = last
        self._events: list[dict[str, Any]] = []

    def run(self) -> None:
        """Raises when the whole transaction is lost."""
        end = time.monotonic() + BATCH_TIME
        with self._engine.connect() as connection:
            for job in self._jobs:
                if not job.given_up:
                    self._run(connection, job)
                self.done.append(job)
                if time.monotonic() > end:
                    break
            if self._events:
                alone(connection, Alone.EVENTS)
                connection.execute(tables.events.insert(), self._events)
            self.committing = True
            connection.commit()

    def _run(self, connection: Connection, job: _Job[Any]) -> None:
        """Run one job in a savepoint."""
        tx = Tx(connection, self._now_ms)
        job.result = job.error = None
        savepoint = connection.begin_nested()
        try:
            job.result = job.run(tx)
            savepoint.commit()
        except Exception as error:  # whatever an operation raises is its caller's answer, not the others'
            if connection.invalidated or is_lost(error) or (is_beaten(error) and not self._last):
                raise
            job.error = error
            try:
                savepoint.rollback()
            except SQLAlchemyError:
                # SQLite has rolled back everything (disk full, I/O: https://sqlite.org/lang_transaction.html).
                raise error from None
            if connection.invalidated:
                raise
        else:
            self.topics |= tx.topics
            self._events += tx.events


def _answer(jobs: list[_Job[Any]], topics: set[str], publish: Callable[[str], None]) -> None:
    """Hand results to their loops, one wake-up per loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[_Job[Any]]] = {}
    for job in jobs:
        by_loop.setdefault(job.loop, []).append(job)

    def settle(mine: list[_Job[Any]], hints: set[str]) -> None:
        for job in mine:
            if job.future.done():
                continue
            if job.error is not None:
                job.future.set_exception(translate(job.error))
            else:
                job.future.set_result(job.result)
        for topic in hints:
            publish(topic)

    for loop, mine in by_loop.items():
        with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody waits any more
            loop.call_soon_threadsafe(settle, mine, topics)
        topics = set()
