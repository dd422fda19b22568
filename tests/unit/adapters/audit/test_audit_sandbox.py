"""What SQL must not be able to do, wall by wall."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from appliance.adapters.audit.rows import AUDIT_SCHEMA
from appliance.adapters.audit.sandbox import check_sql, lock, open_database, query_error
from appliance.adapters.audit.tables import make_audit
from appliance.tables.errors import ApplianceError

SECRET = "correct horse battery staple"  # what no query may show
a_variable_of_ours = pa.table({"secret": [SECRET]})

# {dir} is a directory with secret.txt, secret.csv, secret.parquet and secret.db in it.
READS = {
    "read_text": "SELECT * FROM read_text('{dir}/secret.txt')",
    "read_blob": "SELECT * FROM read_blob('{dir}/secret.txt')",
    "read_csv": "SELECT * FROM read_csv('{dir}/secret.csv')",
    "read_csv_auto": "SELECT * FROM read_csv_auto('{dir}/secret.csv')",
    "sniff_csv": "SELECT * FROM sniff_csv('{dir}/secret.csv')",
    "read_json": "SELECT * FROM read_json('{dir}/secret.txt')",
    "read_ndjson_objects": "SELECT * FROM read_ndjson_objects('{dir}/secret.txt')",
    "read_parquet": "SELECT * FROM read_parquet('{dir}/secret.parquet')",
    "parquet_scan": "SELECT * FROM parquet_scan('{dir}/secret.parquet')",
    "parquet_metadata": "SELECT * FROM parquet_metadata('{dir}/secret.parquet')",
    "parquet_schema": "SELECT * FROM parquet_schema('{dir}/secret.parquet')",
    "a file as a table": "SELECT * FROM '{dir}/secret.csv'",
    "a file as a table, FROM first": "FROM '{dir}/secret.parquet'",
    "a file below audit": "SELECT * FROM audit WHERE key IN (SELECT content FROM read_text('{dir}/secret.txt'))",
    "a file in a CTE": "WITH t AS (FROM read_text('{dir}/secret.txt')) FROM t",
    "a file in a lateral join": "SELECT * FROM (VALUES ('{dir}/secret.txt')) t(f), LATERAL (FROM read_text(f))",
    "the process": "SELECT * FROM read_text('/proc/self/environ')",
    "passwd": "SELECT * FROM '/etc/passwd'",
    "glob": "SELECT * FROM glob('{dir}/*')",
    "a path out of the spill directory": "SELECT * FROM read_text('spill/../secret.txt')",
    "http": "SELECT * FROM read_csv('http://127.0.0.1:9/x.csv')",
    "s3": "SELECT * FROM read_parquet('s3://bucket/x.parquet')",
    "sqlite_scan": "SELECT * FROM sqlite_scan('{dir}/secret.db', 'leaves')",
    "getenv": "SELECT getenv('PATH')",
    "a variable of the program": "SELECT * FROM a_variable_of_ours",
    "EXPLAIN ANALYZE of a read": "EXPLAIN ANALYZE SELECT * FROM read_text('{dir}/secret.txt')",
    "DESCRIBE of a file": "DESCRIBE SELECT * FROM read_csv('{dir}/secret.csv')",
    "SUMMARIZE of a file": "SUMMARIZE SELECT * FROM read_csv('{dir}/secret.csv')",
    "query()": "SELECT * FROM query('FROM read_text(''{dir}/secret.txt'')')",
}
CHANGES = {
    "COPY TO": "COPY (SELECT 1) TO '{dir}/out.csv'",
    "COPY TO the spill directory": "COPY (SELECT 1) TO 'spill/out.csv'",
    "COPY TO a segment": "COPY (SELECT 1) TO 'segment.parquet'",
    "COPY in a CTE": "WITH t AS (COPY (SELECT 1) TO 'spill/out.csv') SELECT 1",
    "COPY in a CTE of a subquery": "SELECT (WITH t AS (COPY (SELECT 1) TO '{dir}/out.csv') SELECT 1)",
    "COPY in query()": "SELECT * FROM query('WITH t AS (COPY (SELECT 1) TO ''spill/out.csv'') SELECT 1')",
    "EXPLAIN ANALYZE COPY": "EXPLAIN ANALYZE COPY (SELECT 1) TO 'spill/out.csv'",
    "EXPLAIN COPY behind a comment": "EXPLAIN /* SELECT */ ANALYZE COPY (SELECT 1) TO 'spill/out.csv'",
    "COPY FROM": "COPY audit FROM '{dir}/secret.csv'",
    "COPY FROM DATABASE": "COPY FROM DATABASE memory TO other",
    "ATTACH": "ATTACH '{dir}/out.db'",
    "ATTACH in memory": "ATTACH ':memory:' AS other",
    "DETACH": "DETACH memory",
    "USE": "USE memory",
    "EXPORT": "EXPORT DATABASE '{dir}/out'",
    "IMPORT": "IMPORT DATABASE '{dir}'",
    "INSTALL": "INSTALL httpfs",
    "LOAD": "LOAD json",
    "LOAD of a file": "LOAD '{dir}/secret.db'",
    "SET": "SET threads = 64",
    "SET GLOBAL": "SET GLOBAL memory_limit = '100GB'",
    "SET enable_external_access": "SET enable_external_access = true",
    "RESET": "RESET lock_configuration",
    "SET VARIABLE": "SET VARIABLE x = 1",
    "PRAGMA": "PRAGMA database_list",
    "PRAGMA that sets": "PRAGMA memory_limit='100GB'",
    "CALL": "CALL pragma_version()",
    "CREATE TABLE": "CREATE TABLE t AS SELECT 1",
    "CREATE VIEW": "CREATE OR REPLACE VIEW audit AS SELECT 1",
    "CREATE MACRO": "CREATE MACRO f() AS 1",
    "CREATE SECRET": "CREATE SECRET (TYPE s3)",
    "INSERT": "INSERT INTO store.rest SELECT * FROM audit",
    "UPDATE": "UPDATE store.rest SET actor = 'me'",
    "DELETE": "DELETE FROM store.rest",
    "DELETE in a CTE": "WITH t AS (DELETE FROM store.rest RETURNING *) SELECT * FROM t",
    "INSERT in a CTE": "WITH t AS (INSERT INTO store.rest FROM audit RETURNING *) SELECT * FROM t",
    "UPDATE in a nested CTE": (
        "SELECT * FROM (WITH a AS (WITH b AS (UPDATE store.rest SET actor = 'me' RETURNING *) FROM b) FROM a)"
    ),
    "MERGE": "MERGE INTO store.rest USING audit ON true WHEN MATCHED THEN DELETE",
    "DROP": "DROP VIEW audit",
    "ALTER": "ALTER TABLE store.rest ADD COLUMN x INT",
    "TRUNCATE": "TRUNCATE store.rest",
    "VACUUM": "VACUUM",
    "CHECKPOINT": "CHECKPOINT",
    "BEGIN": "BEGIN",
    "PREPARE": "PREPARE p AS SELECT 1",
    "EXECUTE": "EXECUTE p",
    "two statements": "SELECT 1; SELECT 2",
    "a SELECT and a COPY": "SELECT 1; COPY (SELECT 1) TO '{dir}/out.csv'",
    "enable_logging": "SELECT * FROM enable_logging('QueryLog', storage_path = '{dir}/out')",
}
READING = {
    "SELECT": "SELECT count(*) FROM audit",
    "FROM": "FROM audit",
    "VALUES": "VALUES (1)",
    "TABLE": "TABLE audit",
    "WITH": "WITH t AS (SELECT * FROM audit) SELECT count(*) FROM t",
    "WITH RECURSIVE": "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 9) FROM t",
    "UNION": "SELECT actor FROM audit UNION SELECT key FROM audit",
    "a window": "SELECT index, row_number() OVER (PARTITION BY actor ORDER BY time) FROM audit",
    "PIVOT": "PIVOT audit ON op IN ('put', 'delete') USING count(*)",
    "DESCRIBE": "DESCRIBE audit",
    "SUMMARIZE": "SUMMARIZE audit",
    "SHOW": "SHOW TABLES",
    "EXPLAIN": "EXPLAIN SELECT * FROM audit",
    "EXPLAIN ANALYZE": "explain analyze select count(*) from audit",
    "a semicolon and a comment": "SELECT 1; -- done",
    "a comment first": "/* who */ SELECT 1",
    "columns named like keywords": "SELECT index, time, key, size, op FROM audit",
    "JSON": """SELECT '{"a":{"b":1}}'::JSON->'a'->>'b'""",
    "a lambda": "SELECT list_transform([1, 2], lambda x: x + 1)",
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with one segment, and files that no query may open."""
    directory = tmp_path_factory.mktemp("sandbox")
    (directory / "secret.txt").write_text(SECRET)
    (directory / "secret.csv").write_text(f"a,b\n1,{SECRET}\n")
    (directory / "secret.db").write_bytes(b"")
    pq.write_table(a_variable_of_ours, directory / "secret.parquet")
    pq.write_table(pa.table({"a": [1]}), directory / "segment.parquet")
    (directory / "spill").mkdir()
    return directory


