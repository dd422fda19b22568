"""A node whose data are damaged or gone comes back by itself, as another, with all that was acknowledged."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import apsw
import pytest

from appliance.adapters.sqlite import PAGE_BYTES
from tests.cluster.chaos import await_voter, incarnation
from tests.cluster.harness import Cluster, await_value, running_cluster
from tests.cluster.recovering import reasons, recovered
from tests.cluster.writer import Writer

FRAME_BYTES = 24 + PAGE_BYTES
WAL_HEADER_BYTES = 32


def kept(cluster: Cluster, node: int) -> list[Path]:
    return sorted(cluster.data(node).glob("damaged-*"))


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 0x40]))


def delete_log(data: Path) -> None:
    for path in data.glob("raft.db*"):
        path.unlink()


def flip_wal(data: Path) -> None:
    """In the content of a frame in the middle, behind which there are others."""
    wal = data / "raft.db-wal"
    frames = (wal.stat().st_size - WAL_HEADER_BYTES) // FRAME_BYTES
    assert frames > 10
    flip(wal, WAL_HEADER_BYTES + frames // 2 * FRAME_BYTES + 2000)


def flip_page(data: Path) -> None:
    """In an entry of the log, when all of it has been moved into the file; also where a page has a stale copy of it."""
    db = apsw.Connection(str(data / "raft.db"))
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    ((entry,),) = db.execute("SELECT data FROM entries WHERE kind = 0 AND length(data) > 40 LIMIT 1").fetchall()
    db.close()
    content = (data / "raft.db").read_bytes()
    (data / "raft.db").write_bytes(content.replace(entry, entry[:20] + bytes([entry[20] ^ 0x40]) + entry[21:]))


def zero_ledger(data: Path) -> None:
    for path in data.glob("ledger.db-*"):
        path.unlink()
    size = (data / "ledger.db").stat().st_size
    (data / "ledger.db").write_bytes(bytes(size))


@pytest.fixture
def small_log(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster that drops the beginning of its log soon."""
    small = {"SCRIBE_STORAGE__COMPACT_LOG_ENTRIES": "1000", "SCRIBE_STORAGE__KEEP_LOG_ENTRIES": "0"}
    with running_cluster(tmp_path, small) as cluster:
        yield cluster


def damage_and_return(cluster: Cluster, damage: Callable[[Path], None], node: int, *, as_another: bool) -> None:
    """Kill a node, damage its files, write on, and start it again; it must come back as a voter."""
    before = incarnation(cluster, node, node)[1]
    with Writer(cluster, "w") as writer:
        writer.wait(60)
        cluster.kill(node, signal.SIGKILL)
        through = cluster.leader()
        writer.wait(20)
        damage(cluster.data(node))
        cluster.start(node)
        cluster.wait_answers(node)
        await_voter(cluster, through, node, other_than=before if as_another else "")
        cluster.wait_healthy(node)
        writer.wait(20)
    cluster.agree()
    writer.check(node)
    assert (incarnation(cluster, node, node)[1] != before) == as_another


@pytest.mark.parametrize("damage", [delete_log, flip_wal, flip_page])
@pytest.mark.parametrize("who", ["leader", "follower"])
def test_a_damaged_log_is_set_aside_and_the_node_comes_back(
    cluster: Cluster, damage: Callable[[Path], None], who: str
) -> None:
    node = cluster.leader() if who == "leader" else cluster.followers()[0]
    damage_and_return(cluster, damage, node, as_another=True)
    assert "node.set_aside" in cluster.log(node)
    (directory,) = kept(cluster, node)
    there = {path.name for path in directory.iterdir()}
    assert {"ledger.db", "reason.txt"} <= there
    assert ("raft.db" in there) == (damage is not delete_log)
    await_value(lambda: cluster.alarms(node) == ["data_set_aside"], "the alarm")
    for path in directory.iterdir():
        path.unlink()
    directory.rmdir()
    await_value(lambda: cluster.alarms(node) == [], "the alarm to end when the operator has looked")


def test_a_damaged_ledger_is_made_again_from_the_log(cluster: Cluster) -> None:
    node = cluster.followers()[0]
    damage_and_return(cluster, zero_ledger, node, as_another=False)
    assert "node.ledger_set_aside" in cluster.log(node)
    (directory,) = kept(cluster, node)
    assert {path.name for path in directory.iterdir()} == {"ledger.db", "reason.txt"}


