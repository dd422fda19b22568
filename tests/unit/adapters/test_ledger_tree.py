"""The stored tree: it goes on after restarts, older files get one, and damage to any part of it is named."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from appliance.adapters.ledger_store import SqliteLedgerStore
from appliance.adapters.ledger_tiles import place_of
from appliance.adapters.ledger_verify import verify_copy
from appliance.ledger.commands import SALT_BYTES, Op, Operation, WriteRequest, encode_write
from appliance.ledger.machine import LedgerMachine
from appliance.ledger.state import Summary
from appliance.node.ports import DamagedFile
from tests.contract.script import CLUSTER_ID, Replica, file_content, model_at, model_content

INDEX = 300
LEAVES = 70_000  # more than a tile of level 1 stands over


def make_ledger(path: Path, *, steps: tuple[int, ...] = (INDEX,)) -> None:
    for index in steps:
        store = SqliteLedgerStore(path, 0, CLUSTER_ID)
        store.load()
        Replica(store).apply_to(index)
        store.flush(index)
        store.close()


def at_rest(path: Path) -> Path:
    """Without a WAL."""
    db = apsw.Connection(str(path))
    db.pragma("journal_mode", "delete")
    db.close()
    return path


def test_the_tree_goes_on_after_each_restart(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    make_ledger(path, steps=(3, 90, 91, 200, INDEX))
    assert file_content(path) == model_content(model_at(INDEX))
    assert verify_copy(at_rest(path), CLUSTER_ID) == model_at(INDEX).load()


def test_a_file_without_tiles_gets_them(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    make_ledger(path)
    db = apsw.Connection(str(path))
    db.execute("DROP TABLE tiles")
    db.execute("UPDATE meta SET value = x'02' WHERE name = 'format'")
    db.close()
    assert verify_copy(at_rest(path), CLUSTER_ID) == model_at(INDEX).load()
    make_ledger(path, steps=(INDEX + 50,))
    assert file_content(path) == model_content(model_at(INDEX + 50))
    assert verify_copy(at_rest(path), CLUSTER_ID) == model_at(INDEX + 50).load()


DAMAGE = {
    "leaf changed": (
        "UPDATE leaves SET leaf = CAST(replace(CAST(leaf AS TEXT), 'actor\":\"', 'actor\":\"x') AS BLOB)"
        " WHERE leaf_index = 100",
        "leaf 100",
    ),
    "leaf gone": ("DELETE FROM leaves WHERE leaf_index = 100", "leaf 100"),
    "tile changed": (
        "UPDATE tiles SET hashes = CAST(substr(hashes, 1, 99) || x'00' || substr(hashes, 101) AS BLOB)",
        "leaf 3",
    ),
    "tile cut short": ("UPDATE tiles SET hashes = substr(hashes, 1, 96)", "leaf 3"),
    "root beside a tile changed": ("UPDATE tiles SET root = zeroblob(32)", "tile 0 of level 0"),
    "tile gone": ("DELETE FROM tiles WHERE place = 0", "tile 0 of level 0"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named(name: str, tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    make_ledger(path)
    store = SqliteLedgerStore(path, 0, CLUSTER_ID)
    store.load()
    size = len(model_at(INDEX).leaves)
    root = store.tree.root(size)
    store.tree.recheck(0, size, root)
    statement, what = DAMAGE[name]
    db = apsw.Connection(str(path))
    db.execute(statement)
    db.close()
    with pytest.raises(DamagedFile, match=what):
        store.tree.recheck(0, size, root)
    with pytest.raises(DamagedFile):
        store.check()
    store.close()
    with pytest.raises(DamagedFile):
        verify_copy(at_rest(path), CLUSTER_ID)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE leaves SET value = CAST(substr(value, 2) || 'x' AS BLOB) WHERE leaf_index = 102",
        "UPDATE leaves SET salt = zeroblob(16) WHERE leaf_index = 102",
        "UPDATE leaves SET leaf = (SELECT leaf FROM leaves WHERE leaf_index = 103) WHERE leaf_index = 102",
        "UPDATE leaves SET leaf = CAST('{}' AS BLOB) WHERE leaf_index = 102",
    ],
)
def test_a_value_that_was_not_written_is_never_read(statement: str, tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    make_ledger(path)
    db = apsw.Connection(str(path))
    assert db.execute("SELECT value IS NOT NULL FROM leaves WHERE leaf_index = 102").fetchone() == (1,)
    db.execute(statement)
    db.close()
    store = SqliteLedgerStore(path, 2**20, CLUSTER_ID)
    store.load()
    assert store.leaf(101) == model_at(INDEX).leaves[101]
    with pytest.raises(DamagedFile, match="leaf 102"):
        store.leaf(102)
    store.close()


def test_tiles_that_no_leaf_leads_to_are_damage(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    make_ledger(path)
    db = apsw.Connection(str(path))
    db.execute("INSERT INTO tiles VALUES (?, zeroblob(32), zeroblob(8192))", (place_of(2, 0),))
    db.close()
    with pytest.raises(DamagedFile, match="does not have"):
        verify_copy(at_rest(path), CLUSTER_ID)


def test_a_tree_of_two_levels_of_tiles(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    store = SqliteLedgerStore(path, 2**20, CLUSTER_ID)
    store.load()
    machine = LedgerMachine(store, Summary(), 1)
    for index in range(1, LEAVES // 1000 + 1):
        operations = tuple(Operation(Op.PUT, f"k{index}/{n}", b"v") for n in range(1000))
        data = encode_write(WriteRequest(operations, "a", "r", True), index, bytes(SALT_BYTES * 1000), 1)
        store.take(machine.apply(index, 1, data))
        store.add((), machine.summary(), b"")
    store.flush(index)
    assert machine.tree_size == LEAVES
    assert store.tree.root(LEAVES) == machine.root()
    store.tree.recheck(0, LEAVES, machine.root())
    store.close()
    again = SqliteLedgerStore(path, 2**20, CLUSTER_ID)
    again.load()
    machine = LedgerMachine(again, again.load()[0], 1)
    more = encode_write(WriteRequest((Operation(Op.PUT, "k", b"v"),), "a", "r"), index + 1, bytes(SALT_BYTES), 1)
    again.take(machine.apply(index + 1, 1, more))
    again.add((), machine.summary(), b"")
    again.flush(index + 1)
    assert again.tree.root(LEAVES + 1) == machine.root()
    again.close()
    db = apsw.Connection(str(path))
    db.execute(
        "UPDATE tiles SET hashes = CAST(substr(hashes, 1, 31) || x'00' || substr(hashes, 33) AS BLOB) WHERE place = ?",
        (place_of(1, 0),),
    )
    db.close()
    third = SqliteLedgerStore(path, 2**20, CLUSTER_ID)
    third.load()
    with pytest.raises(DamagedFile, match="tile 0 of level 0 does not lead to its hash in the tile of level 1"):
        third.tree.recheck(0, LEAVES, bytes(32))
    third.close()
