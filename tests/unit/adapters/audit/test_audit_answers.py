"""Each type in each format, and the limits."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

import duckdb
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from appliance.adapters.audit.answers import encode_answer
from appliance.adapters.audit.sandbox import open_database
from appliance.adapters.audit.tables import value_text

MIB = 2**20


@pytest.fixture(scope="module")
def db() -> Iterator[duckdb.DuckDBPyConnection]:
    with open_database(256 * MIB, "spill") as made:
        yield made


def reader(db: duckdb.DuckDBPyConnection, sql: str) -> pa.RecordBatchReader:
    result = db.sql(sql)
    assert result is not None
    return result.to_arrow_reader(2048)


TYPES: dict[str, tuple[str, object]] = {
    "null": ("NULL", None),
    "boolean": ("true", True),
    "integer": ("42", 42),
    "2^53": ("9007199254740992", 9007199254740992),
    "beyond 2^53": ("9007199254740993", "9007199254740993"),
    "below -2^53": ("-9007199254740993", "-9007199254740993"),
    "hugeint": ("170141183460469231::HUGEINT", "170141183460469231"),
    "sum of integers": ("(SELECT sum(x) FROM range(4) t(x))", 6),
    "double": ("0.5::DOUBLE", 0.5),
    "not a number": ("'nan'::DOUBLE", "NaN"),
    "infinity": ("'-inf'::DOUBLE", "-Infinity"),
    "decimal": ("1.25", 1.25),
    "long decimal": ("1234567890.1234567890", "1234567890.1234567890"),
    "text": ("'Grüße\n\"'", 'Grüße\n"'),
    "blob": ("'\\xFF\\x00'::BLOB", "/wA="),
    "time with zone": ("TIMESTAMPTZ '2026-11-23 19:26:40.123456+00'", "2026-11-23T19:26:40.123456Z"),
    "time with another zone": ("TIMESTAMPTZ '2026-11-23 19:26:40+02'", "2026-11-23T17:26:40.000000Z"),
    "time before 1970": ("TIMESTAMPTZ '1969-12-31 23:59:59.5+00'", "1969-12-31T23:59:59.500000Z"),
    "time without zone": ("TIMESTAMP '2026-11-23 19:26:40'", "2026-11-23T19:26:40.000000"),
    "seconds": ("'2026-11-23 19:26:40'::TIMESTAMP_S", "2026-11-23T19:26:40.000000"),
    "endless time": ("'infinity'::TIMESTAMPTZ", "infinity"),
    "time beyond 9999": ("TIMESTAMP '12000-01-01 00:00:00'", "316516204800"),
    "date": ("DATE '2026-11-23'", "2026-11-23"),
    "time of day": ("TIME '19:26:40'", "19:26:40"),
    "interval": ("INTERVAL '1 month 2 days 3.5 seconds'", "P1M2DT3.5S"),
    "uuid": ("'13e3b6fd-14cd-436a-a562-4c2c7674e5cc'::UUID", "13e3b6fd-14cd-436a-a562-4c2c7674e5cc"),
    "enum": ("'a'::ENUM('a', 'b')", "a"),
    "list": ("[1, NULL, 9007199254740993]", [1, None, "9007199254740993"]),
    "struct": ("{'a': 1, 'b': TIMESTAMPTZ '2026-11-23 19:26:40+00'}", {"a": 1, "b": "2026-11-23T19:26:40.000000Z"}),
    "map": ("map {'x': 1}", [["x", 1]]),
    "json": ("""'{"a": [1, 2]}'::JSON""", '{"a": [1, 2]}'),
}


@pytest.mark.parametrize(("sql", "expected"), TYPES.values(), ids=TYPES)
def test_a_type_in_json(db: duckdb.DuckDBPyConnection, sql: str, expected: object) -> None:
    answer = encode_answer(reader(db, f"SELECT {sql} AS a UNION ALL SELECT NULL"), "json", 10, MIB)
    assert msgspec.json.decode(answer.body) == {"columns": ["a"], "rows": [[expected], [None]], "truncated": False}


CSV_CELLS = {
    "text with quotes": ("""'a "b", c'""", 'a "b", c'),
    "true": ("true", "true"),
    "null": ("NULL", ""),
    "list": ("[1, 2]", "[1,2]"),
    "time": ("TIMESTAMPTZ '2026-11-23 19:26:40+00'", "2026-11-23T19:26:40.000000Z"),
    "integer": ("9007199254740993", "9007199254740993"),
}


@pytest.mark.parametrize(("sql", "expected"), CSV_CELLS.values(), ids=CSV_CELLS)
def test_a_type_in_csv(db: duckdb.DuckDBPyConnection, sql: str, expected: str) -> None:
    answer = encode_answer(reader(db, f"SELECT 1 AS n, {sql} AS a"), "csv", 10, MIB)
    assert answer.body.startswith(b"n,a\r\n")
    assert list(csv.reader(io.StringIO(answer.body.decode(), newline=""))) == [["n", "a"], ["1", expected]]


def rows_of(body: bytes, fmt: str) -> list[Any]:
    if fmt == "json":
        return [row[0] for row in msgspec.json.decode(body)["rows"]]
    if fmt == "csv":
        return [int(row[0]) for row in list(csv.reader(io.StringIO(body.decode())))[1:]]
    table = pa.ipc.open_stream(body).read_all() if fmt == "arrow" else pq.read_table(io.BytesIO(body))
    rows: list[Any] = table.column(0).to_pylist()
    return rows


@pytest.mark.parametrize("fmt", ["json", "csv", "arrow", "parquet"])
@pytest.mark.parametrize(
    ("count", "limit"), [(0, 10), (9, 10), (10, 10), (11, 10), (2048, 2048), (2049, 2048), (6000, 5000)]
)
def test_the_limit_on_rows(db: duckdb.DuckDBPyConnection, fmt: str, count: int, limit: int) -> None:
    answer = encode_answer(reader(db, f"SELECT x::BIGINT AS x FROM range({count}) t(x)"), fmt, limit, MIB)
    assert rows_of(answer.body, fmt) == list(range(min(count, limit)))
    assert answer.row_count == min(count, limit)
    assert answer.truncated == (count > limit)
    assert answer.columns == ("x",)


@pytest.mark.parametrize("fmt", ["json", "csv", "arrow", "parquet"])
def test_the_limit_on_bytes(db: duckdb.DuckDBPyConnection, fmt: str) -> None:
    sql = "SELECT x::BIGINT AS x, repeat('y', 100) AS y FROM range(50000) t(x)"
    answer = encode_answer(reader(db, sql), fmt, 10**6, MIB)
    assert answer.truncated
    assert len(answer.body) <= MIB + 1000
    rows = rows_of(answer.body, fmt)
    assert rows == list(range(answer.row_count))
    assert answer.row_count > 5000


def test_one_row_that_is_too_large_is_no_row(db: duckdb.DuckDBPyConnection) -> None:
    answer = encode_answer(reader(db, "SELECT repeat('y', 2000000)"), "json", 10, MIB)
    assert (answer.row_count, answer.truncated) == (0, True)
    assert msgspec.json.decode(answer.body)["rows"] == []


def test_names_that_occur_twice_stay(db: duckdb.DuckDBPyConnection) -> None:
    answer = encode_answer(reader(db, "SELECT 1 AS a, 2 AS a"), "json", 10, MIB)
    assert answer.columns == ("a", "a")
    assert msgspec.json.decode(answer.body)["rows"] == [[1, 2]]


@pytest.mark.parametrize(
    ("value", "text"),
    [(b"", ""), (b'{"a":1}', '{"a":1}'), ("é".encode(), "é"), (b"\xff", '{"base64":"/w=="}'), (b"a\x00b", "a\x00b")],
)
def test_a_value_as_text(value: bytes, text: str) -> None:
    assert value_text(value) == text
