"""Prometheus metrics, built from the table `appliance.tables.metrics` in a registry of their own."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import prometheus_client
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder

from appliance import __version__
from appliance.adapters.telemetry.tallies import TallyCounters, TallyHistograms
from appliance.node.ports import Counter, Gauge, Histogram
from appliance.tables.metrics import METRICS, Kind, MetricRow

HOT_COUNTERS: Final = frozenset(("scribe_ops_total", "scribe_raft_proposals_total"))
"""Counted at each request, on the event loop alone."""

WINDOW_S: Final = 60.0
_MARKS_MAX: Final = 8


class Percentiles(NamedTuple):
    """Percentiles in milliseconds; all zero when nothing was measured."""

    p50: float
    p95: float
    p99: float


class Registry:
    """All metrics of the table; implements `appliance.node.ports.Instruments`.

    Children are cheap to use and dear to look up (performance.md, 9): bind them once. Metrics without labels are
    exposed from the start, those with labels from the first binding.
    """

    def __init__(self, node_id: int) -> None:
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry(auto_describe=False)
        self._metrics: dict[str, Any] = {row.name: self._build(row) for row in METRICS.values()}
        ProcessCollector(registry=self._registry)
        self._marks: dict[str, deque[tuple[float, list[float]]]] = {}
        self.gauge("scribe_build_info", version=__version__, node_id=str(node_id)).set(1)
        self.gauge("scribe_start_time_seconds").set(time.time())

    def _build(self, row: MetricRow) -> Any:
        """The client adds `_total` to a counter's name when it lacks it and leaves a gauge's alone. The row's unit is
        not handed on: the client would append it to the name.
        """
        if row.kind is Kind.HISTOGRAM or row.name in HOT_COUNTERS:
            collector = TallyHistograms(row) if row.kind is Kind.HISTOGRAM else TallyCounters(row)
            self._registry.register(collector)
            return collector
        if row.kind is Kind.COUNTER:
            return prometheus_client.Counter(row.name, row.help, row.labels, registry=self._registry)
        return prometheus_client.Gauge(row.name, row.help, row.labels, registry=self._registry)

    def _child(self, kind: Kind, name: str, labels: Mapping[str, str]) -> Any:
        row = METRICS[name]
        if row.kind is not kind:
            raise KeyError(f"{name} is a {row.kind}, not a {kind}")
        if set(row.labels) != set(labels):
            raise KeyError(f"{name} has the labels {row.labels}, not {tuple(labels)}")
        metric = self._metrics[name]
        if row.labels or isinstance(metric, TallyCounters | TallyHistograms):
            return metric.labels(*(labels[label] for label in row.labels))
        return metric

    def counter(self, name: str, **labels: str) -> Counter:
        """The counter's child with these labels; `KeyError` when the table has no such counter or labels."""
        child: Counter = self._child(Kind.COUNTER, name, labels)
        return child

    def gauge(self, name: str, **labels: str) -> Gauge:
        """The gauge's child with these labels; `KeyError` when the table has no such gauge or labels."""
        child: Gauge = self._child(Kind.GAUGE, name, labels)
        return child

    def histogram(self, name: str, **labels: str) -> Histogram:
        """The histogram's child with these labels; `KeyError` when the table has no such histogram or labels."""
        child: Histogram = self._child(Kind.HISTOGRAM, name, labels)
        return child

    def forget(self, name: str, **labels: str) -> None:
        """Expose a labelled child no longer, such as the lag of a peer that was removed."""
        row = METRICS[name]
        if not row.labels or set(row.labels) != set(labels):
            raise KeyError(f"{name} has the labels {row.labels}, not {tuple(labels)}")
        self._metrics[name].remove(*(labels[label] for label in row.labels))

    def render(self, accept: str) -> tuple[bytes, str]:
        """The exposition in the best format that an `Accept` header takes: body and `Content-Type`.

        Takes tens of milliseconds: call it on a worker thread. Exemplars are part of OpenMetrics only.
        """
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def mark(self, name: str) -> None:
        """Remember the histogram's state now, so that `percentiles` covers about the last minute and not all time."""
        marks = self._marks.setdefault(name, deque(maxlen=_MARKS_MAX))
        marks.append((time.monotonic(), self._cumulative(name)))

    def percentiles(self, name: str) -> Percentiles:
        """Median, 95th and 99th percentile in milliseconds of a histogram in seconds, over all its children.

        Interpolated inside a bucket, as PromQL's `histogram_quantile` does. Covers the last minute when `mark` is
        called regularly, else everything since the start.
        """
        now = self._cumulative(name)
        since_s = time.monotonic() - WINDOW_S
        base = next((counts for at_s, counts in self._marks.get(name, ()) if at_s >= since_s), [0.0] * len(now))
        counts = [count - before for count, before in zip(now, base, strict=True)]
        bounds = METRICS[name].buckets
        return Percentiles(*(_quantile(share, bounds, counts) * 1000 for share in (0.5, 0.95, 0.99)))

    def _cumulative(self, name: str) -> list[float]:
        """Observations at or below each bound and in all, summed over the children."""
        row = METRICS[name]
        if row.kind is not Kind.HISTOGRAM:
            raise KeyError(f"{name} is no histogram")
        sums = dict.fromkeys((*(float(bound) for bound in row.buckets), float("inf")), 0.0)
        for metric in self._metrics[name].collect():
            for sample in metric.samples:
                if sample.name.endswith("_bucket"):
                    sums[float(sample.labels["le"])] += sample.value
        return list(sums.values())


def _quantile(share: float, bounds: tuple[float, ...], counts: list[float]) -> float:
    """The value below which `share` of the observations lie; `counts` are cumulative, the last one is their number.
    What lies beyond the last bound counts as the last bound.
    """
    total = counts[-1]
    if total <= 0:
        return 0.0
    rank = share * total
    lower_bound, lower_count = 0.0, 0.0
    for bound, count in zip(bounds, counts, strict=False):
        if count >= rank:
            inside = count - lower_count
            return lower_bound + (bound - lower_bound) * ((rank - lower_count) / inside if inside else 0.0)
        lower_bound, lower_count = bound, count
    return bounds[-1]
