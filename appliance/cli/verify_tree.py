"""A node's log downloaded and its tree recomputed: tiles, entries and the signed root have to fit together."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Final, TypeVar

from appliance.cli.exits import CliError, finding
from appliance.cli.progress import Progress
from appliance.cli.verify_fetch import LogSource
from appliance.cli.verify_leaves import LeafFacts
from appliance.ledger.bundles import BundleError, decode_bundle
from appliance.ledger.canonical import DECIMAL_MAX
from appliance.ledger.checkpoint import Checkpoint
from appliance.ledger.merkle import HASH_BYTES, MerkleFrontier, inclusion_proof, leaf_hash, node_hash, sides
from appliance.ledger.tile_paths import TILE_HEIGHT, TILE_WIDTH, BundleId, TileId, bundles, row_counts, tile_width
from appliance.ledger.tiles import Tile, TileBuilder, TileNodes, TileTruncated

FETCHES_AT_ONCE: Final = 4
BUNDLES_AHEAD: Final = 12  # of 2 MiB at most

A = TypeVar("A")
B = TypeVar("B")


class BadEntry(Exception):
    """An error that names an entry.

    Args:
        error: what is wrong.
        leaf_index: the first entry that is wrong; None when no single one can be named.
        within: then, the hash (level of tiles, index in the level) that stands over it.
    """

    def __init__(self, error: CliError, leaf_index: int | None, within: tuple[int, int] | None = None) -> None:
        super().__init__(error.message)
        self.error = error
        self.leaf_index = leaf_index
        self.within = within


class TreeAudit:
    """The log of one node, taken from its first entry on.

    Args:
        source: the node.
        facts: takes each entry; None when another node's entries were taken, and these have to be the same.

    Attributes:
        entries: how many were downloaded, hashed and found in the tiles.
        tiles: how many were downloaded and found right.
        roots: those of the trees whose sizes were asked for.
    """

    def __init__(self, source: LogSource, facts: LeafFacts | None) -> None:
        self._source = source
        self._facts = facts
        self._builder = TileBuilder()
        self.entries = 0
        self.tiles = 0
        self.roots: dict[int, bytes] = {}

    def advance(self, target: Checkpoint, sizes: Iterable[int] = ()) -> None:
        """Go on to the tree of a checkpoint, noting the roots at some sizes on the way.

        Raises:
            CliError: something is wrong that no entry can be named for, or the node does not answer.
            BadEntry: an entry is wrong.
        """
        begin = self._builder.size // TILE_WIDTH
        wanted = deque(sorted(size for size in set(sizes) if self._builder.size < size <= target.size))
        ahead = read_ahead(islice(bundles(target.size), begin, None), self._fetch)
        with Progress(f"verifying {self._source.name}", target.size) as progress:
            for bundle, (data, tile) in ahead:
                self._take(bundle, self._checked(bundle, data, tile, target), target, wanted)
                progress.update(done=self._builder.size, records=self._builder.size)
        for edge in self._builder.partial_tiles():
            if edge.tile.level:
                self._compare(edge, target)
        if self._root() != target.root:
            raise finding(
                "root_wrong",
                f"the {target.size} entries and all tiles fit together, and not to the root that the log has signed",
            )
        if self._facts is not None:
            self._facts.finish()

    def _fetch(self, bundle: BundleId) -> tuple[bytes, bytes]:
        return self._source.entries(bundle), self._source.tile(TileId(0, bundle.index, bundle.width))

    def _checked(self, bundle: BundleId, data: bytes, tile: bytes, target: Checkpoint) -> list[bytes]:
        """The entries of a bundle, which are those of its tile."""
        if len(tile) != bundle.width * HASH_BYTES:
            raise _truncated(TileId(0, bundle.index, bundle.width), tile)
        first = bundle.index * TILE_WIDTH
        try:
            entries = decode_bundle(data, bundle.width)
        except BundleError as error:
            range_text = f"entries {first} to {first + bundle.width - 1}"
            raise finding("bundle_truncated", f"the bundle of {range_text} is truncated or garbled: {error}") from None
        for position, entry in enumerate(entries):
            own, held = leaf_hash(entry), tile[position * HASH_BYTES : (position + 1) * HASH_BYTES]
            if own != held:
                raise self._judge(0, first + position, own, held, target)
        return entries

    def _take(self, bundle: BundleId, entries: list[bytes], target: Checkpoint, wanted: deque[int]) -> None:
        done = self._builder.size - bundle.index * TILE_WIDTH
        for entry in islice(entries, done, None):
            if self._facts is not None:
                try:
                    self._facts.take(entry)
                except CliError as error:
                    raise BadEntry(error, self._builder.size) from None
            for whole in self._builder.append(leaf_hash(entry)):
                if whole.tile.level:
                    self._compare(whole, target)
            if wanted and wanted[0] == self._builder.size:
                self.roots[wanted.popleft()] = self._root()
        self.entries += len(entries) - done
        self.tiles += 1

    def _compare(self, own: Tile, target: Checkpoint) -> None:
        """See that a tile above the lowest level is the one that follows from the entries."""
        level, width = own.tile.level, tile_width(own.tile.level, own.tile.index, target.size)
        held = self._source.tile(TileId(level, own.tile.index, own.tile.width))
        assert width >= own.tile.width
        if len(held) != len(own.data):
            raise _truncated(own.tile, held)
        position = first_difference(own.data, held)
        if position is not None:
            at = slice(position * HASH_BYTES, (position + 1) * HASH_BYTES)
            index = own.tile.index * TILE_WIDTH + position
            raise self._judge(level, index, own.data[at], held[at], target)
        self.tiles += 1

    def _judge(self, level: int, index: int, own: bytes, held: bytes, target: Checkpoint) -> Exception:
        """Tell which of two hashes of one node is wrong: the one that follows from the entries, or the tile's."""
        tile = f"tile {index // TILE_WIDTH} of level {level}"
        first = index << TILE_HEIGHT * level
        what = f"entry {first}" if level == 0 else f"entries {first} to {(index + 1 << TILE_HEIGHT * level) - 1}"
        try:
            held_is_right = self._is_in_tree(level, index, held, target)
            own_is_right = self._is_in_tree(level, index, own, target)
        except TileTruncated as error:
            return finding("tile_truncated", str(error))
        if own_is_right:
            return finding("tile_wrong", f"{tile} does not hold the hash of {what}, which the signed tree has")
        if held_is_right:
            known = "is not the one" if level == 0 else "are not those"
            wrong = finding("entry_wrong", f"{what} {known} that the log has signed; {tile} has the right hash")
        else:
            reason = f"{what} and {tile} do not fit together, and neither fits to the root that the log has signed"
            wrong = finding("entry_wrong", reason)
        return BadEntry(wrong, first) if level == 0 else BadEntry(wrong, None, (level, index))

    def _is_in_tree(self, level: int, index: int, node: bytes, target: Checkpoint) -> bool:
        """Whether a hash of a tile leads to the signed root; its path comes from the node's other tiles."""
        height, size = TILE_HEIGHT * level, target.size
        leaf_index = index << height
        path = inclusion_proof(leaf_index, size, TileNodes(size, self._source.tile))
        for sibling, side in zip(path[height:], sides(leaf_index, size)[height:], strict=True):
            node = node_hash(sibling, node) if side == "left" else node_hash(node, sibling)
        return node == target.root

    def _root(self) -> bytes:
        return MerkleFrontier.from_frontier(self._builder.size, self._builder.frontier()).root()


