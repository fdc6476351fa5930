"""What the platform says in a function's log of its own doings: deploys, instances, what was dropped.

Such lines have the source ``platform``, which only this process can give them: whatever a function prints is a line of
source ``run``, its build's of source ``build``.
"""

from __future__ import annotations

from hearth.core.routing import Deployed
from hearth.ports.clock import Clock
from hearth.ports.logs import PLATFORM, LogLine, LogSink


class Story:
    """Writes those lines.

    Args:
        sink: where they go.
        clock: gives them their time.
    """

    def __init__(self, sink: LogSink, clock: Clock) -> None:
        self._sink = sink
        self._clock = clock

    def deploy(self, function_id: str, version: int, text: str, level: str = "info") -> None:
        """A step of a deploy."""
        self._write(function_id, "deploy", level, text, version, "", None)

    def instance(
        self,
        version: Deployed,
        instance: str,
        text: str,
        level: str = "info",
        invocation: str | None = None,
    ) -> None:
        """Something that happened to an instance (its id; empty: to one that never was)."""
        self._write(version.function_id, "instance", level, text, version.number, instance, invocation)

    def dropped(self, version: Deployed, instance: str, text: str) -> None:
        """Lines of an instance are missing."""
        self._write(version.function_id, "logs", "warning", text, version.number, instance, None)

    def _write(
        self,
        function_id: str,
        about: str,
        level: str,
        text: str,
        version: int,
        instance: str,
        invocation: str | None,
    ) -> None:
        at = self._clock.now_ms()
        self._sink.write(
            function_id, LogLine(at, PLATFORM, about, level, text, version, instance, invocation)
        )
