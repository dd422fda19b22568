"""What every ledger store does, in memory and on SQLite."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from appliance.adapters.ledger_store import SqliteLedgerStore
from appliance.ledger.commands import encode_pause
from appliance.ledger.encoding import decode_leaf
from appliance.ledger.state import Changes, Head, Summary
from appliance.node.ports import LedgerStore

from .memory import MemoryLedgerDisk, MemoryLedgerStore
from .script import CLUSTER_ID, START_US, STEP_US, Replica, file_content, meta_at, model_at, model_content, term_of

Open = Callable[[], LedgerStore]
CACHE_BYTES = 40_000  # small, so that all three layers are read


@pytest.fixture(params=["memory", "sqlite"])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    if request.param == "memory":
        disk = MemoryLedgerDisk()
        return lambda: MemoryLedgerStore(disk)
    return lambda: SqliteLedgerStore(tmp_path / "ledger.db", CACHE_BYTES, CLUSTER_ID)


@pytest.fixture
def store(reopen: Open) -> LedgerStore:
    store = reopen()
    store.load()
    return store


def assert_reads_as(store: LedgerStore, index: int) -> None:
    """Every read answers as a model that applied the sequence up to `index`."""
    model = model_at(index)
    for key in [*model.heads, "never", ""]:
        assert store.head(key) == model.head(key)
    for leaf_index in range(-1, len(model.leaves) + 2):
        leaf = model.leaf(leaf_index)
        assert store.bare_leaf(leaf_index) == (leaf and decode_leaf(leaf.leaf))
        assert store.leaf(leaf_index) == leaf
    for actor, name in [*model.answers, ("actor-0", "never"), ("nobody", "once-1")]:
        assert store.answer(actor, name) == model.answer(actor, name)
    for step in range(0, index + 2, 5):
        assert store.answers_before(START_US + step * STEP_US) == model.answers_before(START_US + step * STEP_US)
    for prefix in ("", "k", "k1", "k10é", "k10é/", "k39é", "z", "é", "\U0010ffff"):
        for after in ("", "k", "k10é", "k2", "k9", "zz"):
            for limit in (1, 3, 1000):
                assert store.scan(prefix, after, limit) == model.scan(prefix, after, limit)


def test_a_new_ledger_is_empty(store: LedgerStore) -> None:
    assert store.load() == (Summary(), b"")
    assert_reads_as(store, 0)
    assert store.flush(100) == 0
    assert store.checkpoint() == 0
    assert store.pending_bytes() == 0


def test_what_is_added_is_read_at_once(store: LedgerStore) -> None:
    Replica(store).apply_to(150)
    assert store.pending_bytes() > 0
    assert store.load() == model_at(150).load()
    assert_reads_as(store, 150)


def test_flush_stops_at_the_bound(store: LedgerStore, reopen: Open) -> None:
    Replica(store).apply_to(60)
    assert store.flush(0) == 0
    assert store.flush(40) == 40
    assert store.pending_bytes() > 0
    assert_reads_as(store, 60)
    store.close()
    again = reopen()
    assert again.load() == model_at(40).load()
    assert_reads_as(again, 40)
    again.close()


def test_all_layers_are_read_together(store: LedgerStore) -> None:
    replica = Replica(store)
    for flush_to, apply_to in ((0, 30), (30, 90), (60, 200), (199, 260)):
        store.flush(flush_to)
        replica.apply_to(apply_to)
        assert_reads_as(store, apply_to)
    store.flush(260)
    assert store.checkpoint() == 260
    assert store.pending_bytes() == 0
    assert_reads_as(store, 260)


def test_the_log_continues_where_the_file_ended(store: LedgerStore, reopen: Open) -> None:
    replica = Replica(store)
    replica.apply_to(130)
    store.flush(100)
    store.close()
    again = reopen()
    Replica(again).apply_to(180)  # replays 101 to 130
    again.flush(180)
    assert_reads_as(again, 180)
    again.close()


def test_looking_ahead_changes_no_answer(store: LedgerStore) -> None:
    keys = [*model_at(200).heads, "never"]
    replica = Replica(store)
    for index in range(1, 201):
        if index % 3 == 0:
            store.prefetch(keys)
        replica.apply_to(index)
        if index % 10 == 0:
            store.flush(index - 3)
            assert_reads_as(store, index)
    store.prefetch(["never", *keys, *keys])
    assert_reads_as(store, 200)


def test_a_copy_holds_what_was_flushed_and_replaces_another(store: LedgerStore, tmp_path: Path) -> None:
    replica = Replica(store)
    replica.apply_to(90)
    store.flush(80)
    copy = tmp_path / "copy.db"
    assert store.copy_to(copy) == model_at(80).load()
    replica.apply_to(120)
    assert store.replace(copy) == model_at(80).load()
    assert not copy.exists()
    assert store.pending_bytes() == 0
    assert store.load() == model_at(80).load()
    assert_reads_as(store, 80)
    Replica(store).apply_to(140)
    store.flush(140)
    assert_reads_as(store, 140)
    store.close()


def test_a_pause_and_its_audit_row_are_kept(store: LedgerStore, reopen: Open, tmp_path: Path) -> None:
    replica = Replica(store)
    replica.apply_to(40)
    until_us = START_US + 1000 * STEP_US
    pause = replica.machine.apply(41, term_of(41), encode_pause(START_US + 41 * STEP_US, until_us, "carol", "p"))
    store.add((pause,), replica.machine.summary(), meta_at(41))
    replica.apply_to(50)  # what is written meanwhile is refused
    assert replica.machine.tree_size == model_at(40).load()[0].tree_size
    store.flush(50)
    held = store.copy_to(tmp_path / "copy.db")
    assert held[0].paused_until_us == until_us
    store.close()
    again = reopen()
    assert again.load() == held
    machine = Replica(again).machine
    assert (machine.paused_until_us, machine.state_hash) == (until_us, replica.machine.state_hash)
    again.close()


@pytest.mark.parametrize("seed", range(6))
def test_sqlite_holds_what_the_model_holds_whatever_was_called(tmp_path: Path, seed: int) -> None:
    random = Random(seed)
    path = tmp_path / "ledger.db"
    store = SqliteLedgerStore(path, random.choice((0, 3_000, 10**7)), CLUSTER_ID)
    store.load()
    replica = Replica(store)
    in_file = 0
    for _ in range(25):
        replica.apply_to(replica.machine.applied_index + random.randint(1, 25))
        if random.random() < 0.7:
            in_file = store.flush(in_file + random.randint(0, 40))
        if random.random() < 0.3:
            assert store.checkpoint() == in_file
        if random.random() < 0.2:
            store.close()
            store = SqliteLedgerStore(path, 3_000, CLUSTER_ID)
            assert store.load() == model_at(in_file).load()
            replica = Replica(store)
        assert file_content(path) == model_content(model_at(in_file))
    assert_reads_as(store, replica.machine.applied_index)
    store.close()


@pytest.mark.parametrize(
    ("keys", "prefix", "after", "expected"),
    [
        (["b", "a", "B"], "", "", ["B", "a", "b"]),
        (["a", "ab", "a/", "b"], "a", "", ["a", "a/", "ab"]),
        (["a", "ab", "b"], "a", "a", ["ab"]),
        (["é", "z", "\U0001f600", "\uffff", "\ue000"], "", "z", ["é", "\ue000", "\uffff", "\U0001f600"]),
        (["\ud7ff1", "\ue0001"], "\ud7ff", "", ["\ud7ff1"]),
        (["\U0010ffff", "\U0010ffff\U0010ffff", "a"], "\U0010ffff", "", ["\U0010ffff", "\U0010ffff\U0010ffff"]),
        (["a\U0010ffff1", "b"], "a\U0010ffff", "", ["a\U0010ffff1"]),
        (["a%", "a_", "ax"], "a%", "", ["a%"]),
    ],
    ids=["capitals", "prefix", "after", "utf8-not-utf16", "before-surrogates", "last-character", "carry", "wildcards"],
)
@pytest.mark.parametrize("flushed", [False, True], ids=["overlay", "file"])
def test_scan_goes_by_bytes(
    store: LedgerStore, keys: list[str], prefix: str, after: str, expected: list[str], flushed: bool
) -> None:
    heads = tuple((key, Head(1, n, False, START_US, 1)) for n, key in enumerate(keys))
    store.add([Changes(1, None, (), heads)], Summary(applied_index=1), meta_at(1))
    if flushed:
        store.flush(1)
    assert [key for key, _ in store.scan(prefix, after, 100)] == expected


def test_a_deleted_key_in_memory_hides_the_one_in_the_file(store: LedgerStore) -> None:
    heads = tuple((f"k{n}", Head(1, n, False, START_US, 1)) for n in range(6))
    store.add([Changes(1, None, (), heads)], Summary(applied_index=1), meta_at(1))
    store.flush(1)
    gone = tuple((f"k{n}", Head(2, 6 + n, True, START_US, 0)) for n in (0, 1, 3))
    store.add([Changes(2, None, (), gone)], Summary(applied_index=2), meta_at(2))
    assert [key for key, _ in store.scan("k", "", 2)] == ["k2", "k4"]
    assert [key for key, _ in store.scan("k", "k2", 2)] == ["k4", "k5"]
