"""Queries from end to end: a real ledger file, real worker processes."""

from __future__ import annotations

import asyncio
import base64
import csv
import io
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from audit_rig import START_US, Desk, Ledger, import_packages, packages

from appliance.adapters.audit import engine as engine_module
from appliance.tables.errors import ApplianceError

pytestmark = pytest.mark.anyio
FOREVER = "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT count(*) FROM t"


@pytest.fixture
async def small(tmp_path: Path) -> AsyncIterator[Ledger]:
    """A ledger of its own, with one key."""
    ledger = Ledger(tmp_path)
    ledger.put("a", b'{"n": 1}')
    yield ledger
    ledger.close()


async def code_of(desk: Desk, sql: str) -> str:
    with pytest.raises(ApplianceError) as caught:
        await desk.ask(sql)
    return caught.value.code


def proc(pid: int, name: str) -> bytes:
    """What the kernel says of a process."""
    return Path(f"/proc/{pid}/{name}").read_bytes()


def numbers(pid: int) -> list[bytes]:
    """Fields of proc(5) `stat` from the third on: 11 and 12 are its time on a processor in ticks, 16 its niceness."""
    return proc(pid, "stat").rsplit(b")", 1)[1].split()


async def spare(desk: Desk) -> engine_module._Worker:
    """The worker that waits for the next query, once it has started."""
    assert desk.engine._spare is not None
    return await desk.engine._spare


async def ended(pid: int) -> bool:
    """Whether a process ends within five seconds."""
    async with asyncio.timeout(5):
        while os.path.exists(f"/proc/{pid}"):  # noqa: ASYNC110, ASYNC240 - another process's end has no event here
            await asyncio.sleep(0.01)
    return True


async def test_sections_of_the_packages(desk: Desk) -> None:
    rows = await desk.ask(
        "SELECT value->>'section' AS section, count(*) FROM current WHERE key LIKE 'deb/%' GROUP BY 1 ORDER BY 1"
    )
    expected: dict[str, int] = {}
    for _, value in packages():
        section = msgspec.json.decode(value)["section"]
        expected[section] = expected.get(section, 0) + 1
    assert rows == [[section, expected[section]] for section in sorted(expected)]


async def test_who_wrote_how_much(desk: Desk) -> None:
    rows = await desk.ask("SELECT actor, count(*), sum(size) > 1000000 FROM audit GROUP BY 1 ORDER BY 1")
    assert rows == [["alice", 2, False], ["bob", 4, False], ["importer-0", 10000, True], ["importer-1", 10000, True]]


async def test_the_last_rows_of_audit(desk: Desk) -> None:
    rows = await desk.ask("SELECT * EXCLUDE (time, value_hash) FROM audit ORDER BY index DESC LIMIT 4")
    assert rows == [
        [206, None, None, "bob", "put", "odd/text", 1, 1, "condition_failed", "request-206"],
        [205, None, None, "bob", "delete", "odd/never", 0, 0, "not_found", "request-205"],
        [204, 20003, 20003, "bob", "delete", "odd/gone", 2, 0, "ok", "request-204"],
        [203, 20002, 20002, "bob", "put", "odd/gone", 1, 1, "ok", "request-203"],
    ]


async def test_time_hash_and_batch_are_the_leafs(desk: Desk, packages_ledger: Ledger) -> None:
    leaf = packages_ledger.store.leaf(150)
    assert leaf is not None
    fields = msgspec.json.decode(leaf.leaf)
    ((stamp_us, value_hash, batch_id, index),) = await desk.ask(
        "SELECT epoch_us(time), value_hash, batch_id, index FROM audit WHERE leaf_index = 150"
    )
    assert int(stamp_us) == fields["timestamp_us"] == START_US + index * 1000
    assert (value_hash, batch_id) == (fields["value_hash"], fields["batch_id"]) != (None, 150)


async def test_odd_values_of_current(desk: Desk) -> None:
    rows = await desk.ask(
        "SELECT key, version, leaf_index, value, value->>'$', json_type(value), value->>'base64'"
        " FROM current WHERE key LIKE 'odd/%' ORDER BY key"
    )
    assert rows == [
        ["odd/bytes", 1, 20001, '{"base64":"/wAB"}', '{"base64":"/wAB"}', "OBJECT", "/wAB"],
        ["odd/text", 1, 20000, '"plain text"', "plain text", "VARCHAR", None],
    ]
    assert base64.b64decode("/wAB") == b"\xff\x00\x01"


