"""Counters and histograms that cost a fraction of a microsecond to feed, exposed through prometheus_client.

Its own metrics take a lock for each number and walk the buckets one by one, which adds up where every request feeds
several. Here a child is fed without a lock, by one thread at a time; a scrape that comes in the middle may see the
bucket of a value without its part of the sum, and the next one has both.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

from appliance.tables.metrics import MetricRow


class TallyCounter:
    """A child of a counter."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1) -> None:
        """Add."""
        self.value += amount


class TallyHistogram:
    """A child of a histogram.

    Args:
        bounds: upper bounds of the buckets, rising, without infinity.
    """

    __slots__ = ("_bounds", "counts", "exemplars", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.exemplars: dict[int, Exemplar] = {}  # by bucket, the latest
        self.total = 0.0

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
        """Count a value."""
        at = bisect_left(self._bounds, amount)
        self.counts[at] += 1
        self.total += amount
        if exemplar is not None:
            self.exemplars[at] = Exemplar(exemplar, amount)


class TallyCounters(Collector):
    """All children of a counter."""

    def __init__(self, row: MetricRow) -> None:
        self._row = row
        self._children: dict[tuple[str, ...], TallyCounter] = {}
        if not row.labels:
            self.labels()

    def labels(self, *values: str) -> TallyCounter:
        """The child with these label values."""
        return self._children.setdefault(values, TallyCounter())

    def collect(self) -> Iterator[Metric]:
        """What a scrape reads."""
        family = CounterMetricFamily(self._row.name, self._row.help, labels=self._row.labels)
        for values, child in list(self._children.items()):
            family.add_metric(values, child.value)
        yield family


class TallyHistograms(Collector):
    """All children of a histogram."""

    def __init__(self, row: MetricRow) -> None:
        self._row = row
        self._bounds = tuple(float(bound) for bound in row.buckets)
        self._names = [*(str(bound) for bound in self._bounds), "+Inf"]
        self._children: dict[tuple[str, ...], TallyHistogram] = {}
        if not row.labels:
            self.labels()

    def labels(self, *values: str) -> TallyHistogram:
        """The child with these label values."""
        return self._children.setdefault(values, TallyHistogram(self._bounds))

    def collect(self) -> Iterator[Metric]:
        """What a scrape reads."""
        family = HistogramMetricFamily(self._row.name, self._row.help, labels=self._row.labels)
        for values, child in list(self._children.items()):
            buckets: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
            cumulative = 0
            for at, (name, count) in enumerate(zip(self._names, list(child.counts), strict=True)):
                cumulative += count
                exemplar = child.exemplars.get(at)
                buckets.append((name, cumulative) if exemplar is None else (name, cumulative, exemplar))
            family.add_metric(values, buckets, child.total)
        yield family
