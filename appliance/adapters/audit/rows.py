"""Rows of the table `audit`, derived from the leaves and the refusals of `ledger.db`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import apsw
import msgspec
import pyarrow as pa
from msgspec import Struct, field

LEAF_FORMAT: Final = 1

AUDIT_SCHEMA: Final = pa.schema(
    [
        pa.field("index", pa.int64(), nullable=False),
        pa.field("leaf_index", pa.int64()),
        pa.field("batch_id", pa.int64()),
        pa.field("time", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("actor", pa.string(), nullable=False),
        pa.field("op", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("version", pa.int64(), nullable=False),
        pa.field("value_hash", pa.string()),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("outcome", pa.string(), nullable=False),
        pa.field("request_id", pa.string(), nullable=False),
    ]
)

_LEAVES: Final = "SELECT leaf_index, raft_index, leaf FROM leaves WHERE leaf_index >= ? ORDER BY leaf_index"
_REFUSALS: Final = (
    "SELECT raft_index, timestamp_us, actor, op, key, version, size, outcome, request_id FROM refusals"
    " WHERE raft_index > ? ORDER BY raft_index, position"
)


class _LeafFields(Struct, frozen=True, gc=False):
    """What an audit row takes from a leaf (docs/LEDGER-FORMAT.md)."""

    batch_id: int
    op: str
    key: str
    version: int
    value_hash: str | None
    value_size: int
    actor: str
    request_id: str
    timestamp_us: int
    leaf_format: int = field(name="_format")


_decode_leaf = msgspec.json.Decoder(_LeafFields).decode


class Position(NamedTuple):
    """Where reading goes on: behind `raft_index`, at leaf `leaf_next`."""

    raft_index: int
    leaf_next: int


START: Final = Position(0, 0)


class RowReader:
    """Audit rows behind a position, in the order of their raft index; to be used inside one read transaction."""

    def __init__(self, db: apsw.Connection, start: Position) -> None:
        self.position = start
        self._leaves: Iterator[tuple[Any, ...]] = iter(db.execute(_LEAVES, (start.leaf_next,)))
        self._refusals: Iterator[tuple[Any, ...]] = iter(db.execute(_REFUSALS, (start.raft_index,)))
        self._leaf = next(self._leaves, None)
        self._refusal = next(self._refusals, None)

    def take(self, rows_min: int) -> pa.Table:
        """The next rows: all of each raft index, until there are `rows_min`; fewer only at the end. Moves `position`
        behind them.

        Raises:
            ValueError: a leaf is not of the format that this program knows.
        """
        rows: list[tuple[Any, ...]] = []
        index, leaf_next = self.position
        while self._leaf is not None or self._refusal is not None:
            leaf, refusal = self._leaf, self._refusal
            if leaf is not None and (refusal is None or leaf[1] <= refusal[0]):
                if len(rows) >= rows_min and leaf[1] != index:
                    break
                rows.append(_leaf_row(leaf[0], leaf[1], leaf[2]))
                index, leaf_next = leaf[1], leaf[0] + 1
                self._leaf = next(self._leaves, None)
            else:
                assert refusal is not None
                if len(rows) >= rows_min and refusal[0] != index:
                    break
                index, stamp_us, actor, op, key, version, size, outcome, request_id = refusal
                rows.append((index, None, None, stamp_us, actor, op, key, version, None, size, outcome, request_id))
                self._refusal = next(self._refusals, None)
        self.position = Position(index, leaf_next)
        columns = list(zip(*rows, strict=True)) if rows else [()] * len(AUDIT_SCHEMA)
        arrays = [pa.array(column, kind.type) for column, kind in zip(columns, AUDIT_SCHEMA, strict=True)]
        return pa.Table.from_arrays(arrays, schema=AUDIT_SCHEMA)


def _leaf_row(leaf_index: int, raft_index: int, data: bytes) -> tuple[Any, ...]:
    try:
        leaf = _decode_leaf(data)
    except msgspec.MsgspecError as error:
        raise ValueError(f"leaf {leaf_index} cannot be read: {error}") from error
    if leaf.leaf_format != LEAF_FORMAT:
        raise ValueError(f"leaf {leaf_index} is of format {leaf.leaf_format}, which is not known here")
    return (
        raft_index,
        leaf_index,
        leaf.batch_id,
        leaf.timestamp_us,
        leaf.actor,
        leaf.op,
        leaf.key,
        leaf.version,
        leaf.value_hash,
        leaf.value_size,
        "ok",
        leaf.request_id,
    )