async def test_every_kind_of_value_can_be_asked_for_a_field(small: Ledger, tmp_path: Path) -> None:
    values = [b"", b" ", b"null", b"NaN", b"01", b"{", b'{"a":1,}', b'{"a":"\\ud800"}', b"a\x00b", b"\xed\xa0\x80"]
    values += [b"[" * 5000 + b"]" * 5000, b'"x"', b"12345678901234567890", b'{"a":{"b":[1]}}', "é".encode()]
    for number, value in enumerate(values):
        small.put(f"v/{number:02d}", value)
    desk = Desk(small, tmp_path)
    rows = await desk.ask("SELECT value->>'a', value->'b', json_type(value) FROM current ORDER BY key")
    assert len(rows) == len(values) + 1
    await desk.close()


async def test_what_lists_tables_lists_both(desk: Desk) -> None:
    assert await desk.ask("SHOW TABLES") == [["audit"], ["current"]]
    described = {name: kind for name, kind, *_ in await desk.ask("DESCRIBE current")}
    assert described == {
        "key": "VARCHAR",
        "version": "BIGINT",
        "leaf_index": "BIGINT",
        "time": "TIMESTAMP WITH TIME ZONE",
        "value": "JSON",
    }


@pytest.mark.parametrize(
    ("sql", "params", "expected"),
    [
        pytest.param("SELECT count(*) FROM audit WHERE actor = ?", ["alice"], [[2]], id="by position"),
        pytest.param("SELECT $who || $n", {"who": "a", "n": 1}, [["a1"]], id="by name"),
        pytest.param("SELECT ?::HUGEINT", [2**70], [[str(2**70)]], id="beyond 64 bits"),
    ],
)
async def test_parameters(desk: Desk, sql: str, params: object, expected: object) -> None:
    assert await desk.ask(sql, params) == expected


async def test_formats(desk: Desk) -> None:
    sql = "SELECT key, version FROM current WHERE key LIKE 'odd/%' ORDER BY key"
    answers = {fmt: await desk.engine.query(sql, None, fmt, 10) for fmt in ("json", "csv", "arrow", "parquet")}
    rows = [["odd/bytes", 1], ["odd/text", 1]]
    assert msgspec.json.decode(answers["json"].body) == {
        "columns": ["key", "version"],
        "rows": rows,
        "truncated": False,
    }
    assert [msgspec.json.decode(row) for row in answers["json"].rows] == rows
    assert list(csv.reader(io.StringIO(answers["csv"].body.decode())))[1:] == [["odd/bytes", "1"], ["odd/text", "1"]]
    tables = pa.ipc.open_stream(answers["arrow"].body).read_all(), pq.read_table(io.BytesIO(answers["parquet"].body))
    assert [[list(row.values()) for row in table.to_pylist()] for table in tables] == [rows, rows]
    assert {fmt: answer.media_type for fmt, answer in answers.items()} == {
        "json": "application/json",
        "csv": "text/csv; charset=utf-8",
        "arrow": "application/vnd.apache.arrow.stream",
        "parquet": "application/vnd.apache.parquet",
    }
    assert {answer.columns for answer in answers.values()} == {("key", "version")}


@pytest.mark.parametrize(
    ("sql", "params", "part"),
    [
        pytest.param("SELECT * FROM read_text('/etc/passwd')", None, "Permission Error", id="a file"),
        pytest.param("SELECT * FROM '/etc/passwd'", None, "does not exist", id="a file as a table"),
        pytest.param("COPY audit TO '/tmp/x.csv'", None, "COPY is not allowed", id="COPY"),
        pytest.param("WITH t AS (COPY (SELECT 1) TO 'x') SELECT 1", None, "COPY is not allowed", id="COPY in a CTE"),
        pytest.param("SELECT 1; SELECT 2", None, "2 statements", id="two statements"),
        pytest.param("SELECT nope FROM audit", None, "Candidate bindings", id="a column that is not there"),
        pytest.param("SELECT 'x'::INT", None, "Conversion Error", id="a value that does not fit"),
        pytest.param("SELECT ?", None, "parameter", id="no parameters"),
        pytest.param("SELECT $a", {"b": 1}, "parameter", id="another parameter"),
        pytest.param("SELECT 1" + " " * 70_000, None, "characters", id="too long"),
        pytest.param("SELECT '\x00'", None, "NUL", id="a NUL"),
    ],
)
async def test_bad_queries(desk: Desk, sql: str, params: object, part: str) -> None:
    with pytest.raises(ApplianceError) as caught:
        await desk.ask(sql, params)
    assert caught.value.code == "bad_query"
    assert part in caught.value.detail


async def test_a_format_that_is_none(desk: Desk) -> None:
    with pytest.raises(ApplianceError) as caught:
        await desk.engine.query("SELECT 1", None, "xml", 1)
    assert caught.value.code == "bad_request"