def test_a_damaged_ledger_whose_log_has_lost_its_beginning_comes_from_the_others(small_log: Cluster) -> None:
    cluster = small_log
    through, (node, _) = cluster.roles()
    with ThreadPoolExecutor(8) as pool:  # an entry each: batches would make too few for a compaction
        list(pool.map(lambda n: cluster.write(through, f"k{n % 50}", b"%d" % n), range(1500)))
    await_value(lambda: cluster.figures(node)["raft"]["snapshot_index"] > 0, "the beginning of the log to be dropped")
    damage_and_return(cluster, zero_ledger, node, as_another=True)
    (directory,) = kept(cluster, node)
    assert {"raft.db", "ledger.db", "reason.txt"} <= {path.name for path in directory.iterdir()}


def test_a_head_that_no_entry_can_follow_makes_the_next_start_read_all_back(cluster: Cluster) -> None:
    """A start does not read every head; the first write of the key comes upon it."""
    node = cluster.followers()[0]
    cluster.write(cluster.leader(), "k", b"1")
    cluster.agree()
    cluster.stop(node)
    db = apsw.Connection(str(cluster.data(node) / "ledger.db"))
    db.execute("INSERT OR REPLACE INTO stored_heads SELECT * FROM heads")  # they lag behind the leaves otherwise
    db.execute("UPDATE meta SET value = CAST('1' AS BLOB) WHERE name = 'heads_leaf_next'")
    db.execute("UPDATE stored_heads SET leaf_index = 99999 WHERE key = 'k'")
    assert db.changes() == 1
    db.close()
    cluster.start(node)
    cluster.wait_healthy(node)
    cluster.write(cluster.leader(), "k", b"2")
    await_value(lambda: not cluster.is_running(node) or None, "the node to end")
    assert cluster.processes.pop(node).returncode == 1
    assert "ledger.db is damaged: entry" in cluster.log(node)
    cluster.start(node)
    cluster.wait_healthy(node)
    cluster.agree()
    assert "node.ledger_set_aside" in cluster.log(node)
    assert cluster.get(node, "/kv/k", params={"consistency": "stale"}).content == b"2"


def test_when_all_are_damaged_no_new_cluster_is_founded_in_their_place(cluster: Cluster) -> None:
    for n in range(50):
        cluster.write(1, f"k{n}", b"%d" % n)
    cluster.agree()
    cluster.stop()
    for node in (1, 2, 3):
        flip_page(cluster.data(node))
    cluster.start()
    cluster.wait_answers(1, 2, 3)
    for node in (1, 2, 3):
        await_value(lambda node=node: "move what is kept" in reasons(cluster, node), "the way out to be named")
    cluster.stop(1)
    (directory,) = kept(cluster, 1)
    for path in [*cluster.data(1).glob("raft.db*"), *cluster.data(1).glob("ledger.db*")]:
        path.unlink()
    for path in directory.glob("*.db*"):
        shutil.move(path, cluster.data(1))
    seen = recovered(cluster, 1, "--yes")
    assert (seen.from_ledger, [m.state for m in seen.members]) == (True, ["empty", "empty"])
    assert "raft.db" in seen.may_be_lost[0]
    cluster.start(1)
    cluster.wait_answers(1)
    await_value(lambda: cluster.voters(1) == {1, 2, 3}, "the others to come back")
    cluster.wait_healthy()
    cluster.agree()
    assert [cluster.get(2, f"/kv/k{n}").content for n in range(50)] == [b"%d" % n for n in range(50)]


def test_an_only_voter_does_not_throw_its_data_away(tmp_path: Path) -> None:
    with running_cluster(tmp_path, founders=1) as cluster:
        for n in range(50):
            cluster.write(1, f"k{n}", b"%d" % n)
        cluster.stop(1)
        flip_page(cluster.data(1))
        before = (cluster.data(1) / "raft.db").read_bytes()
        cluster.start(1)
        assert cluster.processes.pop(1).wait(timeout=60) == 1
        assert "This node is the only voter of its cluster" in cluster.output(1)
        assert "appliance cluster recover --config FILE" in cluster.output(1)
        assert (cluster.data(1) / "raft.db").read_bytes() == before
        assert kept(cluster, 1) == []
        seen = recovered(cluster, 1, "--yes")
        assert (seen.from_ledger, seen.members, seen.applied_index) == (True, [], seen.last_index)
        cluster.start(1)
        cluster.wait_healthy(1)
        assert [cluster.get(1, f"/kv/k{n}").content for n in range(50)] == [b"%d" % n for n in range(50)]
        assert cluster.put(1, "k0", b"again").json()["version"] == 2
        cluster.stop(1)
        cluster.start(1)
        cluster.wait_healthy(1)
