"""Tiles against RFC 9162's definitions written down plainly, a restart at any size, and damage."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_merkle import naive_path, naive_root, naive_subproof

from appliance.ledger.merkle import (
    EMPTY_ROOT,
    MerkleFrontier,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    verify_consistency,
    verify_inclusion,
)
from appliance.ledger.tile_paths import TileId, partial_tiles, tiles
from appliance.ledger.tiles import (
    TILE_BYTES,
    Tile,
    TileBuilder,
    TileNodes,
    TileTruncated,
    TileWrong,
    check_tiles,
)

LEAVES_MAX = 70_000
# The edges of tiles of the first three levels, and what is next to them.
SIZES = st.one_of(st.integers(0, 600), st.sampled_from([65_535, 65_536, 65_537, 66_000, 70_000]))


def leaf(index: int) -> bytes:
    return f"leaf {index}".encode()


@lru_cache(1)
def leaf_hashes() -> list[bytes]:
    return [leaf_hash(leaf(index)) for index in range(LEAVES_MAX)]


@lru_cache(1)
def rows() -> list[list[bytes]]:
    """Hashes of all complete nodes, level by level: no tiles, no frontier."""
    found = [leaf_hashes()]
    while len(found[-1]) > 1:
        below = found[-1]
        found.append([node_hash(below[at], below[at + 1]) for at in range(0, len(below) - 1, 2)])
    return found


def expected(tile: TileId) -> bytes:
    """The definition: MTH(D[(n * 256 + i) * 256**l : (n * 256 + i + 1) * 256**l]) for each i."""
    begin = tile.index * 256
    return b"".join(rows()[8 * tile.level][begin : begin + tile.width])


def frontier(tree_size: int) -> MerkleFrontier:
    tree = MerkleFrontier()
    for one in leaf_hashes()[:tree_size]:
        tree.append(one)
    return tree


def grown(tree_size: int) -> tuple[TileBuilder, list[Tile]]:
    builder = TileBuilder()
    return builder, [tile for one in leaf_hashes()[:tree_size] for tile in builder.append(one)]


@settings(max_examples=40, deadline=None)
@given(SIZES)
def test_a_tree_gives_out_each_whole_tile_once_and_keeps_the_edge(tree_size: int) -> None:
    builder, whole = grown(tree_size)
    assert all(one.data == expected(one.tile) for one in (*whole, *builder.partial_tiles()))
    assert sorted((one.tile.level, one.tile.index) for one in whole) == [
        (tile.level, tile.index) for tile in tiles(tree_size) if tile.width == 256
    ]
    assert [one.tile for one in builder.partial_tiles()] == list(partial_tiles(tree_size))
    assert (builder.size, builder.frontier()) == (tree_size, frontier(tree_size).hashes())


def test_a_leaf_completes_the_lowest_tile_first() -> None:
    builder, _ = grown(65_535)
    assert [one.tile for one in builder.append(bytes(32))] == [TileId(0, 255), TileId(1, 0)]


@settings(max_examples=40, deadline=None)
@given(SIZES, st.integers(0, 600))
def test_a_tree_goes_on_from_its_whole_tiles(tree_size: int, more: int) -> None:
    end = min(tree_size + more, LEAVES_MAX)
    reads: list[TileId] = []

    def read(tile: TileId) -> bytes:
        assert tile.width == 256, "only whole tiles are needed"
        assert tile in set(tiles(tree_size)), "only tiles of that tree"
        reads.append(tile)
        return expected(tile)

    builder = TileBuilder.resume(tree_size, read, leaf_hashes()[tree_size - tree_size % 256 : tree_size])
    assert len(reads) <= 255 * 2
    assert builder.frontier() == frontier(tree_size).hashes()
    for one in leaf_hashes()[tree_size:end]:
        for tile in builder.append(one):
            assert tile.data == expected(tile.tile)
    assert builder.frontier() == frontier(end).hashes()
    assert [(one.tile, one.data) for one in builder.partial_tiles()] == [
        (tile, expected(tile)) for tile in partial_tiles(end)
    ]


@pytest.mark.parametrize("seed", range(6))
def test_many_at_once_are_added_as_one_after_the_other(seed: int) -> None:
    random = Random(seed)
    size = random.choice([0, 1, 255, 256, 300, LEAVES_MAX - 1, LEAVES_MAX])
    one_by_one, completed = grown(size)
    builder, found, at = TileBuilder(), [], 0
    while at < size:
        count = random.choice([0, 1, 2, 255, 256, 257, 1000])
        found += builder.extend(leaf_hashes()[at : min(at + count, size)])
        at = min(at + count, size)
    assert builder.size == size
    assert found == completed
    assert builder.frontier() == one_by_one.frontier()
    assert builder.partial_tiles() == one_by_one.partial_tiles()


@pytest.mark.parametrize(
    ("tree_size", "hashes"),
    [(257, []), (256, [bytes(32)]), (1, [bytes(31)]), (2, [bytes(32)])],
    ids=["missing", "too many", "short", "too few"],
)
def test_a_tree_does_not_go_on_with_other_leaves_than_its_size_says(tree_size: int, hashes: list[bytes]) -> None:
    with pytest.raises(ValueError, match="leaf hashes behind its tiles"):
        TileBuilder.resume(tree_size, expected, hashes)


def test_a_tree_does_not_go_on_from_a_truncated_tile() -> None:
    with pytest.raises(TileTruncated, match=r"tile 0 of level 0 has 8191 bytes; 256 hashes have 8192"):
        TileBuilder.resume(256, lambda tile: expected(tile)[:-1], [])


@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(1, 600))
def test_proofs_from_tiles_are_those_of_the_definition(data: st.DataObject, tree_size: int) -> None:
    leaves = [leaf(index) for index in range(tree_size)]
    index = data.draw(st.integers(0, tree_size - 1))
    first = data.draw(st.integers(0, tree_size))
    nodes = TileNodes(tree_size, expected)
    assert inclusion_proof(index, tree_size, nodes) == naive_path(index, leaves)
    subproof = naive_subproof(first, leaves, True) if 0 < first < tree_size else []
    assert consistency_proof(first, tree_size, nodes) == subproof


@settings(max_examples=20, deadline=None)
@given(st.data(), st.sampled_from([65_535, 65_536, 65_537, 66_000, 70_000]))
def test_a_proof_reads_two_tiles_a_level_at_most(data: st.DataObject, tree_size: int) -> None:
    reads: list[TileId] = []

    def read(tile: TileId) -> bytes:
        assert tile in set(tiles(tree_size)), "a tile that the checkpoint did not call for"
        reads.append(tile)
        return expected(tile)

    index = data.draw(st.integers(0, tree_size - 1))
    first = data.draw(st.integers(1, tree_size))
    root = frontier(tree_size).root()
    inclusion = inclusion_proof(index, tree_size, TileNodes(tree_size, read))
    assert verify_inclusion(leaf_hashes()[index], index, tree_size, inclusion, root)
    assert len(reads) <= 6
    reads.clear()
    consistency = consistency_proof(first, tree_size, TileNodes(tree_size, read))
    assert verify_consistency(first, tree_size, consistency, frontier(first).root(), root)
    assert len(reads) <= 6


def test_a_wide_tree_is_read_by_its_levels() -> None:
    """2**48 leaves that are all alike, so that each tile is one hash repeated."""
    alike = [leaf_hash(b"alike")]
    while len(alike) < 49:
        alike.append(node_hash(alike[-1], alike[-1]))
    reads: list[TileId] = []

    def read(tile: TileId) -> bytes:
        reads.append(tile)
        return alike[8 * tile.level] * tile.width

    tree_size = 2**48 - 1
    proof = inclusion_proof(2**47 + 12345, tree_size, TileNodes(tree_size, read))
    tree = MerkleFrontier.from_frontier(tree_size, alike[47::-1])
    assert verify_inclusion(alike[0], 2**47 + 12345, tree_size, proof, tree.root())
    assert len(reads) <= 12


@pytest.mark.parametrize("tree_size", [0, 1, 255, 256, 257, 65_536, 65_537, 70_000])
def test_all_tiles_of_a_tree_are_checked(tree_size: int) -> None:
    checked = list(check_tiles(tree_size, frontier(tree_size).root(), expected))
    assert sorted(checked, key=lambda tile: (tile.level, tile.index)) == [
        tile for tile in tiles(tree_size) if tile.width == 256
    ]


def damaged(target: TileId, change: Callable[[bytes], bytes]) -> Callable[[TileId], bytes]:
    return lambda tile: change(expected(tile)) if tile == target else expected(tile)


def swapped(data: bytes) -> bytes:
    return data[32:64] + data[:32] + data[64:]


def flipped(data: bytes) -> bytes:
    return data[:40] + bytes([data[40] ^ 1]) + data[41:]


DAMAGES = [
    (TileId(0, 7), flipped, TileWrong, "tile 7 of level 0"),
    (TileId(0, 272), swapped, TileWrong, "tile 272 of level 0"),
    (TileId(1, 0), flipped, TileWrong, "tile 0 of level 1"),
    (TileId(0, 273, 112), flipped, TileWrong, "partial tiles of the tree of 70000"),
    (TileId(1, 1, 17), swapped, TileWrong, "partial tiles"),
    (TileId(0, 7), lambda data: data[:-32], TileTruncated, "tile 7 of level 0 has 8160 bytes"),
    (TileId(0, 7), lambda data: data + data[:32], TileTruncated, "tile 7 of level 0 has 8224 bytes"),
    (TileId(0, 7), lambda _: b"", TileTruncated, "tile 7 of level 0 has 0 bytes"),
    (TileId(0, 273, 112), lambda data: data[:-1], TileTruncated, "tile 273 of level 0 has 3583 bytes"),
    (TileId(2, 0, 1), lambda data: data * 2, TileTruncated, "tile 0 of level 2 has 64 bytes"),
]


@pytest.mark.parametrize(("target", "change", "error", "reason"), DAMAGES, ids=range(len(DAMAGES)))
def test_damage_to_a_tile_is_found_and_named(
    target: TileId, change: Callable[[bytes], bytes], error: type[Exception], reason: str
) -> None:
    with pytest.raises(error, match=reason):
        list(check_tiles(70_000, frontier(70_000).root(), damaged(target, change)))


def test_a_tree_that_goes_on_from_a_changed_tile_has_another_frontier() -> None:
    builder = TileBuilder.resume(300, damaged(TileId(0, 0), flipped), leaf_hashes()[256:300])
    assert builder.frontier() != frontier(300).hashes()


def test_tiles_of_another_tree_are_refused() -> None:
    with pytest.raises(TileWrong, match="do not lead to its root"):
        list(check_tiles(300, frontier(301).root(), expected))
    with pytest.raises(TileWrong):
        list(check_tiles(0, frontier(1).root(), expected))
    assert list(check_tiles(0, EMPTY_ROOT, expected)) == []


def test_a_proof_is_not_made_of_a_truncated_tile() -> None:
    nodes = TileNodes(300, damaged(TileId(0, 1, 44), lambda data: data[:-32]))
    with pytest.raises(TileTruncated, match="tile 1 of level 0 has 1376 bytes"):
        inclusion_proof(3, 300, nodes)


@pytest.mark.parametrize("leaf_index", [0, 12, 299])
def test_a_proof_made_of_a_changed_tile_leads_elsewhere(leaf_index: int) -> None:
    proof = inclusion_proof(leaf_index, 300, TileNodes(300, damaged(TileId(0, 0), flipped)))
    right = inclusion_proof(leaf_index, 300, TileNodes(300, expected))
    root = naive_root([leaf(index) for index in range(300)])
    held = verify_inclusion(leaf_hashes()[leaf_index], leaf_index, 300, proof, root)
    assert held is (proof == right) is (leaf_index == 299)


def test_a_whole_tile_has_8192_bytes() -> None:
    assert TILE_BYTES == 8192
    _, whole = grown(256)
    assert [len(one.data) for one in whole] == [8192]
