"""The exposition against the table, read by the client library's own parsers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from appliance.adapters.telemetry.loop_lag import sample_loop_lag
from appliance.adapters.telemetry.metrics import Registry
from appliance.tables.metrics import METRICS, Kind

OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
    "application/openmetrics-text;version=0.0.1;q=0.4,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
)


def filled() -> Registry:
    """A registry in which every metric of the table has a child."""
    registry = Registry(1)
    for row in METRICS.values():
        labels = dict.fromkeys(row.labels, "x")
        if row.kind is Kind.COUNTER:
            registry.counter(row.name, **labels).inc(3)
        elif row.kind is Kind.GAUGE:
            registry.gauge(row.name, **labels).set(4)
        else:
            registry.histogram(row.name, **labels).observe(row.buckets[1])
    return registry


@pytest.mark.parametrize(
    ("accept", "parse"), [("", parse_text), (OPENMETRICS, parse_openmetrics)], ids=["text", "openmetrics"]
)
def test_every_metric_of_the_table_is_exposed_under_its_name(
    accept: str, parse: Callable[[str], Iterable[Metric]]
) -> None:
    families = {family.name: family for family in parse(filled().render(accept)[0].decode())}
    samples = {sample.name for family in families.values() for sample in family.samples}
    for row in METRICS.values():
        family = families[row.name.removesuffix("_total") if row.kind is Kind.COUNTER else row.name]
        assert family.type == row.kind
        assert family.documentation == row.help
        suffixes = ("_bucket", "_sum", "_count") if row.kind is Kind.HISTOGRAM else ("",)
        assert {row.name + suffix for suffix in suffixes} <= samples
    assert "process_resident_memory_bytes" in samples
    own = {name for name in samples if name.startswith("scribe_")}
    assert not [name for name in own if name.endswith(("_created", "_total_total"))]


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        pytest.param("", "text/plain; version=0.0.4; charset=utf-8", id="none"),
        pytest.param("*/*", "text/plain; version=0.0.4; charset=utf-8", id="curl"),
        pytest.param(OPENMETRICS, "application/openmetrics-text; version=1.0.0", id="openmetrics"),
        pytest.param(PROMETHEUS_3, "application/openmetrics-text; version=1.0.0", id="Prometheus 3"),
        pytest.param("text/plain;version=0.0.4", "text/plain; version=0.0.4", id="text"),
    ],
)
def test_the_format_is_negotiated(accept: str, content_type: str) -> None:
    body, answered = filled().render(accept)
    assert answered.startswith(content_type)
    assert body.endswith(b"# EOF\n") == answered.startswith("application/openmetrics-text")


def test_an_exemplar_leads_from_a_bucket_to_its_trace() -> None:
    registry = Registry(1)
    registry.histogram("scribe_request_latency_seconds", op="put").observe(0.003, {"trace_id": "ab" * 16})
    (family,) = [
        family
        for family in parse_openmetrics(registry.render(OPENMETRICS)[0].decode())
        if family.name == "scribe_request_latency_seconds"
    ]
    exemplars = {sample.labels["le"]: sample.exemplar for sample in family.samples if sample.exemplar}
    assert {bound: exemplar.labels for bound, exemplar in exemplars.items()} == {"0.005": {"trace_id": "ab" * 16}}
    assert b"trace_id" not in registry.render("")[0]


@pytest.mark.parametrize(
    "ask",
    [
        pytest.param(lambda r: r.counter("scribe_no_such_total"), id="unknown name"),
        pytest.param(lambda r: r.gauge("scribe_ops_total", op="put", status="2xx"), id="another kind"),
        pytest.param(lambda r: r.counter("scribe_ops_total", op="put"), id="a label too few"),
        pytest.param(lambda r: r.counter("scribe_rate_limited_total", op="put"), id="a label too many"),
        pytest.param(lambda r: r.counter("scribe_ops_total", op="put", code="2"), id="another label"),
        pytest.param(lambda r: r.percentiles("scribe_raft_term"), id="percentiles of a gauge"),
        pytest.param(lambda r: r.forget("scribe_raft_term"), id="forget what has no labels"),
    ],
)
def test_what_is_not_in_the_table_is_a_key_error(ask: Callable[[Registry], object]) -> None:
    with pytest.raises(KeyError):
        ask(Registry(1))


def test_a_bound_child_is_the_same_series_every_time() -> None:
    registry = Registry(1)
    registry.counter("scribe_ops_total", op="put", status="2xx").inc()
    registry.counter("scribe_ops_total", status="2xx", op="put").inc(2)
    assert b'scribe_ops_total{op="put",status="2xx"} 3.0\n' in registry.render("")[0]


def test_a_forgotten_child_is_exposed_no_longer() -> None:
    registry = Registry(1)
    registry.gauge("scribe_raft_peer_lag_entries", peer="3").set(9)
    registry.forget("scribe_raft_peer_lag_entries", peer="3")
    assert b'peer="3"' not in registry.render("")[0]


def test_percentiles_in_milliseconds_over_all_children() -> None:
    registry = Registry(1)
    assert registry.percentiles("scribe_request_latency_seconds") == (0, 0, 0)
    for op, value, count in (("get", 0.002, 90), ("put", 0.04, 9), ("put", 99.0, 1)):
        for _ in range(count):
            registry.histogram("scribe_request_latency_seconds", op=op).observe(value)
    p50, p95, p99 = registry.percentiles("scribe_request_latency_seconds")
    assert p50 == pytest.approx(1.0 + 1.5 * 50 / 90)  # in the bucket 1 to 2.5 ms
    assert p95 == pytest.approx(25 + 25 * 5 / 9)  # in the bucket 25 to 50 ms
    assert p99 == pytest.approx(50)


def test_percentiles_cover_what_came_after_the_mark() -> None:
    registry = Registry(1)
    latency = registry.histogram("scribe_request_latency_seconds", op="get")
    latency.observe(9.0)
    registry.mark("scribe_request_latency_seconds")
    latency.observe(0.0005)
    assert registry.percentiles("scribe_request_latency_seconds").p99 <= 1.0


def test_two_registries_do_not_know_of_each_other() -> None:
    first, second = Registry(1), Registry(2)
    first.gauge("scribe_raft_term").set(7)
    assert b"scribe_raft_term 0.0\n" in second.render("")[0]
    assert b'node_id="1"' in first.render("")[0]


class Spy:
    """Keeps what was logged."""

    def __init__(self) -> None:
        self.events: set[str] = set()
        self.logged = asyncio.Event()

    def warning(self, event: str, **_: object) -> None:
        self.events.add(event)
        self.logged.set()


@pytest.mark.anyio
async def test_the_loop_lag_is_seen_and_logged() -> None:
    registry, log, ticks = Registry(1), Spy(), asyncio.Event()
    task = asyncio.create_task(sample_loop_lag(registry, log, ticks.set))  # type: ignore[arg-type]
    await asyncio.sleep(0)  # the sampler is inside its sleep
    asyncio.get_running_loop().call_soon(time.sleep, 0.7)
    async with asyncio.timeout(5):
        await log.logged.wait()
    assert log.events == {"node.loop_lag"}
    text = registry.render("")[0].decode()
    assert float(text.split("\nscribe_loop_lag_seconds ")[1].split("\n")[0]) >= 0.5
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
