"""What was not synced is lost, what was synced is not: the disk is cut at single writes and syncs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from random import Random

import apsw
import pytest

from appliance.adapters import ledger_store, log_store
from appliance.adapters.ledger_store import SqliteLedgerStore
from appliance.adapters.log_store import SqliteLogStore
from appliance.node.ports import DiskFull, StorageFailed, StoredLog
from appliance.raft.messages import Configuration, Entry, EntryKind, HardState, SnapshotMeta, make_entry

from .faulty_vfs import FaultyDisk
from .script import CLUSTER_ID, Replica, entry, file_content, model_at, model_content

CUTS_MAX = 80


@pytest.fixture
def disk() -> Iterator[FaultyDisk]:
    disk = FaultyDisk()
    yield disk
    disk.close()


def state_of(store: SqliteLogStore) -> tuple[StoredLog, list[Entry]]:
    stored = store.load()
    if stored.last_index == stored.snapshot.index:
        return stored, []
    return stored, store.read(stored.snapshot.index + 1, stored.last_index, 10**9)


@pytest.mark.parametrize("seed", range(3))
def test_no_cut_loses_an_acknowledged_append(
    tmp_path: Path, disk: FaultyDisk, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(log_store, "WAL_PAGES_MAX", 12)  # so that checkpoints and WAL resets are cut, too
    random = Random(seed)
    (tmp_path / "live").mkdir()
    store = SqliteLogStore(tmp_path / "live" / "raft.db", vfs=disk.name)
    stored = store.load()
    states = [state_of(store)]  # after each call that returned
    cuts: list[tuple[Path, int]] = []

    def cut_sometimes(_operation: str, _name: str) -> None:
        if len(cuts) < CUTS_MAX and random.random() < 0.25:
            cuts.append((disk.cut(tmp_path / f"cut-{len(cuts)}", random), len(states) - 1))

    for _ in range(40):
        last, term = stored.last_index, stored.hard_state.term
        disk.watcher = cut_sometimes
        match random.choice(["append", "append", "append", "conflict", "vote", "compact", "shrink"]):
            case "append" | "conflict" as kind:
                first = random.randint(stored.snapshot.index + 1, last + 1) if kind == "conflict" else last + 1
                term += kind == "conflict"
                sizes = [random.choice((40, 700, 9_000)) for _ in range(random.randint(1, 6))]
                entries = [
                    make_entry(term, first + n, EntryKind.NORMAL, random.randbytes(size))
                    for n, size in enumerate(sizes)
                ]
                alone = kind == "append" and term == stored.hard_state.term and random.random() < 0.5
                store.append(entries, None if alone else HardState(term, 1, last))
                store.tidy()
            case "vote":
                store.append([], HardState(term + 1, 2, last))
            case "compact":
                store.compact(SnapshotMeta(random.randint(stored.snapshot.index, last), 0, Configuration()))
            case "shrink":
                store.sweep(random.randint(1, 8), 2**30)
                store.give_back(random.randint(1, 8) * 4096)
        disk.watcher = lambda _operation, _name: None
        states.append(state_of(store))
        stored = states[-1][0]
    store.close()

    assert len(cuts) > 50
    for directory, acknowledged in cuts:
        after = SqliteLogStore(directory / "raft.db")
        found = state_of(after)
        after.close()
        assert found in states[acknowledged : acknowledged + 2], f"{directory.name}: not what call {acknowledged} left"


@pytest.mark.parametrize("seed", range(3))
def test_the_ledger_file_is_a_consistent_prefix_at_any_cut(
    tmp_path: Path, disk: FaultyDisk, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(ledger_store, "ROWS_PER_TRANSACTION_MAX", 12)
    random = Random(seed)
    (tmp_path / "live").mkdir()
    store = SqliteLedgerStore(tmp_path / "live" / "ledger.db", 10_000, CLUSTER_ID, vfs=disk.name)
    store.load()
    replica = Replica(store)
    durable = 0
    cuts: list[tuple[Path, int]] = []

    def cut_sometimes(_operation: str, _name: str) -> None:
        if len(cuts) < CUTS_MAX and random.random() < 0.12:
            cuts.append((disk.cut(tmp_path / f"cut-{len(cuts)}", random), durable))

    disk.watcher = cut_sometimes
    for _ in range(30):
        replica.apply_to(replica.machine.applied_index + random.randint(1, 15))
        store.flush(replica.machine.applied_index - random.randint(0, 5))
        if random.random() < 0.3:
            durable = store.checkpoint()
    disk.watcher = lambda _operation, _name: None
    store.close()

    assert len(cuts) > 50
    for directory, durable_then in cuts:
        after = SqliteLedgerStore(directory / "ledger.db", 10_000, CLUSTER_ID)
        applied = after.load()[0].applied_index
        after.close()
        assert applied >= durable_then
        assert file_content(directory / "ledger.db") == model_content(model_at(applied))


def fail_once(disk: FaultyDisk, operation: str, name: str, code: int) -> list[str]:
    """Let the next such operation fail; answers a list that fills with what failed."""
    failed: list[str] = []

    def faults(at: str, file: str) -> int:
        if at == operation and file.endswith(name) and not failed:
            failed.append(file)
            return code
        return 0

    disk.faults = faults
    return failed


def test_a_failed_sync_ends_all_writing_and_is_not_repeated(tmp_path: Path, disk: FaultyDisk) -> None:
    (tmp_path / "live").mkdir()
    store = SqliteLogStore(tmp_path / "live" / "raft.db", vfs=disk.name)
    store.load()
    store.append([entry(1)], HardState(1, 1, 0))
    failed = fail_once(disk, "xSync", "-wal", apsw.SQLITE_IOERR_FSYNC)
    with pytest.raises(StorageFailed):
        store.append([entry(2)], None)
    assert failed == ["raft.db-wal"]

    operations: list[str] = []
    disk.watcher = lambda operation, _name: operations.append(operation)
    with pytest.raises(StorageFailed, match="no more writes"):
        store.append([entry(2)], None)
    with pytest.raises(StorageFailed, match="no more writes"):
        store.append([], HardState(2, 2, 0))
    assert store.read(1, 1, 1) == [entry(1)]
    store.close()
    assert not {"xWrite", "xSync"} & set(operations)

    after = SqliteLogStore(disk.cut(tmp_path / "cut", Random(1)) / "raft.db")
    assert after.load().last_index == 1
    after.close()


@pytest.mark.parametrize("name", ["-wal", "raft.db"])
def test_a_failed_checkpoint_of_the_log_ends_all_writing(
    tmp_path: Path, disk: FaultyDisk, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(log_store, "WAL_PAGES_MAX", 12)
    (tmp_path / "live").mkdir()
    store = SqliteLogStore(tmp_path / "live" / "raft.db", vfs=disk.name)
    store.load()
    failed = fail_once(disk, "xSync" if name == "raft.db" else "xWrite", name, apsw.SQLITE_IOERR_WRITE)

    def append_many() -> None:
        for index in range(1, 40):
            store.append([entry(index)], None)
            store.tidy()

    with pytest.raises(StorageFailed):
        append_many()
    assert failed
    with pytest.raises(StorageFailed, match="no more writes"):
        store.append([], HardState(2, 2, 0))
    store.close()


def test_a_full_disk_keeps_nothing_of_the_append_and_is_survived(tmp_path: Path, disk: FaultyDisk) -> None:
    (tmp_path / "live").mkdir()
    store = SqliteLogStore(tmp_path / "live" / "raft.db", vfs=disk.name)
    store.load()
    store.append([entry(i) for i in range(1, 6)], HardState(1, 1, 0))
    disk.faults = lambda operation, _name: apsw.SQLITE_FULL if operation == "xWrite" else 0
    for _ in range(3):
        with pytest.raises(DiskFull):
            store.append([entry(3), entry(4)], HardState(2, 2, 0))
        assert store.load().last_index == 5
        assert store.read(1, 5, 10**9) == [entry(i) for i in range(1, 6)]
    disk.faults = lambda _operation, _name: 0
    store.append([entry(6)], HardState(3, 3, 0))
    store.close()
    after = SqliteLogStore(disk.cut(tmp_path / "cut", Random(2)) / "raft.db")
    assert (after.load().last_index, after.load().hard_state) == (6, HardState(3, 3, 0))
    after.close()


def test_a_full_disk_while_the_file_is_shortened_leaves_it_to_be_written_on(tmp_path: Path, disk: FaultyDisk) -> None:
    (tmp_path / "live").mkdir()
    path = tmp_path / "live" / "raft.db"
    store = SqliteLogStore(path, vfs=disk.name)
    store.load()
    store.append([large(i) for i in range(1, 201)], HardState(1, 1, 0))
    store.compact(SnapshotMeta(180, 1, Configuration()))
    store.sweep(1000, 2**30)
    free_bytes = store.free_bytes()
    for writes in range(12):  # that find room before one does not
        left = [writes]

        def faults(operation: str, _name: str, left: list[int] = left) -> int:
            left[0] -= operation == "xWrite"
            return apsw.SQLITE_FULL if operation == "xWrite" and left[0] < 0 else 0

        disk.faults = faults
        with suppress(DiskFull):
            store.give_back(4096)
        disk.faults = lambda _operation, _name: 0
        before = store.free_bytes()
        store.append([large(store.load().last_index + 1)], None)
        assert store.free_bytes() >= before - 2 * 4096, "an append shortens nothing"
    assert store.free_bytes() < free_bytes
    last = store.load().last_index
    store.close()
    after = SqliteLogStore(path)
    assert (after.load().last_index, len(after.read(181, last, 10**9))) == (last, last - 180)
    after.close()


def large(index: int) -> Entry:
    return make_entry(1, index, EntryKind.NORMAL, bytes(3000))


def test_a_full_disk_during_a_checkpoint_does_not_fail_the_append(
    tmp_path: Path, disk: FaultyDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_store, "WAL_PAGES_MAX", 12)
    (tmp_path / "live").mkdir()
    store = SqliteLogStore(tmp_path / "live" / "raft.db", vfs=disk.name)
    store.load()
    refused: list[str] = []

    def faults(operation: str, name: str) -> int:
        if operation == "xWrite" and name == "raft.db":
            refused.append(name)
            return apsw.SQLITE_FULL
        return 0

    disk.faults = faults
    for index in range(1, 60):
        store.append([entry(index)], None)
        store.tidy()
    assert refused
    after = SqliteLogStore(disk.cut(tmp_path / "cut", Random(3)) / "raft.db")
    assert after.load().last_index == 59
    after.close()
    disk.faults = lambda _operation, _name: 0
    store.append([entry(60)], None)
    store.close()


def test_a_full_disk_leaves_ledger_changes_pending(tmp_path: Path, disk: FaultyDisk) -> None:
    (tmp_path / "live").mkdir()
    store = SqliteLedgerStore(tmp_path / "live" / "ledger.db", 10_000, CLUSTER_ID, vfs=disk.name)
    store.load()
    replica = Replica(store)
    replica.apply_to(30)
    store.flush(30)
    assert store.checkpoint() == 30
    replica.apply_to(60)
    disk.faults = lambda operation, _name: apsw.SQLITE_FULL if operation == "xWrite" else 0
    with pytest.raises(DiskFull):
        store.flush(60)
    assert store.pending_bytes() > 0
    assert store.scan("", "", 1000) == model_at(60).scan("", "", 1000)
    disk.faults = lambda _operation, _name: 0
    assert store.flush(60) == 60
    assert store.checkpoint() == 60
    store.close()
    assert file_content(tmp_path / "live" / "ledger.db") == model_content(model_at(60))


def test_a_checkpoint_whose_sync_failed_makes_nothing_durable(tmp_path: Path, disk: FaultyDisk) -> None:
    (tmp_path / "live").mkdir()
    store = SqliteLedgerStore(tmp_path / "live" / "ledger.db", 10_000, CLUSTER_ID, vfs=disk.name)
    store.load()
    replica = Replica(store)
    replica.apply_to(30)
    store.flush(30)
    fail_once(disk, "xSync", "ledger.db", apsw.SQLITE_IOERR_FSYNC)
    for _ in range(2):
        with pytest.raises(StorageFailed):
            store.checkpoint()
    replica.apply_to(31)
    with pytest.raises(StorageFailed, match="no more writes"):
        store.flush(31)
    assert store.head("never") is None
    store.close()


def test_a_reader_of_an_older_state_holds_durability_back(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    store = SqliteLedgerStore(path, 10_000, CLUSTER_ID)
    store.load()
    replica = Replica(store)
    replica.apply_to(20)
    store.flush(20)
    assert store.checkpoint() == 20
    replica.apply_to(30)
    store.flush(30)
    reader = apsw.Connection(str(path))
    reader.execute("BEGIN; SELECT count(*) FROM leaves").fetchall()
    replica.apply_to(40)
    store.flush(40)
    assert store.checkpoint() == 20
    assert store.load()[0].applied_index == 40
    reader.close(force=True)
    assert store.checkpoint() == 40
    store.close()


def test_what_a_log_tells_when_it_is_opened_outlives_a_power_cut(tmp_path: Path, disk: FaultyDisk) -> None:
    (tmp_path / "live").mkdir()
    path = tmp_path / "live" / "raft.db"
    store = SqliteLogStore(path, vfs=disk.name)
    store.load()
    store.append([entry(1)], HardState(1, 1, 0))

    def die_before_the_sync(operation: str, _name: str) -> None:
        if operation == "xSync":
            raise apsw.exception_for(apsw.SQLITE_IOERR_FSYNC)

    disk.watcher = die_before_the_sync
    with pytest.raises(StorageFailed):
        store.append([entry(2)], HardState(5, 3, 0))
    disk.watcher = lambda _operation, _name: None
    store.close()

    again = SqliteLogStore(path, vfs=disk.name)
    told = again.load()
    assert told.hard_state == HardState(5, 3, 0), "the page cache still had it, and the node acts by it"
    for seed in range(20):
        cut = SqliteLogStore(disk.cut(tmp_path / f"cut-{seed}", Random(seed)) / "raft.db")
        assert cut.load() == told
        cut.close()
    again.close()
