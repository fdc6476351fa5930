"""Figures of all processes, as one page and one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from hearth.core.metrics import ProcessSamples


class FigureSource(Protocol):
    async def collect(self, functions: Sequence[str] | None = None) -> list[ProcessSamples]:
        """What every process of the platform counts now. A process that does not answer in time is among them, not `up`.

        Args:
            functions: ids; only figures of these functions, each under its own name however many there are. None: every
                figure, functions beyond `core.limits.METRICS_FUNCTIONS_MAX` under one name.
        """
        ...


class MetricsPage(Protocol):
    @property
    def content_type(self) -> str: ...

    async def render(self) -> bytes:
        """Everything, in Prometheus's text format."""
        ...
