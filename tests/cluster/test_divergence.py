"""A node whose ledger file was changed behind its back comes to another state: it says so, and the others serve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import apsw
import httpx

from appliance.wiring.node import EXIT_AGAIN
from tests.cluster.chaos import await_voter, incarnation
from tests.cluster.harness import PASSING, START_S, Cluster, await_value, running_cluster

DETECT_S = 10.0
SILENT_S = 1.0  # an election time-out; who was heard within a few heartbeats counts as alive


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
    cluster.write(1, "k", b"one")
    cluster.write(1, "other", b"v")
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


def resynced(cluster: Cluster, node: int) -> None:
    """Ask a node to get its data again, start it again as a supervisor would, and wait until it votes and serves."""
    through = next(n for n in cluster.processes if n != node)
    before = incarnation(cluster, through, node)[1]

    def agreed() -> httpx.Response | None:
        answer = cluster.client.post(cluster.url(node, "/admin/resync"), json={"incarnation": before}, timeout=60)
        assert answer.status_code in {200, 409, 503}, answer.text  # the leader may see another that is silent or behind
        return answer if answer.status_code == 200 else None

    assert await_value(agreed, "the others to do without it").json()["changed"] is True
    assert cluster.processes[node].wait(START_S) == EXIT_AGAIN
    del cluster.processes[node]
    cluster.start(node)
    await_voter(cluster, through, node, other_than=before)
    cluster.wait_healthy(node)
    again = cluster.client.post(cluster.url(node, "/admin/resync"), json={"incarnation": before}, timeout=60)
    assert again.status_code == 200, again.text
    assert again.json()["changed"] is False, "asked again, it changes nothing"


def transfer(cluster: Cluster, through: int, to: int) -> httpx.Response:
    """Ask a node to have another lead."""
    path = cluster.url(through, "/cluster/leader/transfer")
    return cluster.client.post(path, json={"node_id": to}, timeout=30)


def test_a_node_that_differs_is_quarantined_and_the_others_serve(cluster: Cluster) -> None:
    node = cluster.followers()[0]
    good = [n for n in cluster.processes if n != node]
    falsify(cluster, node)
    assert cluster.write(good[0], "k", b"two").json()["version"] == 2
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
        await_value(lambda other=other: cluster.alarms(other) == [], f"node {other} to be sure of itself")
    assert cluster.write(node, "k", b"three").json()["version"] == 3, "the leader decides what it forwards"

    def is_refused() -> bool:
        answer = transfer(cluster, good[0], node)
        assert answer.status_code in {409, 503}, "it does not campaign"
        return answer.status_code == 409 and "not that of the others" in answer.json()["detail"]

    await_value(is_refused, "its state to be named as the reason")
    applied = cluster.figures(good[0])["raft"]["applied_index"]
    await_value(lambda: cluster.figures(node)["raft"]["applied_index"] >= applied, "it to take part all the same")
    cluster.kill(node)
    cluster.start(node)
    cluster.wait_answers(node)
    assert "diverged" in cluster.alarms(node), "from its first answer on"
    assert cluster.get(node, "/kv/k?consistency=stale").json()["code"] == "quarantined"
    resynced(cluster, node)
    assert cluster.alarms(node) == ["data_set_aside"], "what differed is kept until an operator has seen it"
    assert cluster.get(node, "/kv/k").content == b"three"
    cluster.agree()


def test_a_leader_that_differs_gives_way(cluster: Cluster) -> None:
    node = cluster.followers()[0]
    good = [n for n in cluster.processes if n != node]
    falsify(cluster, node)
    await_value(lambda: transfer(cluster, node, node).status_code == 200 and cluster.leader() == node, "it to lead")

    def is_taken() -> bool:
        return cluster.put(node, "k", b"two").json().get("code") not in PASSING

    await_value(is_taken, "the write to be taken")  # what it answers may be wrong; it is the last such answer
    wait_quarantined(cluster, node)
    await_value(lambda: cluster.leader() in good, "another to lead")
    assert cluster.get(good[0], "/history/k").json()["versions"][0]["version"] == 2
    cluster.write(good[0], "k", b"three")
    resynced(cluster, node)
    cluster.agree()


def test_a_resync_that_would_cost_the_quorum_is_refused(cluster: Cluster) -> None:
    leader, (node, other) = cluster.roles()
    cluster.kill(other)

    def is_silent() -> bool:
        members = cluster.get(leader, "/cluster/nodes").json()["nodes"]
        (gone,) = (member for member in members if member["node_id"] == other)
        return not gone["connected"] or gone["last_contact_s"] > SILENT_S

    await_value(is_silent, "the leader to hear nothing of it")
    answer = cluster.client.post(cluster.url(node, "/admin/resync"), timeout=60)
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict"), answer.text
    assert "quorum" in answer.json()["detail"]
    assert cluster.is_running(node)
    assert cluster.put(node, "k", b"v").status_code == 200
    cluster.start(other)
    cluster.wait_healthy()


def test_the_only_voter_keeps_what_it_holds(tmp_path: Path) -> None:
    with running_cluster(tmp_path, founders=1) as cluster:
        cluster.put(1, "k", b"v")
        answer = cluster.client.post(cluster.url(1, "/admin/resync"), timeout=60)
        assert (answer.status_code, answer.json()["code"]) == (409, "conflict"), answer.text
        assert "only voter" in answer.json()["detail"]
        assert cluster.get(1, "/kv/k").content == b"v"


def test_two_that_differ_with_the_third_away_say_so_until_it_is_back(cluster: Cluster) -> None:
    node, away = cluster.followers()
    falsify(cluster, node)
    cluster.kill(away)
    good = cluster.leader()
    assert cluster.put(good, "k", b"two").status_code == 200
    for one in (node, good):
        await_value(lambda one=one: "divergence_seen" in cluster.alarms(one), f"node {one} to say so")
    assert cluster.get(good, "/kv/k").status_code == 200, "nobody is known to be wrong"
    cluster.start(away)
    cluster.wait_healthy(away)
    wait_quarantined(cluster, node)
    await_value(lambda: cluster.alarms(good) == [], "the majority to be known")
