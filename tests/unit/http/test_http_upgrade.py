"""What a request says of its own form and is unknown here: other protocols are ignored, other codings refused."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from http_rig import Rig, assert_problem, fresh_key, read_reply, running, until
from http_strict import Asked, Client, Wire, connected, watched

pytestmark = pytest.mark.anyio

H2C = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA")
WEBSOCKET = ("Connection: keep-alive, upgrade", "Upgrade: websocket")


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    with watched(monkeypatch) as wire:
        yield wire


async def whole(client: Client, data: bytes) -> None:
    await client.segment(data)


async def head_first(client: Client, data: bytes) -> None:
    end = data.index(b"\r\n\r\n") + 4
    await client.segment(data[:end])
    await client.segment(data[end:])


async def bytewise(client: Client, data: bytes) -> None:
    await client.bytewise(data)


@pytest.mark.parametrize("send", [whole, head_first, bytewise], ids=["one segment", "head first", "byte by byte"])
@pytest.mark.parametrize("wish", [H2C, WEBSOCKET], ids=["h2c", "websocket"])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_the_body_of_a_request_for_an_upgrade_is_its_body(
    shared: Rig, wire: Wire, send: object, wish: tuple[str, ...], chunked: bool
) -> None:
    key, other = fresh_key(), fresh_key()
    assert callable(send)
    body = Asked("DELETE", f"/kv/{other}").plain()  # which must not be taken for a request
    asked = Asked("PUT", f"/kv/{key}", wish, body)
    async with connected(wire, shared.port) as client:
        await client.segment(Asked("PUT", f"/kv/{other}", body=b"kept").plain())
        assert (await client.answer()).status == 200
        await send(client, asked.chunked() if chunked else asked.plain())
        assert (await client.answer()).status == 200
        for name, value in ((key, body), (other, b"kept")):
            await client.segment(Asked("GET", f"/kv/{name}").plain())
            assert (await client.answer()).body == value
        await client.nothing_left()


async def test_what_follows_a_request_for_an_upgrade_is_answered(shared: Rig, wire: Wire) -> None:
    keys = [fresh_key() for _ in range(50)]
    puts = [Asked("PUT", f"/kv/{key}", H2C if n % 2 else (), b"%d" % n).plain() for n, key in enumerate(keys)]
    gets = [Asked("GET", f"/kv/{key}", WEBSOCKET).plain() for key in keys]
    async with connected(wire, shared.port) as client:
        await client.segment(b"".join(puts + gets))
        assert [(await client.answer()).status for _ in puts] == [200] * 50
        assert [(await client.answer()).body for _ in gets] == [b"%d" % n for n in range(50)]
        await client.nothing_left()


async def test_nothing_is_done_of_a_request_for_an_upgrade_that_breaks_off(wire: Wire) -> None:
    async with running() as rig:
        async with connected(wire, rig.port) as client:
            await client.segment(Asked("PUT", "/kv/a", H2C, b"value").plain()[:-1])
        assert rig.node.requests == []


@pytest.mark.parametrize("before", [0, 1], ids=["at first", "behind another"])
@pytest.mark.parametrize(
    "head",
    [
        *(
            f"PUT /kv/a HTTP/1.1\r\ntransfer-encoding: {coding}"
            for coding in ("gzip, chunked", "identity, chunked", "gzip")
        ),
        "PUT /kv/a HTTP/1.1\r\nconnection: upgrade\r\nupgrade: h2c\r\ntransfer-encoding: gzip, chunked",
        "CONNECT a:1 HTTP/1.1",
        "GET http://a:b/ HTTP/1.1",
    ],
)
async def test_what_is_refused_at_its_head_is_told_so_once(shared: Rig, wire: Wire, head: str, before: int) -> None:
    """An encoded body is not stored as it is, for one."""
    async with connected(wire, shared.port) as client:
        for _ in range(before):
            await client.segment(Asked("PUT", f"/kv/{fresh_key()}", body=b"v").plain())
            assert (await client.answer()).status == 200
        await client.segment(f"{head}\r\nhost: x\r\nx-api-key: admin-key\r\n\r\n1\r\nx\r\n0\r\n\r\n".encode())
        reader = asyncio.StreamReader()
        reader.feed_data(await client.end())
        reader.feed_eof()
        assert_problem(await read_reply(reader), 400, "bad_request")
        assert await reader.read() == b""


async def test_white_space_behind_a_coding_is_none_of_it(shared: Rig, wire: Wire) -> None:
    async with connected(wire, shared.port) as client:
        await client.segment(Asked("PUT", f"/kv/{fresh_key()}", ("Transfer-Encoding: chunked ",)).head())
        await client.segment(b"1\r\nx\r\n0\r\n\r\n")
        assert (await client.answer()).status == 200
        await client.nothing_left()


@pytest.mark.parametrize("key", ["wrong", "admin"])
async def test_a_body_that_breaks_is_no_fault_of_the_node(
    wire: Wire, caplog: pytest.LogCaptureFixture, key: str
) -> None:
    async with running() as rig:
        async with connected(wire, rig.port) as client:
            asked = Asked("PUT", "/kv/a", ("Transfer-Encoding: chunked", "Expect: 100-continue"), key=key)
            await client.segment(asked.head() + b"ZZ\r\n")
            assert await client.end() == b""
        await until(lambda: not rig.server._server.server_state.tasks)  # type: ignore[union-attr]
        assert rig.log.of("http.error") == []
        assert [record for record in caplog.records if record.name == "uvicorn.error"] == []
        assert rig.node.requests == []


async def test_a_client_of_http_1_0_gets_no_interim_answer(shared: Rig) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", shared.port)
    writer.write(
        b"PUT /kv/a HTTP/1.0\r\nx-api-key: admin-key\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\nvalue"
    )
    assert (await asyncio.wait_for(reader.read(), 10)).startswith(b"HTTP/1.1 200")
    writer.close()
