"""Reads back what is stored, a slice at a time, and names what has rotted.

`ledger.db`: each leaf is canonical and in its place, its value matches its hash, its own hash stands in the tile above
it, and its key has a head that is this leaf's or a later one's; each tile leads to the hash in the tile above, and the
whole to the root that the file's summary gives. `raft.db`: each entry and what stands beside them match their
checksums, and none is missing. Audit segments: each has the digest that the manifest names.

Not checked, because nothing binds them: refusals, stored answers to idempotency keys, and the state hash, which nodes
compare among each other. What the kernel holds in its cache is read from there: rot below shows once it is read anew.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Final, cast

import msgspec

from appliance.adapters.audit.manifest import Manifest, Segment
from appliance.adapters.ledger_rows import heads_by_keys
from appliance.adapters.ledger_tiles import place_of
from appliance.adapters.ledger_tree import LedgerTree
from appliance.adapters.ledger_verify import Contents, check_leaf, check_value, known_leaf, read_contents
from appliance.adapters.shared_reader import SharedReader
from appliance.adapters.sqlite import Reader
from appliance.ledger.encoding import Leaf, LeafError
from appliance.ledger.merkle import HASH_BYTES, MerkleFrontier, leaf_hash
from appliance.ledger.state import Head
from appliance.ledger.tile_paths import TILE_WIDTH, row_counts
from appliance.ledger.tiles import tile_root
from appliance.node.check_ports import Rot, ScrubSlice
from appliance.node.ports import FileAway, StorageError
from appliance.node.proof_ports import LeavesUnavailable

SCRUB_CACHE_BYTES: Final = 256 * 1024  # more serves nothing: all is read once
LEAVES_PER_SLICE: Final = 128  # a power of two, at most a tile's width: a millisecond of work ...
SLICE_BYTES: Final = 256 * 1024  # ... and fewer where they or their values are large, but one at least
KEY_SHOWN_CHARACTERS: Final = 80

_LEAVES: Final = (
    "SELECT leaf_index, leaf, salt, value FROM leaves WHERE leaf_index >= ? AND leaf_index < ? ORDER BY leaf_index"
)
_TILE: Final = "SELECT root, hashes FROM tiles WHERE place = ?"

_LeafRow = tuple[int, bytes, bytes, bytes | None]


class LedgerScrub:
    """One pass over `ledger.db`, as long as it was at the beginning; leaves never go, and never change.

    Args:
        file: a connection to it.
        tree: its tree.
        cluster_id: of this node.
    """

    def __init__(self, file: SharedReader, tree: LedgerTree, cluster_id: str) -> None:
        self._file = file
        self._tree = tree
        self._cluster_id = cluster_id

    def slices(self) -> Iterator[ScrubSlice]:
        """Check everything."""
        rotten: list[Rot] = []
        contents: Contents | None = None
        with _named(rotten, "ledger.db cannot be read"):
            with self._tree.file.use() as reader:
                reader.db.release_memory()  # what was read before is to be read again
            with self._file.use() as reader:
                reader.db.release_memory()
                contents = read_contents(reader, self._cluster_id)
        if contents is None:
            yield ScrubSlice(0, 1.0, tuple(rotten))
            return
        size = contents.summary.tree_size
        begin = 0
        while begin < size:
            end = min(begin - begin % LEAVES_PER_SLICE + LEAVES_PER_SLICE, size)
            begin, found = self._leaves(begin, end, contents, begin / size)
            yield found
        yield from self._tiles(size)
        yield self._root(contents)

    def _leaves(self, begin: int, end: int, contents: Contents, share: float) -> tuple[int, ScrubSlice]:
        """Check leaves up to an end, or the first of them where they are large; answers where to go on."""
        rotten: list[Rot] = []
        try:
            with self._file.use() as reader:
                before = reader.bytes_read()
                behind = self._check_leaves(reader, begin, end, contents, rotten)
                bytes_read = reader.bytes_read() - before
        except FileAway:
            raise
        except (StorageError, msgspec.MsgspecError) as error:  # a page, the file's structure, a column's type
            if end - begin == 1:
                rot = Rot(f"leaf {begin}, or the head of its key, cannot be read: {error}", begin)
                return end, ScrubSlice(0, share, (rot,))
            return self._leaves_one_by_one(begin, end, contents, share)
        return behind, ScrubSlice(bytes_read, share, tuple(rotten))

    def _leaves_one_by_one(self, begin: int, end: int, contents: Contents, share: float) -> tuple[int, ScrubSlice]:
        """Find out which of some leaves it is that cannot be read."""
        found = [self._leaves(leaf_index, leaf_index + 1, contents, share)[1] for leaf_index in range(begin, end)]
        rotten = tuple(rot for one in found for rot in one.rotten)
        return end, ScrubSlice(sum(one.bytes_read for one in found), share, rotten)

    def _check_leaves(self, reader: Reader, begin: int, end: int, contents: Contents, rotten: list[Rot]) -> int:
        with reader.one_state():
            tile = _tile_over(reader, begin, contents.summary.tree_size, rotten)
            leaves: list[Leaf] = []
            expected, left = begin, SLICE_BYTES
            for row in reader.rows_lazily(_LEAVES, (begin, end)):
                leaf_index, data, salt, value = cast(_LeafRow, row)
                rotten += (Rot(f"leaf {n} is missing", n) for n in range(expected, leaf_index))
                expected = leaf_index + 1
                try:
                    leaves.append(_check_leaf(leaf_index, data, salt, value, tile))
                except LeafError as error:
                    rotten.append(Rot(str(error), leaf_index))
                left -= len(data) + len(value or b"")
                if left <= 0:
                    break
            else:
                rotten += (Rot(f"leaf {n} is missing", n) for n in range(expected, end))
                expected = end
            if tile is not None and expected % TILE_WIDTH == 0 and not tile.is_sound:
                rotten.append(Rot(f"tile {begin // TILE_WIDTH} of level 0 does not lead to the root beside it"))
            leaves = [leaf for leaf in leaves if leaf.leaf_index < contents.heads_leaf_next]
            heads = heads_by_keys(reader, [leaf.key for leaf in leaves])
            rotten += map(Rot, filter(None, map(_wrong_head, leaves, heads)))
        return expected

    def _tiles(self, size: int) -> Iterator[ScrubSlice]:
        """Hold the tiles above level 0 against those below."""
        for level, count in enumerate(row_counts(size)):
            for index in range(count // TILE_WIDTH if level else 0):
                rotten: list[Rot] = []
                with _named(rotten, f"tile {index} of level {level} cannot be read"):
                    self._tree.recheck_tile(level, index)
                yield ScrubSlice(TILE_WIDTH * 3 * HASH_BYTES, 1.0, tuple(rotten))  # about

    def _root(self, contents: Contents) -> ScrubSlice:
        """Hold the tree against the summary, which the machine has worked out without it."""
        rotten: list[Rot] = []
        summary = contents.summary
        with _named(rotten, "the tree cannot be read"):
            root = MerkleFrontier.from_frontier(summary.tree_size, summary.frontier).root()
            if self._tree.root(summary.tree_size) != root:
                rotten.append(Rot(f"the tree of {summary.tree_size} leaves does not lead to the root in the summary"))
        return ScrubSlice(TILE_WIDTH * 3 * HASH_BYTES, 1.0, tuple(rotten))


class _Tile:
    """A stored tile of level 0."""

    def __init__(self, hashes: bytes, root: bytes) -> None:
        self._hashes = hashes
        self._root = root

    def hash_of(self, leaf_index: int) -> bytes:
        """The hash that it gives a leaf below it."""
        at = leaf_index % TILE_WIDTH * HASH_BYTES
        return self._hashes[at : at + HASH_BYTES]

    @cached_property
    def is_sound(self) -> bool:
        """Whether it leads to the root beside it, so that it is not what is wrong where a leaf does not fit."""
        return tile_root(self._hashes) == self._root


def _tile_over(reader: Reader, leaf_index: int, tree_size: int, rotten: list[Rot]) -> _Tile | None:
    """The whole tile over a leaf, None where it is not whole yet, or not usable."""
    index = leaf_index // TILE_WIDTH
    if (index + 1) * TILE_WIDTH > tree_size:
        return None
    root, hashes = reader.row(_TILE, (place_of(0, index),)) or (None, None)
    if isinstance(root, bytes) and isinstance(hashes, bytes) and len(hashes) == TILE_WIDTH * HASH_BYTES:
        return _Tile(hashes, root)
    rotten.append(Rot(f"tile {index} of level 0 is missing, or has another length"))
    return None


def _check_leaf(leaf_index: int, data: bytes, salt: bytes, value: bytes | None, tile: _Tile | None) -> Leaf:
    """Hold a leaf against its hash in the tile above, and its value against the leaf. Raises `LeafError`."""
    if not (isinstance(data, bytes) and isinstance(salt, bytes) and isinstance(value, bytes | None)):
        raise LeafError(f"a column of leaf {leaf_index} is of another type")
    if tile is not None and tile.hash_of(leaf_index) == leaf_hash(data):
        leaf = known_leaf(data)  # the hash binds each of its bytes, and its place
        check_value(leaf, salt, value)
        return leaf
    leaf = check_leaf(leaf_index, data, salt, value)
    if tile is not None and tile.is_sound:
        raise LeafError(f"leaf {leaf_index} does not lead to its hash in the tile above")
    return leaf


def _wrong_head(leaf: Leaf, head: Head | None) -> str:
    """What is wrong with the stored head of a leaf's key, or an empty text: it is this leaf's, or a later one's."""
    key = repr(leaf.key)[:KEY_SHOWN_CHARACTERS]
    if head is None:
        return f"key {key} has no head, and leaf {leaf.leaf_index} is one of its leaves"
    if head.version > leaf.version and head.leaf_index > leaf.leaf_index:
        return ""
    if head != Head(leaf.version, leaf.leaf_index, leaf.op == "delete", leaf.timestamp_us, leaf.value_size):
        return f"the head of key {key} does not match leaf {leaf.leaf_index}"
    return ""


