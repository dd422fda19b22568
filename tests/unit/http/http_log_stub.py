"""The part of the tests' node that proves: real tiles, proofs and signatures over the leaves in memory."""

from __future__ import annotations

import asyncio

from appliance.adapters.ed25519 import SigningKey
from appliance.ledger.checkpoint import Checkpoint, sign_checkpoint
from appliance.ledger.memory import MemoryLedger
from appliance.ledger.merkle import HASH_BYTES, consistency_proof, inclusion_proof, leaf_hash, root_of
from appliance.ledger.note import SignatureType, format_note
from appliance.ledger.state import NewLeaf
from appliance.ledger.tile_paths import TILE_HEIGHT, TILE_WIDTH, BundleId, TileId
from appliance.ledger.tiles import TileBuilder, TileNodes
from appliance.node.api import CheckpointAnswer, InclusionAnswer
from appliance.tables.errors import ApplianceError

LOG_KEY = SigningKey(f"scribe-ledger/{'ab' * 16}/1", SignatureType.ED25519, bytes(range(32)))


class LogCalls:
    """Publishes each size at once, or those only up to `published_max`. Nobody waits here: who asks for more than that
    is told at once what a node tells when time is over. `log_fault` is raised by every call; with `log_hold` a receipt
    waits.
    """

    store: MemoryLedger

    def __init__(self) -> None:
        self.published_max: int | None = None
        self.log_fault: Exception | None = None
        self.log_hold: asyncio.Event | None = None
        self.proving = 0  # receipts under way
        self._builder = TileBuilder()
        self._whole: dict[tuple[int, int], bytes] = {}

    def published_size(self) -> int:
        held = len(self.store.leaves)
        return held if self.published_max is None else min(held, self.published_max)

    async def checkpoint(self, size_min: int = 0) -> CheckpointAnswer:
        self._expect(max(1, size_min))
        return self._signed(self.published_size())

    async def tile(self, tile: TileId) -> bytes:
        self._expect((tile.index * TILE_WIDTH + tile.width) << TILE_HEIGHT * tile.level)
        return self._tile(tile)

    async def entries(self, bundle: BundleId) -> list[bytes]:
        first = bundle.index * TILE_WIDTH
        self._expect(first + bundle.width)
        return [one.leaf for one in self.store.leaves[first : first + bundle.width]]

    async def inclusion(self, leaf_index: int, tree_size: int) -> list[bytes]:
        if not 0 <= leaf_index < tree_size:
            raise ApplianceError("leaf_out_of_range", "There is no such leaf.")
        self._expect(tree_size)
        return inclusion_proof(leaf_index, tree_size, self._nodes(tree_size))

    async def consistency(self, first_size: int, second_size: int) -> list[bytes]:
        if not 0 <= first_size <= second_size:
            raise ApplianceError("leaf_out_of_range", "A tree does not shrink.")
        self._expect(second_size)
        return consistency_proof(first_size, second_size, self._nodes(second_size))

    async def prove(self, key: str) -> InclusionAnswer:
        self._raise_fault()
        head = self.store.head(key)
        if head is None:
            raise ApplianceError("not_found", "The key was never written.")
        (answer,) = self._proven(head.leaf_index, 1)
        return answer

    async def receipt(self, first_leaf: int, count: int) -> list[InclusionAnswer]:
        self.proving += 1
        try:
            if self.log_hold is not None:
                await self.log_hold.wait()
        finally:
            self.proving -= 1
        return self._proven(first_leaf, count)

    def _proven(self, first_leaf: int, count: int) -> list[InclusionAnswer]:
        self._expect(first_leaf + count)
        size = self.published_size()
        checkpoint, nodes = self._signed(size), self._nodes(size)

        def proven(leaf: NewLeaf) -> InclusionAnswer:
            path = tuple(inclusion_proof(leaf.leaf_index, size, nodes))
            return InclusionAnswer(leaf.leaf_index, leaf.leaf, path, checkpoint, leaf.salt)

        return list(map(proven, self.store.leaves[first_leaf : first_leaf + count]))

    def _signed(self, size: int) -> CheckpointAnswer:
        root = root_of(size, self._nodes(size))
        key = LOG_KEY.verifier_key
        note = sign_checkpoint(Checkpoint(key.name, size, root), key, LOG_KEY.sign)
        return CheckpointAnswer(size, root, format_note(note))

    def _expect(self, size: int) -> None:
        self._raise_fault()
        if size > self.published_size():
            raise ApplianceError("not_published", f"There are {self.published_size()} of {size} leaves.")

    def _raise_fault(self) -> None:
        if self.log_fault is not None:
            raise self.log_fault

    def _nodes(self, tree_size: int) -> TileNodes:
        return TileNodes(tree_size, self._tile)

    def _tile(self, tile: TileId) -> bytes:
        for leaf in self.store.leaves[self._builder.size :]:
            self._whole.update({(t.level, t.index): data for t, data in self._builder.append(leaf_hash(leaf.leaf))})
        edge = {(t.level, t.index): data for t, data in self._builder.partial_tiles()}
        data = self._whole.get((tile.level, tile.index)) or edge[tile.level, tile.index]
        return data[: tile.width * HASH_BYTES]
