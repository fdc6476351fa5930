"""Where lines of functions and builds go and come from."""

from __future__ import annotations

from collections.abc import AsyncIterator, Set
from dataclasses import dataclass
from typing import Final, Protocol

RUN, BUILD, PLATFORM = "run", "build", "platform"
SOURCES: Final = (RUN, BUILD, PLATFORM)


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line. `invocation` is None where it can't be told.

    `source` says whose words these are: ``run`` the function's, ``build`` its build's, ``platform`` Hearth's own. It is set
    where lines are taken in, by whom they come from, never by what they say; so no function can write in Hearth's name.
    """

    at_ms: int
    source: str
    stream: (
        str  # run: stdout | stderr | log; build: log; platform: deploy | instance | logs, what it is about
    )
    level: str
    text: str
    version: int
    instance: str
    invocation: str | None


@dataclass(frozen=True, slots=True)
class LogFilter:
    """Which lines are wanted; the default is all."""

    since_ms: int = 0
    invocation: str | None = None
    version: int | None = None
    sources: frozenset[str] = frozenset(SOURCES)


ALL = LogFilter()


@dataclass(frozen=True, slots=True)
class LogBatch:
    """Some lines in order of time, and the cursor after them: who comes back with it misses none and gets none twice."""

    lines: list[LogLine]
    cursor: str


class LogSink(Protocol):
    def write(self, function_id: str, line: LogLine) -> None:
        """Queue a line; never blocks. Beyond its bounds lines are dropped and the count is logged."""
        ...


class LogSource(Protocol):
    def read(
        self, function_id: str, wanted: LogFilter = ALL, *, limit: int = 1000
    ) -> AsyncIterator[LogBatch]:
        """The newest `limit` lines that are wanted, oldest first. Raises PlatformError: they can't be read."""
        ...

    def follow(
        self, function_id: str, wanted: LogFilter = ALL, *, limit: int = 1000, after: str | None = None
    ) -> AsyncIterator[LogBatch]:
        """The same, then what comes, until closed. Pushed by events of the files; no line is looked for on a timer.

        The first batch comes at once, also when it is empty. Lines of several processes are put in order, for which
        each waits a moment.

        Args:
            after: the cursor of an earlier batch: goes on from there, and `limit` does not matter.

        Raises:
            InvalidInput: `after` is no cursor.
            PlatformError: they can't be read.
        """
        ...


class LogKeeper(Protocol):
    """Clears lines away. Its methods block: call them in a thread."""

    def functions(self) -> set[str]:
        """Ids of functions, deleted ones too, of which there are lines."""
        ...

    def sweep(self, gone: Set[str]) -> int:
        """Remove all lines of the functions `gone`, and of the others those that are too old or too many.

        Returns how many files went. Raises OSError.
        """
        ...
