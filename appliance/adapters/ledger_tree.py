"""Reads tiles, leaves and proofs from `ledger.db`, on worker threads, over a connection of its own.

What is in memory only does not count here: a tree is proven once the file holds it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, cast

import apsw

from appliance.adapters.ledger_rows import LEAF_BY_INDEX, leaf_from_row, stored_summary
from appliance.adapters.ledger_tiles import LEAVES_BETWEEN, ROOTS_BY_PLACE, TILE_BY_PLACE, place_of
from appliance.adapters.shared_reader import SharedReader
from appliance.adapters.sqlite import Row, Value, storage_error
from appliance.ledger.merkle import HASH_BYTES, consistency_proof, inclusion_proof, leaf_hash, root_of
from appliance.ledger.state import NewLeaf
from appliance.ledger.tile_paths import TILE_WIDTH, TileId, row_counts
from appliance.ledger.tiles import TileError, TileNodes, tile_root
from appliance.node.ports import DamagedFile
from appliance.node.proof_ports import LeavesUnavailable

CACHE_BYTES: Final = 4 * 2**20


class LedgerTree:
    """The stored tree of one ledger file (`appliance.node.ports.LedgerTree`).

    Args:
        path: `ledger.db`.
        vfs: name of the SQLite VFS to go through.

    Attributes:
        file: the connection.
    """

    def __init__(self, path: Path, vfs: str | None = None) -> None:
        self._path = path
        self.file = SharedReader(path, CACHE_BYTES, vfs)

    def tile(self, tile: TileId) -> bytes:
        """The hashes of a tile."""
        begin, end = tile.index * TILE_WIDTH, tile.index * TILE_WIDTH + tile.width
        row = self._rows(TILE_BY_PLACE, (place_of(tile.level, tile.index),))
        if row:
            return cast(bytes, row[0][0])[: tile.width * HASH_BYTES]
        if tile.level == 0:
            return b"".join(map(leaf_hash, self.entries(begin, tile.width)))
        below = self._rows(ROOTS_BY_PLACE, (place_of(tile.level - 1, begin), place_of(tile.level - 1, end)))
        if len(below) != tile.width:
            raise LeavesUnavailable(f"tile {tile.index} of level {tile.level} has no {tile.width} hashes yet")
        return b"".join(cast(bytes, root) for (root,) in below)

    def entries(self, first: int, count: int) -> list[bytes]:
        """Leaves as they are in the tree."""
        rows = self._rows(LEAVES_BETWEEN, (first, first + count))
        if len(rows) != count:
            raise LeavesUnavailable(f"the file holds {len(rows)} of the {count} leaves from {first} on")
        return [cast(bytes, leaf) for (leaf,) in rows]

    def leaf(self, leaf_index: int) -> NewLeaf:
        """A leaf with salt and value."""
        rows = self._rows(LEAF_BY_INDEX, (leaf_index,))
        if not rows:
            raise LeavesUnavailable(f"the file does not hold leaf {leaf_index}")
        return leaf_from_row(rows[0])

    def root(self, tree_size: int) -> bytes:
        """Root of the tree of so many leaves."""
        self._expect(tree_size)
        with self._whole_tiles():
            return root_of(tree_size, self._nodes(tree_size))

    def inclusion(self, leaf_index: int, tree_size: int) -> list[bytes]:
        """The inclusion path of a leaf."""
        self._expect(tree_size)
        with self._whole_tiles():
            return inclusion_proof(leaf_index, tree_size, self._nodes(tree_size))

    def consistency(self, first_size: int, second_size: int) -> list[bytes]:
        """The consistency proof of two sizes."""
        self._expect(second_size)
        with self._whole_tiles():
            return consistency_proof(first_size, second_size, self._nodes(second_size))

    def recheck(self, first: int, tree_size: int, root: bytes) -> None:
        """Hash what stands from a leaf on again, level by level up to the root."""
        self._expect(tree_size)
        first //= TILE_WIDTH
        for level, count in enumerate(row_counts(tree_size)):
            for index in range(first, count // TILE_WIDTH):
                self.recheck_tile(level, index)
            first //= TILE_WIDTH
        try:
            found = self.root(tree_size)
        except LeavesUnavailable as error:
            raise DamagedFile(str(self._path), f"the tree of {tree_size} leaves is not whole: {error}") from error
        if found != root:
            raise DamagedFile(
                str(self._path),
                f"the tree of {tree_size} leaves has the root {found.hex()}, and {root.hex()} was worked out when "
                "they were written",
            )

    def recheck_tile(self, level: int, index: int) -> None:
        """See that a whole tile is what the leaves or the tiles below it say. Raises `DamagedFile`."""
        place, begin = place_of(level, index), index * TILE_WIDTH
        rows = self._rows("SELECT hashes, root FROM tiles WHERE place = ?", (place,))
        if not rows:
            raise DamagedFile(str(self._path), f"tile {index} of level {level} is missing")
        hashes, root = cast(tuple[bytes, bytes], rows[0])
        if level == 0:
            below = [
                leaf_hash(cast(bytes, leaf)) for (leaf,) in self._rows(LEAVES_BETWEEN, (begin, begin + TILE_WIDTH))
            ]
        else:
            places = (place_of(level - 1, begin), place_of(level - 1, begin + TILE_WIDTH))
            below = [cast(bytes, one) for (one,) in self._rows(ROOTS_BY_PLACE, places)]
        if b"".join(below) != hashes:
            raise DamagedFile(str(self._path), _first_difference(level, begin, below, hashes))
        if tile_root(hashes) != root:
            raise DamagedFile(str(self._path), f"tile {index} of level {level} does not lead to the root beside it")

    @contextmanager
    def _whole_tiles(self) -> Iterator[None]:
        """What is no tile is damage of this file."""
        try:
            yield
        except TileError as error:
            raise DamagedFile(str(self._path), str(error)) from error

    def _nodes(self, tree_size: int) -> TileNodes:
        return TileNodes(tree_size, self.tile)

    def _expect(self, tree_size: int) -> None:
        """Raise `LeavesUnavailable` unless the file holds that many leaves."""
        with self.file.use() as reader:
            try:
                held = stored_summary(reader.db).tree_size
            except ValueError as error:
                raise DamagedFile(str(self._path), str(error)) from error
            except apsw.Error as error:
                raise storage_error(self._path, reader.db, error) from error
        if held < tree_size:
            raise LeavesUnavailable(f"the file holds {held} of {tree_size} leaves")

    def _rows(self, statement: str, bindings: Row) -> list[tuple[Value, ...]]:
        with self.file.use() as reader:
            return reader.rows(statement, bindings)


def _first_difference(level: int, begin: int, below: list[bytes], hashes: bytes) -> str:
    """Say where a tile differs from what stands below it."""
    for position in range(TILE_WIDTH):
        if position >= len(below):
            what = "leaf" if level == 0 else f"tile of level {level - 1} with index"
            return f"{what} {begin + position} is missing"
        if below[position] != hashes[position * HASH_BYTES : (position + 1) * HASH_BYTES]:
            what = f"leaf {begin + position}" if level == 0 else f"tile {begin + position} of level {level - 1}"
            return f"{what} does not lead to its hash in the tile of level {level} above it"
    return f"the tile of level {level} over {begin} is longer than {TILE_WIDTH} hashes"