def locked_database() -> duckdb.DuckDBPyConnection:
    """With an empty `audit`, in the working directory."""
    db = open_database(128 * 2**20, "spill")
    make_audit(db, [], AUDIT_SCHEMA.empty_table())
    lock(db, ["segment.parquet"])
    return db


@pytest.fixture(scope="module")
def sandbox(files: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """One for all tests that check SQL first: nothing can change it."""
    with contextlib.chdir(files), locked_database() as db:
        yield db


@pytest.fixture
def own_sandbox(files: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    with contextlib.chdir(files), locked_database() as db:
        yield db


def ask(db: duckdb.DuckDBPyConnection, sql: str) -> list[object]:
    """What the worker does with SQL."""
    check_sql(db, sql)
    try:
        return db.sql(sql).to_arrow_reader(10).read_all().to_pylist()
    except duckdb.Error as error:
        raise query_error(error) from error


def tree(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("sql", READS.values(), ids=READS)
def test_nothing_outside_can_be_read(sandbox: duckdb.DuckDBPyConnection, files: Path, sql: str) -> None:
    sql = sql.replace("{dir}", str(files))
    with pytest.raises(ApplianceError) as caught:
        ask(sandbox, sql)
    assert caught.value.code == "bad_query"
    assert SECRET not in caught.value.detail
    assert caught.value.detail.strip()


@pytest.mark.parametrize("sql", CHANGES.values(), ids=CHANGES)
def test_nothing_can_be_changed(sandbox: duckdb.DuckDBPyConnection, files: Path, sql: str) -> None:
    before = tree(files)
    with pytest.raises(ApplianceError) as caught:
        ask(sandbox, sql.replace("{dir}", str(files)))
    assert caught.value.code == "bad_query"
    assert tree(files) == before


@pytest.mark.parametrize("sql", {**READS, **CHANGES}.values(), ids={**READS, **CHANGES})
def test_the_second_wall_holds_without_the_first(own_sandbox: duckdb.DuckDBPyConnection, files: Path, sql: str) -> None:
    """DuckDB itself neither shows nor touches a file outside its spill directory, whatever the statement."""
    before = {name: data for name, data in tree(files).items() if "/spill/" not in name}
    try:
        shown = str(own_sandbox.execute(sql.replace("{dir}", str(files))).fetchall())
    except duckdb.Error as error:
        shown = str(error)
    assert SECRET not in shown
    assert "root:" not in shown
    assert os.environ["PATH"] not in shown
    assert {name: data for name, data in tree(files).items() if "/spill/" not in name} == before


@pytest.mark.parametrize("sql", READING.values(), ids=READING)
def test_reading_goes_through(sandbox: duckdb.DuckDBPyConnection, sql: str) -> None:
    check_sql(sandbox, sql)
    assert sandbox.sql(sql).to_arrow_reader(10).schema.names


def test_there_are_no_secrets_and_no_settings_to_change(sandbox: duckdb.DuckDBPyConnection) -> None:
    assert ask(sandbox, "SELECT * FROM duckdb_secrets()") == []
    wanted = ("lock_configuration", "enable_external_access", "autoload_known_extensions", "TimeZone")
    rows = ask(sandbox, f"SELECT name, value FROM duckdb_settings() WHERE name IN {wanted} ORDER BY name")
    assert {row["name"]: row["value"] for row in rows} == {  # type: ignore[index]
        "TimeZone": "UTC",
        "autoload_known_extensions": "false",
        "enable_external_access": "false",
        "lock_configuration": "true",
    }


@pytest.mark.parametrize(
    ("sql", "part"),
    [
        pytest.param("SELEC 1", "syntax error", id="no SQL"),
        pytest.param("SELECT * FROM audit WHERE", "LINE 1:", id="the position is kept"),
        pytest.param("", "0 statements", id="empty"),
        pytest.param(";;", "0 statements", id="semicolons"),
        pytest.param("-- nothing", "0 statements", id="a comment"),
        pytest.param("SELECT 1; SELECT 2", "2 statements", id="two"),
        pytest.param("COPY (SELECT 1) TO 'x'", "COPY is not allowed", id="another verb"),
        pytest.param("WITH t AS (DELETE FROM audit RETURNING 1) FROM t", "DELETE is not allowed", id="in a CTE"),
        pytest.param("PIVOT audit ON op USING count(*)", "Name the values", id="a PIVOT that must look first"),
        pytest.param("EXPLAIN EXPLAIN SELECT 1", "", id="EXPLAIN twice"),
        pytest.param("SELECT " + "(" * 5000 + "1" + ")" * 5000, "", id="nested too deeply"),
    ],
)
def test_a_refusal_says_why(sandbox: duckdb.DuckDBPyConnection, sql: str, part: str) -> None:
    with pytest.raises(ApplianceError) as caught:
        check_sql(sandbox, sql)
    assert caught.value.code == "bad_query"
    assert part in caught.value.detail
