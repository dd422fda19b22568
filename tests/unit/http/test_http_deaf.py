"""Clients that send much and read little, or leave: what is kept for them is bounded, and what was answered arrives."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from http_rig import Rig, running, until
from http_strict import Asked, Wire, connected, watched

from appliance.http.direct import DirectProtocol

pytestmark = pytest.mark.anyio

BIG = bytes(2**24)
GET = Asked("GET", "/kv/big").plain()


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    with watched(monkeypatch) as wire:
        yield wire


@contextlib.contextmanager
def deaf_client(rig: Rig) -> Iterator[socket.socket]:
    """One that reads nothing."""
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", rig.port))
        yield deaf


def read_later(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads are answered in a turn of their own, as where a majority is asked."""
    read_now = rig.node.read_now

    def later(key: str, done: Any, *, linearizable: bool) -> None:
        asyncio.get_running_loop().call_later(0.01, lambda: read_now(key, done, linearizable=linearizable))

    monkeypatch.setattr(rig.node, "read_now", later)


async def with_a_full_pipe(
    rig: Rig, wire: Wire, deaf: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> DirectProtocol:
    """Its first answer does not fit through, and a second request waits behind."""
    assert (await rig.call("PUT", "/kv/big", content=BIG)).status_code == 200
    read_later(rig, monkeypatch)
    deaf.sendall(GET * 2)
    await until(lambda: any(p.flow.write_paused for p in wire.protocols))
    return next(p for p in wire.protocols if p.flow.write_paused)


async def test_one_that_pipelines_is_given_up_too(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.http.server.KEEP_ALIVE_S", 0.3)
    async with running(value_bytes_max=len(BIG)) as rig:
        with deaf_client(rig) as deaf:
            protocol = await with_a_full_pipe(rig, wire, deaf, monkeypatch)
            await until(lambda: protocol not in protocol.connections)


async def test_one_does_not_hold_up_the_end(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(value_bytes_max=len(BIG)) as rig:
        with deaf_client(rig) as deaf:
            await with_a_full_pipe(rig, wire, deaf, monkeypatch)
            await asyncio.wait_for(rig.server.stop(0.1), 10)


async def test_what_waits_on_a_connection_is_not_read_in(wire: Wire) -> None:
    """Bodies that nobody asked for come with requests that are answered before."""
    asked = Asked("GET", "/health/live", body=bytes(50_000), key=None).plain()
    async with running() as rig, connected(wire, rig.port, limit_bytes=2**20) as client:
        most, answers = 0, 0

        async def read() -> None:
            nonlocal answers
            for _ in range(300):
                assert (await client.answer()).status == 200
                answers += 1

        reading = asyncio.create_task(read())
        protocol = wire.protocols[-1]
        for _ in range(300):
            client.writer.write(asked)
            await client.writer.drain()
            most = max(most, sum(len(cycle.body) for cycle, _ in protocol.pipeline))
        await asyncio.wait_for(reading, 30)
        assert answers == 300
        assert most < 1_000_000
        await client.nothing_left()


async def test_a_refusal_takes_no_answer_away_that_was_not_read_yet(wire: Wire) -> None:
    """The kernel resets a connection that is closed while something of it is unread, and drops what it has to send."""
    async with running(value_bytes_max=2**20) as rig:
        assert (await rig.call("PUT", "/kv/big", content=bytes(300_000))).status_code == 200
        writes = b"".join(Asked("PUT", f"/kv/{n}", body=b"v").plain() for n in range(2))
        loop = asyncio.get_running_loop()
        with socket.create_connection(("127.0.0.1", rig.port)) as client:
            client.setblocking(False)
            sending = loop.create_task(loop.sock_sendall(client, GET + writes + b"garbage\r\n\r\n" + bytes(3_000_000)))
            await until(lambda: len(rig.node.requests) == 3)
            told = b""
            while chunk := await asyncio.wait_for(loop.sock_recv(client, 2**16), 10):
                told += chunk
            sending.cancel()
        assert [told.count(b"HTTP/1.1 %d " % status) for status in (200, 400)] == [3, 1]
        assert told.endswith(b"}")


async def test_who_leaves_is_noticed_by_what_is_under_way_and_not_by_the_last_that_came(wire: Wire) -> None:
    async with running() as rig:
        rig.audit.hold = asyncio.Event()
        query = Asked("POST", "/audit/query", body=b'{"sql":"SELECT 1"}').plain()
        client = socket.create_connection(("127.0.0.1", rig.port))
        client.sendall(query + Asked("GET", "/health/live").plain())
        await until(rig.audit.begun.is_set)
        await until(lambda: bool(wire.protocols[-1].pipeline))
        wire.protocols[-1].flow.resume_reading()  # it does not, while a request waits
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
        client.close()
        wire.protocols[-1].transport.abort()  # what the next write on it would find out
        await asyncio.wait_for(rig.audit.cancelled.wait(), 10)
        assert not wire.protocols[-1].pipeline


async def test_a_request_that_was_on_its_way_when_the_server_stops_is_answered(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that asks all the time has its connection closed with an answer, and never under a request."""
    monkeypatch.setattr("appliance.http.protocol.LAST_CALL_S", 2.0)
    async with running() as rig, connected(wire, rig.port) as client, connected(wire, rig.port) as other:
        for connection in (client, other):
            await connection.segment(Asked("PUT", "/kv/a", body=b"v").plain())
            assert (await connection.answer()).status == 200
        stopping = asyncio.create_task(rig.server.stop(5.0))
        await until(lambda: all(protocol._closing for protocol in wire.protocols))
        put = Asked("PUT", "/kv/b", body=b"v").plain()
        await client.segment(put)
        await other.segment(put[:-1])
        await other.segment(put[-1:])
        for connection in (client, other):
            answer = await connection.answer()
            assert (answer.status, answer.headers[b"connection"]) == (200, b"close")
            assert await connection.end() == b""
        await asyncio.wait_for(stopping, 10)


async def test_nothing_is_done_behind_an_answer_that_closes(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is told so sends it again elsewhere."""
    monkeypatch.setattr("appliance.http.protocol.LAST_CALL_S", 2.0)
    async with running() as rig, connected(wire, rig.port) as client:
        await client.segment(Asked("GET", "/kv/a").plain())
        assert (await client.answer()).status == 404
        stopping = asyncio.create_task(rig.server.stop(5.0))
        await until(lambda: wire.protocols[-1]._closing)
        for behind in (Asked("PUT", "/kv/b", body=b"v").plain(), Asked("PUT", "/kv/b", body=b"v").chunked()):
            wire.protocols[-1].data_received(Asked("GET", "/kv/%zz").plain() + behind)
        assert (await client.answer()).headers[b"connection"] == b"close"
        assert await client.end() == b""
        assert rig.node.requests == []
        await asyncio.wait_for(stopping, 10)


async def test_a_refusal_in_the_last_call_ends_the_connection(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.http.protocol.LAST_CALL_S", 0.3)
    monkeypatch.setattr("appliance.http.protocol.LINGER_S", 0.5)
    async with running() as rig, connected(wire, rig.port) as client:
        await client.segment(Asked("GET", "/kv/a").plain())
        assert (await client.answer()).status == 404
        protocol = wire.protocols[-1]
        stopping = asyncio.create_task(rig.server.stop(30.0))
        await until(lambda: protocol._closing)
        await client.segment(Asked("PUT", "/kv/a", ("Transfer-Encoding: chunked",)).head())
        await client.segment(b"ZZ\r\n")
        await until(lambda: protocol not in protocol.connections)  # the client keeps its side open
        await asyncio.wait_for(stopping, 10)