async def test_the_worker_has_an_environment_without_secrets(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APPLIANCE_API_KEY", "do-not-pass-on")
    await desk.ask("SELECT 1")  # from here on the spare was started with the variable set
    await desk.ask("SELECT 1")
    worker = await spare(desk)
    environ = proc(worker.process.pid, "environ")
    assert b"LANG=C.UTF-8" in environ
    assert b"do-not-pass-on" not in environ
    assert int(numbers(worker.process.pid)[16]) >= 10


async def test_max_rows_is_above_every_limit(small: Ledger, tmp_path: Path) -> None:
    desk = Desk(small, tmp_path, max_rows=3)
    answer = await desk.engine.query("FROM range(10)", None, "json", 1000)
    assert (len(answer.rows), answer.truncated) == (3, True)
    await desk.close()


async def test_a_query_that_takes_too_long_is_ended(small: Ledger, tmp_path: Path) -> None:
    desk = Desk(small, tmp_path, query_timeout=5.0)
    await desk.engine.start()
    await spare(desk)  # its start does not count
    await desk.ask("SELECT 1")
    worker = await spare(desk)
    started_s = time.monotonic()
    with pytest.raises(ApplianceError) as caught:
        await desk.ask(FOREVER)
    assert caught.value.code == "query_timeout"
    assert "query_timeout" in caught.value.detail
    assert 5.0 <= time.monotonic() - started_s < 15
    assert await ended(worker.process.pid)
    assert desk.count("query_timeout") == 1
    assert "audit.query_failed" in desk.events()
    await spare(desk)
    assert await desk.ask("SELECT 1") == [[1]]
    await desk.close()


@pytest.mark.parametrize(
    "sql",
    [
        pytest.param("SELECT list(x) FROM range(500000000) t(x)", id="a large list"),
        pytest.param("SELECT repeat('x', 1500000000)", id="a large value"),
        pytest.param("SELECT list(repeat('x', 100000)) FROM range(1000000) t(x)", id="large values in a list"),
        pytest.param(
            "FROM (SELECT repeat('y', 200) || x AS p FROM range(5000000) t(x)) ORDER BY hash(p)", id="no room to spill"
        ),
    ],
)
async def test_a_query_that_needs_too_much_memory_is_ended(small: Ledger, tmp_path: Path, sql: str) -> None:
    desk = Desk(small, tmp_path, query_memory=64 * 2**20, query_timeout=60.0)
    assert await code_of(desk, sql) == "query_memory"
    assert await desk.ask("SELECT 1") == [[1]]
    await desk.close()
    assert list(desk.directory.glob("spill-*")) == []


@pytest.mark.parametrize(
    ("sql", "code", "words"),
    [
        pytest.param(
            "SELECT CASE WHEN x = 50000 THEN error('too late') ELSE 'a' END FROM range(60000) t(x)",
            "bad_query",
            "too late",
            id="raised by the query",
        ),
        pytest.param(
            "SELECT CASE WHEN x = 50000 THEN 'x' ELSE '1' END::INT FROM range(60000) t(x)",
            "bad_query",
            "Could not convert string 'x' to INT32",
            id="a conversion",
        ),
        pytest.param(
            "SELECT repeat('a', 100000000) FROM range(100)", "query_memory", "raise [audit] query_memory", id="memory"
        ),
    ],
)
async def test_an_error_after_the_first_rows_is_the_querys_too(
    small: Ledger, tmp_path: Path, sql: str, code: str, words: str
) -> None:
    desk = Desk(small, tmp_path, query_memory=128 * 2**20)
    with pytest.raises(ApplianceError) as caught:
        await desk.ask(sql)
    assert caught.value.code == code
    assert words in caught.value.detail
    await desk.close()


async def test_a_sort_larger_than_memory_spills_and_leaves_nothing(small: Ledger, tmp_path: Path) -> None:
    desk = Desk(small, tmp_path, query_memory=64 * 2**20)
    ((last,),) = await desk.ask(
        "SELECT x FROM (SELECT x, hash(x) AS h FROM range(4000000) t(x) ORDER BY h, x) OFFSET 3999999"
    )
    assert 0 <= last < 4_000_000
    await desk.close()
    assert list(desk.directory.glob("spill-*")) == []


async def test_a_client_that_goes_away_ends_its_query(small: Ledger, tmp_path: Path) -> None:
    desk = Desk(small, tmp_path, query_concurrency=1)
    await desk.ask("SELECT 1")
    worker = await spare(desk)
    query = asyncio.create_task(desk.ask(FOREVER))
    async with asyncio.timeout(20):
        while sum(map(int, numbers(worker.process.pid)[11:13])) < 80:  # noqa: ASYNC110 - it computes
            await asyncio.sleep(0.02)
    query.cancel()
    with pytest.raises(asyncio.CancelledError):
        await query
    assert await ended(worker.process.pid)
    assert desk.count("cancelled") == 1
    assert await desk.ask("SELECT 2") == [[2]]  # its place is free again
    await desk.close()


async def test_a_worker_that_dies_is_an_error_and_the_next_query_works(small: Ledger, tmp_path: Path) -> None:
    desk = Desk(small, tmp_path)
    await desk.ask("SELECT 1")
    assert desk.engine._spare is not None
    (await desk.engine._spare).process.kill()
    await (await desk.engine._spare).process.wait()
    assert await desk.ask("SELECT 2") == [[2]]
    worker = await desk.engine._spare
    query = asyncio.create_task(desk.ask(FOREVER))
    while desk.engine._spare is not None:  # noqa: ASYNC110 - until the query has taken it
        await asyncio.sleep(0.01)
    worker.process.kill()
    with pytest.raises(ApplianceError) as caught:
        await query
    assert caught.value.code == "query_memory"
    assert "audit.worker_failed" in desk.events()
    await desk.close()


async def test_what_an_earlier_process_spilled_is_removed(small: Ledger, tmp_path: Path) -> None:
    left = tmp_path / "audit" / "spill-1" / "duckdb_temp_storage.tmp"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"left behind")
    desk = Desk(small, tmp_path)
    await desk.ask("SELECT 1")
    assert not left.parent.exists()
    await desk.close()


