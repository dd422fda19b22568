"""The tables of `ledger.db`, and how values become rows and rows values. Each value is stored once, under its leaf."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast

import apsw
import msgspec
from msgspec import Struct

from appliance.adapters.ledger_tiles import TILES_TABLE, Edge, build_tiles
from appliance.adapters.sqlite import BulkInsert, Reader, Value
from appliance.ledger.commands import WriteResult
from appliance.ledger.state import Head, NewLeaf, Refusal, StoredAnswer, Summary

LEDGER_FORMAT: Final = 3
LEDGER_FORMATS_READ: Final = (1, 2, LEDGER_FORMAT)  # see `upgrade_tables`
HEADS_LAG_SINCE: Final = 2  # format from which on the table of heads lags behind the leaves
HEADS_MARK: Final = "heads_leaf_next"

ALL_HEADS: Final = (  # what is stored, and over it what the leaves behind the mark say
    "WITH fields AS (SELECT leaf_index, CAST(leaf AS TEXT) AS leaf FROM leaves WHERE leaf_index >="
    " (SELECT CAST(CAST(value AS TEXT) AS INTEGER) FROM meta WHERE name = 'heads_leaf_next')),"
    " later AS MATERIALIZED (SELECT json_extract(leaf, '$.key') AS key, json_extract(leaf, '$.version') AS version,"
    " max(leaf_index) AS leaf_index, json_extract(leaf, '$.op') = 'delete' AS deleted,"
    " json_extract(leaf, '$.timestamp_us') AS timestamp_us, json_extract(leaf, '$.value_size') AS size"
    " FROM fields GROUP BY json_extract(leaf, '$.key'))"
    " SELECT key, version, leaf_index, deleted, timestamp_us, size FROM stored_heads"
    " WHERE key NOT IN (SELECT key FROM later)"
    " UNION ALL SELECT key, version, leaf_index, deleted, timestamp_us, size FROM later"
)
_HEADS_VIEW: Final = f"CREATE VIEW heads (key, version, leaf_index, deleted, timestamp_us, size) AS {ALL_HEADS}"
_SCHEMA: Final = (
    "CREATE TABLE leaves (leaf_index INTEGER PRIMARY KEY, raft_index INTEGER NOT NULL, leaf BLOB NOT NULL,"
    " salt BLOB NOT NULL, value BLOB) STRICT",
    "CREATE TABLE stored_heads (key TEXT PRIMARY KEY, version INTEGER NOT NULL, leaf_index INTEGER NOT NULL,"
    " deleted INTEGER NOT NULL, timestamp_us INTEGER NOT NULL, size INTEGER NOT NULL) STRICT, WITHOUT ROWID",
    TILES_TABLE,
    "CREATE TABLE refusals (raft_index INTEGER NOT NULL, position INTEGER NOT NULL, timestamp_us INTEGER NOT NULL,"
    " actor TEXT NOT NULL, op TEXT NOT NULL, key TEXT NOT NULL, version INTEGER NOT NULL, size INTEGER NOT NULL,"
    " outcome TEXT NOT NULL, request_id TEXT NOT NULL, PRIMARY KEY (raft_index, position)) STRICT, WITHOUT ROWID",
    "CREATE TABLE answers (actor TEXT NOT NULL, idempotency_key TEXT NOT NULL, request_hash BLOB NOT NULL,"
    " timestamp_us INTEGER NOT NULL, result BLOB NOT NULL, PRIMARY KEY (actor, idempotency_key)) STRICT, WITHOUT ROWID",
    "CREATE INDEX answers_by_time ON answers (timestamp_us)",
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID",
    _HEADS_VIEW,
)
HEAD_BY_KEY: Final = "SELECT version, leaf_index, deleted, timestamp_us, size FROM stored_heads WHERE key = ?"
_HEAD_AS_TEXT: Final = (
    "(SELECT json_array(version, leaf_index, deleted, timestamp_us, size) FROM stored_heads WHERE key = ?)"
)
HEADS_BY_KEYS: Final = tuple(  # for 32, 16 ... 1 keys: few statements, so that each stays prepared; one row, one column
    (count, f"SELECT {','.join([_HEAD_AS_TEXT] * count)}")  # a key, because each row gives the interpreter's lock up
    for count in (32, 16, 8, 4, 2, 1)
)
PRESENT_KEYS: Final = (  # from, but not `after`, to before
    "SELECT key, version, leaf_index, deleted, timestamp_us, size FROM stored_heads"
    " WHERE key >= ? AND key <> ? AND key < ? AND deleted = 0 ORDER BY key"
)
LEAVES_FROM: Final = "SELECT leaf_index, leaf FROM leaves WHERE leaf_index >= ? ORDER BY leaf_index"
LEAF_BY_INDEX: Final = "SELECT leaf_index, raft_index, leaf, salt, value FROM leaves WHERE leaf_index = ?"
BARE_LEAF_BY_INDEX: Final = "SELECT leaf FROM leaves WHERE leaf_index = ?"
ALL_ANSWERS: Final = "SELECT actor, idempotency_key, request_hash, timestamp_us, result FROM answers"
ANSWER_BY_KEY: Final = f"{ALL_ANSWERS} WHERE actor = ? AND idempotency_key = ?"

_LEAF_COLUMNS: Final = 5
_INSERT_LEAVES: Final = BulkInsert("INSERT INTO leaves", columns=_LEAF_COLUMNS)
_INSERT_HEADS: Final = BulkInsert("INSERT OR REPLACE INTO stored_heads", columns=6)
_INSERT_REFUSALS: Final = BulkInsert("INSERT INTO refusals", columns=10)
_INSERT_ANSWERS: Final = BulkInsert("INSERT OR REPLACE INTO answers", columns=5)

_HEAD_DECODER: Final = msgspec.json.Decoder(tuple[int, int, int, int, int])
_RESULT_DECODER: Final = msgspec.msgpack.Decoder(WriteResult)
_SUMMARY_DECODER: Final = msgspec.msgpack.Decoder(Summary)


class _HeadFields(Struct, gc=False):
    """What a head repeats of its leaf."""

    key: str
    op: str
    version: int
    value_size: int
    timestamp_us: int


_HEAD_FIELDS: Final = msgspec.json.Decoder(_HeadFields)


class Batch:
    """What is written together: the changes of one or more entries, and the summary that they led to.

    Attributes:
        leaf_values: the columns of its leaves, one leaf behind the other.
        leaf_hashes: their hashes, as they went into the tree.
        heads: heads that are written with it, of whatever leaves before its summary's tree size.
        heads_leaf_next: the mark that it sets, 0 for none; see `appliance.adapters.ledger_memory`.
        refusals: refused operations.
        answers: first answers.
        forget_before_us: answers with an earlier stamp are dropped.
        summary: the machine's state behind it.
        meta: what is kept beside the summary.
        size_bytes: an estimate of the memory it holds.
    """

    __slots__ = (
        "answers",
        "forget_before_us",
        "heads",
        "heads_leaf_next",
        "leaf_hashes",
        "leaf_values",
        "meta",
        "refusals",
        "size_bytes",
        "summary",
    )

    def __init__(self) -> None:
        self.leaf_values: list[Value] = []
        self.leaf_hashes: list[bytes] = []
        self.heads: dict[str, Head] = {}
        self.heads_leaf_next = 0
        self.refusals: list[Refusal] = []
        self.answers: list[StoredAnswer] = []
        self.forget_before_us = 0
        self.summary = Summary()
        self.meta = b""
        self.size_bytes = 0

    def leaf_count(self) -> int:
        """Leaves in it."""
        return len(self.leaf_values) // _LEAF_COLUMNS

    def row_count(self) -> int:
        """Rows that it writes."""
        return self.leaf_count() + len(self.heads) + len(self.refusals) + len(self.answers)


def write_batches(db: apsw.Connection, batches: Sequence[Batch], edge: Edge) -> None:
    """Write what the batches changed, and the last one's summary; to be called in a transaction. When that fails, the
    edge of the tree is to be thrown away.
    """
    leaves: list[Value] = []
    leaf_hashes: list[bytes] = []
    heads: list[Value] = []
    refusals: list[Value] = []
    answers: list[Value] = []
    heads_leaf_next = forget_before_us = 0
    for batch in batches:
        leaves += batch.leaf_values
        leaf_hashes += batch.leaf_hashes
        for key, head in batch.heads.items():
            heads += (key, head.version, head.leaf_index, head.deleted, head.timestamp_us, head.size)
        for refusal in batch.refusals:
            refusals += _refusal_row(refusal)
        for answer in batch.answers:
            answers += _answer_row(answer)
        heads_leaf_next = max(heads_leaf_next, batch.heads_leaf_next)
        forget_before_us = max(forget_before_us, batch.forget_before_us)
    _INSERT_LEAVES(db, leaves)
    edge.grow(db, leaf_hashes)
    _INSERT_HEADS(db, heads)
    _INSERT_REFUSALS(db, refusals)
    _INSERT_ANSWERS(db, answers)
    if forget_before_us:
        db.execute("DELETE FROM answers WHERE timestamp_us < ?", (forget_before_us,))
    put_meta(db, "summary", msgspec.msgpack.encode(batches[-1].summary))
    put_meta(db, "snapshot_meta", batches[-1].meta)
    if heads_leaf_next:
        put_heads_mark(db, heads_leaf_next)


def make_tables(db: apsw.Connection, cluster_id: str) -> None:
    """Make an empty ledger; to be called in a transaction."""
    for statement in _SCHEMA:
        db.execute(statement)
    put_meta(db, "format", msgspec.msgpack.encode(LEDGER_FORMAT))
    put_meta(db, "cluster_id", cluster_id.encode())
    put_meta(db, "summary", msgspec.msgpack.encode(Summary()))
    put_meta(db, "snapshot_meta", b"")
    put_heads_mark(db, 0)


def upgrade_tables(db: apsw.Connection, found_format: int, tree_size: int) -> None:
    """Bring a file of format 1, in which `heads` is a table that never lags, or 2, which has no tiles, to this one; in
    a transaction. About 2 us a leaf.
    """
    if found_format == 1:
        db.execute("ALTER TABLE heads RENAME TO stored_heads")
        db.execute(_HEADS_VIEW)
        put_heads_mark(db, tree_size)
    db.execute(TILES_TABLE)
    build_tiles(db)
    put_meta(db, "format", msgspec.msgpack.encode(LEDGER_FORMAT))


def put_heads_mark(db: apsw.Connection, heads_leaf_next: int) -> None:
    """Note that `stored_heads` holds the heads of all leaves before this one, or later ones of the same keys."""
    put_meta(db, HEADS_MARK, str(heads_leaf_next).encode())


def put_meta(db: apsw.Connection, name: str, value: bytes) -> None:
    """Set a row of table `meta`."""
    db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))


def head_from_row(row: Sequence[Value]) -> Head:
    """Make a head of the columns of `HEAD_BY_KEY`. Raises `ValueError` when the row is damaged."""
    if not all(type(one) is int for one in row):
        raise ValueError(f"a head has columns that are no integers: {list(row)}")
    version, leaf_index, deleted, timestamp_us, size = cast(Sequence[int], row)
    return Head(version, leaf_index, bool(deleted), timestamp_us, size)


def head_from_text(text: str) -> Head:
    """Make a head of a column of `HEADS_BY_KEYS`. Raises `msgspec.MsgspecError` when the row is damaged."""
    return head_from_row(_HEAD_DECODER.decode(text))


def heads_by_keys(reader: Reader, keys: Sequence[str]) -> list[Head | None]:
    """The stored heads of some keys, None for those that have none. Raises `StorageError`, `msgspec.MsgspecError`."""
    heads: list[Head | None] = []
    for count, statement in HEADS_BY_KEYS:
        while len(keys) - len(heads) >= count:
            texts = reader.rows(statement, keys[len(heads) : len(heads) + count])[0]
            heads += (None if text is None else head_from_text(cast(str, text)) for text in texts)
    return heads


def head_from_leaf(leaf_index: int, leaf: bytes) -> tuple[str, Head]:
    """The key and the head that a leaf gave it. Raises `msgspec.MsgspecError` when it is no leaf."""
    fields = _HEAD_FIELDS.decode(leaf)
    return fields.key, Head(fields.version, leaf_index, fields.op == "delete", fields.timestamp_us, fields.value_size)


def leaf_from_row(row: Sequence[Value]) -> NewLeaf:
    """Make a leaf of the columns of `LEAF_BY_INDEX`."""
    return NewLeaf(*cast(tuple[int, int, bytes, bytes, bytes | None], tuple(row)))


def answer_from_row(row: Sequence[Value]) -> StoredAnswer:
    """Make an answer of the columns of `ANSWER_BY_KEY`. Raises `msgspec.DecodeError` when the row is damaged."""
    actor, idempotency_key, request_hash, timestamp_us, result = cast(tuple[str, str, bytes, int, bytes], tuple(row))
    return StoredAnswer(actor, idempotency_key, request_hash, timestamp_us, _RESULT_DECODER.decode(result))


def decode_summary(data: bytes) -> Summary:
    """Read a stored summary. Raises `msgspec.DecodeError`."""
    return _SUMMARY_DECODER.decode(data)


def stored_summary(db: apsw.Connection) -> Summary:
    """The summary that stands in a file, as the connection sees it. Raises `ValueError`, and `apsw.Error`."""
    row = db.execute("SELECT value FROM meta WHERE name = 'summary'").fetchone()
    if row is None:
        raise ValueError("its table meta has no summary")
    return decode_summary(cast(bytes, row[0]))


def prefix_end(prefix: str) -> str | None:
    """The first string behind all that start with `prefix`, in the order of code points, which is the order of
    UTF-8 bytes; None when nothing lies behind.
    """
    for at in range(len(prefix) - 1, -1, -1):
        code = ord(prefix[at])
        if code < 0x10FFFF:
            following = 0xE000 if code == 0xD7FF else code + 1  # surrogates are no characters
            return prefix[:at] + chr(following)
    return None


def _refusal_row(refusal: Refusal) -> tuple[Value, ...]:
    return (
        refusal.raft_index,
        refusal.position,
        refusal.timestamp_us,
        refusal.actor,
        str(refusal.op),
        refusal.key,
        refusal.version,
        refusal.size,
        str(refusal.outcome),
        refusal.request_id,
    )


def _answer_row(answer: StoredAnswer) -> tuple[Value, ...]:
    result = msgspec.msgpack.encode(answer.result)
    return (answer.actor, answer.idempotency_key, answer.request_hash, answer.timestamp_us, result)
