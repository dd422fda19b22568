"""Spans against a real collector: an HTTP server that decodes what is exported."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from appliance.adapters.telemetry.logs import EcsLog
from appliance.adapters.telemetry.metrics import Registry
from appliance.adapters.telemetry.tracing import (
    NoTracer,
    OtlpTracer,
    format_traceparent,
    make_tracer,
    parse_traceparent,
    sample,
)
from appliance.tables.settings import LoggingSettings, TelemetrySettings
from tests.otlp import Collector

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN_ID = "00f067aa0ba902b7"
SAMPLED = f"00-{TRACE_ID}-{SPAN_ID}-01"


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


class Node:
    """A tracer, a log and metrics of one node."""

    def __init__(
        self, directory: Path, node_id: int, endpoint: str, *, ratio: float = 1.0, export_timeout_s: float = 10.0
    ) -> None:
        self.registry = Registry(node_id)
        self.path = directory / f"scribe-node{node_id}.log"
        self.log = EcsLog(LoggingSettings(directory=str(directory), stdout=False), node_id, self.registry)
        self.tracer = OtlpTracer(
            endpoint,
            ratio=ratio,
            node_id=node_id,
            log=self.log,
            instruments=self.registry,
            chance=random.Random(node_id),
            export_timeout_s=export_timeout_s,
        )

    def events(self) -> list[str]:
        if not self.path.exists():
            return []
        return [msgspec.json.decode(line)["event.action"] for line in self.path.read_bytes().splitlines()]

    def failures(self) -> float:
        text = self.registry.render("")[0].decode()
        return float(text.split("\nscribe_trace_export_failures_total ")[1].split("\n")[0])


def test_a_write_leaves_one_trace_over_two_nodes(tmp_path: Path, collector: Collector) -> None:
    leader, follower = Node(tmp_path, 1, collector.url), Node(tmp_path, 2, collector.url + "/")
    request = follower.tracer.root("PUT /kv/{key}", op="put")
    assert request is not None
    propose = leader.tracer.start("propose", request.traceparent, index=7)
    assert propose is not None
    now_us = time.time_ns() // 1000
    follower.tracer.record("replicate", propose.traceparent, now_us - 5000, now_us, entries=3)
    leader.tracer.record("apply", propose.traceparent, now_us - 2000, now_us)
    leader.log.warning("raft.no_leader", term=3, traceparent=propose.traceparent)
    propose.end()
    request.end(error="no_quorum")
    for node in (leader, follower):
        node.tracer.close()

    spans = {span.name: (node, span) for node, span in collector.spans}
    assert set(spans) == {"PUT /kv/{key}", "propose", "replicate", "apply"}
    assert set(collector.paths) == {"/v1/traces"}
    assert len({span.trace_id for _, span in spans.values()}) == 1
    parents = {name: span.parent_span_id for name, (_, span) in spans.items()}
    assert parents == {
        "PUT /kv/{key}": b"",
        "propose": spans["PUT /kv/{key}"][1].span_id,
        "replicate": spans["propose"][1].span_id,
        "apply": spans["propose"][1].span_id,
    }
    assert {name: node for name, (node, _) in spans.items()} == {
        "PUT /kv/{key}": "node2",
        "propose": "node1",
        "replicate": "node2",
        "apply": "node1",
    }
    replicate = spans["replicate"][1]
    assert replicate.end_time_unix_nano - replicate.start_time_unix_nano == 5_000_000
    assert [(item.key, item.value.int_value) for item in replicate.attributes] == [("entries", 3)]
    assert spans["PUT /kv/{key}"][1].status.code == 2  # STATUS_CODE_ERROR
    (line,) = [msgspec.json.decode(line) for line in leader.path.read_bytes().splitlines()]
    assert line["trace.id"] == spans["propose"][1].trace_id.hex()
    assert line["span.id"] == spans["propose"][1].span_id.hex()


def test_a_request_with_a_sampled_traceparent_continues_it(tmp_path: Path, collector: Collector) -> None:
    node = Node(tmp_path, 1, collector.url + "/v1/traces", ratio=0)
    span = node.tracer.start("GET /kv/{key}", SAMPLED)
    assert span is not None
    assert span.traceparent.startswith(f"00-{TRACE_ID}-")
    span.end()
    node.tracer.close()
    ((_, wire),) = collector.spans
    assert (wire.trace_id.hex(), wire.parent_span_id.hex()) == (TRACE_ID, SPAN_ID)


@pytest.mark.parametrize("traceparent", ["", SAMPLED[:-1] + "0", "nonsense"])
def test_what_is_not_sampled_leaves_nothing(tmp_path: Path, collector: Collector, traceparent: str) -> None:
    node = Node(tmp_path, 1, collector.url, ratio=0)
    assert node.tracer.start("propose", traceparent) is None
    assert node.tracer.root("PUT /kv/{key}") is None
    node.tracer.record("apply", traceparent, 1, 2)
    node.tracer.close()
    assert collector.spans == []


def test_a_collector_that_refuses_is_reported_once_and_counted(tmp_path: Path, collector: Collector) -> None:
    collector.status = 400
    node = Node(tmp_path, 1, collector.url)
    for _ in range(3):
        node.tracer.record("apply", SAMPLED, 1, 2)
        node.tracer.flush()
    assert node.events() == ["trace.export_failed"]
    assert node.failures() == 3
    collector.status = 200
    node.tracer.record("apply", SAMPLED, 1, 2)
    node.tracer.flush()
    assert node.events() == ["trace.export_failed", "trace.export_resumed"]
    assert len(collector.spans) == 1
    node.tracer.close()


def test_a_collector_that_is_gone_holds_nothing_up(tmp_path: Path, collector: Collector) -> None:
    url = collector.url
    collector.server.server_close()
    node = Node(tmp_path, 1, url, export_timeout_s=1.0)
    started_s = time.monotonic()
    for _ in range(5000):  # more than the queue holds
        node.tracer.record("apply", SAMPLED, 1, 2)
    assert time.monotonic() - started_s < 5
    node.tracer.close()
    assert time.monotonic() - started_s < 9
    assert node.events()[:1] == ["trace.export_failed"]
    assert node.failures() >= 1


def test_without_an_endpoint_nothing_is_recorded(tmp_path: Path) -> None:
    registry = Registry(1)
    log = EcsLog(LoggingSettings(directory=str(tmp_path), stdout=False), 1, registry)
    settings = TelemetrySettings(otlp_endpoint="", sample_ratio=1.0)
    tracer = make_tracer(settings, node_id=1, log=log, instruments=registry, chance=random.Random(1))
    assert isinstance(tracer, NoTracer)
    assert tracer.root("PUT /kv/{key}") is None
    assert tracer.start("propose", SAMPLED) is None
    tracer.record("apply", SAMPLED, 1, 2)
    tracer.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("Otel")]


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        pytest.param(SAMPLED, True, id="sampled"),
        pytest.param(f"00-{TRACE_ID}-{SPAN_ID}-00", True, id="not sampled"),
        pytest.param(f"01-{TRACE_ID}-{SPAN_ID}-01-more", True, id="a later version with more fields"),
        pytest.param(f"00-{TRACE_ID}-{SPAN_ID}-01-more", False, id="version 00 with more fields"),
        pytest.param(f"ff-{TRACE_ID}-{SPAN_ID}-01", False, id="version ff"),
        pytest.param(f"00-{'0' * 32}-{SPAN_ID}-01", False, id="trace id zero"),
        pytest.param(f"00-{TRACE_ID}-{'0' * 16}-01", False, id="span id zero"),
        pytest.param(f"00-{TRACE_ID.upper()}-{SPAN_ID}-01", False, id="upper case"),
        pytest.param(f"00-{TRACE_ID}-{SPAN_ID}", False, id="no flags"),
        pytest.param(SAMPLED + "\n00", False, id="a second line"),
        pytest.param("", False, id="empty"),
    ],
)
def test_traceparent(text: str, valid: bool) -> None:
    context = parse_traceparent(text)
    assert (context is not None) == valid
    if context is not None:
        assert format_traceparent(context)[3:-3] == f"{TRACE_ID}-{SPAN_ID}"
        assert context.trace_flags.sampled == text[53:55].endswith("1")


def test_sampling_follows_the_given_chance() -> None:
    chance = random.Random(5)
    assert not any(sample(0.0, chance) for _ in range(100))
    assert all(sample(1.0, chance) for _ in range(100))
    taken = sum(sample(0.25, random.Random(seed)) for seed in range(2000))
    assert 400 < taken < 600
    first = [sample(0.5, random.Random(9)) for _ in range(3)]
    assert first == [sample(0.5, random.Random(9)) for _ in range(3)]
