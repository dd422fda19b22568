"""Every row of the table of errors that HTTP can answer, in the one shape; what is unexpected; what is counted."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from http_rig import Rig, assert_problem, running, until

from appliance.http.routes import PLAIN_ROUTES
from appliance.tables.errors import ERRORS, ApplianceError

pytestmark = pytest.mark.anyio

# Which request meets an error that the node, its log or the audit engine raises: (what raises it, method, path, body).
RAISED = {
    "no_quorum": ("node", "PUT", "/kv/a", b""),
    "no_leader": ("node", "PUT", "/kv/a", b""),
    "not_committed": ("node", "PUT", "/kv/a", b""),
    "writes_paused": ("node", "PUT", "/kv/a", b""),
    "disk_full": ("node", "PUT", "/kv/a", b""),
    "overloaded": ("node", "PUT", "/kv/a", b""),
    "shutting_down": ("node", "PUT", "/kv/a", b""),
    "outcome_unknown": ("node", "PUT", "/kv/a", b""),
    "idempotency_full": ("node", "PUT", "/kv/a", b""),
    "idempotency_mismatch": ("node", "PUT", "/kv/a", b""),
    "condition_failed": ("node", "PUT", "/kv/a", b""),
    "too_large": ("node", "PUT", "/kv/a", b""),
    "quarantined": ("node", "GET", "/kv/a", b""),
    "read_timeout": ("node", "GET", "/kv/a", b""),
    "value_retired": ("node", "GET", "/kv/a", b""),
    "leaf_out_of_range": ("node", "GET", "/kv/a", b""),
    "not_found": ("node", "GET", "/kv/a", b""),
    "verification_failed": ("log", "GET", "/log/checkpoint", b""),
    "not_published": ("log", "GET", "/log/checkpoint", b""),
    "no_log_key": ("log", "GET", "/log/checkpoint", b""),
    "conflict": ("node", "PUT", "/kv/a", b""),
    "bad_query": ("audit", "POST", "/audit/query", b'{"sql":"DROP TABLE audit"}'),
    "query_timeout": ("audit", "POST", "/audit/query", b'{"sql":"SELECT 1"}'),
    "query_memory": ("audit", "POST", "/audit/query", b'{"sql":"SELECT 1"}'),
}
# Rows that the gateway raises itself; each has its own test elsewhere in these files.
OWN = {
    "bad_request",
    "bad_key",
    "unauthenticated",
    "forbidden",
    "method_not_allowed",
    "rate_limited",
    "internal",
    "unhealthy",
}


def test_no_row_is_forgotten() -> None:
    assert RAISED.keys() | OWN == ERRORS.keys()


@pytest.mark.parametrize("code", RAISED)
async def test_an_error_of_the_table_reaches_the_client_as_its_row_says(rig: Rig, code: str) -> None:
    where, method, path, body = RAISED[code]
    row = ERRORS[code]
    error = ApplianceError(code, "Do this.")
    if where == "log":
        rig.node.log_fault = error
    else:
        (rig.node if where == "node" else rig.audit).fault = error
    reply = await rig.call(method, path, content=body, headers={"x-request-id": "me-1"})
    document = assert_problem(reply, row.status, code)
    assert document == {
        "type": f"urn:scribe-ledger:error:{code}",
        "title": row.title,
        "status": row.status,
        "detail": "Do this.",
        "code": code,
        "retryable": row.retryable,
        "request_id": "me-1",
        "error": "Do this.",
    }
    assert reply.headers["x-request-id"] == "me-1"
    expected = None if row.retry_after_s is None else str(row.retry_after_s)
    assert reply.headers.get("retry-after") == expected
    assert rig.metric(f'scribe_errors_total{{code="{code}"}}') == (1.0 if row.status >= 500 else 0.0)


async def test_an_error_may_say_itself_when_to_come_back(rig: Rig) -> None:
    rig.node.fault = ApplianceError("overloaded", "Later.", retry_after_s=7)
    assert (await rig.call("PUT", "/kv/a")).headers["retry-after"] == "7"


async def test_what_nobody_expected_is_500_without_internals_and_logged_whole(rig: Rig) -> None:
    rig.node.fault = RuntimeError("secret internals")
    reply = await rig.call("GET", "/kv/a")
    assert "secret" not in reply.text
    assert_problem(reply, 500, "internal")
    (line,) = rig.log.of("http.error")
    assert line["error"] is rig.node.fault
    assert line["request_id"] == reply.headers["x-request-id"]
    assert (line["method"], line["route"], line["code"]) == ("GET", "/kv/{key}", "internal")
    assert rig.metric('scribe_errors_total{code="internal"}') == 1.0


async def test_a_write_that_breaks_after_it_was_handed_over_is_not_called_failed(rig: Rig) -> None:
    rig.node.fault = RuntimeError("secret internals")
    for method, path, body in (
        ("PUT", "/kv/a", b""),
        ("POST", "/batch", b'{"operations":[{"op":"delete","key":"a"}]}'),
    ):
        assert_problem(await rig.call(method, path, content=body), 504, "outcome_unknown")


async def test_a_route_behind_litestar_breaks_in_the_same_shape(rig: Rig) -> None:
    rig.audit.fault = RuntimeError("secret internals")
    reply = await rig.call("POST", "/audit/query", json={"sql": "SELECT 1"})
    assert_problem(reply, 500, "internal")
    assert "secret" not in reply.text


async def test_litestars_own_refusals_have_the_same_shape(rig: Rig) -> None:
    """Its router and ours agree, so it is made to disagree: the raw path is a route and the path is not."""
    app: Any = rig.server._app
    for path, method, status, code in (
        ("/nowhere", "GET", 404, "not_found"),
        ("/batch", "GET", 405, "method_not_allowed"),
    ):
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any, sent: list[Any] = sent) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": method,
            "raw_path": b"/health",
            "path": path,
            "query_string": b"",
            "headers": [],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
            "scheme": "http",
            "root_path": "",
            "http_version": "1.1",
            "asgi": {"version": "3.0"},
            "state": {},
        }
        await app(scope, receive, send)
        assert sent[0]["status"] == status
        headers = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
        assert headers["content-type"].startswith("application/problem+json")
        assert headers["x-request-id"]
        assert f'"code":"{code}"'.encode() in sent[1]["body"]


@pytest.mark.parametrize("route", PLAIN_ROUTES, ids=lambda route: route.name)
async def test_a_plain_route_never_answers_under_another_spelling(shared: Rig, route: Any) -> None:
    for path in (route.path + "/", route.path.upper(), route.path + "//", "/" + route.path):
        reply = await shared.raw(route.method.encode(), path.encode())
        assert (reply.status in (400, 404, 405)) or path.upper() == path, path


async def test_answers_are_counted_by_operation_and_class(rig: Rig) -> None:
    await rig.call("PUT", "/kv/a", content=b"1")
    await rig.call("GET", "/a")
    await rig.call("GET", "/kv/b")
    await rig.call("DELETE", "/kv/b")
    await rig.call("GET", "/kv")
    await rig.call("GET", "/history/a")
    await rig.call("POST", "/batch", content=b"{}")
    await rig.call("POST", "/audit/query", json={"sql": "SELECT 1"})
    await rig.call("GET", "/cluster/info")
    await rig.call("POST", "/admin/compact")
    await rig.call("GET", "/health")
    await rig.call("POST", "/nowhere")
    await rig.call("POST", "/health")
    counted = {
        (op, status): rig.metric(f'scribe_ops_total{{op="{op}",status="{status}"}}')
        for op, status in (
            ("put", "2xx"),
            ("get", "2xx"),
            ("get", "4xx"),
            ("delete", "4xx"),
            ("list", "2xx"),
            ("history", "2xx"),
            ("batch", "4xx"),
            ("audit_query", "2xx"),
            ("cluster", "2xx"),
            ("admin", "2xx"),
            ("health", "2xx"),
        )
    }
    assert set(counted.values()) == {1.0}, counted
    assert rig.metric('scribe_ops_total{op="other",status="4xx"}') == 2.0
    assert rig.metric('scribe_request_latency_seconds_count{op="put"}') == 1.0
    assert rig.metric('scribe_errors_total{code="internal"}') == 0.0


class TestBodyLimit:
    async def test_a_declared_body_is_refused_before_it_is_sent(self, shared: Rig) -> None:
        """The body never comes: the answer does not wait for it."""
        for path, key, named in (
            (b"PUT /kv/a", b"write", "max_value_size"),
            (b"POST /batch", b"write", "batch"),
            (b"POST /audit/query", b"audit", "audit query"),
        ):
            head = path + b" HTTP/1.1\r\nhost: x\r\nx-api-key: " + key + b"-key\r\ncontent-length: 99999999999\r\n\r\n"
            (reply,) = await shared.bytes(head, replies=1)
            assert named in assert_problem(reply, 413, "too_large")["detail"]

    async def test_who_may_not_write_is_refused_before_the_body_is_read(self, shared: Rig) -> None:
        head = b"PUT /kv/a HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n"
        (reply,) = await shared.bytes(head, replies=1)
        assert_problem(reply, 401, "unauthenticated")

    @pytest.mark.parametrize(("size", "status"), [(4096, 200), (4097, 413)])
    async def test_the_limit_is_exact(self, shared: Rig, size: int, status: int) -> None:
        assert (await shared.call("PUT", "/kv/a", content=b"v" * size)).status_code == status

    @pytest.mark.parametrize(("chunks", "status"), [(4, 200), (5, 413), (400, 413)])
    async def test_chunks_are_counted_as_they_come(self, shared: Rig, chunks: int, status: int) -> None:
        async def body() -> Any:
            for _ in range(chunks):
                yield b"v" * 1024
                await asyncio.sleep(0)

        reply = await shared.call("PUT", "/kv/chunked", content=body())
        assert reply.status_code == status
        if status == 413:
            assert "4096" in assert_problem(reply, 413, "too_large")["detail"]
        else:
            assert (await shared.call("GET", "/kv/chunked")).content == b"v" * 1024 * chunks

    async def test_a_connection_serves_on_after_a_refused_body(self, shared: Rig) -> None:
        refused = b"PUT /kv/a HTTP/1.1\r\nhost: x\r\nx-api-key: admin-key\r\ncontent-length: 5000\r\n\r\n" + b"v" * 5000
        good = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"
        assert [reply.status for reply in await shared.bytes(refused + good, replies=2)] == [413, 200]

    async def test_a_client_that_goes_away_within_its_body_writes_nothing(self, rig: Rig) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        writer.write(b"PUT /kv/a HTTP/1.1\r\nhost: x\r\nx-api-key: admin-key\r\ncontent-length: 10\r\n\r\nhalf")
        await writer.drain()
        await asyncio.sleep(0)
        writer.close()
        await writer.wait_closed()
        await until(lambda: rig.metric('scribe_ops_total{op="put",status="4xx"}') == 1.0)
        assert rig.node.requests == []
        assert rig.log.of("http.error") == []


async def test_a_slow_body_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.http.front.BODY_TIMEOUT_S", 0.05)
    async with running() as rig:
        for line in (b"PUT /kv/a", b"PUT /a", b"POST /batch", b"POST /audit/query", b"POST /admin/compact"):
            head = line + b" HTTP/1.1\r\nhost: x\r\nx-api-key: admin-key\r\ncontent-length: 10\r\n"
            for rest in (b"\r\nhalf", b"\r\n", b"expect: 100-continue\r\n\r\n"):
                *interim, reply = await rig.bytes(head + rest, replies=2 if b"expect" in rest else 1)
                assert [reply.status for reply in interim] == [100] * len(interim)
                assert "in time" in assert_problem(reply, 400, "bad_request")["detail"]
        assert rig.node.requests == []
