"""POST /audit/query, its engine stubbed: what is asked of it, and that it stops when nobody waits any more."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from http_rig import Rig, assert_problem, until

pytestmark = pytest.mark.anyio


async def test_the_engine_is_asked_what_the_client_asked(shared: Rig) -> None:
    body = {"sql": "SELECT $1", "params": [1, None, "é"], "format": "json", "limit": 7}
    reply = await shared.call("POST", "/audit/query", "audit", json=body)
    assert reply.json() == {
        "columns": ["sql", "params", "limit"],
        "rows": [["SELECT $1", [1, None, "é"], 7]],
        "truncated": True,
    }
    named = await shared.call("POST", "/audit/query", json={"sql": "SELECT $a", "params": {"a": 1}})
    assert named.json()["rows"] == [["SELECT $a", {"a": 1}, 100_000]]


@pytest.mark.parametrize("fmt", ["csv", "arrow", "parquet"])
async def test_other_formats_come_as_the_engine_made_them(shared: Rig, fmt: str) -> None:
    reply = await shared.call("POST", "/audit/query", json={"sql": "SELECT 1", "format": fmt})
    assert (reply.content, reply.headers["content-type"]) == (b"as " + fmt.encode(), f"application/x-{fmt}")
    assert reply.headers["scribe-truncated"] == "false"


async def test_a_long_answer_is_whole(rig: Rig) -> None:
    rig.audit.rows = 5_000
    assert len((await rig.call("POST", "/audit/query", json={"sql": "SELECT 1"})).json()["rows"]) == 5_000


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"", "cannot be read"),
        (b"SELECT 1", "cannot be read"),
        ({"query": "SELECT 1"}, "`query`"),
        ({"sql": " \n"}, "empty"),
        ({"sql": 1}, "`int`"),
        ({"sql": "x", "format": "xlsx"}, "'xlsx'"),
        ({"sql": "x", "limit": 0}, "1 to 100000"),
        ({"sql": "x", "limit": 100_001}, "max_rows"),
        ({"sql": "x", "limit": 1.5}, "`float`"),
        ({"sql": "x", "params": "y"}, "`str`"),
    ],
)
async def test_a_query_that_cannot_be_meant_is_refused(shared: Rig, body: Any, named: str) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    refused = await shared.call("POST", "/audit/query", content=content)
    assert named in assert_problem(refused, 400, "bad_request")["detail"]


async def test_a_query_is_cancelled_when_the_client_goes_away(rig: Rig) -> None:
    rig.audit.hold = asyncio.Event()
    body = b'{"sql":"SELECT 1"}'
    _, writer = await asyncio.open_connection("127.0.0.1", rig.port)
    writer.write(b"POST /audit/query HTTP/1.1\r\nhost: x\r\nx-api-key: audit-key\r\n")
    writer.write(b"content-length: %d\r\n\r\n" % len(body) + body)
    async with asyncio.timeout(5):
        await rig.audit.begun.wait()
        assert not rig.audit.cancelled.is_set()
        writer.close()
        await rig.audit.cancelled.wait()
    await until(lambda: rig.metric('scribe_ops_total{op="audit_query",status="4xx"}') == 1.0)
    assert rig.log.of("http.error") == []
    rig.audit.hold = None
    assert (await rig.call("POST", "/audit/query", json={"sql": "SELECT 1"})).status_code == 200
