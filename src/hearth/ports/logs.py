"""Where lines of functions and builds go and come from."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line. `invocation` is None where it can't be told; `source` is ``run`` or ``build``."""

    at_ms: int
    source: str
    stream: str  # stdout | stderr | log | platform
    level: str
    text: str
    version: int
    instance: str
    invocation: str | None


class LogSink(Protocol):
    def write(self, function_id: str, line: LogLine) -> None:
        """Queue a line; never blocks. Beyond its bounds lines are dropped and the count is logged."""
        ...


class LogSource(Protocol):
    def read(
        self,
        function_id: str,
        *,
        since_ms: int = 0,
        invocation: str | None = None,
        version: int | None = None,
        source: str | None = None,
        limit: int = 1000,
        follow: bool = False,
    ) -> AsyncIterator[LogLine]:
        """Lines in order of time; with `follow` goes on until closed (pushed by file events, not polled hotly)."""
        ...
