"""Pauses of writes on real processes: everywhere, across a leader's death, and over by themselves."""

from __future__ import annotations

import hashlib
import time
from typing import Any

import httpx

from tests.cluster.harness import Cluster, await_value
from tests.cluster.programs import appliance

SHORT_S = 2.0


def pause(cluster: Cluster, node: int, **body: Any) -> dict[str, Any]:
    answer = cluster.client.post(cluster.url(node, "/admin/pause-writes"), json=body, timeout=60.0)
    assert answer.status_code == 200, answer.text
    return answer.json()


def resume(cluster: Cluster, node: int) -> dict[str, Any]:
    answer = cluster.client.post(cluster.url(node, "/admin/resume-writes"), timeout=60.0)
    assert answer.status_code == 200, answer.text
    return answer.json()


def refused(answer: httpx.Response) -> bool:
    if answer.status_code == 200:
        return False
    assert (answer.status_code, answer.json()["code"]) == (503, "writes_paused"), answer.text
    assert int(answer.headers["Retry-After"]) >= 1
    return True


def alarms(cluster: Cluster, node: int) -> list[str]:
    health = cluster.health(node)
    return [] if health is None else health["alarms"]


def digest(cluster: Cluster, node: int) -> str:
    data = cluster.files.directory / f"node{node}" / "data"
    found = hashlib.sha256()
    for name in ("ledger.db", "ledger.db-wal"):
        path = data / name
        found.update(path.read_bytes() if path.exists() else b"")
    return found.hexdigest()


def test_a_pause_holds_everywhere_and_across_the_death_of_the_leader(cluster: Cluster) -> None:
    assert cluster.put(1, "before", b"v").status_code == 200
    follower = cluster.followers()[0]
    answer = pause(cluster, follower)
    assert (answer["paused"], answer["settled"], answer["unsettled"]) == (True, [1, 2, 3], [])
    rested = {node: digest(cluster, node) for node in cluster.processes}
    for node in cluster.processes:
        assert refused(cluster.put(node, "during", b"v"))
        assert refused(cluster.client.delete(cluster.url(node, "/kv/before")))
        assert cluster.get(node, "/kv/before").content == b"v"
        await_value(lambda node=node: alarms(cluster, node) == ["writes_paused"], "the alarm")
        await_value(lambda node=node: "\nscribe_writes_paused 1" in metrics(cluster, node), "the metric")
    dead = cluster.leader()
    cluster.kill(dead)
    leader = cluster.leader()
    assert refused(cluster.put(leader, "during", b"v"))
    cluster.start(dead)
    cluster.wait_healthy(dead)
    for node in cluster.processes:
        assert refused(cluster.put(node, "during", b"v"))
    assert {node: digest(cluster, node) for node in cluster.processes if node != dead} == {
        node: was for node, was in rested.items() if node != dead
    }
    assert resume(cluster, cluster.followers()[0])["paused"] is False
    assert cluster.put(dead, "after", b"v").status_code == 200
    assert cluster.get(1, "/kv/during").status_code == 404
    await_value(lambda: not any(alarms(cluster, node) for node in cluster.processes), "the alarms to end")
    assert resume(cluster, 1)["paused"] is False, "once more does no harm"


def metrics(cluster: Cluster, node: int) -> str:
    return cluster.get(node, "/metrics/prometheus").text


def test_a_pause_ends_by_itself(cluster: Cluster) -> None:
    pause(cluster, 1, ttl_seconds=SHORT_S)
    assert refused(cluster.put(2, "key", b"v"))
    began_s = time.monotonic()
    await_value(lambda: not refused(cluster.put(2, "key", b"v")), "the pause to end")
    assert time.monotonic() - began_s < SHORT_S + 5
    await_value(lambda: not any(alarms(cluster, node) for node in cluster.processes), "the alarms to end")


def test_a_node_that_starts_in_a_pause_keeps_it(cluster: Cluster) -> None:
    assert cluster.put(1, "key", b"v").status_code == 200
    pause(cluster, 1)
    rested = digest(cluster, 2)
    cluster.stop()
    assert digest(cluster, 2) == rested
    cluster.start()
    cluster.wait_healthy()
    assert refused(cluster.put(3, "key", b"w"))
    assert alarms(cluster, 2) == ["writes_paused"]
    resume(cluster, 2)
    assert cluster.put(3, "key", b"w").status_code == 200


def test_the_commands_pause_and_resume(cluster: Cluster) -> None:
    state = cluster.files.directory
    assert "settled" in appliance(state, "writes", "pause", "--ttl", "60s")
    assert refused(cluster.put(1, "key", b"v"))
    appliance(state, "writes", "resume")
    assert cluster.put(1, "key", b"v").status_code == 200
