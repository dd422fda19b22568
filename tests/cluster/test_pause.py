"""Pauses of writes on real processes: everywhere, across a leader's death, and over by themselves."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import httpx

from tests.cluster.harness import Cluster, await_value
from tests.cluster.programs import appliance

SHORT_S = 15.0  # runs from the leader's stamp on, while three nodes settle
WAIT_S = 90.0
PASSING_STATUS = {503, 504}


def pause(cluster: Cluster, node: int, **body: Any) -> dict[str, Any]:
    return ordered(lambda: cluster.client.post(cluster.url(node, "/admin/pause-writes"), json=body, timeout=60.0))


def resume(cluster: Cluster, node: int) -> dict[str, Any]:
    return ordered(lambda: cluster.client.post(cluster.url(node, "/admin/resume-writes"), timeout=60.0))


def ordered(send: Callable[[], httpx.Response]) -> dict[str, Any]:
    """What is answered when an order is carried out; given again while no leader can take it."""
    answer = decided(send)
    assert answer.status_code == 200, answer.text
    return answer.json()


def decided(send: Callable[[], httpx.Response]) -> httpx.Response:
    """Send until the answer is about the request, and not that nobody can see to it for the moment."""

    def find() -> httpx.Response | None:
        try:
            answer = send()
        except httpx.TransportError:
            return None
        passing = answer.status_code in PASSING_STATUS and answer.json()["code"] != "writes_paused"
        return None if passing else answer

    return await_value(find, "a node to decide", WAIT_S)


def refused(send: Callable[[], httpx.Response]) -> bool:
    """Whether a write is refused because of a pause; it is taken otherwise."""
    answer = decided(send)
    if answer.status_code == 200:
        return False
    assert (answer.status_code, answer.json()["code"]) == (503, "writes_paused"), answer.text
    assert int(answer.headers["Retry-After"]) >= 1
    return True


def put_refused(cluster: Cluster, node: int, key: str, value: bytes = b"v") -> bool:
    return refused(lambda: cluster.put(node, key, value))


def alarms(cluster: Cluster, node: int) -> list[str] | None:
    """Of a node that is healthy, else None."""
    health = cluster.health(node)
    return None if health is None else health["alarms"]


def await_no_alarms(cluster: Cluster) -> None:
    await_value(lambda: all(alarms(cluster, n) == [] for n in cluster.processes), "the alarms to end", WAIT_S)


def digest(cluster: Cluster, node: int) -> str:
    data = cluster.files.directory / f"node{node}" / "data"
    found = hashlib.sha256()
    for name in ("ledger.db", "ledger.db-wal"):
        path = data / name
        found.update(path.read_bytes() if path.exists() else b"")
    return found.hexdigest()


def test_a_pause_holds_everywhere_and_across_the_death_of_the_leader(cluster: Cluster) -> None:
    cluster.write(1, "before", b"v")
    follower = cluster.followers()[0]
    answer = pause(cluster, follower)
    assert (answer["paused"], answer["settled"], answer["unsettled"]) == (True, [1, 2, 3], [])
    rested = {node: digest(cluster, node) for node in cluster.processes}
    for node in cluster.processes:
        assert put_refused(cluster, node, "during")
        assert refused(lambda node=node: cluster.client.delete(cluster.url(node, "/kv/before")))
        assert cluster.get(node, "/kv/before").content == b"v"
        await_value(lambda node=node: alarms(cluster, node) == ["writes_paused"], "the alarm")
        await_value(lambda node=node: "\nscribe_writes_paused 1" in metrics(cluster, node), "the metric")
    dead = cluster.leader()
    cluster.kill(dead)
    leader = cluster.leader()
    assert put_refused(cluster, leader, "during")
    cluster.start(dead)
    cluster.wait_healthy(dead)
    for node in cluster.processes:
        assert put_refused(cluster, node, "during")
    assert {node: digest(cluster, node) for node in cluster.processes if node != dead} == {
        node: was for node, was in rested.items() if node != dead
    }
    assert resume(cluster, cluster.followers()[0])["paused"] is False
    cluster.write(dead, "after", b"v")
    assert cluster.get(1, "/kv/during").status_code == 404
    await_no_alarms(cluster)
    assert resume(cluster, 1)["paused"] is False, "once more does no harm"


def metrics(cluster: Cluster, node: int) -> str:
    return cluster.get(node, "/metrics/prometheus").text


def test_a_pause_ends_by_itself(cluster: Cluster) -> None:
    pause(cluster, 1, ttl_seconds=SHORT_S)
    assert put_refused(cluster, 2, "key")
    await_value(lambda: not put_refused(cluster, 2, "key"), "the pause to end", WAIT_S)
    await_no_alarms(cluster)


def test_a_node_that_starts_in_a_pause_keeps_it(cluster: Cluster) -> None:
    cluster.write(1, "key", b"v")
    pause(cluster, 1)
    rested = digest(cluster, 2)
    cluster.stop()
    assert digest(cluster, 2) == rested
    cluster.start()
    cluster.wait_healthy()
    assert put_refused(cluster, 3, "key", b"w")
    await_value(lambda: alarms(cluster, 2) == ["writes_paused"], "the alarm")
    resume(cluster, 2)
    cluster.write(3, "key", b"w")


def test_the_commands_pause_and_resume(cluster: Cluster) -> None:
    state = cluster.files.directory
    assert "settled" in appliance(state, "writes", "pause", "--ttl", "60s")
    assert put_refused(cluster, 1, "key")
    appliance(state, "writes", "resume")
    cluster.write(1, "key", b"v")
