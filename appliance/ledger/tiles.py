"""Tiles of the tree: made of leaf hashes one by one, read for proofs, and checked against a root.

A store keeps whole tiles for good. Partial ones need not be kept: with the leaf hashes behind the last whole tile of
level 0, all of them follow (`TileBuilder.resume`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from hashlib import sha256
from typing import Final, NamedTuple

from appliance.ledger.merkle import HASH_BYTES, MerkleFrontier
from appliance.ledger.tile_paths import TILE_HEIGHT, TILE_WIDTH, TileId, partial_tiles, row_counts, tile_width

TILE_BYTES: Final = TILE_WIDTH * HASH_BYTES
TILES_HELD_MAX: Final = 64  # a proof in a tree of 2**48 leaves reads 12
ROOTS_HELD_MAX: Final = 4  # who writes a whole tile asks for its root once more

ReadTile = Callable[[TileId], bytes]  # the bytes of the tile with exactly that width


class TileError(ValueError):
    """A tile cannot be used."""


class TileTruncated(TileError):
    """A tile has more or fewer bytes than its width says."""


class TileWrong(TileError):
    """The hashes of a tile do not lead to those above them."""


class Tile(NamedTuple):
    """A tile and its bytes."""

    tile: TileId
    data: bytes


class TileBuilder:
    """A tree that grows by leaf hashes and gives out each tile when it is whole.

    It holds the right edge, less than `TILE_BYTES` for each level.
    """

    __slots__ = ("_rows", "_size")

    def __init__(self) -> None:
        self._size = 0
        self._rows = [bytearray()]  # the partial tile of each level, empty where there is none

    @classmethod
    def resume(cls, tree_size: int, read: ReadTile, leaf_hashes: Sequence[bytes]) -> TileBuilder:
        """Go on with a tree from its whole tiles and the leaf hashes behind the last whole tile of level 0.

        Reads at most `TILE_WIDTH` - 1 tiles a level. Whether they are the right ones is seen by comparing `frontier`
        with one that is known.

        Raises:
            TileTruncated: a tile has not `TILE_BYTES`.
            ValueError: there are more or fewer leaf hashes than the size asks for.
        """
        if len(leaf_hashes) != tree_size % TILE_WIDTH or any(len(one) != HASH_BYTES for one in leaf_hashes):
            raise ValueError(f"a tree of {tree_size} leaves has not {len(leaf_hashes)} leaf hashes behind its tiles")
        builder = cls()
        builder._size = tree_size
        builder._rows = [bytearray().join(leaf_hashes)]
        for level, count in enumerate(row_counts(tree_size >> TILE_HEIGHT)):
            below = range(count - count % TILE_WIDTH, count)
            builder._rows.append(
                bytearray().join(tile_root(_read_checked(TileId(level, index), read)) for index in below)
            )
        return builder

    @property
    def size(self) -> int:
        """Number of leaves."""
        return self._size

    def append(self, new_leaf_hash: bytes) -> Sequence[Tile]:
        """Add a leaf by its hash; answers the tiles that it made whole, lowest level first. Mostly none."""
        row = self._rows[0]
        row += new_leaf_hash
        self._size += 1
        return () if len(row) < TILE_BYTES else self._complete()

    def extend(self, new_leaf_hashes: Sequence[bytes]) -> list[Tile]:
        """Add leaves by their hashes, in their order, as `append` adds one."""
        completed: list[Tile] = []
        at = 0
        while at < len(new_leaf_hashes):
            part = new_leaf_hashes[at : at + TILE_WIDTH - self._size % TILE_WIDTH]
            self._rows[0] += b"".join(part)
            self._size += len(part)
            at += len(part)
            if self._size % TILE_WIDTH == 0:
                completed += self._complete()
        return completed

    def partial_tiles(self) -> list[Tile]:
        """The right edge as it is now, at most one tile a level."""
        return [Tile(tile, bytes(self._rows[tile.level])) for tile in partial_tiles(self._size)]

    def frontier(self) -> tuple[bytes, ...]:
        """Hashes of the complete subtrees that make up the tree, largest first: `MerkleFrontier.hashes`."""
        return _frontier(self._rows)

    def _complete(self) -> list[Tile]:
        completed: list[Tile] = []
        for level, count in enumerate(row_counts(self._size)):
            row = self._rows[level]
            if len(row) < TILE_BYTES:
                break
            data = bytes(row)
            completed.append(Tile(TileId(level, count // TILE_WIDTH - 1), data))
            row.clear()
            if level + 1 == len(self._rows):
                self._rows.append(bytearray())
            self._rows[level + 1] += tile_root(data)
        return completed


class TileNodes:
    """The complete nodes of a tree, read from its tiles: a `NodeReader` for `merkle`'s proofs.

    A proof reads at most two tiles a level. Nothing is verified but the tiles' lengths: a proof made of wrong tiles
    does not lead to the root.

    Args:
        tree_size: leaves of the tree, which says how wide its last tiles are.
        read: gives the bytes of a tile; the first `width` hashes of the whole tile will do for a partial one.

    Raises:
        TileTruncated: at a read, when the tile has another length than its width says.
    """

    def __init__(self, tree_size: int, read: ReadTile) -> None:
        self._tree_size = tree_size
        self._read: Final = lru_cache(TILES_HELD_MAX)(lambda tile: _read_checked(tile, read))

    def __call__(self, level: int, index: int) -> bytes:
        """Hash of the complete node (level, index)."""
        tile_level, height = divmod(level, TILE_HEIGHT)
        tile_index, begin = divmod(index << height, TILE_WIDTH)
        end = begin + (1 << height)
        width = tile_width(tile_level, tile_index, self._tree_size)
        assert end <= width, f"node ({level}, {index}) is not complete in a tree of {self._tree_size} leaves"
        data = self._read(TileId(tile_level, tile_index, width))
        return tile_root(data[begin * HASH_BYTES : end * HASH_BYTES])


def check_tiles(tree_size: int, root: bytes, read: ReadTile) -> Iterator[TileId]:
    """Check all tiles of a tree from the root down to the leaf hashes, yielding each whole one that was found right.

    Raises:
        TileTruncated: a tile has another length than its width says.
        TileWrong: the right edge does not lead to the root, or a tile not to its hash in the tile above.
    """
    rows = [b"" for _ in row_counts(tree_size)]
    for edge in partial_tiles(tree_size):
        rows[edge.level] = _read_checked(edge, read)
    if MerkleFrontier.from_frontier(tree_size, _frontier(rows)).root() != root:
        raise TileWrong(f"the partial tiles of the tree of {tree_size} leaves do not lead to its root")
    nodes = TileNodes(tree_size, read)
    for level, count in reversed(list(enumerate(row_counts(tree_size)))):
        for index in range(count // TILE_WIDTH):
            tile = TileId(level, index)
            if tile_root(_read_checked(tile, read)) != nodes(TILE_HEIGHT * (level + 1), index):
                raise TileWrong(f"tile {index} of level {level} does not lead to its hash in the tile above it")
            yield tile


def _read_checked(tile: TileId, read: ReadTile) -> bytes:
    data = read(tile)
    if len(data) != tile.width * HASH_BYTES:
        raise TileTruncated(
            f"tile {tile.index} of level {tile.level} has {len(data)} bytes; {tile.width} hashes have "
            f"{tile.width * HASH_BYTES}"
        )
    return data


@lru_cache(ROOTS_HELD_MAX)
def tile_root(data: bytes) -> bytes:
    """Root over hashes side by side, as many as a power of two."""
    while len(data) > HASH_BYTES:
        pairs = range(0, len(data), 2 * HASH_BYTES)
        data = b"".join(sha256(b"\x01" + data[at : at + 2 * HASH_BYTES]).digest() for at in pairs)
    return data


def _frontier(rows: Iterable[bytes | bytearray]) -> tuple[bytes, ...]:
    """The complete subtrees, largest first, that partial tiles, one a level from 0, stand over."""
    hashes: list[bytes] = []
    for row in rows:
        end = len(row)
        for height in range(TILE_HEIGHT):
            length = HASH_BYTES << height
            if end & length:
                hashes.append(tile_root(bytes(row[end - length : end])))
                end -= length
    return tuple(reversed(hashes))
