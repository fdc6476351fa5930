"""What the platform says in a function's log of its own doings: deploys, instances, what was dropped.

Such lines have the source ``platform``, which only this process can give them: whatever a function prints is a line of
source ``run``, its build's of source ``build``.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass

from hearth.core.launch import Exit
from hearth.core.limits import format_size
from hearth.core.routing import Deployed
from hearth.ports.clock import Clock
from hearth.ports.logs import PLATFORM, LogLine, LogSink


@dataclass(frozen=True, slots=True)
class Ending:
    """Why the platform ends an instance; `invocation` is the call that it is about, if one is."""

    text: str
    level: str = "info"
    invocation: str | None = None


STOPPING = Ending("instance stopped: the platform is stopping")
NEEDED = Ending("instance stopped: its room was needed for another function")


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

    def refused(self, version: Deployed, instance: str, text: str) -> None:
        """An instance was refused something on the network."""
        self._write(version.function_id, "network", "warning", text, version.number, instance, None)

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


def how_it_ended(end: Exit, version: Deployed | None) -> str:
    """An exit in words: ``it was ended by SIGSEGV``."""
    if end.oom:
        memory = version.config.memory if version is not None else 0
        return f"it used more than its {format_size(memory)} of memory and was killed"
    if end.signal is not None:
        return f"it was ended by {_signal_name(end.signal)}"
    if end.code is not None:
        return f"it exited with code {end.code}"
    return "its sandbox is gone" if end.reason == "gone" else end.reason or "it ended"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
