"""The tree against RFC 9162's definitions written down plainly, and against published vectors."""

from __future__ import annotations

import pytest
from hypothesis import given
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

# The leaves, roots and proofs of Certificate Transparency's reference tests (merkle tree tests of RFC 6962).
VECTOR_LEAVES = [
    bytes.fromhex(text)
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
VECTOR_ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
VECTOR_INCLUSION = [
    (0, 1, []),
    (
        0,
        8,
        [
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ],
    ),
    (
        5,
        8,
        [
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
    (2, 3, ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"]),
    (
        1,
        5,
        [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ],
    ),
]
VECTOR_CONSISTENCY = [
    (1, 1, []),
    (
        1,
        8,
        [
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ],
    ),
    (
        6,
        8,
        [
            "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
    (
        2,
        5,
        [
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ],
    ),
]


class Nodes:
    """A reader of complete nodes that refuses to name any other."""

    def __init__(self, leaves: list[bytes]) -> None:
        self.leaves = leaves

    def __call__(self, level: int, index: int) -> bytes:
        part = self.leaves[index << level : (index + 1) << level]
        assert len(part) == 1 << level, f"node ({level}, {index}) is not complete"
        return naive_root(part)


def grown(leaves: list[bytes]) -> MerkleFrontier:
    tree = MerkleFrontier()
    for leaf in leaves:
        tree.append(leaf_hash(leaf))
    return tree


def some_leaves(count: int) -> list[bytes]:
    return [index.to_bytes(2) for index in range(count)]


SIZES = st.integers(0, 130)


@pytest.mark.parametrize("size", range(9))
def test_published_roots(size: int) -> None:
    assert grown(VECTOR_LEAVES[:size]).root().hex() == VECTOR_ROOTS[size]


@pytest.mark.parametrize(("index", "size", "proof"), VECTOR_INCLUSION, ids=lambda part: str(part)[:2])
def test_published_inclusion_proofs(index: int, size: int, proof: list[str]) -> None:
    path = inclusion_proof(index, size, Nodes(VECTOR_LEAVES))
    assert [one.hex() for one in path] == proof
    assert verify_inclusion(leaf_hash(VECTOR_LEAVES[index]), index, size, path, bytes.fromhex(VECTOR_ROOTS[size]))


@pytest.mark.parametrize(("first", "second", "proof"), VECTOR_CONSISTENCY, ids=lambda part: str(part)[:2])
def test_published_consistency_proofs(first: int, second: int, proof: list[str]) -> None:
    path = consistency_proof(first, second, Nodes(VECTOR_LEAVES))
    assert [one.hex() for one in path] == proof
    roots = bytes.fromhex(VECTOR_ROOTS[first]), bytes.fromhex(VECTOR_ROOTS[second])
    assert verify_consistency(first, second, path, *roots)


@given(st.lists(st.binary(max_size=4), max_size=70))
def test_the_frontier_has_the_root_of_the_definition(leaves: list[bytes]) -> None:
    assert grown(leaves).root() == naive_root(leaves)


@given(SIZES, SIZES)
def test_a_tree_goes_on_from_its_frontier(first: int, more: int) -> None:
    leaves = some_leaves(first + more)
    before = grown(leaves[:first])
    tree = MerkleFrontier.from_frontier(before.size, before.hashes())
    for leaf in leaves[first:]:
        tree.append(leaf_hash(leaf))
    assert (tree.size, tree.hashes()) == (first + more, grown(leaves).hashes())
    assert before.size == first, "the tree that was read must not change"


@given(SIZES)
def test_a_frontier_holds_one_hash_for_each_bit_of_the_size(size: int) -> None:
    leaves, begin, expected = some_leaves(size), 0, []
    for level in reversed(range(size.bit_length())):
        if size >> level & 1:
            expected.append(naive_root(leaves[begin : begin + (1 << level)]))
            begin += 1 << level
    assert grown(leaves).hashes() == tuple(expected)


@pytest.mark.parametrize(
    ("size", "hashes"),
    [
        pytest.param(-1, [], id="negative size"),
        pytest.param(1, [], id="hash missing"),
        pytest.param(2, [bytes(32)] * 2, id="hash too many"),
        pytest.param(1, [bytes(31)], id="short hash"),
    ],
)
def test_a_frontier_that_does_not_fit_its_size(size: int, hashes: list[bytes]) -> None:
    with pytest.raises(ValueError, match="cannot have a frontier"):
        MerkleFrontier.from_frontier(size, hashes)


@given(st.data(), st.integers(1, 130))
def test_inclusion(data: st.DataObject, size: int) -> None:
    leaves = some_leaves(size)
    index = data.draw(st.integers(0, size - 1))
    proof = inclusion_proof(index, size, Nodes(leaves))
    root = naive_root(leaves)
    assert proof == naive_path(index, leaves)
    own = leaf_hash(leaves[index])
    assert verify_inclusion(own, index, size, proof, root)
    assert not verify_inclusion(leaf_hash(b"another"), index, size, proof, root)
    assert not verify_inclusion(own, index, size, [*proof, bytes(32)], root)
    assert not verify_inclusion(own, index, size, proof, naive_root(leaves[:-1]))
    places = [place for place in range(-1, size + 1) if verify_inclusion(own, place, size, proof, root)]
    assert places == [index]
    if proof:
        assert not verify_inclusion(own, index, size, proof[:-1], root)
        broken = list(proof)
        broken[data.draw(st.integers(0, len(proof) - 1))] = bytes(32)
        assert not verify_inclusion(own, index, size, broken, root)


@given(st.data(), st.integers(0, 130))
def test_consistency(data: st.DataObject, second: int) -> None:
    leaves = some_leaves(second)
    first = data.draw(st.integers(0, second))
    roots = naive_root(leaves[:first]), naive_root(leaves)
    proof = consistency_proof(first, second, Nodes(leaves))
    assert proof == (naive_subproof(first, leaves, True) if 0 < first < second else [])
    assert verify_consistency(first, second, proof, *roots)
    assert not verify_consistency(first, second, [*proof, bytes(32)], *roots)
    assert not verify_consistency(first, second, proof, bytes(32), roots[1])
    assert not verify_consistency(second + 1, second, proof, *roots)
    if first:
        assert not verify_consistency(first, second, proof, roots[0], bytes(32))
    if proof:
        assert not verify_consistency(first, second, proof[:-1], *roots)
        broken = list(proof)
        broken[data.draw(st.integers(0, len(proof) - 1))] = bytes(32)
        assert not verify_consistency(first, second, broken, *roots)


@pytest.mark.parametrize(("index", "size"), [(0, 0), (3, 3), (-1, 3)])
def test_no_inclusion_proof_for_a_leaf_that_is_not_there(index: int, size: int) -> None:
    with pytest.raises(ValueError, match="is not in a tree"):
        inclusion_proof(index, size, Nodes([]))


@pytest.mark.parametrize(("first", "second"), [(3, 2), (-1, 2)])
def test_no_consistency_proof_backwards(first: int, second: int) -> None:
    with pytest.raises(ValueError, match="cannot continue"):
        consistency_proof(first, second, Nodes([]))


def test_leaves_and_nodes_hash_apart() -> None:
    assert MerkleFrontier().root() == EMPTY_ROOT
    assert leaf_hash(bytes(64)) != node_hash(bytes(32), bytes(32))
