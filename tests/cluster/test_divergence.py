"""A node whose ledger file was changed behind its back comes to another state: it says so, and the others serve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import apsw

from tests.cluster.harness import Cluster, await_value

DETECT_S = 10.0


def execute(path: Path, statement: str) -> None:
    """Change a ledger file at rest."""
    db = apsw.Connection(str(path))
    db.execute(statement)
    assert db.changes() == 1
    db.close()


def ledger_of(cluster: Cluster, node: int) -> Path:
    return cluster.files.directory / f"node{node}" / "data" / "ledger.db"


def problem(cluster: Cluster, node: int) -> dict[str, Any]:
    return cluster.get(node, "/health").json()


def falsify(cluster: Cluster, node: int) -> None:
    """Change the version of a key's head on one node, so that the next write of the key has another outcome there."""
    assert cluster.put(1, "k", b"one").status_code == 200
    assert cluster.put(1, "other", b"v").status_code == 200
    cluster.agree()
    cluster.stop(node)
    execute(ledger_of(cluster, node), "UPDATE meta SET value = CAST('2' AS BLOB) WHERE name = 'heads_leaf_next'")
    execute(ledger_of(cluster, node), "INSERT OR REPLACE INTO stored_heads VALUES ('k', 7, 0, 0, 0, 3)")
    cluster.start(node)
    cluster.wait_healthy(node)


def wait_quarantined(cluster: Cluster, node: int) -> dict[str, Any]:
    def find() -> dict[str, Any] | None:
        found = problem(cluster, node)
        return found if "diverged" in found["alarms"] else None

    return await_value(find, f"node {node} to be quarantined", DETECT_S)


def test_a_node_that_differs_is_quarantined_and_the_others_serve(cluster: Cluster) -> None:
    node = cluster.followers()[0]
    good = [n for n in cluster.processes if n != node]
    falsify(cluster, node)
    assert cluster.put(good[0], "k", b"two").json()["version"] == 2
    found = wait_quarantined(cluster, node)
    assert found["status"] == 503
    assert any("quarantined" in reason for reason in found["reasons"])
    assert "ledger.integrity" in cluster.log(node)
    assert 'scribe_integrity_alarm{alarm="diverged"} 1.0' in cluster.get(node, "/metrics/prometheus").text
    for path in ("/kv/k", "/kv/k?consistency=stale", "/kv", "/history/k"):
        answer = cluster.get(node, path)
        assert (answer.status_code, answer.json()["code"]) == (503, "quarantined"), path
    query = cluster.client.post(cluster.url(node, "/audit/query"), json={"sql": "SELECT count(*) FROM audit"})
    assert (query.status_code, query.json()["code"]) == (503, "quarantined")
    for other in good:
        assert cluster.get(other, "/kv/k").content == b"two"
        assert problem(cluster, other)["alarms"] == []
    assert cluster.put(node, "k", b"three").json()["version"] == 3, "the leader decides what it forwards"
    transfer = cluster.client.post(cluster.url(good[0], "/cluster/leader/transfer"), json={"node_id": node}, timeout=30)
    assert transfer.status_code == 409, "it does not campaign"
    applied = cluster.figures(good[0])["raft"]["applied_index"]
    await_value(lambda: cluster.figures(node)["raft"]["applied_index"] >= applied, "it to take part all the same")
    cluster.kill(node)
    cluster.start(node)
    cluster.wait_answers(node)
    wait_quarantined(cluster, node)


def test_a_leader_that_differs_gives_way(cluster: Cluster) -> None:
    node = cluster.followers()[0]
    good = [n for n in cluster.processes if n != node]
    falsify(cluster, node)
    cluster.client.post(cluster.url(node, "/cluster/leader/transfer"), json={"node_id": node}, timeout=30)
    assert cluster.leader() == node
    cluster.put(node, "k", b"two")  # what it answers may be wrong; it is the last such answer
    wait_quarantined(cluster, node)
    await_value(lambda: cluster.leader() in good, "another to lead")
    assert cluster.get(good[0], "/history/k").json()["versions"][0]["version"] == 2
    assert cluster.put(good[0], "k", b"three").status_code == 200
