"""The tables of `ledger.db`, and how values become rows and rows values. Each value is stored once, under its leaf."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, cast

import apsw
import msgspec

from appliance.adapters.sqlite import BulkInsert, Value
from appliance.ledger.commands import WriteResult
from appliance.ledger.state import Changes, Head, NewLeaf, Refusal, StoredAnswer, Summary

LEDGER_FORMAT: Final = 1

SCHEMA: Final = (
    "CREATE TABLE leaves (leaf_index INTEGER PRIMARY KEY, raft_index INTEGER NOT NULL, leaf BLOB NOT NULL,"
    " salt BLOB NOT NULL, value BLOB) STRICT",
    "CREATE TABLE heads (key TEXT PRIMARY KEY, version INTEGER NOT NULL, leaf_index INTEGER NOT NULL,"
    " deleted INTEGER NOT NULL, timestamp_us INTEGER NOT NULL, size INTEGER NOT NULL) STRICT, WITHOUT ROWID",
    "CREATE TABLE refusals (raft_index INTEGER NOT NULL, position INTEGER NOT NULL, timestamp_us INTEGER NOT NULL,"
    " actor TEXT NOT NULL, op TEXT NOT NULL, key TEXT NOT NULL, version INTEGER NOT NULL, size INTEGER NOT NULL,"
    " outcome TEXT NOT NULL, request_id TEXT NOT NULL, PRIMARY KEY (raft_index, position)) STRICT, WITHOUT ROWID",
    "CREATE TABLE answers (actor TEXT NOT NULL, idempotency_key TEXT NOT NULL, request_hash BLOB NOT NULL,"
    " timestamp_us INTEGER NOT NULL, result BLOB NOT NULL, PRIMARY KEY (actor, idempotency_key)) STRICT, WITHOUT ROWID",
    "CREATE INDEX answers_by_time ON answers (timestamp_us)",
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID",
)
HEAD_BY_KEY: Final = "SELECT version, leaf_index, deleted, timestamp_us, size FROM heads WHERE key = ?"
PRESENT_KEYS: Final = (  # from, but not `after`, to before
    "SELECT key, version, leaf_index, deleted, timestamp_us, size FROM heads"
    " WHERE key >= ? AND key <> ? AND key < ? AND deleted = 0 ORDER BY key"
)
LEAF_BY_INDEX: Final = "SELECT leaf_index, raft_index, leaf, salt, value FROM leaves WHERE leaf_index = ?"
ANSWER_BY_KEY: Final = (
    "SELECT actor, idempotency_key, request_hash, timestamp_us, result FROM answers"
    " WHERE actor = ? AND idempotency_key = ?"
)

_INSERT_LEAVES: Final = BulkInsert("INSERT INTO leaves", columns=5)
_INSERT_HEADS: Final = BulkInsert("INSERT OR REPLACE INTO heads", columns=6)
_INSERT_REFUSALS: Final = BulkInsert("INSERT INTO refusals", columns=10)
_INSERT_ANSWERS: Final = BulkInsert("INSERT OR REPLACE INTO answers", columns=5)

_RESULT_DECODER: Final = msgspec.msgpack.Decoder(WriteResult)
_SUMMARY_DECODER: Final = msgspec.msgpack.Decoder(Summary)

_LEAF_BYTES: Final = 600  # Python objects and row overhead of a leaf and a head, measured roughly
_CHANGES_BYTES: Final = 500


class Batch(NamedTuple):
    """One call of `add`: changes that are written together with the summary that they led to.

    Attributes:
        size_bytes: an estimate of the memory it holds.
        row_count: rows it will write, at most.
    """

    changes: tuple[Changes, ...]
    summary: Summary
    meta: bytes
    size_bytes: int
    row_count: int


def make_batch(changes: Sequence[Changes], summary: Summary, meta: bytes) -> Batch:
    """Count what a batch holds."""
    size_bytes = row_count = 0
    for change in changes:
        size_bytes += _CHANGES_BYTES
        for leaf in change.leaves:
            size_bytes += _LEAF_BYTES + len(leaf.leaf) + (0 if leaf.value is None else len(leaf.value))
        row_count += len(change.leaves) + len(change.heads) + len(change.refusals) + (change.answer is not None)
    return Batch(tuple(changes), summary, meta, size_bytes, row_count)


def write_batches(db: apsw.Connection, batches: Sequence[Batch]) -> None:
    """Write what the batches changed, and the last one's summary; to be called in a transaction."""
    leaves: list[NewLeaf] = []
    heads: dict[str, Head] = {}
    refusals: list[tuple[Value, ...]] = []
    answers: list[tuple[Value, ...]] = []
    forget_before_us = 0
    for batch in batches:
        for change in batch.changes:
            leaves.extend(change.leaves)
            heads.update(change.heads)
            refusals.extend(_refusal_row(refusal) for refusal in change.refusals)
            if change.answer is not None:
                answers.append(_answer_row(change.answer))
            forget_before_us = max(forget_before_us, change.forget_answers_before_us)
    _INSERT_LEAVES(db, [(one.leaf_index, one.raft_index, one.leaf, one.salt, one.value) for one in leaves])
    _INSERT_HEADS(
        db,
        [  # in key order, so that neighbours meet on one page
            (key, head.version, head.leaf_index, int(head.deleted), head.timestamp_us, head.size)
            for key, head in sorted(heads.items(), key=lambda item: item[0])
        ],
    )
    _INSERT_REFUSALS(db, refusals)
    _INSERT_ANSWERS(db, answers)
    if forget_before_us:
        db.execute("DELETE FROM answers WHERE timestamp_us < ?", (forget_before_us,))
    put_meta(db, "summary", msgspec.msgpack.encode(batches[-1].summary))
    put_meta(db, "snapshot_meta", batches[-1].meta)


def put_meta(db: apsw.Connection, name: str, value: bytes) -> None:
    """Set a row of table `meta`."""
    db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))


def head_from_row(row: Sequence[Value]) -> Head:
    """Make a head of the columns of `HEAD_BY_KEY`."""
    version, leaf_index, deleted, timestamp_us, size = cast(Sequence[int], row)
    return Head(version, leaf_index, bool(deleted), timestamp_us, size)


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
