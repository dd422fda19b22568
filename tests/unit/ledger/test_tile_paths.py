"""Names of tiles, one spelling each, and which of them a tree has."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.ledger.canonical import DECIMAL_MAX
from appliance.ledger.tile_paths import (
    LEVEL_MAX,
    BundleId,
    TileId,
    TilePathError,
    bundles,
    format_path,
    parse_path,
    partial_tiles,
    tile_width,
    tiles,
)

PATHS = [
    (TileId(0, 0), "tile/0/000"),
    (TileId(0, 999), "tile/0/999"),
    (TileId(0, 1000), "tile/0/x001/000"),
    (TileId(0, 1234067), "tile/0/x001/x234/067"),
    (TileId(0, 1234067, 8), "tile/0/x001/x234/067.p/8"),
    (TileId(3, 1000000, 255), "tile/3/x001/x000/000.p/255"),
    (TileId(63, 5), "tile/63/005"),
    (TileId(0, DECIMAL_MAX), "tile/0/x009/x223/x372/x036/x854/x775/807"),
    (BundleId(1234067), "tile/entries/x001/x234/067"),
    (BundleId(273, 112), "tile/entries/273.p/112"),
]


@pytest.mark.parametrize(("resource", "path"), PATHS, ids=[path for _, path in PATHS])
def test_paths(resource: TileId | BundleId, path: str) -> None:
    assert format_path(resource) == path
    assert parse_path(path) == resource


@given(st.integers(0, LEVEL_MAX), st.integers(0, DECIMAL_MAX), st.integers(1, 256))
def test_paths_read_back(level: int, index: int, width: int) -> None:
    for resource in (TileId(level, index, width), BundleId(index, width)):
        assert parse_path(format_path(resource)) == resource


@given(st.from_regex(r"tile/(entries|[0-9]{1,2})/(x[0-9]{3}/){0,3}[0-9]{2,3}(\.p/[0-9]{1,3})?", fullmatch=True))
def test_a_path_has_one_spelling(path: str) -> None:
    try:
        resource = parse_path(path)
    except TilePathError:
        return
    assert format_path(resource) == path


@pytest.mark.parametrize(
    "path",
    [
        "",
        "tile/0",
        "tile/0/",
        "tile/0/0",
        "tile/0/00",
        "tile/0/0000",
        "tile/0/x000",
        "tile/0/x001",
        "tile/0/x000/000",
        "tile/0/x000/x001/000",
        "tile/0/001/000",
        "tile/0/x01/000",
        "tile/0/X001/000",
        "tile/0/x001//000",
        "tile/0/000/",
        "/tile/0/000",
        "tile//000",
        "tile/00/000",
        "tile/-1/000",
        "tile/64/000",
        "tile/data/000",
        "tile/8/0/000",
        "tile/0/000.p/0",
        "tile/0/000.p/00",
        "tile/0/000.p/01",
        "tile/0/000.p/256",
        "tile/0/000.p/999",
        "tile/0/000.p/",
        "tile/0/000.p",
        "tile/0/000.p/1/",
        "tile/0/000.p/1\n",
        "tile/0/000\n",
        "tile/0/\u0660\u0660\u0660",
        "tile/0/x009/x223/x372/x036/x854/x775/808",
        "tile/0/x001/x000/x000/x000/x000/x000/x000/000",
        "tile/0/../0/000",
        "tile/0/%30%30%30",
    ],
)
def test_what_is_no_path(path: str) -> None:
    with pytest.raises(TilePathError):
        parse_path(path)


def test_the_specifications_trees() -> None:
    """A tree of 70,000 leaves, and one of 256."""
    named = list(tiles(70_000))
    assert named == [
        *(TileId(0, index) for index in range(273)),
        TileId(0, 273, 112),
        TileId(1, 0),
        TileId(1, 1, 17),
        TileId(2, 0, 1),
    ]
    assert list(partial_tiles(70_000)) == [TileId(0, 273, 112), TileId(1, 1, 17), TileId(2, 0, 1)]
    assert list(tiles(256)) == [TileId(0, 0), TileId(1, 0, 1)]
    assert list(partial_tiles(256)) == [TileId(1, 0, 1)]


@pytest.mark.parametrize("listed", [tiles, partial_tiles, bundles])
def test_an_empty_tree_has_nothing(listed: object) -> None:
    assert callable(listed)
    assert list(listed(0)) == []


@given(st.integers(1, 2**18))
def test_what_a_tree_has_follows_from_the_definition(tree_size: int) -> None:
    """The n-th tile of level l holds hash i when i whole groups of 256**l leaves stand before its place."""
    named = list(tiles(tree_size))
    assert all(tile.width == tile_width(tile.level, tile.index, tree_size) > 0 for tile in named)
    for level in range(4):
        hashes = tree_size // 256**level
        widths = [tile.width for tile in named if tile.level == level]
        assert sum(widths) == hashes
        assert all(width == 256 for width in widths[:-1])
        assert tile_width(level, len(widths), tree_size) == 0
        edge = [tile.width for tile in partial_tiles(tree_size) if tile.level == level]
        assert edge == ([hashes % 256] if hashes % 256 else [])
    assert [(one.index, one.width) for one in bundles(tree_size)] == [
        (tile.index, tile.width) for tile in named if tile.level == 0
    ]
