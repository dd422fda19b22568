"""A sampled write leaves one trace over all nodes that carried it, and its id in their logs."""

import json
from pathlib import Path

from tests.cluster.harness import await_value, running_cluster
from tests.otlp import Collector

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE_ID}-00f067aa0ba902b7-01"


def test_one_write_one_trace_over_three_nodes(tmp_path: Path) -> None:
    collector = Collector()
    settings = {"SCRIBE_TELEMETRY__OTLP_ENDPOINT": collector.url, "SCRIBE_TELEMETRY__SAMPLE_RATIO": "0"}
    try:
        with running_cluster(tmp_path, settings) as cluster:
            leader, (first, second) = cluster.roles()
            cluster.write(first, "untraced", b"x")
            cluster.put(first, "traced", b"x", headers={"traceparent": TRACEPARENT})

            def traced() -> dict[str, set[str]] | None:
                seen: dict[str, set[str]] = {f"node{n}": set() for n in (1, 2, 3)}
                for node, span in list(collector.spans):
                    assert span.trace_id.hex() == TRACE_ID  # the write that was not sampled left nothing
                    seen[node].add(span.name)
                followers = all({"raft.replicate", "ledger.apply"} <= seen[f"node{n}"] for n in (first, second))
                leads = {"raft.propose", "ledger.apply"} <= seen[f"node{leader}"]
                return seen if followers and leads and "http.put" in seen[f"node{first}"] else None

            await_value(traced, "spans of all three nodes")
            cluster.stop()
            requests = [span for _, span in collector.spans if span.name == "http.put"]
            assert [span.parent_span_id.hex() for span in requests] == ["00f067aa0ba902b7"]
            inner = [span for _, span in collector.spans if span.name != "http.put"]
            assert {span.parent_span_id for span in inner} == {requests[0].span_id}
    finally:
        collector.close()


def test_logs_are_ecs_json_on_every_node(tmp_path: Path) -> None:
    with running_cluster(tmp_path) as cluster:
        cluster.stop()
        for node in (1, 2, 3):
            (path,) = (cluster.files.directory / f"node{node}" / "log").glob("*.log")
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            assert {"node.starting", "node.started", "cluster.founded", "raft.leader", "node.stopped"} <= {
                line["event.action"] for line in lines
            }
            for line in lines:
                assert {"@timestamp", "log.level", "message", "ecs.version", "service.name"} <= line.keys()
                assert line["service.node.name"] == f"node{node}"
            assert cluster.key not in path.read_text()
