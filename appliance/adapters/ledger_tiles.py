"""The tiles of the tree in `ledger.db`: whole ones only, each written with the leaf that made it whole.

What is partial follows from the leaves behind the last whole tile of level 0. A tile's root stands beside it, so that
the tiles above, while they are partial, are read without reading all below them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast

import apsw

from appliance.adapters.sqlite import Value
from appliance.ledger.merkle import leaf_hash
from appliance.ledger.tile_paths import TILE_WIDTH, TileId
from appliance.ledger.tiles import Tile, TileBuilder, TileError, tile_root

TILES_TABLE: Final = (
    "CREATE TABLE tiles (place INTEGER PRIMARY KEY, root BLOB NOT NULL, hashes BLOB NOT NULL) STRICT"  # see `place_of`
)
TILES_SINCE: Final = 3  # format of `ledger.db` from which on it has tiles
TILE_BY_PLACE: Final = "SELECT hashes FROM tiles WHERE place = ?"
ROOTS_BY_PLACE: Final = "SELECT root FROM tiles WHERE place >= ? AND place < ? ORDER BY place"
LEAVES_BETWEEN: Final = "SELECT leaf FROM leaves WHERE leaf_index >= ? AND leaf_index < ? ORDER BY leaf_index"

_INSERT: Final = "INSERT INTO tiles VALUES (?, ?, ?)"
_INDEX_BITS: Final = 48  # more than a tree of 2**53 leaves has tiles at level 0


def place_of(level: int, index: int) -> int:
    """Where a whole tile stands in the table: those of a level side by side."""
    assert 0 <= index < 1 << _INDEX_BITS
    return level << _INDEX_BITS | index


def row_of(tile: Tile) -> tuple[Value, ...]:
    """The row of a whole tile."""
    return (place_of(tile.tile.level, tile.tile.index), tile_root(tile.data), tile.data)


class Edge:
    """The right edge of the stored tree: takes leaves as they are written, and writes the tiles that they make whole.

    Belongs to who writes the file. When a transaction fails, what is here is ahead of the file and of no more use.
    """

    def __init__(self, builder: TileBuilder) -> None:
        self._builder = builder

    @classmethod
    def of(cls, db: apsw.Connection, tree_size: int) -> Edge:
        """Read the edge of the tree that the file holds: at most 255 tiles a level. Raises `TileError`, `ValueError`:
        tiles or leaves are missing.
        """

        def read(tile: TileId) -> bytes:
            row = db.execute(TILE_BY_PLACE, (place_of(tile.level, tile.index),)).fetchone()
            if row is None:
                raise TileError(f"tile {tile.index} of level {tile.level} is missing")
            return cast(bytes, row[0])

        behind = (tree_size - tree_size % TILE_WIDTH, tree_size)
        hashes = [leaf_hash(cast(bytes, row[0])) for row in db.execute(LEAVES_BETWEEN, behind)]
        return cls(TileBuilder.resume(tree_size, read, hashes))

    def grow(self, db: apsw.Connection, leaf_hashes: Sequence[bytes]) -> None:
        """Add leaves in their order, by the hashes that they were applied with; to be called in the transaction that
        writes them. Before anything is signed over them they are read back and hashed again.
        """
        for tile in self._builder.extend(leaf_hashes):
            db.execute(_INSERT, row_of(tile))


def build_tiles(db: apsw.Connection) -> None:
    """Write the tiles of all leaves into an empty table; to be called in a transaction."""
    edge = Edge(TileBuilder())
    leaves: list[bytes] = []
    for row in db.execute("SELECT leaf FROM leaves ORDER BY leaf_index"):
        leaves.append(cast(bytes, row[0]))
        if len(leaves) == TILE_WIDTH:
            edge.grow(db, list(map(leaf_hash, leaves)))
            leaves.clear()
