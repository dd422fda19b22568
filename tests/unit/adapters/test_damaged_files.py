"""Bytes flipped in real files at rest: the log names the entry, the ledger the leaf or key."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import apsw
import msgspec
import pytest

from appliance.adapters.ledger_store import SqliteLedgerStore
from appliance.adapters.ledger_verify import read_leaf, verify_copy
from appliance.adapters.log_store import SqliteLogStore
from appliance.ledger.encoding import Leaf, LeafError, decode_leaf
from appliance.ledger.merkle import MerkleFrontier, leaf_hash
from appliance.node.ports import DamagedEntry, DamagedFile, EntriesUnavailable, StorageError
from appliance.raft.messages import EntryKind, HardState, make_entry
from tests.contract.script import CLUSTER_ID, Replica, model_at

ENTRIES = 30


@pytest.fixture
def log_path(tmp_path: Path) -> Path:
    path = tmp_path / "raft.db"
    store = SqliteLogStore(path)
    store.load()
    entries = [make_entry(1, n, EntryKind.NORMAL, marker(n) * 40) for n in range(1, ENTRIES + 1)]
    store.append(entries, HardState(4, 2, 9))
    store.close()
    return path


def marker(index: int) -> bytes:
    return f"<entry {index:03}>".encode()


def damage(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert old in data
    assert len(old) == len(new)
    path.write_bytes(data.replace(old, new))  # also where a page keeps a stale cell


@pytest.mark.parametrize("index", [1, 2, 15, ENTRIES])
def test_a_damaged_entry_is_named_at_start(log_path: Path, index: int) -> None:
    damage(log_path, marker(index), marker(index).replace(b"e", b"E"))
    store = SqliteLogStore(log_path)
    with pytest.raises(DamagedEntry, match=f"entry {index} ") as caught:
        store.load()
    assert caught.value.index == index
    store.close()


def test_a_damaged_entry_is_named_when_it_is_read(log_path: Path) -> None:
    damage(log_path, marker(15), marker(15).replace(b"e", b"E"))
    store = SqliteLogStore(log_path)
    assert len(store.read(1, 14, 10**9)) == 14
    with pytest.raises(DamagedEntry) as caught:
        store.read(10, 20, 10**9)
    assert caught.value.index == 15
    store.close()


@pytest.mark.parametrize(
    ("statement", "index"),
    [
        ("DELETE FROM entries WHERE idx = 12", 12),
        ("DELETE FROM entries WHERE idx <= 3", 1),
        ("UPDATE entries SET term = 2 WHERE idx = 7", 7),
        ("UPDATE entries SET kind = 1 WHERE idx = 7", 7),
        ("UPDATE entries SET idx = 99 WHERE idx = 30", 30),
        ("UPDATE entries SET data = (SELECT data FROM entries WHERE idx = 4) WHERE idx = 5", 5),
    ],
    ids=["hole", "lost start", "other term", "other kind", "moved", "another's data"],
)
def test_an_entry_that_is_not_what_it_was(log_path: Path, statement: str, index: int) -> None:
    db = apsw.Connection(str(log_path))
    db.execute(statement)
    db.close()
    store = SqliteLogStore(log_path)
    with pytest.raises(DamagedEntry) as caught:
        store.load()
    assert caught.value.index == index
    store.close()


def test_a_damaged_hard_state_is_never_used(log_path: Path) -> None:
    stored = msgspec.msgpack.encode(HardState(4, 2, 9))
    damage(log_path, stored, stored.replace(b"\xa4term\x04", b"\xa4term\x03"))
    store = SqliteLogStore(log_path)
    with pytest.raises(DamagedFile, match="hard_state"):
        store.load()
    store.close()


@pytest.mark.parametrize("content", [b"", b"SQLite format 3\0" + bytes(84), b"not a database" * 1000], ids=len)
def test_a_file_that_is_no_log(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "raft.db"
    path.write_bytes(content)
    if not content:
        SqliteLogStore(path).close()  # an empty file is an empty database
        return
    with pytest.raises(DamagedFile):
        SqliteLogStore(path)


def test_no_flip_anywhere_goes_unseen_or_brings_another_error(log_path: Path) -> None:
    """Each flip either leaves everything readable and equal, or is reported."""
    whole = log_path.read_bytes()
    store = SqliteLogStore(log_path)
    expected = store.load(), store.read(1, ENTRIES, 10**9)
    store.close()
    random = Random(7)
    reported = 0
    for _ in range(150):
        data = bytearray(whole)
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)
        log_path.write_bytes(data)
        try:
            store = SqliteLogStore(log_path)
        except StorageError:
            reported += 1
            continue
        try:
            assert (store.load(), store.read(1, ENTRIES, 10**9)) == expected
        except (StorageError, EntriesUnavailable):
            reported += 1
        finally:
            store.close()
    assert reported > 50


# -- the ledger

INDEX = 200


@pytest.fixture(scope="module")
def whole_copy(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    directory = tmp_path_factory.mktemp("ledger")
    store = SqliteLedgerStore(directory / "ledger.db", 10_000, CLUSTER_ID)
    store.load()
    Replica(store).apply_to(INDEX)
    store.flush(INDEX)
    store.copy_to(directory / "copy.db")
    store.close()
    assert sorted(path.name for path in directory.iterdir()) == ["copy.db", "ledger.db"]
    return (directory / "copy.db").read_bytes()


@pytest.fixture
def copy(tmp_path: Path, whole_copy: bytes) -> Path:
    path = tmp_path / "copy.db"
    path.write_bytes(whole_copy)
    return path


def test_a_good_copy_is_verified_and_nothing_is_written(copy: Path) -> None:
    copy.chmod(0o400)
    before = copy.read_bytes()
    assert verify_copy(copy, CLUSTER_ID) == model_at(INDEX).load()
    assert [path.name for path in copy.parent.iterdir()] == ["copy.db"]
    assert copy.read_bytes() == before


def leaf_with_value() -> int:
    return next(leaf.leaf_index for leaf in model_at(INDEX).leaves[5:] if leaf.value)


VALUED = leaf_with_value()
PRESENT = min((head.leaf_index, key) for key, head in model_at(INDEX).heads.items() if not head.deleted)[1]
DELETED = next(key for key, head in model_at(INDEX).heads.items() if head.deleted)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        (f"UPDATE leaves SET value = zeroblob(length(value)) WHERE leaf_index = {VALUED}", f"leaf {VALUED}"),
        (f"UPDATE leaves SET value = CAST(value || x'00' AS BLOB) WHERE leaf_index = {VALUED}", f"leaf {VALUED}"),
        (f"UPDATE leaves SET value = NULL WHERE leaf_index = {VALUED}", f"leaf {VALUED}"),
        (f"UPDATE leaves SET salt = zeroblob(16) WHERE leaf_index = {VALUED}", f"leaf {VALUED}"),
        (f"UPDATE leaves SET salt = x'00' WHERE leaf_index = {VALUED}", f"leaf {VALUED}"),
        (
            "UPDATE leaves SET value = x'00' WHERE leaf_index ="
            f" (SELECT leaf_index FROM heads WHERE key = '{DELETED}')",
            "is a delete",
        ),
        ("DELETE FROM leaves WHERE leaf_index = 33", "leaf 33"),
        ("DELETE FROM leaves WHERE leaf_index = (SELECT max(leaf_index) FROM leaves)", "its summary says"),
        ("UPDATE leaves SET leaf = CAST(replace(leaf, 'actor-0', 'actor-1') AS BLOB)", "Merkle tree"),
        ("UPDATE leaves SET leaf = CAST(leaf || x'20' AS BLOB) WHERE leaf_index = 9", "leaf 9"),
        ("UPDATE leaves SET leaf = (SELECT leaf FROM leaves WHERE leaf_index = 8) WHERE leaf_index = 9", "leaf 9"),
        (f"UPDATE stored_heads SET version = version + 1 WHERE key = '{PRESENT}'", PRESENT),
        (f"UPDATE stored_heads SET size = size + 1 WHERE key = '{PRESENT}'", PRESENT),
        (f"UPDATE stored_heads SET deleted = 1 WHERE key = '{PRESENT}'", PRESENT),
        (f"UPDATE stored_heads SET leaf_index = 99999 WHERE key = '{PRESENT}'", PRESENT),
        (f"DELETE FROM stored_heads WHERE key = '{PRESENT}'", "versions"),
        ("DELETE FROM answers", "answers"),
        ("DELETE FROM meta WHERE name = 'summary'", "table meta"),
        ("UPDATE meta SET value = x'c1' WHERE name = 'summary'", "table meta"),
        ("UPDATE meta SET value = x'00' WHERE name = 'format'", "format"),
        ("UPDATE meta SET value = CAST('ff' AS BLOB) WHERE name = 'cluster_id'", "another cluster"),
        ("DROP TABLE stored_heads", "heads"),
    ],
    ids=[
        "value changed",
        "value longer",
        "value gone",
        "salt changed",
        "salt short",
        "delete with value",
        "leaf missing",
        "last leaf missing",
        "actor changed",
        "leaf not canonical",
        "leaf of another place",
        "head version",
        "head size",
        "head deleted",
        "head to nowhere",
        "head missing",
        "answers missing",
        "summary missing",
        "summary damaged",
        "format",
        "cluster",
        "table missing",
    ],
)
def test_a_copy_that_was_edited_is_refused(copy: Path, statement: str, message: str) -> None:
    db = apsw.Connection(str(copy))
    db.execute(statement)
    db.close()
    with pytest.raises(StorageError, match=message):
        verify_copy(copy, CLUSTER_ID)


def read_by(read: Callable[[bytes], Leaf], data: bytes) -> Leaf | str:
    try:
        return read(data)
    except LeafError as error:
        return str(error)


def test_leaves_are_read_as_strictly_as_the_format_says() -> None:
    """The quick way of the check takes and refuses the same bytes as the format's own decoder."""
    random = Random(12)
    tokens = [
        b"null",
        b"1",
        b"-1",
        b"1.0",
        b"true",
        b'"put"',
        b'"delete"',
        b" ",
        b"0",
        b"[[",
        b'"key":"a",',
        b"\\u0061",
    ]
    refused = 0
    for leaf in model_at(INDEX).leaves[:200]:
        data = bytearray(leaf.leaf)
        assert read_leaf(bytes(data)) == decode_leaf(bytes(data))
        for _ in range(20):
            at = random.randrange(len(data))
            end = at + random.choice([0, 0, 1, 4])
            edited = bytes(data[:at] + random.choice([*tokens, random.randbytes(1)]) + data[end:])
            expected = read_by(decode_leaf, edited)
            assert read_by(read_leaf, edited) == expected
            refused += isinstance(expected, str)
    assert refused > 1000
    for odd in (b"", b"[" * 100_000, b'{"x":' * 100_000, b"null"):
        assert isinstance(read_by(read_leaf, odd), str)


