"""What every log store does, in memory and on SQLite."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

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
    store = SqliteLogStore(tmp_path / "raft.db")
    store.load()
    for first in range(1, 2001, 50):
        store.append([make_entry(1, first + n, EntryKind.NORMAL, bytes(2000)) for n in range(50)], None)
    store.give_back(2**30)
    size_bytes = store.size_bytes()
    store.compact(SnapshotMeta(1900, 1, CONFIGURATION))
    assert store.drop_leftovers(500) == 1400
    store.append([entry(2001)], None)  # which drops some more
    left = store.drop_leftovers(1)
    assert 0 < left < 1399
    assert store.drop_leftovers(5000) == 0
    assert store.size_bytes() >= size_bytes
    store.give_back(1000)
    assert store.size_bytes() >= size_bytes, "more than that is in use"
    store.give_back(2**20)
    assert store.size_bytes() < size_bytes / 8
    assert store.read(1901, 1902, 1)[0].index == 1901
    store.append([entry(2002)], None)
    store.close()
    again = SqliteLogStore(tmp_path / "raft.db")
    assert again.load().last_index == 2002
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
                    store.drop_leftovers(random.randint(1, 100))
                    store.give_back(random.choice((0, 2**30)))
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
