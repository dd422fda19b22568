"""Proofs of what is stored: tiles, entries, and paths to a published tree, all read from the file, on threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import cache, partial
from typing import TYPE_CHECKING, Final, TypeVar

from appliance.ledger.encoding import LeafError, decode_leaf, value_hash
from appliance.ledger.merkle import inclusion_proof, leaf_hash, root_from_inclusion
from appliance.ledger.note import format_note
from appliance.ledger.state import NewLeaf
from appliance.ledger.tile_paths import TILE_HEIGHT, TILE_WIDTH, BundleId, TileId
from appliance.ledger.tiles import TileError, TileNodes
from appliance.node.api import CheckpointAnswer, InclusionAnswer
from appliance.node.divergence import refuse_quarantined
from appliance.node.findings import Finding
from appliance.node.ports import DamagedFile, StorageError
from appliance.node.proof_ports import LeavesUnavailable
from appliance.node.publishing import Publishing, SignedTree
from appliance.node.reading import Reading
from appliance.tables.errors import ApplianceError

if TYPE_CHECKING:
    from appliance.node.driver import Driver

COSIGNED_AGE_US_MAX: Final = 60 * 1_000_000  # a checkpoint that witnesses know is served instead of one so much newer

T = TypeVar("T")


class Proving:
    """The calls of `NodeService` that prove.

    Args:
        driver: the running node.
        publishing: published and signed trees.
        reading: linearizable reads.
    """

    def __init__(self, driver: Driver, publishing: Publishing, reading: Reading) -> None:
        self._driver = driver
        self._publishing = publishing
        self._reading = reading

    async def checkpoint(self, size_min: int = 0) -> CheckpointAnswer:
        """The latest checkpoint to show to others."""
        return self._answer(await self._shown(size_min))

    async def _shown(self, size_min: int) -> SignedTree:
        """The latest tree, or the one that witnesses have cosigned, where that is not much older."""
        cosigned = self._publishing.cosigned.tree
        age_us = self._driver.applier.machine.published.timestamp_us - cosigned.timestamp_us
        if cosigned.tree_size >= max(1, size_min) and age_us <= COSIGNED_AGE_US_MAX:
            return await self._publishing.signed(cosigned)
        return await self._publishing.latest(size_min)

    def _answer(self, signed: SignedTree) -> CheckpointAnswer:
        note, cosigned = format_note(signed.note), self._publishing.cosigned
        if cosigned.tree.tree_size == signed.tree.tree_size:
            note += "".join(line + "\n" for line in cosigned.lines).encode()
        return CheckpointAnswer(signed.tree.tree_size, signed.tree.root, note)

    async def tile(self, tile: TileId) -> bytes:
        """The hashes of a tile."""
        await self._publishing.wait(tile.index * TILE_WIDTH + tile.width << TILE_HEIGHT * tile.level)
        return await self._read(partial(self._driver.ledger_store.tree.tile, tile))

    async def entries(self, bundle: BundleId) -> list[bytes]:
        """The leaves of an entry bundle."""
        first = bundle.index * TILE_WIDTH
        await self._publishing.wait(first + bundle.width)
        return await self._read(partial(self._driver.ledger_store.tree.entries, first, bundle.width))

    async def inclusion(self, leaf_index: int, tree_size: int) -> list[bytes]:
        """An inclusion path."""
        if not 0 <= leaf_index < tree_size:
            raise ApplianceError("leaf_out_of_range", f"Leaf {leaf_index} is in no tree of {tree_size} leaves.")
        await self._publishing.wait(tree_size)
        return await self._read(partial(self._driver.ledger_store.tree.inclusion, leaf_index, tree_size))

    async def consistency(self, first_size: int, second_size: int) -> list[bytes]:
        """A consistency proof."""
        if not 0 <= first_size <= second_size:
            raise ApplianceError(
                "leaf_out_of_range", f"A tree of {second_size} leaves cannot continue one of {first_size}."
            )
        await self._publishing.wait(second_size)
        return await self._read(partial(self._driver.ledger_store.tree.consistency, first_size, second_size))

    async def prove(self, key: str) -> InclusionAnswer:
        """Prove the latest operation on a key."""
        leaf_index = (await self._reading.head(key)).leaf_index
        (answer,) = await self._prove(leaf_index, 1, key)
        return answer

    async def receipt(self, first_leaf: int, count: int) -> list[InclusionAnswer]:
        """Prove the leaves of a write."""
        return await self._prove(first_leaf, count, None)

    async def _prove(self, first_leaf: int, count: int, key: str | None) -> list[InclusionAnswer]:
        signed = await self._shown(first_leaf + count)
        size, root = signed.tree.tree_size, signed.tree.root
        tree = self._driver.ledger_store.tree

        def read() -> tuple[list[tuple[NewLeaf, list[bytes]]], str]:
            nodes = cache(TileNodes(size, tree.tile))  # neighbouring leaves have most of their paths in common
            found: list[tuple[NewLeaf, list[bytes]]] = []
            for leaf_index in range(first_leaf, first_leaf + count):
                stored, path = tree.leaf(leaf_index), inclusion_proof(leaf_index, size, nodes)
                wrong = _what_is_wrong(stored, path, key, size, root)
                if wrong:
                    return [], wrong
                found.append((stored, path))
            return found, ""

        found, wrong = await self._read(read)
        if wrong:
            self._driver.findings.report(Finding.PROOF_FAILED, wrong)
            raise self._publishing.failed()
        answer = self._answer(signed)
        return [InclusionAnswer(one.leaf_index, one.leaf, tuple(path), answer, one.salt) for one, path in found]

    async def _read(self, read: Callable[[], T]) -> T:
        refuse_quarantined(self._driver)
        try:
            return await asyncio.to_thread(read)
        except (TileError, DamagedFile) as error:
            detail = error.detail if isinstance(error, DamagedFile) else str(error)
            self._driver.findings.report(Finding.PROOF_FAILED, detail)
            raise self._publishing.failed() from error
        except (StorageError, LeavesUnavailable) as error:  # another file has taken its place, or is about to
            raise ApplianceError("unhealthy", f"The ledger file cannot be read now: {error}. Ask again.") from error


def _what_is_wrong(stored: NewLeaf, path: list[bytes], key: str | None, tree_size: int, root: bytes) -> str:
    """Hash again what is stored of a leaf; answers what does not fit, or an empty text."""
    if root_from_inclusion(leaf_hash(stored.leaf), stored.leaf_index, tree_size, path) != root:
        return f"leaf {stored.leaf_index} does not lead to the root of the tree of {tree_size} leaves"
    try:
        leaf = decode_leaf(stored.leaf)
    except LeafError as error:
        return f"leaf {stored.leaf_index}: {error}"
    if leaf.leaf_index != stored.leaf_index or (key is not None and leaf.key != key):
        return f"leaf {stored.leaf_index} is not the one that its key points at"
    if stored.value is not None and value_hash(stored.salt, stored.value) != leaf.value_hash:
        return f"the value of leaf {stored.leaf_index} does not match the hash in the leaf"
    return ""