def test_an_older_head_is_noticed(copy: Path) -> None:
    """A head that points at an earlier version of its key agrees with its leaf, but not with the number of leaves."""
    model = model_at(INDEX)
    head, key = min(
        ((head, key) for key, head in model.heads.items() if head.version > 1 and not head.deleted),
        key=lambda one: one[0].leaf_index,  # one that no longer waits for a pass
    )
    db = apsw.Connection(str(copy))
    for index, leaf in db.execute("SELECT leaf_index, leaf FROM leaves").fetchall():
        fields = msgspec.json.decode(leaf)
        if fields["key"] == key and fields["version"] == head.version - 1:
            db.execute(
                "UPDATE stored_heads SET version = ?, leaf_index = ?, deleted = ?, timestamp_us = ?, size = ?"
                " WHERE key = ?",
                (head.version - 1, index, fields["op"] == "delete", fields["timestamp_us"], fields["value_size"], key),
            )
    db.close()
    with pytest.raises(DamagedFile, match="versions"):
        verify_copy(copy, CLUSTER_ID)


def test_a_tree_made_anew_over_edited_leaves_needs_the_summary_of_others(copy: Path) -> None:
    """Who can edit the file can edit the summary, too. What it then claims is another tree: nodes compare roots."""
    db = apsw.Connection(str(copy))
    db.execute("UPDATE leaves SET leaf = CAST(replace(leaf, 'actor-0', 'actor-1') AS BLOB)")
    tree = MerkleFrontier()
    for (leaf,) in db.execute("SELECT leaf FROM leaves ORDER BY leaf_index").fetchall():
        tree.append(leaf_hash(leaf))
    summary, _ = model_at(INDEX).load()
    edited = msgspec.structs.replace(summary, frontier=tree.hashes())
    db.execute("UPDATE meta SET value = ? WHERE name = 'summary'", (msgspec.msgpack.encode(edited),))
    db.close()
    assert verify_copy(copy, CLUSTER_ID)[0].frontier != summary.frontier


