"""Compaction that an operator asks for: the log goes, its room is given back, and writes go on meanwhile."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.cluster.harness import Cluster, await_value, running_cluster
from tests.cluster.writer import Writer

ENTRIES = 6_000
VALUE = b"v" * 2000


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("compact")) as cluster:
        fill(cluster, "fill", ENTRIES)
        yield cluster


def fill(cluster: Cluster, name: str, count: int) -> None:
    through = sorted(cluster.processes)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda n: cluster.write(through[n % len(through)], f"{name}-{n}", VALUE), range(count)))


def metric(cluster: Cluster, node: int, name: str) -> float:
    text = cluster.get(node, "/metrics/prometheus").text
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    assert found, f"{name} is not among the metrics"
    return float(found[1])


def compact(cluster: Cluster, node: int) -> dict[str, float]:
    answer = cluster.client.post(cluster.url(node, "/admin/compact"), timeout=120.0)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_every_node_is_compacted_while_writes_go_on(filled: Cluster) -> None:
    leader, others = filled.roles()
    for node in (leader, *others):
        with Writer(filled, f"during-{node}") as writer:
            writer.wait(20)
            done = compact(filled, node)
            writer.wait(20)
        assert not writer.unexpected
        assert done["entries_dropped"] > ENTRIES / 2
        assert done["log_bytes_after"] < done["log_bytes_before"] / 2
        index = done["snapshot_index"]
        await_value(lambda: metric(filled, node, "scribe_raft_snapshot_index") >= index, "the sampled metric")  # noqa: B023
        assert metric(filled, node, "scribe_compaction_running") == 0
        assert metric(filled, node, 'scribe_compactions_total{outcome="ok"}') == 1
        assert metric(filled, node, "scribe_compaction_freed_bytes") > 0
    filled.agree()
    assert all(filled.get(node, "/kv/fill-0").content == VALUE for node in filled.processes)
    again = compact(filled, 1)
    assert again["entries_dropped"] >= 0


def test_a_second_compaction_at_the_same_time_is_refused_or_comes_after(filled: Cluster) -> None:
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: filled.client.post(filled.url(1, "/admin/compact"), timeout=60.0), range(4)))
    codes = sorted(answer.status_code for answer in answers)
    assert codes[0] == 200
    assert set(codes) <= {200, 409}
    assert all("under way" in answer.text for answer in answers if answer.status_code == 409)


def test_a_follower_that_lacks_what_was_dropped_comes_back_by_a_snapshot(filled: Cluster) -> None:
    node = filled.followers()[0]
    filled.kill(node)
    for name in ("one", "two"):
        fill(filled, name, 1_500)
    for other in filled.processes:
        compact(filled, other)
    filled.start(node)
    filled.wait_healthy(node)
    filled.agree()
    assert "snapshot.installed" in filled.log(node)
    assert filled.get(node, "/kv/two-1499").content == VALUE


def test_a_node_that_is_killed_in_the_middle_starts_again(filled: Cluster) -> None:
    fill(filled, "more", 3_000)
    node = filled.followers()[0]
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(filled.client.post, filled.url(node, "/admin/compact"))
        await_value(lambda: asked.done() or metric(filled, node, "scribe_compaction_running") == 1, "it to begin")
        filled.kill(node)
        asked.exception()  # whatever it was told
    filled.start(node)
    filled.wait_healthy(node)
    filled.agree()
    compact(filled, node)
    filled.agree()


def test_a_compacted_cluster_starts_again(tmp_path: Path) -> None:
    with running_cluster(tmp_path) as cluster:
        fill(cluster, "some", 1_500)
        for node in cluster.processes:
            compact(cluster, node)
        cluster.stop()
        cluster.start()
        cluster.wait_healthy()
        cluster.agree()
        assert cluster.get(2, "/kv/some-7").content == VALUE
