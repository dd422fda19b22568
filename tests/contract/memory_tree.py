"""The plainest tree: RFC 9162 by recursion over all leaf hashes, each time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256

from appliance.ledger.merkle import consistency_proof, inclusion_proof
from appliance.ledger.state import NewLeaf
from appliance.ledger.tile_paths import TILE_HEIGHT, TileId
from appliance.node.ports import DamagedFile
from appliance.node.proof_ports import LeavesUnavailable


def naive_root(hashes: Sequence[bytes]) -> bytes:
    """Root over leaf hashes."""
    if not hashes:
        return sha256(b"").digest()
    if len(hashes) == 1:
        return hashes[0]
    split = 1
    while 2 * split < len(hashes):
        split *= 2
    return sha256(b"\x01" + naive_root(hashes[:split]) + naive_root(hashes[split:])).digest()


class MemoryTree:
    """`LedgerTree` over the leaves that a store in memory has flushed."""

    def __init__(self, leaves: Callable[[], Sequence[NewLeaf]]) -> None:
        self._leaves = leaves

    def _hashes(self, size: int) -> list[bytes]:
        leaves = self._leaves()
        if size > len(leaves):
            raise LeavesUnavailable(f"{size} of {len(leaves)} leaves")
        return [sha256(b"\x00" + leaf.leaf).digest() for leaf in leaves[:size]]

    def tile(self, tile: TileId) -> bytes:
        step = 1 << TILE_HEIGHT * tile.level
        first = tile.index << TILE_HEIGHT
        hashes = self._hashes((first + tile.width) * step)
        return b"".join(naive_root(hashes[n * step : (n + 1) * step]) for n in range(first, first + tile.width))

    def entries(self, first: int, count: int) -> list[bytes]:
        self._hashes(first + count)
        return [leaf.leaf for leaf in self._leaves()[first : first + count]]

    def leaf(self, leaf_index: int) -> NewLeaf:
        self._hashes(leaf_index + 1)
        return self._leaves()[leaf_index]

    def root(self, tree_size: int) -> bytes:
        return naive_root(self._hashes(tree_size))

    def inclusion(self, leaf_index: int, tree_size: int) -> list[bytes]:
        hashes = self._hashes(tree_size)
        return inclusion_proof(leaf_index, tree_size, lambda level, n: naive_root(hashes[n << level : n + 1 << level]))

    def consistency(self, first_size: int, second_size: int) -> list[bytes]:
        hashes = self._hashes(second_size)
        return consistency_proof(
            first_size, second_size, lambda level, n: naive_root(hashes[n << level : n + 1 << level])
        )

    def recheck(self, first: int, tree_size: int, root: bytes) -> None:
        if self.root(tree_size) != root:
            raise DamagedFile("memory", f"the tree of {tree_size} leaves has another root")
