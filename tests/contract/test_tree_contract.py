"""What the tree of every ledger store proves, in memory and on SQLite."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from appliance.adapters.ledger_store import SqliteLedgerStore
from appliance.ledger.merkle import EMPTY_ROOT, leaf_hash, verify_consistency, verify_inclusion
from appliance.ledger.tile_paths import tile_width, tiles
from appliance.node.ports import DamagedFile, LedgerStore
from appliance.node.proof_ports import LeavesUnavailable

from .memory import MemoryLedgerDisk, MemoryLedgerStore
from .memory_tree import MemoryTree
from .script import CLUSTER_ID, Replica, model_at

INDEX = 300


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> LedgerStore:
    if request.param == "memory":
        store: LedgerStore = MemoryLedgerStore(MemoryLedgerDisk())
    else:
        store = SqliteLedgerStore(tmp_path / "ledger.db", 40_000, CLUSTER_ID)
    store.load()
    Replica(store).apply_to(INDEX)
    return store


def test_nothing_is_proven_before_it_is_in_the_file(store: LedgerStore) -> None:
    assert store.tree.root(0) == EMPTY_ROOT
    for ask in (lambda: store.tree.root(1), lambda: store.tree.leaf(0), lambda: store.tree.entries(0, 1)):
        with pytest.raises(LeavesUnavailable):
            ask()


def test_every_leaf_is_in_every_tree_that_has_it_and_each_tree_continues_those_before(store: LedgerStore) -> None:
    store.flush(INDEX)
    leaves = model_at(INDEX).leaves
    assert len(leaves) > 300, "the sequence is to fill a tile"
    chance = Random(1)
    for size in (1, 2, 255, 256, 257, len(leaves)):
        root = store.tree.root(size)
        assert root == MemoryTree(lambda: leaves).root(size)
        for leaf_index in {0, size - 1, chance.randrange(size), chance.randrange(size)}:
            path = store.tree.inclusion(leaf_index, size)
            assert verify_inclusion(leaf_hash(leaves[leaf_index].leaf), leaf_index, size, path, root)
        for first in {0, 1, size, chance.randrange(size + 1)}:
            proof = store.tree.consistency(first, size)
            assert verify_consistency(first, size, proof, store.tree.root(first), root)
        store.tree.recheck(0, size, root)
        store.tree.recheck(size - 1, size, root)


def test_tiles_and_entries_are_those_of_the_plainest_tree(store: LedgerStore) -> None:
    store.flush(INDEX)
    leaves = model_at(INDEX).leaves
    plain = MemoryTree(lambda: leaves)
    for size in (1, 256, 300, len(leaves)):
        for tile in tiles(size):
            assert tile.width == tile_width(tile.level, tile.index, size)
            assert store.tree.tile(tile) == plain.tile(tile)
    assert store.tree.entries(250, 20) == [leaf.leaf for leaf in leaves[250:270]]
    assert store.tree.leaf(17) == leaves[17]
    for ask in (
        lambda: store.tree.root(len(leaves) + 1),
        lambda: store.tree.inclusion(0, len(leaves) + 1),
        lambda: store.tree.consistency(1, len(leaves) + 1),
        lambda: store.tree.entries(len(leaves) - 1, 2),
        lambda: store.tree.leaf(len(leaves)),
    ):
        with pytest.raises(LeavesUnavailable):
            ask()


def test_a_root_that_the_leaves_do_not_lead_to_is_damage(store: LedgerStore) -> None:
    store.flush(INDEX)
    with pytest.raises(DamagedFile):
        store.tree.recheck(0, 300, bytes(32))
