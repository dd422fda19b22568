"""The fast path: whichever way a request takes, a client sees the same, and in the order in which it asked."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import zip_longest
from typing import Any

import pytest
from http_rig import Port, Rig, assert_problem, furnished, opened, running, until
from http_rig import Reply as RigReply
from http_strict import Answer, Asked, Client, Wire, connected, watched

from appliance.ledger.commands import WriteRequest, WriteResult
from appliance.tables.errors import ApplianceError

pytestmark = pytest.mark.anyio

LOOPS = [
    pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
    pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
]
BATCH = b'{"operations":[{"op":"put","key":"b1","value":"x"},{"op":"delete","key":"a"}]}'
SAMPLED = "traceparent: 00-" + "a" * 32 + "-" + "b" * 16 + "-01"

HOT = (
    Asked("PUT", "/kv/a", body=b"value"),
    Asked("PUT", "/kv/a", body=b""),
    Asked("PUT", "/kv/none"),
    Asked("GET", "/kv/a"),
    Asked("GET", "/kv/a?consistency=stale"),
    Asked("GET", "/kv/a?consistency=perhaps"),
    Asked("GET", "/kv/absent"),
    Asked("GET", "/kv/a", body=b"a body that nobody reads"),
    Asked("PUT", "/kv/b%20%C3%A4/c", body=bytes(range(256))),
    Asked("GET", "/kv/b%20%C3%A4/c"),
    Asked("PUT", "/kv/a", ("If-None-Match: *",), b"refused"),
    Asked("PUT", "/kv/a", ('If-Match: "2"',), b"third"),
    Asked("PUT", "/kv/a", ('If-Match: "2"', 'If-Match: "3"'), b"which?"),
    Asked("PUT", "/kv/once", ("Idempotency-Key: i1",), b"once"),
    Asked("PUT", "/kv/once", ("Idempotency-Key: i1",), b"once"),
    Asked("PUT", "/kv/once", ("Idempotency-Key: i1",), b"other"),
    Asked("PUT", "/kv/full", body=b"x" * 4096),
    Asked("PUT", "/kv/over", body=b"x" * 4097),
    Asked("PUT", "/kv/%zz", body=b"v"),
    Asked("PUT", "/kv/" + "k" * 1025, body=b"v"),
    Asked("PUT", "/kv/", body=b"v"),
    Asked("PUT", "/kv/a?x=1", body=b"v"),
    Asked("POST", "/batch", body=BATCH),
    Asked("POST", "/batch", body=BATCH),
    Asked("POST", "/batch", body=b"{"),
    Asked("POST", "/batch", ('If-Match: "1"',), BATCH),
    Asked("DELETE", "/kv/b1"),
    Asked("DELETE", "/kv/b1", body=b"a body that nobody reads"),
    Asked("PUT", "/kv/a", body=b"v", key=None),
    Asked("PUT", "/kv/a", body=b"v", key="wrong"),
    Asked("PUT", "/kv/a", body=b"v", key="auditor"),
    Asked("GET", "/kv/once", ("X-Request-Id: mine",), key=None),
    Asked("PUT", "/kv/traced", ("X-Request-Id: r1", SAMPLED), b"v"),
    Asked("PUT", "/kv/traced", ("X-Request-Id: not one of ours",), b"v"),
    Asked("PUT", "/kv/a?receipt=false", body=b"no receipt is asked for"),
    Asked("PUT", "/kv/a?receipt=true", body=b"nothing is published, so none comes"),
    Asked("PUT", "/kv/a?receipt=true", ("If-None-Match: *",), b"nothing is written that it could be for"),
    Asked("PUT", "/kv/a?receipt=perhaps", body=b"v"),
    Asked("DELETE", "/kv/once?receipt=true"),
)
LONG_WAY = (
    Asked("GET", "/health/live"),
    Asked("PUT", "/short", body=b"v"),
    Asked("HEAD", "/kv/once"),
    Asked("GET", "/kv/once?at_leaf=0"),
    Asked("POST", "/kv/a", body=b"v"),
    Asked("GET", "/kv?prefix=b"),
    Asked("POST", "/batch?x=1", body=BATCH),
    Asked("PUT", "/kv/" + "k" * 5000, body=b"v"),
    Asked("GET", "/nothing/here"),
    Asked("POST", "/batch?receipt=true", body=BATCH.replace(b'"a"', b'"b1"')),
    Asked("PUT", "/short?receipt=true", body=b"v"),
    Asked("GET", "/log/checkpoint"),
    Asked("GET", "/verify/absent"),
)
UPGRADE = Asked("GET", "/kv/once", ("Connection: Upgrade", "Upgrade: h2c"))  # what follows in its segment is not HTTP
MIXED = (*(row for rows in zip_longest(HOT, LONG_WAY) for row in rows if row is not None), UPGRADE)
COUNTED = re.compile(r"^(scribe_(?:ops|errors|auth_failures|rate_limited)_total|scribe_request\w+_count)")


@pytest.fixture(scope="module", params=LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    with watched(monkeypatch) as wire:
        yield wire


class Ways:
    """Counts which way the node was asked."""

    def __init__(self, node: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.counts: dict[str, int] = {}
        for name in ("write_now", "read_now", "write", "read"):
            monkeypatch.setattr(node, name, self._counting(name, getattr(node, name)))

    def _counting(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.counts[name] = self.counts.get(name, 0) + 1
            return method(*args, **kwargs)

        return counted

    def took(self, *names: str) -> int:
        return sum(self.counts.get(name, 0) for name in names)


class Held:
    """Writes that the node has begun on the fast path, and whose outcome the test tells."""

    def __init__(self, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
        self._rig = rig
        self.waiting: list[tuple[WriteRequest, Callable[[WriteResult | ApplianceError], None]]] = []
        monkeypatch.setattr(rig.node, "write_now", self._write_now)

    def _write_now(self, request: WriteRequest, done: Callable[[WriteResult | ApplianceError], None]) -> bool:
        self.waiting.append((request, done))
        return True

    def release(self) -> None:
        for request, done in self.waiting:
            done(self._rig.node._apply(request))
        self.waiting = []


async def one_by_one(client: Client, rows: tuple[Asked, ...], send: Callable[[Client, Asked], Any]) -> list[Answer]:
    answers = []
    for asked in rows:
        await send(client, asked)
        answers.append(await client.answer(asked.method))
    return answers


async def in_one_segment(client: Client, asked: Asked) -> None:
    await client.segment(asked.plain())


async def body_later(client: Client, asked: Asked) -> None:
    head = asked.plain()[: len(asked.plain()) - len(asked.body or b"")]
    await client.segment(head)
    if asked.body:
        await client.segment(asked.body)


async def bytewise(client: Client, asked: Asked) -> None:
    await client.bytewise(asked.plain())


async def chunked(client: Client, asked: Asked) -> None:
    await client.segment(asked.chunked())


SENDERS = {"in one segment": in_one_segment, "body later": body_later, "byte by byte": bytewise, "chunked": chunked}


def counts(rig: Rig) -> dict[str, float]:
    """What the metrics count of requests."""
    lines = rig.metrics.render("text/plain")[0].decode().splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines) if COUNTED.match(name)}


def seen_by_the_node(rig: Rig) -> list[Any]:
    return [(r.operations, r.actor, r.batch, r.idempotency_key, r.request_hash) for r in rig.node.requests]


@pytest.fixture(scope="module")
async def port(anyio_backend: object) -> AsyncIterator[Port]:
    async with opened() as port:
        yield port


@pytest.mark.parametrize("follows", [False, True], ids=["leads", "follows"])
async def test_every_way_gives_the_same_answers(
    port: Port, wire: Wire, monkeypatch: pytest.MonkeyPatch, follows: bool
) -> None:
    told: dict[str, Any] = {}
    ways: dict[str, Ways] = {}
    for name in (*SENDERS, "pipelined"):
        async with furnished(port, frozen=True) as rig, connected(wire, rig.port) as client:
            rig.node.follows = follows
            rig.node.published_max = 0  # a root is over leaves with request ids, and differs from way to way
            ways[name] = Ways(rig.node, monkeypatch)
            if name in SENDERS:
                answers = await one_by_one(client, MIXED, SENDERS[name])
            else:
                await client.segment(b"".join(asked.plain() for asked in MIXED))
                answers = [await client.answer(asked.method) for asked in MIXED]
            spans = [(span.name, span.traceparent, span.ended) for span in rig.tracer.spans]
            failures = [{**line, "request_id": ""} for line in rig.log.of("http.auth_failed")]
            told[name] = ([answer.settled() for answer in answers], seen_by_the_node(rig), spans, failures)
            told[name] += (counts(rig),)
            ids = [answer.headers[b"x-request-id"] for answer in answers]
            assert len(set(ids)) == len(ids)
            assert ids.count(b"mine") == ids.count(b"r1") == 1
            await client.nothing_left()
    expected = told["in one segment"]
    for name, found in told.items():
        for asked, one, other in zip(MIXED, expected[0], found[0], strict=True):
            assert other == one, (name, asked)
        if name != "pipelined":
            assert found[1] == expected[1], name
        assert found[2:] == expected[2:], name
    fast = ways["in one segment"]
    assert fast.took("write_now") == 17
    assert fast.took("read_now") == 6, "one of them asks for an upgrade, in vain"
    assert fast.took("write") == (17 if follows else 0) + 5  # with a receipt, by the long way, or both
    for name in ("byte by byte", "body later"):
        assert ways[name].took("write_now") == 3, "those without a body, whose last byte is the head's"


async def test_the_rate_limit_counts_alike(port: Port, wire: Wire) -> None:
    told = []
    for send in (in_one_segment, bytewise):
        limits = {"max_requests": 60, "window_secs": 60, "burst_size": 3}
        async with furnished(port, frozen=True, limits=limits) as rig, connected(wire, rig.port) as client:
            answers = await one_by_one(client, (Asked("PUT", "/kv/a", body=b"v"),) * 5, send)
            assert [answer.status for answer in answers] == [200, 200, 200, 429, 429]
            assert answers[-1].headers[b"retry-after"] == b"1"
            told.append(([answer.settled() for answer in answers], counts(rig)))
    assert told[0] == told[1]


class TestOrder:
    async def test_what_comes_behind_a_write_in_flight_waits(
        self, rig: Rig, wire: Wire, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        held = Held(rig, monkeypatch)
        async with connected(wire, rig.port) as client:
            live, put = Asked("GET", "/health/live"), Asked("PUT", "/kv/a", body=b"1")
            await client.segment(put.plain() + live.plain() + Asked("PUT", "/kv/b", body=b"2").plain())
            assert len(held.waiting) == 1
            assert not client.has_answer()
            held.release()
            assert b'"key":"a"' in (await client.answer()).body
            assert (await client.answer()).body == b'{"status":"ok"}'
            assert b'"key":"b"' in (await client.answer()).body
            await client.nothing_left()

    async def test_a_hot_request_waits_behind_one_that_goes_the_long_way(self, rig: Rig, wire: Wire) -> None:
        rig.audit.hold = asyncio.Event()
        async with connected(wire, rig.port) as client:
            await client.segment(Asked("POST", "/audit/query", body=b'{"sql":"SELECT 1"}').plain())
            await client.segment(Asked("PUT", "/kv/a", body=b"1").plain() + Asked("GET", "/kv/a").plain())
            await rig.audit.begun.wait()
            assert rig.node.requests == []
            rig.audit.hold.set()
            assert b"SELECT 1" in (await client.answer()).body
            assert b'"version":1' in (await client.answer()).body
            assert (await client.answer()).body == b"1"
            await client.nothing_left()

    async def test_nothing_is_begun_behind_a_request_that_closes(self, rig: Rig, wire: Wire) -> None:
        closing = Asked("PUT", "/kv/a", ("Connection: close",), b"1")
        async with connected(wire, rig.port) as client:
            await client.segment(closing.plain() + Asked("PUT", "/kv/b", body=b"2").plain())
            answer = await client.answer()
            assert (answer.status, answer.headers[b"connection"]) == (200, b"close")
            assert await client.end() == b""
        assert [request.operations[0].key for request in rig.node.requests] == ["a"]

    async def test_a_pipeline_is_bounded(self, rig: Rig, wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("appliance.http.direct.PIPELINE_MAX", 5)
        held = Held(rig, monkeypatch)
        put = Asked("PUT", "/kv/a", body=b"1").plain()
        async with connected(wire, rig.port) as client:
            await client.segment(put + 5 * put)
            held.release()
            assert [(await client.answer()).status for _ in range(6)] == [200] * 6
            await client.nothing_left()
            held.waiting = []
        async with connected(wire, rig.port) as client:
            await client.segment(put + 6 * put)
            held.release()
            assert [(await client.answer()).status for _ in range(6)] == [200] * 6
            assert (await client.end()).startswith(b"HTTP/1.1 503 ")
        assert rig.node.machine.applied_index == 12, "what was taken before it was too much is carried out, and told"


async def test_trailers_are_no_headers(rig: Rig, wire: Wire) -> None:
    asked = Asked("PUT", "/kv/a", key=None)
    data = asked.head("Transfer-Encoding: chunked") + b"1\r\nv\r\n0\r\nx-api-key: admin-key\r\n\r\n"
    async with connected(wire, rig.port) as client:
        await client.segment(data)
        assert (await client.answer()).status == 401
        await client.nothing_left()


@pytest.mark.parametrize(
    ("asked", "length", "status"),
    [
        (Asked("PUT", "/kv/a", ("Expect: 100-continue",)), 5, 100),
        (Asked("PUT", "/kv/a", ("Expect: 100-continue",)), 4097, 413),
        (Asked("PUT", "/kv/a", ("Expect: 100-continue",), key=None), 5, 401),
        (Asked("PUT", "/kv/a?x", ("Expect: 100-continue",)), 5, 400),
        (Asked("DELETE", "/kv/a", ("Expect: 100-continue",)), 5, 404),
    ],
)
async def test_expect_gets_its_100_only_when_the_body_is_wanted(
    rig: Rig, wire: Wire, asked: Asked, length: int, status: int
) -> None:
    async with connected(wire, rig.port) as client:
        await client.segment(asked.head(f"Content-Length: {length}"))
        if status == 100:
            assert await client.interim() == b"HTTP/1.1 100 Continue\r\n\r\n"
            await client.segment(b"value")
            status = 200
        assert (await client.answer()).status == status
        if status == 200:
            await client.nothing_left()


class TestIdle:
    @pytest.fixture(autouse=True)
    def short(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("appliance.http.server.KEEP_ALIVE_S", 0.05)

    @pytest.mark.parametrize("asked", [HOT[0], LONG_WAY[0]], ids=["hot", "long way"])
    async def test_an_idle_connection_is_closed(self, wire: Wire, asked: Asked) -> None:
        async with running() as rig, connected(wire, rig.port) as client:
            await client.segment(asked.plain())
            assert (await client.answer()).status == 200
            assert await client.end() == b""

    async def test_a_busy_one_is_not(self, wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
        async with running() as rig, connected(wire, rig.port) as client:
            await client.segment(Asked("PUT", "/kv/a", body=b"1").plain())
            await client.answer()
            held = Held(rig, monkeypatch)
            await client.segment(Asked("PUT", "/kv/a", body=b"2").plain())
            await until(lambda: wire.looks >= 3)
            held.release()
            assert b'"version":2' in (await client.answer()).body
            assert await client.end() == b""

    async def test_nor_one_whose_head_is_coming_in(self, wire: Wire) -> None:
        async with running() as rig, connected(wire, rig.port) as client:
            data = Asked("PUT", "/kv/a", body=b"1").plain()
            await client.segment(data + data[:20])
            await client.answer()
            await until(lambda: wire.looks >= 3)
            await client.segment(data[20:])
            assert b'"version":2' in (await client.answer()).body

    async def test_the_rest_of_a_body_that_was_answered_is_not_waited_for(self, wire: Wire) -> None:
        async with running() as rig, connected(wire, rig.port) as client:
            await client.segment(Asked("PUT", "/kv/a").head("Content-Length: 4097") + b"begun")
            assert (await client.answer()).status == 413
            assert await client.end() == b""

    async def test_a_client_that_never_reads_its_answer_is_given_up(self, wire: Wire) -> None:
        async with running(value_bytes_max=2**24) as rig:
            assert (await rig.call("PUT", "/kv/a", content=bytes(2**24))).status_code == 200
            with socket.socket() as deaf:
                deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                deaf.connect(("127.0.0.1", rig.port))
                deaf.sendall(Asked("GET", "/kv/a").plain())
                await until(lambda: any(p.transport.get_write_buffer_size() > 2**20 for p in wire.protocols))
                await until(lambda: not any(p.transport.get_write_buffer_size() for p in wire.protocols))


async def test_what_a_client_does_not_read_is_not_made(port: Port, wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    value, gets = bytes(2**20), 100
    async with furnished(port, value_bytes_max=len(value)) as rig:
        assert (await rig.call("PUT", "/kv/a", content=value)).status_code == 200
        ways = Ways(rig.node, monkeypatch)
        async with connected(wire, rig.port) as client:
            await client.segment(Asked("GET", "/kv/a").plain() * gets)
            protocol = wire.protocols[-1]
            await until(lambda: protocol.flow.write_paused)
            polled: list[int] = []

            def at_rest() -> bool:
                polled.append(ways.took("read_now", "read"))
                return polled[-20:] == 20 * polled[-1:]

            await until(at_rest)
            assert 1 < polled[-1] < gets
            assert protocol.transport.get_write_buffer_size() < 3 * len(value)
            for _ in range(gets):
                assert (await client.answer()).body == value
            await client.nothing_left()


class TestStop:
    async def test_a_write_in_flight_is_answered_honestly(self, wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
        async with running() as rig:
            held = Held(rig, monkeypatch)
            put = Asked("PUT", "/kv/a", body=b"1").plain()
            async with connected(wire, rig.port) as alone, connected(wire, rig.port) as followed:
                await alone.segment(put)
                await followed.segment(put + Asked("GET", "/health/live").plain())
                await rig.server.stop(0.05)
                for client in (alone, followed):
                    answer = await client.answer()
                    assert_problem(_reply(answer), 504, "outcome_unknown")
                    assert answer.headers[b"connection"] == b"close"
                    assert await client.end() == b""
                assert rig.metric('scribe_errors_total{code="outcome_unknown"}') == 2
                held.release()  # the node learns what became of them; nobody is left to hear it
                assert rig.metric('scribe_errors_total{code="outcome_unknown"}') == 2


async def test_a_client_that_goes_away_harms_nobody(rig: Rig, wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(rig, monkeypatch)
    put, get = Asked("PUT", "/kv/a", body=b"1").plain(), Asked("GET", "/kv/a").plain()
    async with (
        connected(wire, rig.port) as stays,
        connected(wire, rig.port) as leaves,
        connected(wire, rig.port) as leaves_more,
    ):
        await stays.segment(put)
        await leaves.segment(put)
        await leaves_more.segment(put + get)  # so that the node does not read, and does not see it leave
        leaves.writer.transport.abort()
        leaves_more.writer.transport.abort()
        await until(lambda: wire.protocols[1] not in wire.protocols[1].connections)
        assert rig.node.machine.applied_index == 0
        held.release()
        assert (await stays.answer()).status == 200
        await until(lambda: wire.protocols[2] not in wire.protocols[2].connections)
        await stays.nothing_left()
    assert rig.node.machine.applied_index == 3, "all were carried out"
    assert counts(rig)['scribe_ops_total{op="put",status="2xx"}'] == 3


def _reply(answer: Answer) -> RigReply:
    headers = {name.decode(): value.decode() for name, value in answer.headers.items()}
    return RigReply(answer.status, headers, answer.body)