def first_unlike(one: LogSource, other: LogSource, tree_size: int, within: tuple[int, int] | None = None) -> int | None:
    """The first entry in which two nodes' logs differ, found from their tiles from the top down; None for none.

    Args:
        one: a node.
        other: another one.
        tree_size: how many entries are compared.
        within: a hash (level of tiles, index in the level) that they differ under, where one is known.

    Raises:
        CliError: a node does not answer.
    """
    top, index = within if within is not None else (DECIMAL_MAX, None)
    for level, count in reversed(list(enumerate(row_counts(tree_size)))[:top]):
        tile_index = count // TILE_WIDTH if index is None else index
        width = tile_width(level, tile_index, tree_size)
        if width == 0:
            continue
        tile = TileId(level, tile_index, width)
        position = first_difference(one.tile(tile), other.tile(tile))
        if position is not None:
            index = tile_index * TILE_WIDTH + position
        elif index is not None:
            return None  # the tiles of one of them do not fit together
    return index


def first_difference(one: bytes, other: bytes) -> int | None:
    """Number of the first hash in which two tiles of one width differ; None when they are equal."""
    for position in range(0, max(len(one), len(other)), HASH_BYTES):
        if one[position : position + HASH_BYTES] != other[position : position + HASH_BYTES]:
            return position // HASH_BYTES
    return None


def read_ahead(items: Iterable[A], fetch: Callable[[A], B]) -> Iterator[tuple[A, B]]:
    """Fetch things on threads, in their order; at most `BUNDLES_AHEAD` are held."""
    waiting: deque[tuple[A, Future[B]]] = deque()
    pool = ThreadPoolExecutor(FETCHES_AT_ONCE)
    try:
        for item in items:
            waiting.append((item, pool.submit(fetch, item)))
            if len(waiting) >= BUNDLES_AHEAD:
                first, result = waiting.popleft()
                yield first, result.result()
        while waiting:
            first, result = waiting.popleft()
            yield first, result.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _truncated(tile: TileId, data: bytes) -> CliError:
    return finding(
        "tile_truncated",
        f"tile {tile.index} of level {tile.level} has {len(data)} bytes instead of {tile.width * HASH_BYTES}",
    )
