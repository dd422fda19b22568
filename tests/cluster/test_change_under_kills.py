"""A change of the membership whose leader is killed as soon as it is asked: made once or not at all, everywhere."""

from __future__ import annotations

import json
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from tests.cluster.chaos import Chaos
from tests.cluster.harness import Cluster, await_value, running_cluster

CHANGE_S = 60.0
SPARE = 4


def ask(cluster: Cluster, through: int, change: str) -> int:
    """Ask for the change of the spare node; answers the status, 0 when the connection was lost."""
    body: dict[str, Any] = {"node_id": SPARE}
    if change == "add":
        body["address"] = cluster.url(SPARE).removeprefix("http://")
    try:
        return cluster.client.post(
            cluster.url(through, f"/cluster/nodes/{change}"), json=body, timeout=CHANGE_S
        ).status_code
    except httpx.TransportError:
        return 0


def members(cluster: Cluster, node: int) -> list[tuple[int, str, str]]:
    found = cluster.get(node, "/cluster/nodes").json()["nodes"]
    return sorted((m["node_id"], m["role"], m["incarnation"]) for m in found)


def leaders(cluster: Cluster, nodes: tuple[int, ...]) -> dict[int, set[int]]:
    """Who led in each term, as the logs of the nodes say."""
    found: dict[int, set[int]] = defaultdict(set)
    for node in nodes:
        for line in cluster.log(node).splitlines():
            event = json.loads(line)
            if event.get("event.action") == "raft.leader":
                found[int(event["scribe.term"])].add(int(event["scribe.leader_id"]))
    return found


def is_done(cluster: Cluster, through: int, change: str, expected: set[int], told: int) -> bool:
    """Whether the change is made; it is asked for again unless it was acknowledged, which is enough."""
    if told != 200:
        ask(cluster, through, change)
    return cluster.voters(through) == expected


def test_a_change_whose_leader_is_killed_is_made_once(tmp_path: Path) -> None:
    with running_cluster(tmp_path, founders=3, nodes=SPARE) as cluster:
        chaos = Chaos(cluster, 1, tmp_path)
        cluster.start(SPARE)
        cluster.wait_answers(SPARE)
        with chaos.round("change"):
            for change, expected in (("add", {1, 2, 3, SPARE}), ("remove", {1, 2, 3}), ("add", {1, 2, 3, SPARE})):
                leader = cluster.leader()
                through = next(n for n in (1, 2, 3) if n != leader)
                with ThreadPoolExecutor(1) as pool:
                    asked = pool.submit(ask, cluster, through, change)
                    cluster.kill(leader)
                    told = asked.result()
                    assert told in {0, 200, 409, 503, 504}
                cluster.start(leader)
                cluster.wait_healthy(1, 2, 3)

                await_value(partial(is_done, cluster, through, change, expected, told), f"the {change}", CHANGE_S)
        await_value(
            lambda: all(members(cluster, n) == members(cluster, 1) for n in (2, 3, SPARE)), "one membership everywhere"
        )
        chaos.finish()
        assert not chaos.violations
        assert not chaos.gave_up
        assert not chaos.undecided
        by_term = leaders(cluster, (1, 2, 3, SPARE))
        assert len(by_term) >= 4, "each kill brought another term"
        assert {term: who for term, who in by_term.items() if len(who) > 1} == {}