class SegmentScrub:
    """Passes over the sealed segments of the audit trail, if there are any.

    Args:
        directory: where they are.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def scrub(self) -> Iterator[ScrubSlice]:
        """Hold each segment against its digest."""
        manifest = Manifest.read(self._directory)
        segments = manifest.segments if manifest is not None else ()
        for number, segment in enumerate(segments):
            share = number / len(segments)
            wrong = yield from self._wrong(segment, share)
            if wrong:  # or it was made anew meanwhile
                wrong = yield from self._wrong(segment, share)
            manifest = Manifest.read(self._directory)
            if wrong and manifest is not None and segment in manifest.segments:
                yield ScrubSlice(0, share, (Rot(f"audit segment {segment.file} {wrong}"),))

    def _wrong(self, segment: Segment, share: float) -> Generator[ScrubSlice, None, str]:
        """What is wrong with a segment, or an empty text."""
        digest = sha256()
        try:
            with (self._directory / segment.file).open("rb") as file:
                while data := file.read(SLICE_BYTES):
                    digest.update(data)
                    yield ScrubSlice(len(data), share)
        except OSError as error:
            return f"cannot be read: {error.strerror or error}"
        return "" if digest.hexdigest() == segment.sha256 else "does not match its digest"


@contextmanager
def _named(rotten: list[Rot], what: str) -> Iterator[None]:
    """Make rot of what cannot be read in this block."""
    try:
        yield
    except FileAway:
        raise
    except (StorageError, LeavesUnavailable, ValueError, msgspec.MsgspecError) as error:
        rotten.append(Rot(f"{what}: {error}"))
