"""`/metrics`: what every process tells, as one page in Prometheus's text format."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from hearth.core.metrics import BOUNDS, EXPOSED, METRICS, Histogram, Metric, ProcessSamples, Sample
from hearth.ports.metrics import FigureSource

if TYPE_CHECKING:
    from prometheus_client import Metric as Family


class PrometheusPage:
    """`ports.metrics.MetricsPage`.

    Args:
        source: whom to ask.
    """

    def __init__(self, source: FigureSource) -> None:
        self._source = source

    content_type = "text/plain; version=0.0.4; charset=utf-8"

    async def render(self) -> bytes:
        """See the port. Scrapes that come together each get figures of their own time."""
        processes = await self._source.collect()
        return await asyncio.to_thread(render, processes)  # some 10,000 lines: the API goes on meanwhile


def render(processes: Sequence[ProcessSamples]) -> bytes:
    """The page: each metric once, its series by process. Every metric is on it, also before it has a series."""
    # Imported when it is needed: most platforms are never scraped, and it brings an HTTP server along.
    from prometheus_client import CollectorRegistry, generate_latest

    class Collected:
        def collect(self) -> Iterator[Family]:
            return _families(processes)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collected())
    return generate_latest(registry)


def _families(processes: Sequence[ProcessSamples]) -> Iterator[Family]:
    by_name: dict[str, list[tuple[str, Sample]]] = {name: [] for name in METRICS}
    for told in processes:
        by_name["hearth_process_up"].append((told.process, Sample("hearth_process_up", (), int(told.up))))
        for sample in told.samples:
            by_name[sample.name].append((told.process, sample))
    for name, found in by_name.items():
        yield _family(METRICS[name], found)


def _family(metric: Metric, found: Sequence[tuple[str, Sample]]) -> Family:
    from prometheus_client.metrics_core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
    )

    labels = ("process", *metric.labels)
    if metric.kind == "histogram":
        histogram = HistogramMetricFamily(metric.name, metric.meaning, labels=labels)
        for process, sample in found:
            assert isinstance(sample.value, Histogram)
            histogram.add_metric((process, *sample.labels), _buckets(sample.value), sample.value.sum)
        return histogram
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family = kind(metric.name, metric.meaning, labels=labels)
    for process, sample in found:
        assert not isinstance(sample.value, Histogram)
        family.add_metric((process, *sample.labels), sample.value)
    return family


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Cumulative counts at the bounds that are published, and at infinity (Prometheus, "Exposition formats")."""
    found: list[tuple[str, float]] = []
    total = before = 0
    for place in EXPOSED:
        total += sum(histogram.counts[before : place + 1])
        before = place + 1
        found.append((repr(BOUNDS[place]), total))
    found.append(("+Inf", total + sum(histogram.counts[before:])))
    return found
