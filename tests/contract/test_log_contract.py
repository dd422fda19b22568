"""What every log store does, in memory and on SQLite."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import apsw
import pytest

from appliance.adapters.log_store import SqliteLogStore
from appliance.node.ports import EntriesUnavailable, LogStore, StoredLog
from appliance.raft.messages import EntryKind, HardState, SnapshotMeta, make_entry
from appliance.raft.state import encode_configuration

from .memory import MemoryLogDisk, MemoryLogStore
from .script import CONFIGURATION, entry

Open = Callable[[], LogStore]
SNAPSHOT_20 = SnapshotMeta(20, 1, CONFIGURATION)


@pytest.fixture(params=["memory", "sqlite"])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    if request.param == "memory":
        disk = MemoryLogDisk()
        return lambda: MemoryLogStore(disk)
    return lambda: SqliteLogStore(tmp_path / "raft.db")


@pytest.fixture
def store(reopen: Open) -> LogStore:
    store = reopen()
    store.load()
    return store


def fill(store: LogStore, last: int) -> None:
    store.append([entry(i) for i in range(1, last + 1)], HardState(1, 1, 0))


def test_a_new_log_is_empty(store: LogStore) -> None:
    assert store.load() == StoredLog(HardState(), SnapshotMeta(0, 0, type(CONFIGURATION)()), 0)
    assert store.pending_install() is None
    with pytest.raises(EntriesUnavailable):
        store.read(1, 1, 100)


def test_what_was_appended_is_there_after_reopening(store: LogStore, reopen: Open) -> None:
    for first in range(1, 120, 7):
        store.append([entry(i) for i in range(first, first + 7)], HardState(entry(first).term, 2, first))
    store.close()
    again = reopen()
    stored = again.load()
    assert stored.hard_state == HardState(3, 2, 113)
    assert stored.last_index == 119
    assert stored.term_starts == ((1, 1), (50, 2), (100, 3))
    assert again.read(1, 119, 10**9) == [entry(i) for i in range(1, 120)]
    again.close()


def test_hard_state_alone(store: LogStore, reopen: Open) -> None:
    store.append([], HardState(7, 3, 0))
    store.append([entry(1)], None)
    store.close()
    assert reopen().load().hard_state == HardState(7, 3, 0)


def test_a_conflicting_suffix_is_replaced(store: LogStore, reopen: Open) -> None:
    fill(store, 10)
    other = [make_entry(5, 6, EntryKind.NORMAL, b"other"), make_entry(5, 7, EntryKind.NORMAL, b"too")]
    store.append(other, None)
    store.close()
    again = reopen()
    assert again.load().last_index == 7
    assert again.load().term_starts == ((1, 1), (6, 5))
    assert again.read(5, 100, 10**9) == [entry(5), *other]
    again.close()


@pytest.mark.parametrize(
    ("bytes_max", "count"),
    [(0, 1), (1, 1), (99, 1), (100, 1), (199, 1), (200, 2), (1000, 5)],
    ids=str,
)
def test_read_stops_before_the_bound_but_answers_one(store: LogStore, bytes_max: int, count: int) -> None:
    store.append([make_entry(1, i, EntryKind.NORMAL, bytes(100)) for i in range(1, 6)], None)
    assert len(store.read(1, 5, bytes_max)) == count


def test_configurations_are_reported_where_they_stand(store: LogStore) -> None:
    data = encode_configuration(CONFIGURATION)
    store.append([entry(1), make_entry(1, 2, EntryKind.CONFIGURATION, data), entry(3)], None)
    assert store.load().configurations == ((2, CONFIGURATION),)


def test_compaction_moves_the_line(store: LogStore, reopen: Open) -> None:
    fill(store, 40)
    store.compact(SNAPSHOT_20)
    for first in (1, 20, 41):
        with pytest.raises(EntriesUnavailable):
            store.read(first, 50, 10**9)
    assert store.read(21, 40, 10**9) == [entry(i) for i in range(21, 41)]
    store.append([entry(41)], None)
    store.close()
    stored = reopen().load()
    assert (stored.snapshot, stored.last_index, stored.term_starts) == (SNAPSHOT_20, 41, ((21, 1),))


def test_the_whole_log_can_be_compacted(store: LogStore) -> None:
    fill(store, 20)
    store.compact(SNAPSHOT_20)
    assert store.load().last_index == 20
    store.append([entry(21)], None)
    assert store.read(21, 21, 1) == [entry(21)]


def test_an_install_is_remembered_until_it_is_finished(store: LogStore, reopen: Open) -> None:
    fill(store, 10)
    store.begin_install(SNAPSHOT_20, "incoming.db")
    store.close()
    again = reopen()
    assert again.pending_install() == (SNAPSHOT_20, "incoming.db")
    assert again.load().last_index == 10
    again.finish_install(SNAPSHOT_20)
    again.close()
    last = reopen()
    assert last.pending_install() is None
    stored = last.load()
    assert (stored.snapshot, stored.last_index, stored.hard_state) == (SNAPSHOT_20, 20, HardState(1, 1, 0))
    last.append([entry(21)], None)
    assert last.read(21, 99, 1) == [entry(21)]
    last.close()


def test_dropped_entries_go_in_slices_and_their_room_is_given_back(tmp_path: Path) -> None:
    path = tmp_path / "raft.db"
    store = SqliteLogStore(path)
    store.load()
    for first in range(1, 2001, 50):
        store.append([make_entry(1, first + n, EntryKind.NORMAL, bytes(2000)) for n in range(50)], None)
    store.give_back(2**20)
    full_bytes = path.stat().st_size
    store.compact(SnapshotMeta(1900, 1, CONFIGURATION))
    assert store.leftovers() == 1900
    store.sweep(500, 2**30)
    assert store.leftovers() == 1400
    store.append([entry(2001)], None)
    assert store.leftovers() == 1400, "an append has nothing to do with them"
    store.sweep(500, 20_000)
    assert store.leftovers() == 1390, "no more bytes than that"
    store.sweep(500, 0)
    assert store.leftovers() == 1389, "but one"
    store.close()
    store = SqliteLogStore(path)
    assert (store.load().snapshot.index, store.load().last_index, store.leftovers()) == (1900, 2001, 1389)
    store.sweep(5000, 2**30)
    assert store.leftovers() == 0
    assert path.stat().st_size == full_bytes
    free_bytes = store.free_bytes()
    assert free_bytes > full_bytes * 0.9
    store.give_back(2**20)
    assert store.free_bytes() == free_bytes - 2**20
    assert path.stat().st_size <= full_bytes - 2**20
    while store.free_bytes():
        store.give_back(2**20)
        store.append([entry(store.load().last_index + 1)], None)
    assert path.stat().st_size < full_bytes / 8
    assert store.read(1901, 1902, 1)[0].index == 1901
    last = store.load().last_index
    store.close()
    again = SqliteLogStore(path)
    assert again.load().last_index == last
    again.close()


def test_a_file_of_an_earlier_version_is_made_to_shrink_when_it_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "raft.db"
    store = SqliteLogStore(path)
    store.append([make_entry(1, n, EntryKind.NORMAL, bytes(2000)) for n in range(1, 101)], HardState(1, 1, 0))
    store.close()
    db = apsw.Connection(str(path))
    db.execute("PRAGMA auto_vacuum = 0")
    db.execute("VACUUM")
    assert db.pragma("auto_vacuum") == 0
    db.close()
    store = SqliteLogStore(path)
    store.load()
    store.compact(SnapshotMeta(90, 1, CONFIGURATION))
    store.sweep(1000, 2**30)
    full_bytes = path.stat().st_size
    assert store.free_bytes() > 0
    store.give_back(2**20)
    assert path.stat().st_size < full_bytes
    assert [e.index for e in store.read(91, 100, 10**9)] == list(range(91, 101))
    store.close()


def test_an_install_leaves_the_log_behind_to_be_swept(store: LogStore) -> None:
    fill(store, 45)
    store.begin_install(SNAPSHOT_20, "incoming.db")
    store.finish_install(SNAPSHOT_20)
    assert (store.load().last_index, store.load().term_starts) == (20, ())
    store.append([entry(21)], None)
    store.sweep(1000, 2**30)
    assert store.leftovers() == 0
    assert (store.load().last_index, store.read(21, 21, 1)) == (21, [entry(21)])


def test_a_cancelled_install_changes_nothing(store: LogStore, reopen: Open) -> None:
    fill(store, 10)
    store.begin_install(SNAPSHOT_20, "incoming.db")
    store.cancel_install()
    store.close()
    again = reopen()
    assert again.pending_install() is None
    assert again.load().last_index == 10
    again.close()


@pytest.mark.parametrize("seed", range(8))
def test_sqlite_and_memory_agree_on_random_calls(tmp_path: Path, seed: int) -> None:
    random = Random(seed)
    disk = MemoryLogDisk()
    stores: list[LogStore] = [MemoryLogStore(disk), SqliteLogStore(tmp_path / "raft.db")]
    stored = stores[0].load()
    assert stores[1].load() == stored
    term = 1
    for step in range(150):
        first_index, last_index = stored.snapshot.index, stored.last_index
        match random.choice(["append", "append", "append", "conflict", "compact", "shrink", "install", "reopen"]):
            case "append" | "conflict" as kind:
                term += kind == "conflict"
                first = random.randint(first_index + 1, last_index + 1) if kind == "conflict" else last_index + 1
                entries = [
                    make_entry(term, first + n, EntryKind.NORMAL, random.randbytes(random.choice((0, 30, 9000))))
                    for n in range(random.randint(1, 40))
                ]
                hard_state = random.choice([None, HardState(term, random.randint(0, 3), first_index)])
                for store in stores:
                    store.append(entries, hard_state)
            case "compact":
                index = random.randint(first_index, last_index)
                for store in stores:
                    store.compact(SnapshotMeta(index, 1, CONFIGURATION))
            case "shrink":
                for store in stores:
                    store.sweep(random.randint(1, 100), random.choice((0, 100_000)))
                    store.give_back(random.choice((0, 10_000, 2**30)))
            case "install" if random.random() < 0.3:
                meta = SnapshotMeta(last_index + random.randint(0, 50), term, CONFIGURATION)
                for store in stores:
                    store.begin_install(meta, f"file-{step}")
                    assert store.pending_install() == (meta, f"file-{step}")
                    store.finish_install(meta)
            case "reopen":
                stores[1].close()
                stores[1] = SqliteLogStore(tmp_path / "raft.db")
        stored = stores[0].load()
        assert stores[1].load() == stored
        if stored.last_index > stored.snapshot.index:
            first = random.randint(stored.snapshot.index + 1, stored.last_index)
            bytes_max = random.choice((0, 5_000, 10**9))
            assert stores[1].read(first, first + 20, bytes_max) == stores[0].read(first, first + 20, bytes_max)
    stores[1].close()