def test_no_flip_in_a_copy_brings_another_error(copy: Path, whole_copy: bytes) -> None:
    random = Random(11)
    reported = 0
    for _ in range(60):
        data = bytearray(whole_copy)
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)
        copy.write_bytes(data)
        try:
            verify_copy(copy, CLUSTER_ID)
        except StorageError:
            reported += 1
    assert reported > 20


def test_a_ledger_of_another_cluster_is_refused(tmp_path: Path, whole_copy: bytes) -> None:
    (tmp_path / "ledger.db").write_bytes(whole_copy)
    store = SqliteLedgerStore(tmp_path / "ledger.db", 10_000, "f" * 32)
    with pytest.raises(DamagedFile, match="another cluster"):
        store.load()


def test_a_ledger_with_holes_in_its_wal_is_checked_in_full(tmp_path: Path) -> None:
    """A hole in the WAL may be what a power cut left before the first sync. Then what is before it fits together."""
    live = tmp_path / "live"
    live.mkdir()
    store = SqliteLedgerStore(live / "ledger.db", 10_000, CLUSTER_ID)
    store.load()
    replica = Replica(store)
    for index in range(5, 60, 5):
        replica.apply_to(index)
        store.flush(index)
    wal = bytearray((live / "ledger.db-wal").read_bytes())
    (tmp_path / "ledger.db").write_bytes((live / "ledger.db").read_bytes())
    store.close()
    wal[len(wal) // 2] ^= 1
    (tmp_path / "ledger.db-wal").write_bytes(wal)
    after = SqliteLedgerStore(tmp_path / "ledger.db", 10_000, CLUSTER_ID)
    summary = after.load()[0]
    assert 0 < summary.applied_index < 55
    assert summary == model_at(summary.applied_index).load()[0]
    after.close()


def test_a_ledger_with_holes_in_its_wal_whose_content_does_not_fit_is_refused(tmp_path: Path) -> None:
    live = tmp_path / "live"
    live.mkdir()
    store = SqliteLedgerStore(live / "ledger.db", 10_000, CLUSTER_ID)
    store.load()
    replica = Replica(store)
    replica.apply_to(40)
    store.flush(40)
    store.checkpoint()
    for index in range(45, 80, 5):
        replica.apply_to(index)
        store.flush(index)
    wal = bytearray((live / "ledger.db-wal").read_bytes())
    (tmp_path / "ledger.db").write_bytes((live / "ledger.db").read_bytes())
    store.close()
    db = apsw.Connection(str(tmp_path / "ledger.db"))  # as if later pages had been moved into it already
    db.pragma("journal_mode", "delete")
    db.execute("UPDATE leaves SET value = zeroblob(length(value)) WHERE value IS NOT NULL AND leaf_index < 5")
    db.close()
    wal[len(wal) // 2] ^= 1
    (tmp_path / "ledger.db-wal").write_bytes(wal)
    after = SqliteLedgerStore(tmp_path / "ledger.db", 10_000, CLUSTER_ID)
    with pytest.raises(StorageError):
        after.load()
