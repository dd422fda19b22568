"""A node whose data are damaged or gone comes back by itself, as another incarnation, with what was acknowledged."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest

from appliance.adapters.sqlite import PAGE_BYTES
from tests.cluster.harness import Cluster, await_value, running_cluster
from tests.cluster.test_membership import await_voter, check, incarnation
from tests.cluster.writer import Writer

FRAME_BYTES = 24 + PAGE_BYTES
WAL_HEADER_BYTES = 32


def data_of(cluster: Cluster, node: int) -> Path:
    return cluster.files.directory / f"node{node}" / "data"


def kept(cluster: Cluster, node: int) -> list[Path]:
    return sorted(data_of(cluster, node).glob("damaged-*"))


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
    before = incarnation(cluster, node, node)
    with Writer(cluster, "w") as writer:
        writer.wait(60)
        cluster.kill(node, signal.SIGKILL)
        through = cluster.leader()
        writer.wait(20)
        damage(data_of(cluster, node))
        cluster.start(node)
        cluster.wait_answers(node)
        await_voter(cluster, through, node, other_than=before if as_another else "")
        cluster.wait_healthy(node)
        writer.wait(20)
    cluster.agree()
    check(cluster, node, writer)
    assert (incarnation(cluster, node, node) != before) == as_another


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
    assert cluster.health(node)["alarms"] == ["data_set_aside"]
    for path in directory.iterdir():
        path.unlink()
    directory.rmdir()
    await_value(lambda: cluster.health(node)["alarms"] == [], "the alarm to end when the operator has looked")


def test_a_damaged_ledger_is_made_again_from_the_log(cluster: Cluster) -> None:
    node = cluster.followers()[0]
    damage_and_return(cluster, zero_ledger, node, as_another=False)
    assert "node.ledger_set_aside" in cluster.log(node)
    (directory,) = kept(cluster, node)
    assert {path.name for path in directory.iterdir()} == {"ledger.db", "reason.txt"}
