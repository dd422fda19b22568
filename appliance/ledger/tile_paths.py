"""The names of tiles and entry bundles, and which of them a tree has, after c2sp.org/tlog-tiles.

A tile is `TILE_WIDTH` hashes side by side: those of level 0 are leaf hashes, those of level l the roots of whole tiles
of level l - 1, so its hashes are the nodes (l * `TILE_HEIGHT`, i) of the tree. The last tile of a level is partial
while it has fewer. A bundle holds the entries whose leaf hashes the tile of level 0 with the same index holds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from appliance.ledger.canonical import DECIMAL_MAX

TILE_WIDTH: Final = 256
TILE_HEIGHT: Final = 8  # levels of the tree from a tile's hashes up to its root
LEVEL_MAX: Final = 63

_PATH: Final = re.compile(
    r"tile/(entries|[0-9]|[1-5][0-9]|6[0-3])/"
    r"((?:x[0-9]{3}/){0,6}[0-9]{3})"
    r"(?:\.p/([1-9]|[1-9][0-9]|1[0-9]{2}|2[0-4][0-9]|25[0-5]))?"
)


class TilePathError(ValueError):
    """A path names neither a tile nor a bundle in the one way that there is to write it."""


@dataclass(frozen=True, slots=True)
class TileId:
    """A tile: its level, its place in the level, and how many hashes it has, 1 to `TILE_WIDTH`."""

    level: int
    index: int
    width: int = TILE_WIDTH


@dataclass(frozen=True, slots=True)
class BundleId:
    """An entry bundle: its place, and how many entries it has, 1 to `TILE_WIDTH`."""

    index: int
    width: int = TILE_WIDTH


def format_path(resource: TileId | BundleId) -> str:
    """The path below the log's prefix, without a slash in front."""
    level = resource.level if isinstance(resource, TileId) else "entries"
    rest, last = divmod(resource.index, 1000)
    elements = [f"{last:03}"]
    while rest:
        rest, group = divmod(rest, 1000)
        elements.insert(0, f"x{group:03}")
    suffix = f".p/{resource.width}" if resource.width < TILE_WIDTH else ""
    return f"tile/{level}/{'/'.join(elements)}{suffix}"


def parse_path(path: str) -> TileId | BundleId:
    """Read a path below the log's prefix. Raises `TilePathError`.

    Whether a tree has that tile is another question: `tile_width` answers it.
    """
    match = _PATH.fullmatch(path)
    if match is None or match[2].startswith("x000"):
        raise TilePathError(f"{path!r:.100} is no path of a tile or an entry bundle")
    index = int(match[2].replace("/", "").replace("x", ""))
    if index > DECIMAL_MAX:
        raise TilePathError(f"{path!r:.100} is beyond what a tree can have")
    width = int(match[3] or TILE_WIDTH)
    return BundleId(index, width) if match[1] == "entries" else TileId(int(match[1]), index, width)


def tile_width(level: int, index: int, tree_size: int) -> int:
    """How many hashes the tile has in a tree of this size; 0 when that tree does not have it."""
    return min(max((tree_size >> TILE_HEIGHT * level) - index * TILE_WIDTH, 0), TILE_WIDTH)


def row_counts(tree_size: int) -> Iterator[int]:
    """How many hashes the tiles of each level hold together, from level 0 as far as there are any."""
    while tree_size:
        yield tree_size
        tree_size >>= TILE_HEIGHT


def tiles(tree_size: int) -> Iterator[TileId]:
    """All tiles that make up a tree of this size, level by level from 0, the partial ones last in theirs."""
    for level, count in enumerate(row_counts(tree_size)):
        for index in range(-(-count // TILE_WIDTH)):
            yield TileId(level, index, tile_width(level, index, tree_size))


def partial_tiles(tree_size: int) -> Iterator[TileId]:
    """The right edge: the partial tiles of a tree of this size, at most one a level, from level 0."""
    for level, count in enumerate(row_counts(tree_size)):
        if count % TILE_WIDTH:
            yield TileId(level, count // TILE_WIDTH, count % TILE_WIDTH)


def bundles(tree_size: int) -> Iterator[BundleId]:
    """All entry bundles of a tree of this size."""
    for index in range(-(-tree_size // TILE_WIDTH)):
        yield BundleId(index, tile_width(0, index, tree_size))
