"""Heads reach the file in passes, behind the leaves: whatever the lag, everybody reads the heads as they are."""

from __future__ import annotations

from pathlib import Path
from random import Random

import apsw
import pytest

from appliance.adapters import ledger_memory
from appliance.adapters.ledger_store import SqliteLedgerStore
from appliance.adapters.ledger_verify import verify_copy
from appliance.node.ports import DamagedFile
from tests.contract.script import CLUSTER_ID, Replica, file_content, model_at, model_content

INDEX = 400


def mark_of(path: Path) -> tuple[int, int]:
    """The mark, and how many heads are stored."""
    db = apsw.Connection(str(path))
    try:
        mark = db.execute("SELECT value FROM meta WHERE name = 'heads_leaf_next'").fetchone()[0]
        return int(mark), db.execute("SELECT count(*) FROM stored_heads").fetchone()[0]
    finally:
        db.close(force=True)


@pytest.mark.parametrize("lag_leaves", [1, 40, 10**6])
@pytest.mark.parametrize("seed", range(3))
def test_the_lag_shows_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lag_leaves: int, seed: int) -> None:
    monkeypatch.setattr(ledger_memory, "HEADS_LAG_LEAVES_MAX", lag_leaves)
    monkeypatch.setattr(ledger_memory, "HEADS_LAG_LEAVES_MIN", lag_leaves)
    monkeypatch.setattr(ledger_memory, "SLICE_HEADS_MIN", 3)
    random, path = Random(seed), tmp_path / "ledger.db"
    store = SqliteLedgerStore(path, 10**6, CLUSTER_ID)
    store.load()
    replica, in_file = Replica(store), 0
    while in_file < INDEX:
        replica.apply_to(min(INDEX, replica.machine.applied_index + random.randint(1, 30)))
        in_file = store.flush(replica.machine.applied_index - random.choice((0, 0, 4)))
        assert file_content(path) == model_content(model_at(in_file))
        if random.random() < 0.2:
            store.close()
            store = SqliteLedgerStore(path, 10**6, CLUSTER_ID)
            assert store.load() == model_at(in_file).load()
            replica = Replica(store)
        model = model_at(replica.machine.applied_index)
        assert {key: store.head(key) for key in model.heads} == model.heads
        assert store.scan("k", "", 10**6) == model.scan("k", "", 10**6)
    store.copy_to(tmp_path / "copy.db")
    store.close()
    assert verify_copy(tmp_path / "copy.db", CLUSTER_ID) == model_at(INDEX).load()
    mark, stored = mark_of(path)
    assert (mark == 0, stored == 0) == (lag_leaves == 10**6, lag_leaves == 10**6)


