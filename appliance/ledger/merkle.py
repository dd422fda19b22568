"""The Merkle tree of RFC 9162, section 2.1, with SHA-256. Standard library only.

A node is named (level, index): it stands over the leaves index * 2**level up to, not including,
(index + 1) * 2**level. Only complete nodes have a name; what is ragged on the right is folded when asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Final

HASH_BYTES: Final = 32
EMPTY_ROOT: Final = sha256(b"").digest()

NodeReader = Callable[[int, int], bytes]  # (level, index) -> hash of that complete node


def leaf_hash(leaf: bytes) -> bytes:
    """Hash of a leaf: SHA-256 over 0x00 and its bytes."""
    return sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of an inner node: SHA-256 over 0x01 and its two children."""
    return sha256(b"\x01" + left + right).digest()


class MerkleFrontier:
    """The tree, kept as the hashes of the complete subtrees that make it up, largest first.

    There is one for each bit that is set in the size, so a tree of n leaves holds at most log2(n) + 1 hashes.
    """

    __slots__ = ("_hashes", "_size")

    def __init__(self) -> None:
        self._size = 0
        self._hashes: list[bytes] = []

    @classmethod
    def from_frontier(cls, size: int, hashes: Sequence[bytes]) -> MerkleFrontier:
        """Continue a tree of `size` leaves from what `hashes` gave. Raises `ValueError` when the two do not fit."""
        if size < 0 or len(hashes) != size.bit_count() or any(len(one) != HASH_BYTES for one in hashes):
            raise ValueError(f"a tree of {size} leaves cannot have a frontier of {len(hashes)} hashes")
        frontier = cls()
        frontier._size = size
        frontier._hashes = list(hashes)
        return frontier

    @property
    def size(self) -> int:
        """Number of leaves."""
        return self._size

    def hashes(self) -> tuple[bytes, ...]:
        """The frontier: hashes of the complete subtrees, largest first."""
        return tuple(self._hashes)

    def append(self, new_leaf_hash: bytes) -> None:
        """Add a leaf by its hash; amortised one inner node."""
        hashes, size, carried = self._hashes, self._size, new_leaf_hash
        while size & 1:
            carried = sha256(b"\x01" + hashes.pop() + carried).digest()
            size >>= 1
        hashes.append(carried)
        self._size += 1

    def root(self) -> bytes:
        """The tree's root hash; SHA-256 of nothing when it is empty."""
        return _fold(self._hashes) if self._hashes else EMPTY_ROOT


def root_of(tree_size: int, read: NodeReader) -> bytes:
    """The root of the tree of the first `tree_size` leaves."""
    return _subtree(0, tree_size, read) if tree_size else EMPTY_ROOT


def inclusion_proof(leaf_index: int, tree_size: int, read: NodeReader) -> list[bytes]:
    """The inclusion path of a leaf in the tree of the first `tree_size` leaves, lowest first (RFC 9162, 2.1.3.1).

    Raises:
        ValueError: there is no such leaf in a tree of that size.
    """
    if not 0 <= leaf_index < tree_size:
        raise ValueError(f"leaf {leaf_index} is not in a tree of {tree_size} leaves")
    path: list[bytes] = []
    begin, end = 0, tree_size
    while end - begin > 1:
        middle = begin + _split(end - begin)
        if leaf_index < middle:
            path.append(_subtree(middle, end, read))
            end = middle
        else:
            path.append(_subtree(begin, middle, read))
            begin = middle
    path.reverse()
    return path


def sides(leaf_index: int, tree_size: int) -> list[str]:
    """On which side of the path each hash of an inclusion path stands, lowest first: `left` or `right`."""
    found: list[str] = []
    position, last = leaf_index, tree_size - 1
    while last:
        if position & 1 or position == last:
            found.append("left")
            while position and not position & 1:  # the ragged right edge has no sibling before a higher level
                position >>= 1
                last >>= 1
        else:
            found.append("right")
        position >>= 1
        last >>= 1
    return found


def root_from_inclusion(own_leaf_hash: bytes, leaf_index: int, tree_size: int, proof: Sequence[bytes]) -> bytes | None:
    """The root that an inclusion path leads to (RFC 9162, 2.1.3.2), or None when its length is wrong."""
    if not 0 <= leaf_index < tree_size:
        return None
    found = sides(leaf_index, tree_size)
    if len(found) != len(proof):
        return None
    current = own_leaf_hash
    for sibling, side in zip(proof, found, strict=True):
        current = node_hash(sibling, current) if side == "left" else node_hash(current, sibling)
    return current


def verify_inclusion(
    own_leaf_hash: bytes, leaf_index: int, tree_size: int, proof: Sequence[bytes], root: bytes
) -> bool:
    """Tell whether the proof shows that this leaf stands at this place in the tree with this size and root."""
    return root_from_inclusion(own_leaf_hash, leaf_index, tree_size, proof) == root


def consistency_proof(first_size: int, second_size: int, read: NodeReader) -> list[bytes]:
    """Prove that the tree of `second_size` leaves only adds to that of `first_size` (RFC 9162, 2.1.4.1).

    The empty tree and a tree of the same size need no hashes.

    Raises:
        ValueError: the first tree is larger than the second.
    """
    if not 0 <= first_size <= second_size:
        raise ValueError(f"a tree of {second_size} leaves cannot continue one of {first_size}")
    if first_size in (0, second_size):
        return []
    path: list[bytes] = []
    begin, end, known = 0, second_size, True
    while end != first_size:
        middle = begin + _split(end - begin)
        if first_size <= middle:
            path.append(_subtree(middle, end, read))
            end = middle
        else:
            path.append(_subtree(begin, middle, read))
            begin, known = middle, False
    if not known:
        path.append(_subtree(begin, end, read))
    path.reverse()
    return path


def verify_consistency(
    first_size: int, second_size: int, proof: Sequence[bytes], first_root: bytes, second_root: bytes
) -> bool:
    """Tell whether the proof shows that the second tree only adds leaves to the first (RFC 9162, 2.1.4.2)."""
    if not 0 <= first_size <= second_size:
        return False
    if first_size == second_size:
        return not proof and first_root == second_root
    if first_size == 0:
        return not proof and first_root == EMPTY_ROOT
    path = list(proof)
    if first_size & (first_size - 1) == 0:
        path.insert(0, first_root)
    if not path:
        return False
    first, last = first_size - 1, second_size - 1
    while first & 1:
        first >>= 1
        last >>= 1
    old = new = path[0]
    for sibling in path[1:]:
        if last == 0:
            return False
        if first & 1 or first == last:
            old = node_hash(sibling, old)
            new = node_hash(sibling, new)
            while first and not first & 1:
                first >>= 1
                last >>= 1
        else:
            new = node_hash(new, sibling)
        first >>= 1
        last >>= 1
    return last == 0 and old == first_root and new == second_root


def _split(size: int) -> int:
    """The largest power of two smaller than `size`."""
    return 1 << (size - 1).bit_length() - 1


def _subtree(begin: int, end: int, read: NodeReader) -> bytes:
    """Hash over the leaves begin..end-1, where `begin` is a multiple of the next power of two."""
    hashes: list[bytes] = []
    while begin < end:
        level = (end - begin).bit_length() - 1
        hashes.append(read(level, begin >> level))
        begin += 1 << level
    return _fold(hashes)


def _fold(hashes: Sequence[bytes]) -> bytes:
    """Root over complete subtrees of falling size."""
    root = hashes[-1]
    for left in reversed(hashes[:-1]):
        root = node_hash(left, root)
    return root
