"""What a client may make large has its bound however its bytes are cut, and a refusal takes nobody's answer away."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
from http_rig import Port, Rig, assert_problem, furnished, read_reply, running, until
from http_strict import Asked, Client, Wire, connected, watched

from appliance.http.limits import HEAD_BYTES_MAX
from appliance.ledger.commands import WriteRequest, WriteResult
from appliance.tables.errors import ApplianceError

pytestmark = pytest.mark.anyio

LIVE = Asked("GET", "/health/live").plain()
PUT = Asked("PUT", "/kv/a", body=b"1").plain()
LARGE = bytes(200_000)
LARGE_PUT = Asked("PUT", "/kv/large", body=LARGE).plain()
STATUS = re.compile(rb"HTTP/1\.1 (\d+) ")


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    with watched(monkeypatch) as wire:
        yield wire


@pytest.fixture
async def roomy(port: Port) -> AsyncIterator[Rig]:
    """A rig that takes large values."""
    async with furnished(port, value_bytes_max=2**20) as rig:
        yield rig


def held_bytes(rig: Rig) -> int:
    """What the bodies that are coming in are charged."""
    app: Any = rig.server._gateway
    held: int = app.app._intake.held_bytes
    return held


def head_of(size_bytes: int, line: str = "GET /health/live", *more: str) -> bytes:
    """A head of that size."""
    asked = Asked(*line.split())
    return asked.head(*more, "X-Long: " + "x" * (size_bytes - len(asked.head(*more, "X-Long: "))))


def cut(data: bytes, *places: int) -> list[bytes]:
    """The chunks that a cut at these places makes."""
    edges = [0, *(place % len(data) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


async def statuses(wire: Wire, rig: Rig, chunks: list[bytes]) -> list[int]:
    """Give the server exactly these chunks, and read until it closes the connection."""
    async with connected(wire, rig.port, limit_bytes=2**20) as client:
        for chunk in chunks:
            wire.protocols[-1].data_received(chunk)
        return [int(status) for status in STATUS.findall(await client.end())]


async def refusal(client: Client) -> dict[str, Any]:
    """Read what a connection ends with: the refusal of what is no request."""
    reader = asyncio.StreamReader()
    reader.feed_data(await client.end())
    reader.feed_eof()
    document = assert_problem(await read_reply(reader), 400, "bad_request")
    assert await reader.read() == b""
    return document


class TestHead:
    LONG = head_of(200_000)
    CLOSING = Asked("GET", "/health/live", ("Connection: close",)).plain()

    @pytest.mark.parametrize(
        ("chunks", "before"),
        [
            (cut(LONG), 0),
            (cut(LONG, 100_000), 0),
            (cut(LONG, 1), 0),
            (cut(LONG, -1), 0),
            (cut(LONG, 60_000, 120_000), 0),
            (cut(head_of(70_000), 40_000), 0),
            (cut(head_of(70_000, "PUT /kv/a", "Content-Length: 1") + b"1"), 0),
            (cut(LIVE + LONG), 1),
            (cut(LIVE + LONG, 100_000), 1),
            (cut(LARGE_PUT + head_of(70_000), -10_000), 1),
            (cut(LARGE_PUT + head_of(140_000), -100_000, -20_000), 1),
        ],
    )
    async def test_one_that_is_too_long_is_refused(
        self, roomy: Rig, wire: Wire, chunks: list[bytes], before: int
    ) -> None:
        assert await statuses(wire, roomy, chunks) == [200] * before + [400]
        assert {request.operations[0].key for request in roomy.node.requests} <= {"large"}

    async def test_the_refusal_names_the_bound(self, rig: Rig, wire: Wire) -> None:
        async with connected(wire, rig.port) as client:
            wire.protocols[-1].data_received(self.LONG)
            assert str(HEAD_BYTES_MAX) in (await refusal(client))["detail"]

    @pytest.mark.parametrize(
        ("chunks", "answers"),
        [
            (cut(LARGE_PUT), 1),
            (cut(LARGE_PUT * 3), 3),
            (cut(LARGE_PUT, 10), 1),
            (cut(LARGE_PUT * 2, 10, len(LARGE_PUT) + 10), 2),
            (cut(LARGE_PUT * 3, len(LARGE_PUT) + 10, -10), 3),
            (cut(LIVE * 2000, 90_000), 2000),
            (cut(head_of(HEAD_BYTES_MAX)), 1),
            (cut(LARGE_PUT + head_of(HEAD_BYTES_MAX), -1), 2),
            (cut(LARGE_PUT + head_of(HEAD_BYTES_MAX), 1 - HEAD_BYTES_MAX, -1), 2),
            (cut(head_of(HEAD_BYTES_MAX, "PUT /kv/large", f"Content-Length: {len(LARGE)}") + LARGE, 9), 1),
        ],
    )
    async def test_large_chunks_of_other_things_are_not_taken_for_one(
        self, roomy: Rig, wire: Wire, monkeypatch: pytest.MonkeyPatch, chunks: list[bytes], answers: int
    ) -> None:
        monkeypatch.setattr("appliance.http.direct.PIPELINE_MAX", answers)
        assert await statuses(wire, roomy, [*chunks, self.CLOSING]) == [200] * (answers + 1)


class TestFraming:
    CHUNKED = Asked("PUT", "/kv/large", ("Transfer-Encoding: chunked",)).head()

    @pytest.mark.parametrize("begun", [b"0\r\nx: ", b"1\r\nx\r\n0\r\nx: ", b"1;x="])
    async def test_a_trailer_without_end_is_not_gathered(self, roomy: Rig, wire: Wire, begun: bytes) -> None:
        chunks = [self.CHUNKED, begun, *[b"x" * 1024] * 65]
        assert await statuses(wire, roomy, chunks) == []
        assert roomy.node.requests == []

    async def test_nor_behind_an_answer(self, roomy: Rig, wire: Wire) -> None:
        async with connected(wire, roomy.port) as client:
            await client.segment(Asked("GET", "/kv/a", ("Transfer-Encoding: chunked",), key=None).head() + b"0\r\nx: ")
            assert (await client.answer()).status == 401
            for _ in range(65):
                wire.protocols[-1].data_received(b"x" * 1024)
            assert await client.end() == b"", "it has had its answer"

    async def test_bodies_in_many_chunks_have_none_to_speak_of(self, roomy: Rig, wire: Wire) -> None:
        parts = [b"1;some=extension\r\n", b"x\r\n"] * 5000 + [b"fff0\r\n", bytes(0xFFF0) + b"\r\n"] * 4
        twice = [self.CHUNKED, *parts, b"0\r\nx: " + b"y" * 60_000, b"\r\n\r\n"] * 2
        closing = Asked("GET", "/health/live", ("Connection: close",)).plain()
        assert await statuses(wire, roomy, [*twice, LARGE_PUT[:99], LARGE_PUT[99:], closing]) == [200] * 4


class TestBodies:
    @pytest.fixture(autouse=True)
    def few(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("appliance.http.front.BODIES_BYTES_MAX", 10_000)

    async def begin(self, client: Client, rig: Rig, path: str = "/kv/a") -> None:
        """Send 8,000 bytes of 8,001, and see them charged."""
        await client.segment(Asked("PUT", path).head("Content-Length: 8001"))
        await client.segment(bytes(8000))
        await until(lambda: held_bytes(rig) == 8000)

    async def test_those_that_are_coming_in_are_bounded_together(self, roomy: Rig, wire: Wire) -> None:
        async with connected(wire, roomy.port) as first, connected(wire, roomy.port) as second:
            await self.begin(first, roomy)
            await second.segment(Asked("PUT", "/kv/b").head("Content-Length: 3000"))
            await second.segment(bytes(2001))
            answer = await second.answer()
            assert (answer.status, answer.headers[b"retry-after"]) == (503, b"1")
            assert b'"code":"overloaded"' in answer.body
            assert held_bytes(roomy) == 8000
            await second.segment(bytes(999))
            await second.nothing_left()
            await first.segment(b"x")
            assert (await first.answer()).status == 200
        assert held_bytes(roomy) == 0
        assert [request.operations[0].key for request in roomy.node.requests] == ["a"]
        assert roomy.metric('scribe_errors_total{code="overloaded"}') == 1

    async def test_a_connection_whose_refused_body_does_not_end_is_closed(
        self, wire: Wire, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("appliance.http.server.KEEP_ALIVE_S", 0.05)
        async with running(value_bytes_max=2**20) as rig, connected(wire, rig.port) as client:
            await client.segment(Asked("PUT", "/kv/a").head("Content-Length: 20000") + bytes(10_001))
            assert (await client.answer()).status == 503
            assert await client.end() == b""

    async def test_what_is_complete_is_taken_all_the_same(
        self, roomy: Rig, wire: Wire, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with connected(wire, roomy.port) as first, connected(wire, roomy.port) as second:
            await self.begin(first, roomy)
            monkeypatch.setattr("appliance.http.front.AsgiBody._read_parts", None)  # whose timer and count it needs not
            for path in ("/kv/b", "/b"):
                await second.segment(Asked("PUT", path, body=bytes(9000)).plain())
                assert (await second.answer()).status == 200

    async def test_one_that_its_client_gives_up_is_given_back(self, roomy: Rig, wire: Wire) -> None:
        for path in ("/kv/a", "/a"):
            async with connected(wire, roomy.port) as client:
                await self.begin(client, roomy, path)
            await until(lambda: held_bytes(roomy) == 0)
        assert roomy.node.requests == []

    async def test_one_that_is_too_large_is_given_back(self, rig: Rig, wire: Wire) -> None:
        async with connected(wire, rig.port) as client:
            await client.segment(Asked("PUT", "/kv/a").head("Transfer-Encoding: chunked"))
            await client.segment(b"1000\r\n" + bytes(4096) + b"\r\n")
            await until(lambda: held_bytes(rig) == 4096)
            await client.segment(b"1\r\nx\r\n")
            assert (await client.answer()).status == 413
            assert held_bytes(rig) == 0

    async def test_one_that_does_not_come_in_time_is_given_back(
        self, roomy: Rig, wire: Wire, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("appliance.http.front.BODY_TIMEOUT_S", 0.2)
        async with connected(wire, roomy.port) as client:
            await self.begin(client, roomy)
            assert (await client.answer()).status == 400
            assert held_bytes(roomy) == 0


class TestRefusedBehindOthers:
    """A refusal without a request comes when what was asked before has been answered, and then the connection ends."""

    RAW = "GET /kv/ä HTTP/1.1\r\nhost: x\r\n\r\n".encode()
    BROKEN = Asked("PUT", "/kv/broken").head("Transfer-Encoding: chunked") + b"1\r\nx\r\nno number\r\n"

    @pytest.fixture
    def waiting(self, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], None]]:
        """Writes that the node has taken; a call commits one."""
        begun: list[Callable[[], None]] = []

        def write_now(request: WriteRequest, done: Callable[[WriteResult | ApplianceError], None]) -> bool:
            begun.append(lambda: done(rig.node._apply(request)))
            return True

        monkeypatch.setattr(rig.node, "write_now", write_now)
        return begun

    @pytest.mark.parametrize("refused", [RAW, b"no HTTP\r\n\r\n", BROKEN, head_of(70_000)], ids=range(4))
    @pytest.mark.parametrize("between", [b"", LIVE, LIVE + Asked("GET", "/kv/a").plain()], ids=range(3))
    async def test_a_write_under_way_gets_its_answer(
        self, rig: Rig, wire: Wire, waiting: list[Callable[[], None]], refused: bytes, between: bytes
    ) -> None:
        async with connected(wire, rig.port) as client:
            await client.segment(PUT + between + refused)
            assert not client.has_answer()
            (commit,) = waiting
            commit()
            assert b'"version":1' in (await client.answer()).body
            for _ in range(between.count(b"GET")):
                assert (await client.answer()).status == 200
            await refusal(client)
        assert rig.node.machine.applied_index == 1

    async def test_so_does_what_goes_the_long_way(self, rig: Rig, wire: Wire) -> None:
        rig.audit.hold = asyncio.Event()
        async with connected(wire, rig.port) as client:
            await client.segment(Asked("POST", "/audit/query", body=b'{"sql":"SELECT 1"}').plain() + self.RAW)
            await rig.audit.begun.wait()
            rig.audit.hold.set()
            assert b"SELECT 1" in (await client.answer()).body
            assert STATUS.findall(await client.end()) == [b"400"]

    async def test_after_a_request_that_closes_comes_nothing(
        self, rig: Rig, wire: Wire, waiting: list[Callable[[], None]]
    ) -> None:
        async with connected(wire, rig.port) as client:
            await client.segment(Asked("PUT", "/kv/a", ("Connection: close",), b"1").plain() + self.RAW)
            waiting[0]()
            assert (await client.answer()).headers[b"connection"] == b"close"
            assert await client.end() == b""

    async def test_a_head_that_does_not_come_to_its_end_waits_for_its_turn(
        self, wire: Wire, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("appliance.http.protocol.HEAD_TIMEOUT_S", 0.05)
        async with running() as rig, connected(wire, rig.port) as client:
            rig.node.hold = asyncio.Event()
            await client.segment(PUT + b"GET /hea")
            await until(lambda: wire.protocols[-1]._refused)
            assert not client.has_answer()
            rig.node.hold.set()
            assert (await client.answer()).status == 200
            assert STATUS.findall(await client.end()) == [b"400"]

    async def test_a_broken_body_that_is_waited_for_ends_the_connection(self, rig: Rig, wire: Wire) -> None:
        async with connected(wire, rig.port) as client:
            await client.segment(self.BROKEN)
            assert await client.end() == b""
        await until(lambda: rig.metric('scribe_ops_total{op="put",status="4xx"}') == 1.0)
        assert rig.node.requests == []
