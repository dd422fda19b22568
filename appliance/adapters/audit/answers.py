"""Results of a query as JSON, CSV, Arrow or Parquet, cut at a number of rows and of bytes."""

from __future__ import annotations

import base64
import csv
import io
import math
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

INTEGER_MAX: Final = 2**53  # beyond it JSON numbers lose digits in many programs
_EPOCH: Final = datetime(1970, 1, 1)  # arithmetic on UTC needs no zone database
_DECIMAL_DIGITS_MAX: Final = 15  # digits that a JSON number keeps
_INFINITY: Final = {2**63 - 1: "infinity", -(2**63) + 1: "-infinity"}
_PER_SECOND: Final = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}


class Answer(NamedTuple):
    """An encoded result; `truncated` when a limit cut it."""

    columns: tuple[str, ...]
    row_count: int
    truncated: bool
    body: bytes


class _Cut:
    """Takes batches until a limit is reached."""

    def __init__(self, reader: pa.RecordBatchReader, limit: int) -> None:
        self._reader = reader
        self._left = limit
        self.truncated = False
        self.row_count = 0

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        for batch in self._reader:
            if batch.num_rows == 0:
                continue
            if batch.num_rows > self._left:
                self.truncated = True
                if self._left:
                    yield batch.slice(0, self._left)
                return
            self._left -= batch.num_rows
            yield batch
            if self.truncated:
                return


def encode_answer(reader: pa.RecordBatchReader, fmt: str, limit: int, bytes_max: int) -> Answer:
    """Encode at most `limit` rows and about `bytes_max` bytes. JSON and CSV are cut between rows, Arrow and
    Parquet between batches of about 2,000 rows.
    """
    cut = _Cut(reader, limit)
    body = _ENCODERS[fmt](cut, reader.schema, bytes_max)
    return Answer(tuple(reader.schema.names), cut.row_count, cut.truncated, body)


def _encode_json(cut: _Cut, schema: pa.Schema, bytes_max: int) -> bytes:
    parts: list[bytes] = []
    size_bytes = 0
    for batch in cut:
        for row in zip(*(json_values(column) for column in batch.columns), strict=True):
            part = msgspec.json.encode(row)
            size_bytes += len(part) + 1
            if size_bytes > bytes_max:
                cut.truncated = True
                break
            parts.append(part)
    cut.row_count = len(parts)
    columns = msgspec.json.encode(schema.names)
    truncated = b"true" if cut.truncated else b"false"
    return b"".join((b'{"columns":', columns, b',"rows":[', b",".join(parts), b'],"truncated":', truncated, b"}"))


def _encode_csv(cut: _Cut, schema: pa.Schema, bytes_max: int) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.writer(out)  # RFC 4180: CRLF, quotes doubled
    writer.writerow(schema.names)
    for batch in cut:
        for row in zip(*(json_values(column) for column in batch.columns), strict=True):
            before = out.tell()
            writer.writerow([_csv_cell(cell) for cell in row])
            if out.tell() > bytes_max:
                out.truncate(before)
                cut.truncated = True
                break
            cut.row_count += 1
    return out.getvalue().encode("utf-8", "replace")


def _csv_cell(value: object) -> object:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, dict)):
        return msgspec.json.encode(value).decode()
    return value


def _encode_arrow(cut: _Cut, schema: pa.Schema, bytes_max: int) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        _write_batches(cut, writer, bytes_max)
    body: bytes = sink.getvalue().to_pybytes()
    return body


def _encode_parquet(cut: _Cut, schema: pa.Schema, bytes_max: int) -> bytes:
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        _write_batches(cut, writer, bytes_max)
    body: bytes = sink.getvalue().to_pybytes()
    return body


def _write_batches(cut: _Cut, writer: Any, bytes_max: int) -> None:
    size_bytes = 0
    for batch in cut:
        size_bytes += batch.nbytes
        if size_bytes > bytes_max:
            cut.truncated = True
            return
        writer.write_batch(batch)
        cut.row_count += batch.num_rows


_ENCODERS: Final[dict[str, Callable[[_Cut, pa.Schema, int], bytes]]] = {
    "json": _encode_json,
    "csv": _encode_csv,
    "arrow": _encode_arrow,
    "parquet": _encode_parquet,
}


def json_values(column: pa.Array) -> list[object]:
    """The values of a column as JSON has them; docs/AUDIT.md says how each type is written."""
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_boolean(kind):
        plain: list[object] = column.to_pylist()
        return plain
    if pa.types.is_timestamp(kind):
        per_second, suffix = _PER_SECOND[kind.unit], "Z" if kind.tz else ""
        ticks = column.cast(pa.int64()).to_pylist()
        return [None if tick is None else _timestamp(tick, per_second, suffix) for tick in ticks]
    return [_json_value(value) for value in column.to_pylist()]


def _timestamp(tick: int, per_second: int, suffix: str) -> str:
    if tick in _INFINITY:
        return _INFINITY[tick]
    try:
        moment = _EPOCH + timedelta(microseconds=tick * 1_000_000 // per_second)
    except OverflowError:
        return f"{tick // per_second}"  # seconds since 1970, for years beyond 9999
    return moment.isoformat(timespec="microseconds") + suffix


def _json_value(value: Any) -> object:  # noqa: PLR0911 - a table of types
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, int):
        return value if -INTEGER_MAX <= value <= INTEGER_MAX else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN")
    if isinstance(value, Decimal):
        return _decimal(value)
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime):
        zone = "" if value.tzinfo is None else "Z"
        return (value if value.tzinfo is None else value.astimezone(UTC)).replace(tzinfo=None).isoformat(
            timespec="microseconds"
        ) + zone
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, dict):
        return {str(name): _json_value(item) for name, item in value.items()}
    if isinstance(value, pa.MonthDayNano):
        return _interval(value)
    if isinstance(value, (list, tuple)):
        return [_json_value(item) for item in value]
    return str(value)


def _decimal(value: Decimal) -> object:
    if value == value.to_integral_value() and value.as_tuple().exponent == 0:
        return _json_value(int(value))
    return float(value) if len(value.as_tuple().digits) <= _DECIMAL_DIGITS_MAX else str(value)


def _interval(value: Any) -> str:
    """An ISO 8601 duration of months, days and seconds."""
    seconds = Decimal(value.nanoseconds).scaleb(-9).normalize()
    return f"P{value.months}M{value.days}DT{seconds:f}S"
