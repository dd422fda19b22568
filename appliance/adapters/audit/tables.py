"""The tables that a query sees: `audit` over sealed segments and the rest, `current` when the SQL names it."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Sequence
from typing import Final

import apsw
import duckdb
import pyarrow as pa

_NAMES_CURRENT: Final = re.compile(  # itself, or what lists tables
    r"\b(?:current|show|information_schema|sqlite_master|duckdb_\w+|pg_\w+)\b", re.IGNORECASE
)
_BATCH_ROWS_MAX: Final = 2048
_BATCH_BYTES_MAX: Final = 8 * 1024 * 1024

_CURRENT: Final = (  # without an order, which would sort all values before the first row comes
    "SELECT h.key, h.version, h.leaf_index, h.timestamp_us, l.value FROM heads h"
    " LEFT JOIN leaves l ON l.leaf_index = h.leaf_index WHERE h.deleted = 0"
)
_CURRENT_SCHEMA: Final = pa.schema(
    [
        pa.field("key", pa.string()),
        pa.field("version", pa.int64()),
        pa.field("leaf_index", pa.int64()),
        pa.field("time", pa.timestamp("us", tz="UTC")),
        pa.field("value", pa.large_string()),
    ]
)


def names_current(sql: str) -> bool:
    """Whether the SQL may read or list `current`. A word in a comment or a string counts too, and costs time only."""
    return _NAMES_CURRENT.search(sql) is not None


def make_audit(db: duckdb.DuckDBPyConnection, files: Sequence[str], rest: pa.Table) -> None:
    """Make the view `audit` of the sealed files, in their order, and the rows that are not sealed."""
    db.execute("CREATE SCHEMA store").fetchall()
    db.register("incoming", rest)
    db.execute("CREATE TABLE store.rest AS FROM incoming").fetchall()
    db.unregister("incoming")
    sealed = ", ".join(f"'{file}'" for file in files)  # our own names: letters, digits, hyphen, dot
    source = f"FROM read_parquet([{sealed}]) UNION ALL FROM store.rest" if files else "FROM store.rest"
    db.execute(f"CREATE VIEW audit AS {source}").fetchall()


def make_current(db: duckdb.DuckDBPyConnection, ledger: apsw.Connection) -> None:
    """Make the table `current`, streamed from the ledger in bounded batches; DuckDB's memory limit holds for it.

    DuckDB itself decides what is valid JSON, so that its functions never meet a value that they cannot read.
    """
    reader = pa.RecordBatchReader.from_batches(_CURRENT_SCHEMA, _current_batches(ledger))
    db.register("incoming", reader)
    db.execute(
        "CREATE TABLE current AS SELECT key, version, leaf_index, time,"
        " CAST(CASE WHEN json_valid(value) THEN value ELSE CAST(to_json(value) AS VARCHAR) END AS JSON) AS value"
        " FROM incoming"
    ).fetchall()
    db.unregister("incoming")


def _current_batches(ledger: apsw.Connection) -> Iterator[pa.RecordBatch]:
    rows: list[tuple[object, ...]] = []
    size_bytes = 0
    for key, version, leaf_index, stamp_us, value in ledger.execute(_CURRENT):
        rows.append((key, version, leaf_index, stamp_us, None if value is None else value_text(value)))
        size_bytes += 0 if value is None else len(value)
        if len(rows) == _BATCH_ROWS_MAX or size_bytes > _BATCH_BYTES_MAX:
            yield _batch(rows)
            rows, size_bytes = [], 0
    if rows:
        yield _batch(rows)


def _batch(rows: list[tuple[object, ...]]) -> pa.RecordBatch:
    columns = zip(*rows, strict=True)
    arrays = [pa.array(column, kind.type) for column, kind in zip(columns, _CURRENT_SCHEMA, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=_CURRENT_SCHEMA)


def value_text(value: bytes) -> str:
    """A value as text: itself when it is UTF-8, else the JSON object `{"base64": ...}`."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return '{"base64":"' + base64.b64encode(value).decode() + '"}'