def test_a_pass_ends_with_every_head_of_its_beginning_stored(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    store = SqliteLedgerStore(path, 0, CLUSTER_ID)
    store.load()
    Replica(store).apply_to(INDEX)
    store.flush(INDEX)
    store.close()
    mark, _ = mark_of(path)
    assert mark > 0
    db = apsw.Connection(str(path))
    stored = dict(db.execute("SELECT key, leaf_index FROM stored_heads").fetchall())
    db.close()
    for key, head in model_at(INDEX).heads.items():
        if head.leaf_index < mark:
            assert stored[key] == head.leaf_index


def test_a_mark_that_makes_no_sense_is_noticed(tmp_path: Path) -> None:
    store = SqliteLedgerStore(tmp_path / "ledger.db", 0, CLUSTER_ID)
    store.load()
    Replica(store).apply_to(50)
    store.flush(50)
    store.close()
    for mark, message in ((b"999999", "heads"), (b"x", "meta"), (b"-1", "heads")):
        db = apsw.Connection(str(tmp_path / "ledger.db"))
        db.execute("UPDATE meta SET value = ? WHERE name = 'heads_leaf_next'", (mark,))
        db.close()
        again = SqliteLedgerStore(tmp_path / "ledger.db", 0, CLUSTER_ID)
        with pytest.raises(DamagedFile, match=message):
            again.load()


def test_a_file_of_format_1_is_taken_over(tmp_path: Path) -> None:
    """There, `heads` is a table that never lags, no mark is stored, and there are no tiles."""
    path = tmp_path / "ledger.db"
    store = SqliteLedgerStore(path, 0, CLUSTER_ID)
    store.load()
    Replica(store).apply_to(200)
    store.flush(200)
    store.close()
    db = apsw.Connection(str(path))
    heads = db.execute("SELECT * FROM heads").fetchall()
    db.execute("DROP TABLE tiles")
    db.execute("DROP VIEW heads")
    db.execute("ALTER TABLE stored_heads RENAME TO heads")
    db.executemany("INSERT OR REPLACE INTO heads VALUES (?, ?, ?, ?, ?, ?)", heads)
    db.execute("DELETE FROM meta WHERE name = 'heads_leaf_next'")
    db.execute("UPDATE meta SET value = x'01' WHERE name = 'format'")
    db.pragma("journal_mode", "delete")
    db.close()
    assert verify_copy(path, CLUSTER_ID) == model_at(200).load()
    again = SqliteLedgerStore(path, 0, CLUSTER_ID)
    assert again.load() == model_at(200).load()
    Replica(again).apply_to(300)
    again.flush(300)
    again.close()
    assert file_content(path) == model_content(model_at(300))
    assert verify_copy(path, CLUSTER_ID) == model_at(300).load()


def test_a_key_that_was_looked_for_in_vain_is_found_once_it_is_written(tmp_path: Path) -> None:
    """Also when its head has left memory again, and nothing was looked ahead for since."""
    store = SqliteLedgerStore(tmp_path / "ledger.db", 0, CLUSTER_ID)
    store.load()
    model = model_at(INDEX)
    store.prefetch(model.heads)
    replica = Replica(store)
    for index in range(1, INDEX + 1):
        replica.apply_to(index)
        store.flush(index)
    assert {key: store.head(key) for key in model.heads} == model.heads
    store.close()


def test_a_pass_waits_for_what_would_outdate_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lag_leaves = 240
    assert len(model_at(INDEX).heads) < lag_leaves < model_at(INDEX).load()[0].tree_size // 2
    monkeypatch.setattr(ledger_memory, "HEADS_LAG_LEAVES_MAX", lag_leaves)
    monkeypatch.setattr(ledger_memory, "HEADS_LAG_FACTOR_MAX", 1)
    path = tmp_path / "ledger.db"
    store = SqliteLedgerStore(path, 10**6, CLUSTER_ID)
    store.load()
    replica = Replica(store)
    for index in range(1, INDEX):
        store.expect(lag_leaves)
        replica.apply_to(index)
    store.flush(INDEX)
    assert mark_of(path) == (0, 0)
    store.expect(0)
    replica.apply_to(INDEX)
    store.flush(INDEX)
    store.close()
    assert mark_of(path)[1] > 0
    assert file_content(path) == model_content(model_at(INDEX))


@pytest.mark.parametrize(("factor", "passes"), [(2, True), (3, False)])
def test_and_longer_when_the_same_keys_are_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: int, passes: bool
) -> None:
    lag_leaves = 240
    tree_size = model_at(INDEX).load()[0].tree_size
    assert len(model_at(INDEX).heads) < lag_leaves < 2 * lag_leaves < tree_size < 3 * lag_leaves
    monkeypatch.setattr(ledger_memory, "HEADS_LAG_LEAVES_MAX", lag_leaves)
    monkeypatch.setattr(ledger_memory, "HEADS_LAG_FACTOR_MAX", factor)
    path = tmp_path / "ledger.db"
    store = SqliteLedgerStore(path, 10**6, CLUSTER_ID)
    store.load()
    Replica(store).apply_to(INDEX)
    store.flush(INDEX)
    store.close()
    assert (mark_of(path)[0] > 0 or mark_of(path)[1] > 0) is passes
    assert file_content(path) == model_content(model_at(INDEX))


def test_but_not_when_too_many_heads_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lag_leaves = 5
    monkeypatch.setattr(ledger_memory, "HEADS_LAG_LEAVES_MIN", lag_leaves)
    monkeypatch.setattr(ledger_memory, "HEADS_LAG_LEAVES_MAX", lag_leaves)
    path = tmp_path / "ledger.db"
    store = SqliteLedgerStore(path, 10**6, CLUSTER_ID)
    store.load()
    replica = Replica(store)
    for index in range(1, INDEX):
        store.expect(10**6)
        replica.apply_to(index)
    store.flush(INDEX)
    store.close()
    assert mark_of(path)[1] >= lag_leaves
