"""A new node is brought a snapshot while writes go on: once, and not from the beginning after a cut."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.harness import Cluster, await_value, running_cluster
from tests.cluster.writer import Writer

NEW = 4
KEEP = 100
COMPACT = 1000
ENTRIES = 2_000
VALUE = b"v" * 8_000
JOIN_S = 150.0
CUT_AT_BYTES = 4 * 2**20
WRITERS = 6
SETTINGS = {
    "SCRIBE_STORAGE__COMPACT_LOG_ENTRIES": str(COMPACT),
    "SCRIBE_STORAGE__KEEP_LOG_ENTRIES": str(KEEP),
    "SCRIBE_STORAGE__SNAPSHOT_RATE": str(4 * 2**20),  # so that much is written meanwhile
    "SCRIBE_CONSENSUS__ELECTION_TIMEOUT": "3",  # a leader that comes in between sends a snapshot of its own
    "SCRIBE_PERFORMANCE__BATCH_SIZE": "1",  # so that the log behind it takes its time too
}
pytestmark = pytest.mark.timeout(900)  # above what is awaited for JOIN_S, all together


@contextmanager
def joining(directory: Path) -> Iterator[tuple[Cluster, int]]:
    """Three nodes whose logs have lost their beginning, writes going on, and a fourth that is being added; the cluster
    and its leader.
    """
    with running_cluster(directory, SETTINGS, nodes=NEW) as cluster:
        leader = cluster.leader()

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda number: cluster.write(leader, f"fill-{number}", VALUE), range(ENTRIES)))
        await_value(lambda: cluster.figures(leader)["raft"]["snapshot_index"] or None, "a compaction", JOIN_S)
        with ExitStack() as stack:
            writers = [stack.enter_context(Writer(cluster, f"w{n}", node=leader)) for n in range(WRITERS)]
            cluster.start(NEW)
            cluster.wait_answers(NEW)
            address = cluster.url(NEW).removeprefix("http://")
            added = cluster.client.post(
                cluster.url(leader, "/cluster/nodes/add?wait=false"), json={"node_id": NEW, "address": address}
            )
            assert added.status_code == 200, added.text
            yield cluster, leader
        assert cluster.leader() == leader, "another leader would have sent another snapshot"
        assert not any(writer.unexpected for writer in writers)
        cluster.agree(JOIN_S)


def part_bytes(cluster: Cluster) -> int:
    """How much of a snapshot the new node has, while it gets one."""
    part = cluster.data(NEW) / "snapshot-incoming.db.part"
    try:
        return part.stat().st_size
    except FileNotFoundError:  # not begun, or whole: it has its name by then
        return 0


@contextmanager
def stopped(cluster: Cluster) -> Iterator[None]:
    """The new node, as if its machine had stalled."""
    process = cluster.processes[NEW]
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def await_more(cluster: Cluster, node: int, entries: int) -> None:
    """Until so many more entries are in a node's log."""
    goal = last_index(cluster, node) + entries
    await_value(lambda: last_index(cluster, node) > goal, f"{entries} entries more", JOIN_S)


def last_index(cluster: Cluster, node: int) -> int:
    return int(cluster.figures(node)["raft"]["last_index"])


def events(cluster: Cluster, node: int, name: str) -> list[dict[str, Any]]:
    """Log lines of this event, oldest first."""
    return [json.loads(line) for line in cluster.log(node).splitlines() if f'"event.action":"{name}"' in line]


def metric(cluster: Cluster, node: int, name: str) -> int:
    text = cluster.get(node, "/metrics/prometheus").text
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    assert found
    return int(float(found[1]))


def snapshots_sent(cluster: Cluster, node: int, outcome: str = "ok") -> int:
    return metric(cluster, node, f'scribe_raft_snapshots_total{{direction="sent",outcome="{outcome}"}}')


def member(cluster: Cluster, through: int) -> dict[str, Any]:
    return next(m for m in cluster.get(through, "/cluster/nodes").json()["nodes"] if m["node_id"] == NEW)


def await_voter(cluster: Cluster, through: int) -> None:
    await_value(lambda: member(cluster, through)["role"] == "voter", "the new node to be a voter", JOIN_S)


def test_a_node_that_joins_under_load_gets_one_snapshot_and_then_the_log(tmp_path: Path) -> None:
    """It is stopped when it has taken the snapshot, until a checkpoint covers far more than is kept for who lags. And
    before, while it is sent: who lacks COMPACT entries or less has no need that the log is held.
    """
    with joining(tmp_path) as (cluster, leader):
        await_value(lambda: part_bytes(cluster) > 0, "the snapshot to come", JOIN_S)
        with stopped(cluster):
            assert part_bytes(cluster) > 0, "it is not taken yet"
            await_more(cluster, leader, 3 * COMPACT)  # a link that is silent for longer than 30 s would be cut
        await_value(lambda: snapshots_sent(cluster, leader) > 0, "a snapshot to be taken", JOIN_S)
        with stopped(cluster):
            assert member(cluster, leader)["lag"] > COMPACT, "it lacks what was written while the snapshot was sent"
            goal = last_index(cluster, leader) + 5 * COMPACT
            await_value(lambda: metric(cluster, leader, "scribe_raft_durable_index") > goal, "a checkpoint", JOIN_S)
        await_voter(cluster, leader)
        assert snapshots_sent(cluster, leader) == 1
        assert snapshots_sent(cluster, leader, "failed") == 0


def test_a_snapshot_that_is_cut_goes_on_where_it_was_though_writes_go_on(tmp_path: Path) -> None:
    with joining(tmp_path) as (cluster, leader):
        await_value(lambda: part_bytes(cluster) > CUT_AT_BYTES, "a part of the snapshot", JOIN_S)
        cluster.kill(NEW)
        await_more(cluster, leader, COMPACT)
        cluster.start(NEW)
        await_voter(cluster, leader)
        (resumed,) = events(cluster, leader, "snapshot.resumed")
        assert CUT_AT_BYTES < resumed["scribe.offset"] < resumed["scribe.bytes"]
        assert snapshots_sent(cluster, leader) == 1