async def test_workers_end_when_the_engine_closes(small: Ledger, tmp_path: Path) -> None:
    desk = Desk(small, tmp_path)
    await desk.engine.start()
    worker = await spare(desk)
    await desk.ask("SELECT 1")
    await desk.close()
    assert await ended(worker.process.pid)
    assert not desk.engine._background
    with pytest.raises(ApplianceError) as caught:
        await desk.ask("SELECT 1")
    assert caught.value.code == "shutting_down"


async def test_beyond_the_queue_it_is_overloaded(
    small: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "WAITING_MAX", 1)
    desk = Desk(small, tmp_path, query_concurrency=1)
    running, waiting = (asyncio.create_task(desk.ask(FOREVER)) for _ in range(2))
    await asyncio.sleep(0)  # both have reached their place
    await asyncio.sleep(0)
    assert await code_of(desk, "SELECT 1") == "overloaded"
    for task in (running, waiting):
        task.cancel()
    await asyncio.gather(running, waiting, return_exceptions=True)
    assert await desk.ask("SELECT 1") == [[1]]
    await desk.close()


async def test_writes_go_on_while_a_query_runs(small: Ledger, tmp_path: Path) -> None:
    desk = Desk(small, tmp_path, query_timeout=3.0)
    await desk.engine.start()
    await spare(desk)
    query = asyncio.create_task(code_of(desk, FOREVER))
    await asyncio.sleep(0)
    written = 0
    while not query.done():
        small.put(f"during/{written}", b"x")
        await asyncio.to_thread(small.flush)
        await asyncio.to_thread(small.store.checkpoint)  # no reader holds the WAL
        written += 1
        await asyncio.sleep(0.02)
    assert await query == "query_timeout"
    assert written > 10
    await spare(desk)  # its start does not count
    assert await desk.ask("SELECT count(*) FROM audit") == [[1 + written]]
    await desk.close()


async def test_a_query_sees_what_was_applied_when_it_began(small: Ledger, tmp_path: Path) -> None:
    desk = Desk(small, tmp_path)
    for number in range(3):
        small.put("a", b"%d" % number)  # in memory only until the query settles
        assert await desk.ask("SELECT max(version) FROM audit WHERE key = 'a'") == [[number + 2]]
        assert await desk.ask("SELECT value->>'$' FROM current WHERE key = 'a'") == [[str(number)]]
    await desk.close()


async def test_segments_are_sealed_kept_and_rebuilt(tmp_path: Path) -> None:
    """With segments of the real size: more than 65,536 rows."""
    ledger = Ledger(tmp_path)
    import_packages(ledger, 34)
    desk = Desk(ledger, tmp_path)
    question = "SELECT count(*), count(DISTINCT leaf_index), max(leaf_index), sum(size) > 0 FROM audit"
    expected = [[68_000, 68_000, 67_999, True]]
    assert await desk.ask(question) == expected
    assert [path.name for path in desk.directory.glob("segment-*")] == ["segment-000000.parquet"]
    assert await desk.ask(question) == expected
    assert desk.events().count("audit.sealed") == 1
    segment = desk.directory / "segment-000000.parquet"
    data = bytearray(segment.read_bytes())
    data[1000] ^= 0xFF
    segment.chmod(0o640)
    segment.write_bytes(data)
    assert await desk.ask(question) == expected
    assert desk.events().count("audit.segment_rebuilt") == 1
    rows = await desk.ask("SELECT index FROM audit")
    assert rows == sorted(rows)  # in the order of the index without being asked
    await desk.close()
    ledger.close()
