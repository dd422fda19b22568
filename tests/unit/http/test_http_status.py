"""Health, figures, metrics, cluster, traces."""

from __future__ import annotations

import pytest
from http_rig import Rig, assert_problem
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

pytestmark = pytest.mark.anyio

SAMPLED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def test_health_says_who_the_node_is(rig: Rig) -> None:
    reply = await rig.call("GET", "/health", key=None)
    assert reply.json() == {
        "status": "ok",
        "node_id": 1,
        "role": "leader",
        "leader_id": 1,
        "term": 7,
        "commit_index": 0,
        "applied_index": 0,
        "lag": 0,
        "alarms": ["lag"],
    }


async def test_a_node_that_cannot_serve_says_why(rig: Rig) -> None:
    rig.node.unhealthy = ("no contact with a majority", "the disk is full")
    reply = await rig.call("GET", "/health", key=None)
    document = assert_problem(reply, 503, "unhealthy")
    assert document["reasons"] == ["no contact with a majority", "the disk is full"]
    assert "no contact with a majority; the disk is full" in document["detail"]
    assert (document["node_id"], document["role"], document["term"]) == (1, "leader", 7)
    assert reply.headers["retry-after"] == "1"
    live = await rig.call("GET", "/health/live", key=None)
    assert (live.status_code, live.json()) == (200, {"status": "ok"})


async def test_figures_of_the_node(rig: Rig) -> None:
    assert (await rig.call("GET", "/metrics", key=None)).json()["latency_ms"] == {"p50": None, "p95": None, "p99": None}
    await rig.call("PUT", "/kv/a", content=b"1")
    figures = (await rig.call("GET", "/metrics", key=None)).json()
    assert figures["storage"] == {
        "keys": 1,
        "capacity_keys": 1_000_000,
        "ledger_bytes": 4096,
        "log_bytes": 8192,
        "pending_bytes": 0,
        "cache_bytes": 10,
    }
    assert figures["raft"] == {
        "node_id": 1,
        "role": "leader",
        "leader_id": 1,
        "term": 7,
        "commit_index": 1,
        "applied_index": 1,
        "last_index": 1,
        "snapshot_index": 0,
    }
    assert figures["merkle"]["tree_size"] == 1
    assert figures["merkle"]["root_hash"] == rig.node.machine.root().hex()
    assert 0 < figures["latency_ms"]["p50"] <= figures["latency_ms"]["p95"] <= figures["latency_ms"]["p99"]


async def test_the_exposition_is_negotiated(rig: Rig) -> None:
    await rig.call("PUT", "/kv/a", content=b"1")
    text = await rig.call("GET", "/metrics/prometheus", key=None)
    assert text.headers["content-type"].startswith("text/plain; version=")
    assert "scribe_ops" in {family.name for family in parse_text(text.text)}
    accept = {"accept": "application/openmetrics-text;version=1.0.0;q=0.9,text/plain;q=0.1"}
    opened = await rig.call("GET", "/metrics/prometheus", key=None, headers=accept)
    assert opened.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert "scribe_ops" in {family.name for family in parse_openmetrics(opened.text)}


async def test_the_cluster_as_the_node_sees_it(rig: Rig) -> None:
    info = (await rig.call("GET", "/cluster/info", "read")).json()
    assert (info["cluster_id"], info["node_id"], info["quorum"]) == ("ab" * 16, 1, 2)
    assert info["incarnation"] == f"{2**60 + 1:016x}", "written as for the members"
    nodes = (await rig.call("GET", "/cluster/nodes", "read")).json()["nodes"]
    assert nodes == info["members"]
    assert [(node["node_id"], node["is_leader"], node["match_index"]) for node in nodes] == [
        (1, True, 0),
        (2, False, None),
    ]
    leader = (await rig.call("GET", "/cluster/leader/info", "read")).json()
    assert leader == {
        "leader_id": 1,
        "address": "127.0.0.1:8001",
        "raft_address": "127.0.0.1:9001",
        "version": "0.1.0",
        "term": 7,
        "is_self": True,
    }
    rig.node.leader_id = 0
    assert_problem(await rig.call("GET", "/cluster/leader/info", "read"), 503, "no_leader")


class TestTraces:
    async def test_a_sampled_request_is_traced_into_the_write(self, rig: Rig) -> None:
        await rig.call("PUT", "/kv/a", headers={"traceparent": SAMPLED})
        (span,) = rig.tracer.spans
        assert (span.name, span.ended) == ("http.put", [""])
        assert rig.node.requests[0].traceparent == span.traceparent != SAMPLED
        assert span.traceparent[3:35] == SAMPLED[3:35]

    async def test_its_trace_id_is_the_exemplar_and_its_error_ends_the_span(self, rig: Rig) -> None:
        await rig.call("DELETE", "/kv/a", headers={"traceparent": SAMPLED})
        assert rig.tracer.spans[0].ended == ["not_found"]
        rendered = rig.metrics.render("application/openmetrics-text;version=1.0.0")[0].decode()
        assert f'trace_id="{SAMPLED[3:35]}"' in rendered

    @pytest.mark.parametrize(
        "given",
        [SAMPLED[:-1] + "0", "00-" + "0" * 32 + SAMPLED[35:], SAMPLED[:-1], "nonsense", SAMPLED.upper()],
        ids=["not sampled", "no trace id", "short", "nonsense", "upper case"],
    )
    async def test_others_are_not(self, rig: Rig, given: str) -> None:
        rig.tracer.sampling = True
        await rig.call("PUT", "/kv/a", headers={"traceparent": given})
        assert rig.tracer.spans == []
        assert rig.node.requests[0].traceparent == ""

    async def test_a_request_without_a_context_is_traced_by_chance(self, rig: Rig) -> None:
        await rig.call("PUT", "/kv/a")
        assert rig.node.requests[0].traceparent == ""
        rig.tracer.sampling = True
        await rig.call("PUT", "/kv/a")
        assert rig.node.requests[1].traceparent == rig.tracer.spans[0].traceparent
