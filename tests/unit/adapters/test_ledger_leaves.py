"""A leaf without its value: nothing of the value is read, nothing is kept, and what is read is checked."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from appliance.adapters.ledger_store import SqliteLedgerStore
from appliance.ledger.commands import Op, Operation, WriteRequest, encode_write
from appliance.ledger.encoding import decode_leaf
from appliance.ledger.machine import LedgerMachine
from appliance.node.ports import DamagedFile
from tests.contract.script import CLUSTER_ID, START_US

LEAVES = 20
VALUE_BYTES = 2**20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger of one key with large values."""
    path = tmp_path / "ledger.db"
    store = SqliteLedgerStore(path, 0, CLUSTER_ID)
    store.load()
    machine = LedgerMachine(store, store.load()[0], 9)
    for index in range(1, LEAVES + 1):
        request = WriteRequest((Operation(Op.PUT, "k", bytes([index]) * VALUE_BYTES),), "a", f"r{index}")
        changes = machine.apply(index, 1, encode_write(request, START_US + index, bytes(range(16)), 9))
        store.add([changes], machine.summary(), b"")
    store.flush(LEAVES)
    store.checkpoint()
    store.close()
    return path


def opened(path: Path) -> SqliteLedgerStore:
    store = SqliteLedgerStore(path, 64 * VALUE_BYTES, CLUSTER_ID)
    store.load()
    return store


def test_nothing_of_the_values_is_read_and_nothing_is_kept(path: Path) -> None:
    store = opened(path)
    before_bytes, cached = store._open_reader().bytes_read(), store.cache_bytes()
    for leaf_index in range(LEAVES):
        said = store.bare_leaf(leaf_index)
        assert said is not None
        assert (said.leaf_index, said.version, said.value_size) == (leaf_index, leaf_index + 1, VALUE_BYTES)
    assert store._open_reader().bytes_read() - before_bytes < VALUE_BYTES
    assert store.cache_bytes() == cached
    assert (store.bare_leaf(LEAVES), store.bare_leaf(-1)) == (None, None)
    store.close()


def test_a_leaf_in_memory_is_not_read_from_the_file(path: Path) -> None:
    store = opened(path)
    expected, whole = store.bare_leaf(3), store.leaf(3)
    assert whole is not None
    assert expected == decode_leaf(whole.leaf)
    edit(path, "UPDATE leaves SET leaf = x'00' WHERE leaf_index = 3")
    assert store.bare_leaf(3) == expected
    assert store.leaf(3) == whole
    store.close()


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("UPDATE leaves SET leaf = x'c1' WHERE leaf_index = 3", "leaf 3: the leaf is not JSON"),
        ("UPDATE leaves SET leaf = CAST(leaf || x'20' AS BLOB) WHERE leaf_index = 3", "leaf 3: .*canonical"),
        ("UPDATE leaves SET leaf = (SELECT leaf FROM leaves WHERE leaf_index = 2) WHERE leaf_index = 3", "is leaf 2"),
    ],
    ids=["no JSON", "not canonical", "of another place"],
)
def test_a_damaged_leaf_is_damage_without_its_value_too(path: Path, statement: str, words: str) -> None:
    store = opened(path)
    edit(path, statement)
    for read in (store.bare_leaf, store.leaf):
        with pytest.raises(DamagedFile, match=words):
            read(3)
    store.close()


def test_a_damaged_value_is_noticed_where_it_is_read(path: Path) -> None:
    store = opened(path)
    edit(path, "UPDATE leaves SET value = x'00' WHERE leaf_index = 3")
    assert store.bare_leaf(3) is not None
    with pytest.raises(DamagedFile, match="does not match the hash"):
        store.leaf(3)
    store.close()


def edit(path: Path, statement: str) -> None:
    db = apsw.Connection(str(path))
    db.set_busy_timeout(5000)
    db.execute(statement)
    db.close()
