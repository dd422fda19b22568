"""A scrub reads back what is stored, of files that are in use, and names what has rotted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest

from appliance.adapters.audit.manifest import MANIFEST_FORMAT, Manifest, Segment
from appliance.adapters.ledger_store import SqliteLedgerStore
from appliance.adapters.ledger_tiles import place_of
from appliance.adapters.log_store import SqliteLogStore
from appliance.adapters.scrubber import LEAVES_PER_SLICE, SegmentScrub
from appliance.ledger.commands import SALT_BYTES, Op, Operation, WriteRequest, encode_write
from appliance.ledger.machine import LedgerMachine
from appliance.ledger.state import Summary
from appliance.node.check_ports import Rot, ScrubSlice
from appliance.node.ports import FileAway
from appliance.raft.messages import Configuration, EntryKind, HardState, SnapshotMeta, make_entry
from tests.flips import flip

CLUSTER_ID = "ab" * 16
LEAVES = 600  # two whole tiles, and leaves behind them
LARGE = 300_000  # bytes of a value that takes a slice for itself


def rotten(slices: Iterator[ScrubSlice]) -> list[Rot]:
    found: list[Rot] = []
    share = 0.0
    for one in slices:
        assert share <= one.share <= 1
        share = one.share
        found += one.rotten
    return found


def value_of(number: int) -> bytes:
    return b"value-%d-" % number * 5


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[SqliteLedgerStore]:
    """A ledger in use, all of it in the file, and heads of most of its keys in their table."""
    path = tmp_path / "ledger.db"
    store = SqliteLedgerStore(path, 0, CLUSTER_ID)
    store.load()
    machine = LedgerMachine(store, Summary(), 1)
    for index in range(1, LEAVES + 1):
        key = f"key-{index % 500}"
        operation = Operation(Op.DELETE, key) if index == 550 else Operation(Op.PUT, key, value_of(index))
        data = encode_write(WriteRequest((operation,), "actor", f"request-{index}"), index, bytes(SALT_BYTES), 1)
        store.take(machine.apply(index, 1, data))
        store.add((), machine.summary(), b"")
    store.flush(LEAVES)
    store.checkpoint()
    store.close()
    db = apsw.Connection(str(path))
    db.execute("INSERT OR REPLACE INTO stored_heads SELECT * FROM heads")
    db.execute("UPDATE meta SET value = CAST('590' AS BLOB) WHERE name = 'heads_leaf_next'")
    db.close()
    store = SqliteLedgerStore(path, 0, CLUSTER_ID)
    store.load()
    yield store
    store.close()


def test_what_is_whole_has_no_rot(ledger: SqliteLedgerStore) -> None:
    slices = list(ledger.scrub())
    assert [rot for one in slices for rot in one.rotten] == []
    assert len(slices) >= LEAVES // LEAVES_PER_SLICE
    assert sum(one.bytes_read for one in slices) > LEAVES * 400
    assert slices[-1].share == 1


def leaf_text(path: Path, leaf_index: int) -> bytes:
    db = apsw.Connection(str(path))
    row = db.execute("SELECT leaf FROM leaves WHERE leaf_index = ?", (leaf_index,)).fetchone()
    db.close()
    assert row is not None
    return bytes(row[0])


def tile_hashes(path: Path, index: int) -> bytes:
    db = apsw.Connection(str(path))
    row = db.execute("SELECT hashes FROM tiles WHERE place = ?", (place_of(0, index),)).fetchone()
    db.close()
    assert row is not None
    return bytes(row[0])


FLIPS: dict[str, tuple[Callable[[Path], None], str, int | None]] = {
    "a value": (lambda path: flip(path, value_of(300)), "the value of leaf 299 does not match the hash", 299),
    "a value behind the last whole tile": (
        lambda path: flip(path, value_of(599)),
        "the value of leaf 598 does not match the hash",
        598,
    ),
    "a leaf": (
        lambda path: flip(path, b'"request_id":"request-300"', 24),
        "leaf 299 does not lead to its hash in the tile above",
        299,
    ),
    "a leaf's form": (lambda path: flip(path, leaf_text(path, 299)[:60], 59), "leaf 299", 299),
    "a leaf behind the last whole tile": (
        lambda path: flip(path, b'"request_id":"request-599"', 24),
        "the tree of 600 leaves does not lead to the root in the summary",
        None,
    ),
    "a tile": (
        lambda path: flip(path, tile_hashes(path, 1)[64:96], 7),
        "tile 1 of level 0 does not lead to the root beside it",
        None,
    ),
}


@pytest.mark.parametrize("name", FLIPS)
def test_one_byte_that_is_changed_is_found_and_named(name: str, ledger: SqliteLedgerStore, tmp_path: Path) -> None:
    change, says, leaf_index = FLIPS[name]
    change(tmp_path / "ledger.db")
    found = rotten(ledger.scrub())
    assert any(says in rot.detail and rot.leaf_index == leaf_index for rot in found), found
    assert {rot.leaf_index for rot in found} <= {leaf_index, None}, "nothing else is accused"


STATEMENTS = {
    "a head of another version": (
        "UPDATE stored_heads SET version = 9 WHERE key = 'key-300'",
        "the head of key 'key-300' does not match leaf 299",
    ),
    "a head that is left behind": (
        "UPDATE stored_heads SET version = 1, leaf_index = 19, timestamp_us = 20, size = 40 WHERE key = 'key-20'",
        "the head of key 'key-20' does not match leaf 519",
    ),
    "a head that is gone": ("DELETE FROM stored_heads WHERE key = 'key-300'", "key 'key-300' has no head"),
    "a leaf that is gone": ("DELETE FROM leaves WHERE leaf_index = 299", "leaf 299 is missing"),
    "the last leaf that is gone": ("DELETE FROM leaves WHERE leaf_index = 599", "leaf 599 is missing"),
    "a value that is gone": (
        "UPDATE leaves SET value = NULL WHERE leaf_index = 299",
        "the value of leaf 299 is missing",
    ),
    "a tile that is gone": ("DELETE FROM tiles WHERE place = 1", "tile 1 of level 0 is missing"),
    "a tile that is cut short": ("UPDATE tiles SET hashes = substr(hashes, 1, 64)", "has another length"),
    "the root beside a tile": (
        "UPDATE tiles SET root = zeroblob(32) WHERE place = 1",
        "tile 1 of level 0 does not lead to the root beside it",
    ),
    "no summary": ("DELETE FROM meta WHERE name = 'summary'", "ledger.db cannot be read"),
}


@pytest.mark.parametrize("name", STATEMENTS)
def test_rows_that_are_not_what_was_written_are_named(name: str, ledger: SqliteLedgerStore, tmp_path: Path) -> None:
    statement, says = STATEMENTS[name]
    db = apsw.Connection(str(tmp_path / "ledger.db"))
    db.execute(statement)
    db.close()
    found = rotten(ledger.scrub())
    assert any(says in rot.detail for rot in found), found


def test_a_page_that_cannot_be_read_is_rot_and_the_rest_is_checked(ledger: SqliteLedgerStore, tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    text = b'"request_id":"request-300"'
    page = path.read_bytes().index(text) // 4096
    with path.open("r+b") as file:
        file.seek(page * 4096)
        file.write(b"\xff" * 16)
    flip(path, value_of(50))
    found = rotten(ledger.scrub())
    unread = [rot.leaf_index for rot in found if "cannot be read" in rot.detail]
    assert 299 in unread
    assert len(unread) < LEAVES_PER_SLICE, "those of the page"
    assert any(rot.leaf_index == 49 for rot in found)


def test_a_pass_goes_on_while_the_ledger_is_written(ledger: SqliteLedgerStore) -> None:
    machine = LedgerMachine(ledger, ledger.load()[0], 1)
    found: list[Rot] = []
    for number, one in enumerate(ledger.scrub(), start=LEAVES + 1):
        found += one.rotten
        operation = Operation(Op.PUT, f"key-{number % 500}", bytes(LARGE))
        data = encode_write(WriteRequest((operation,), "actor", f"request-{number}"), number, bytes(SALT_BYTES), 1)
        ledger.take(machine.apply(number, 1, data))
        ledger.add((), machine.summary(), b"")
        ledger.flush(number)
        assert ledger.checkpoint() == number, "nothing of a scrub is in its way"
    assert found == []
    sizes = [one.bytes_read for one in ledger.scrub()]
    assert max(sizes) < 3 * LARGE, "large values come one by one"


def test_a_file_that_is_closed_ends_a_pass(ledger: SqliteLedgerStore) -> None:
    slices = ledger.scrub()
    next(slices)
    ledger.close()
    with pytest.raises(FileAway):
        next(slices)


# -- the log


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SqliteLogStore]:
    store = SqliteLogStore(tmp_path / "raft.db")
    store.load()
    store.append([make_entry(1, n, EntryKind.NORMAL, b"entry-%d-" % n * 4) for n in range(1, 501)], HardState(1, 0, 1))
    store.compact(SnapshotMeta(100, 1, Configuration()))
    store._writer.checkpoint(truncate=True)
    yield store
    store.close()


def test_a_log_that_is_whole_has_no_rot(log: SqliteLogStore) -> None:
    assert rotten(log.scrub()) == []


def test_a_byte_of_an_entry_that_is_changed_is_found(log: SqliteLogStore, tmp_path: Path) -> None:
    flip(tmp_path / "raft.db", b"entry-300-" * 4, 5)
    assert rotten(log.scrub()) == [Rot("log entry 300 does not match its checksum")]


def test_what_counts_no_longer_may_rot(log: SqliteLogStore, tmp_path: Path) -> None:
    flip(tmp_path / "raft.db", b"entry-30-" * 4, 5)
    assert rotten(log.scrub()) == []


def test_an_entry_that_is_gone_and_a_row_beside_the_log_are_named(log: SqliteLogStore, tmp_path: Path) -> None:
    db = apsw.Connection(str(tmp_path / "raft.db"))
    db.execute("DELETE FROM entries WHERE idx = 300")
    db.execute("UPDATE meta SET value = CAST(value || x'00' AS BLOB) WHERE name = 'hard_state'")
    db.close()
    assert [rot.detail for rot in rotten(log.scrub())] == [
        "hard_state in raft.db does not match its checksum",
        "log entry 300 is missing",
    ]


def test_a_log_that_is_compacted_and_cut_meanwhile_misses_nothing(log: SqliteLogStore) -> None:
    slices = log.scrub()
    found = [*next(slices).rotten, *next(slices).rotten]
    log.compact(SnapshotMeta(350, 1, Configuration()))
    log.sweep(1000, 2**20)
    log.append([make_entry(2, 400, EntryKind.NORMAL, b"other")], None)
    assert [*found, *rotten(slices)] == []


# -- audit segments


@pytest.fixture
def segments(tmp_path: Path) -> Path:
    from hashlib import sha256

    sealed = []
    for number in range(2):
        data = bytes([number]) * 600_000
        (tmp_path / f"segment-{number}.parquet").write_bytes(data)
        sealed.append(Segment(f"segment-{number}.parquet", number, number, 1, sha256(data).hexdigest(), ""))
    Manifest(MANIFEST_FORMAT, CLUSTER_ID, tuple(sealed)).write(tmp_path)
    return tmp_path


def test_segments_that_are_whole_have_no_rot(segments: Path, tmp_path: Path) -> None:
    slices = list(SegmentScrub(segments).scrub())
    assert sum(one.bytes_read for one in slices) == 1_200_000
    assert not any(one.rotten for one in slices)
    assert list(SegmentScrub(tmp_path / "none").scrub()) == []


def test_a_byte_of_a_segment_and_a_segment_that_is_gone_are_found(segments: Path) -> None:
    with (segments / "segment-0.parquet").open("r+b") as file:
        file.seek(300_000)
        file.write(b"x")
    (segments / "segment-1.parquet").unlink()
    assert [rot.detail for rot in rotten(SegmentScrub(segments).scrub())] == [
        "audit segment segment-0.parquet does not match its digest",
        "audit segment segment-1.parquet cannot be read: No such file or directory",
    ]


def test_a_segment_that_is_made_anew_meanwhile_is_no_rot(segments: Path) -> None:
    whole = (segments / "segment-0.parquet").read_bytes()
    (segments / "segment-0.parquet").write_bytes(b"rotten")
    slices = SegmentScrub(segments).scrub()
    found = list(next(slices).rotten)
    (segments / "segment-0.parquet").write_bytes(whole)
    assert [*found, *rotten(slices)] == []
