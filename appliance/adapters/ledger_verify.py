"""Checks a ledger file without trusting it: every leaf against the Merkle tree, every value against its leaf, every
derived table against the leaves.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple, NoReturn, cast

import msgspec
from msgspec import Struct

from appliance.adapters.formats import refuse_newer
from appliance.adapters.ledger_rows import (
    ALL_ANSWERS,
    ALL_HEADS,
    HEADS_LAG_SINCE,
    HEADS_MARK,
    LEDGER_FORMAT,
    LEDGER_FORMATS_READ,
    answer_from_row,
    decode_summary,
    head_from_leaf,
)
from appliance.adapters.ledger_tiles import TILES_SINCE, row_of
from appliance.adapters.sqlite import Reader
from appliance.ledger.encoding import SALT_BYTES, Leaf, LeafError, decode_leaf, encode_leaf, value_hash
from appliance.ledger.merkle import MerkleFrontier, leaf_hash
from appliance.ledger.state import Head, Summary
from appliance.ledger.tile_paths import TILE_WIDTH, row_counts
from appliance.ledger.tiles import Tile, TileBuilder
from appliance.node.ports import DamagedFile

CACHE_BYTES: Final = 8 * 2**20


class _LeafFields(Struct, gc=False):
    """The fields of a `Leaf`, in its order."""

    batch_id: int
    batch_position: int
    batch_count: int
    op: str
    key: str
    version: int
    prev_leaf_index: int | None
    value_hash: str | None
    value_size: int
    actor: str
    request_id: str
    timestamp_us: int


_LEAF_FIELDS: Final = msgspec.json.Decoder(_LeafFields)


class Contents(NamedTuple):
    """What a ledger file says of itself.

    Attributes:
        format: one of `LEDGER_FORMATS_READ`.
        summary: the machine's state.
        meta: what is kept beside it.
        heads_leaf_next: see `put_heads_mark`.
    """

    format: int
    summary: Summary
    meta: bytes
    heads_leaf_next: int


def read_contents(reader: Reader, cluster_id: str) -> Contents:
    """Read what a ledger file says of itself, in one state of it. Raises `DamagedFile`, and `NewerFormat` for one that
    a later version has written.
    """
    rows = dict(cast(list[tuple[str, bytes]], reader.rows("SELECT name, value FROM meta")))
    try:
        found_format = msgspec.msgpack.decode(rows["format"], type=int)
        refuse_newer(reader.path, found_format, LEDGER_FORMAT)
        if found_format not in LEDGER_FORMATS_READ:
            raise DamagedFile(str(reader.path), f"its format is {found_format}, this program knows {LEDGER_FORMAT}")
        if rows["cluster_id"] != cluster_id.encode():
            raise DamagedFile(str(reader.path), "it belongs to another cluster")
        summary = decode_summary(rows["summary"])
        MerkleFrontier.from_frontier(summary.tree_size, summary.frontier)
        mark = int(rows[HEADS_MARK]) if found_format >= HEADS_LAG_SINCE else summary.tree_size
        if not 0 <= mark <= summary.tree_size:
            raise DamagedFile(str(reader.path), f"its heads are said to reach leaf {mark} of {summary.tree_size}")
        return Contents(found_format, summary, rows["snapshot_meta"], mark)
    except (KeyError, ValueError) as error:
        raise DamagedFile(str(reader.path), f"its table meta is damaged: {error}") from error


def read_summary(reader: Reader, cluster_id: str) -> tuple[Summary, bytes]:
    """The summary of a ledger file and what is kept beside it. Raises as `read_contents`."""
    contents = read_contents(reader, cluster_id)
    return contents.summary, contents.meta


def verify_copy(path: Path, cluster_id: str) -> tuple[Summary, bytes]:
    """Check a file at rest, such as a received snapshot; reads only. About 7 us a leaf, so not on the event loop.

    Raises:
        DamagedFile: names the first bad leaf or key.
        StorageError: the file cannot be read.
    """
    reader = Reader(path, cache_bytes=CACHE_BYTES, immutable=True)
    try:
        return check_content(reader, cluster_id)
    finally:
        reader.close()


def check_content(reader: Reader, cluster_id: str) -> tuple[Summary, bytes]:
    """Check all that a ledger file holds. Answers and raises as `verify_copy`.

    Not checked, because nothing in the file binds them: refusals, the results of stored answers, and the state hash
    (nodes compare that among each other).
    """
    with reader.one_state():
        problems = reader.rows("PRAGMA integrity_check(1)")
        if problems != [("ok",)]:
            raise DamagedFile(str(reader.path), str(problems[0][0]))
        contents = read_contents(reader, cluster_id)
        summary = contents.summary
        _check_leaves(reader, contents)
        _check_heads(reader, contents)
        counted = reader.row("SELECT count(*) FROM answers")
        if counted != (summary.answer_count,):
            _damaged(reader, f"it holds {counted} answers, and its summary says {summary.answer_count}")
        for row in reader.rows_lazily(ALL_ANSWERS):
            try:
                answer_from_row(row)
            except ValueError as error:
                _damaged(reader, f"the answer kept for {row[1]!r:.100} cannot be read: {error}")
    return summary, contents.meta


def _check_leaves(reader: Reader, contents: Contents) -> None:
    tree, tiles, summary = MerkleFrontier(), TileBuilder(), contents.summary
    for row in reader.rows_lazily("SELECT leaf_index, leaf, salt, value FROM leaves ORDER BY leaf_index"):
        leaf_index, data, salt, value = cast(tuple[int, bytes, bytes, bytes | None], row)
        if leaf_index != tree.size:
            _damaged(reader, f"leaf {tree.size} is missing")
        try:
            check_leaf(leaf_index, data, salt, value)
        except LeafError as error:
            raise DamagedFile(str(reader.path), str(error)) from error
        own_hash = leaf_hash(data)
        tree.append(own_hash)
        for tile in tiles.append(own_hash):
            _check_tile(reader, tile, contents)
    if tree.size != summary.tree_size:
        _damaged(reader, f"it holds {tree.size} leaves, and its summary says {summary.tree_size}: leaf {tree.size}")
    if tree.hashes() != summary.frontier:
        _damaged(reader, "the Merkle tree over its leaves is not the one that its summary gives")
    whole = sum(count // TILE_WIDTH for count in row_counts(tree.size))
    if contents.format >= TILES_SINCE and reader.row("SELECT count(*) FROM tiles") != (whole,):
        _damaged(reader, f"it holds tiles that a tree of {tree.size} leaves does not have")


def _check_tile(reader: Reader, tile: Tile, contents: Contents) -> None:
    if contents.format < TILES_SINCE:
        return
    place, *columns = row_of(tile)
    stored = reader.row("SELECT root, hashes FROM tiles WHERE place = ?", (place,))
    if stored != tuple(columns):
        what = "missing" if stored is None else "not what the leaves below it lead to"
        _damaged(reader, f"tile {tile.tile.index} of level {tile.tile.level} is {what}")


def check_leaf(leaf_index: int, data: bytes, salt: bytes, value: bytes | None) -> Leaf:
    """Hold a stored leaf against its place and its value. Raises `LeafError`, which names it and what is wrong."""
    try:
        leaf = read_leaf(data)
    except LeafError as error:
        raise LeafError(f"leaf {leaf_index}: {error}") from error
    if leaf.leaf_index != leaf_index:
        raise LeafError(f"leaf {leaf_index} says that it is leaf {leaf.leaf_index}")
    check_value(leaf, salt, value)
    return leaf


def check_value(leaf: Leaf, salt: bytes, value: bytes | None) -> None:
    """Hold a stored value against its leaf. Raises `LeafError`, which names the leaf and what is wrong."""
    leaf_index = leaf.leaf_index
    if value is None:
        if leaf.op == "put":
            raise LeafError(f"the value of leaf {leaf_index} is missing")
        return
    if leaf.op == "delete":
        raise LeafError(f"leaf {leaf_index} is a delete and has a value")
    if len(salt) != SALT_BYTES or value_hash(salt, value) != leaf.value_hash:
        raise LeafError(f"the value of leaf {leaf_index} does not match the hash in the leaf")
    if len(value) != leaf.value_size:
        raise LeafError(f"the value of leaf {leaf_index} has another size than the leaf says")


def read_leaf(data: bytes) -> Leaf:
    """As `decode_leaf`, in half of the time or less: however fields were read, bytes that are their canonical form are
    the leaf. What does not come out the same is left to `decode_leaf`, which says why. Raises `LeafError`.
    """
    try:
        leaf = known_leaf(data)
        if encode_leaf(leaf) == data:
            return leaf
    except (ValueError, RecursionError):
        pass
    return decode_leaf(data)


def known_leaf(data: bytes) -> Leaf:
    """Read bytes whose hash says that they are a leaf. Raises `msgspec.MsgspecError` for others, or gives nonsense."""
    return Leaf(*msgspec.structs.astuple(_LEAF_FIELDS.decode(data)))


def _check_heads(reader: Reader, contents: Contents) -> None:
    """Each head repeats its leaf; and since a key's versions count from 1, the versions of all heads add up to the
    number of leaves only if every head is its key's latest leaf and no key lacks one.
    """
    summary = contents.summary
    heads = f"({ALL_HEADS})" if contents.format >= HEADS_LAG_SINCE else "heads"  # the file's own view proves nothing
    present = versions = 0
    for row in reader.rows_lazily(
        f"SELECT h.key, h.version, h.leaf_index, h.deleted, h.timestamp_us, h.size, l.leaf FROM {heads} h"  # noqa: S608
        " LEFT JOIN leaves l ON l.leaf_index = h.leaf_index"
    ):
        key, version, leaf_index, deleted, timestamp_us, size, data = cast(
            tuple[str, int, int, int, int, int, bytes | None], row
        )
        if data is None:
            _damaged(reader, f"key {key!r} points at a leaf that is missing")
        if head_from_leaf(leaf_index, data) != (key, Head(version, leaf_index, bool(deleted), timestamp_us, size)):
            _damaged(reader, f"key {key!r} does not match the leaf that it points at")
        present += not deleted
        versions += version
    if versions != summary.tree_size:
        _damaged(reader, f"the versions of its keys add up to {versions}, not to its {summary.tree_size} leaves")
    if present != summary.key_count:
        _damaged(reader, f"it holds {present} keys, and its summary says {summary.key_count}")


def _damaged(reader: Reader, detail: str) -> NoReturn:
    raise DamagedFile(str(reader.path), detail)
