"""The client of a witness, against a server that answers what the test says; and how witnesses are written down."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from appliance.adapters.ed25519 import SigningKey
from appliance.adapters.witness_address import NAME_CHARACTERS_MAX, WitnessAddress, parse_witness
from appliance.adapters.witness_client import ANSWER_BYTES_MAX, WitnessClient
from appliance.ledger.note import SignatureType, format_verifier_key
from appliance.node.witness_ports import WitnessUnreachable

pytestmark = pytest.mark.anyio

KEY = SigningKey("w.example", SignatureType.COSIGNATURE_V1, bytes(32)).verifier_key
VKEY = format_verifier_key(KEY)
LOG_VKEY = format_verifier_key(SigningKey("log", SignatureType.ED25519, bytes(32)).verifier_key)
LONG = format_verifier_key(
    SigningKey("w" * (NAME_CHARACTERS_MAX + 1), SignatureType.COSIGNATURE_V1, bytes(32)).verifier_key
)


@asynccontextmanager
async def answering(raw: bytes) -> AsyncIterator[tuple[WitnessClient, list[bytes]]]:
    """A client of a server that answers each request with these bytes; and what it was sent."""
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                seen.append(head + await reader.readexactly(length))
                writer.write(raw)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    client = WitnessClient(WitnessAddress(f"http://127.0.0.1:{port}/w1", KEY))
    try:
        yield client, seen
    finally:
        await client.close()
        server.close()


async def test_a_submission_and_its_answer() -> None:
    raw = b"HTTP/1.1 409 Conflict\r\nContent-Type: text/x.tlog.size\r\nContent-Length: 2\r\n\r\n8\n"
    async with answering(raw) as (client, seen):
        for _ in range(2):
            assert await client.submit(b"old 0\n\n") == (409, "text/x.tlog.size", b"8\n")
    assert len(seen) == 2
    assert seen[0].startswith(b"POST /w1/add-checkpoint HTTP/1.1\r\n")
    assert seen[0].endswith(b"\r\n\r\nold 0\n\n")


async def test_a_redirection_is_not_followed() -> None:
    async with answering(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n") as (
        client,
        _,
    ):
        assert (await client.submit(b"old 0\n\n")).status == 302


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 70000\r\n\r\n" + bytes(70000),
            f"more than {ANSWER_BYTES_MAX} bytes",
            id="too long",
        ),
        pytest.param(b"nonsense\r\n\r\n", "illegal", id="no HTTP"),
    ],
)
async def test_answers_that_cannot_be_read(raw: bytes, reason: str) -> None:
    async with answering(raw) as (client, _):
        with pytest.raises(WitnessUnreachable, match=reason):
            await client.submit(b"old 0\n\n")


async def test_nobody_there() -> None:
    client = WitnessClient(WitnessAddress("http://127.0.0.1:1", KEY))
    with pytest.raises(WitnessUnreachable):
        await client.submit(b"")
    await client.close()


@pytest.mark.parametrize(
    ("text", "url"),
    [
        (f"http://127.0.0.1:8100 {VKEY}", "http://127.0.0.1:8100"),
        (f"https://w.example/prefix/ {VKEY}", "https://w.example/prefix"),
        (f" http://[::1]:8100/  {VKEY} ", "http://[::1]:8100"),
    ],
)
async def test_witnesses_that_can_be_written_down(text: str, url: str) -> None:
    assert parse_witness(text) == WitnessAddress(url, KEY)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no http or https URL"),
        (VKEY, "no http or https URL"),
        (f"{VKEY} http://w.example", "no http or https URL"),
        (f"w.example:8100 {VKEY}", "no http or https URL"),
        (f"ftp://w.example {VKEY}", "no http or https URL"),
        (f"http:// {VKEY}", "no http or https URL"),
        (f"http://w.example:70000 {VKEY}", "ort"),
        (f"http://w.example?log=1 {VKEY}", "no prefix"),
        (f"http://user@w.example {VKEY}", "no prefix"),
        ("http://w.example", "verifier key"),
        ("http://w.example w.example", "verifier key"),
        (f"http://w.example {VKEY}x", "verifier key"),
        (f"http://w.example {LOG_VKEY}", "type 0x04 is needed"),
        (f"http://w.example {LONG}", "longer than"),
    ],
)
async def test_witnesses_that_cannot(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_witness(text)


async def test_what_is_packed_is_not_unpacked() -> None:
    """Packed twice, a few bytes are gigabytes."""
    packed = gzip.compress(gzip.compress(bytes(10_000_000)))
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip, gzip\r\nContent-Length: %d\r\n\r\n" % len(packed)
    async with answering(head + packed) as (client, seen):
        assert (await client.submit(b"old 0\n\n")).body == packed
    assert b"accept-encoding: identity\r\n" in seen[0].lower()


async def test_a_redirection_to_nowhere_is_no_answer() -> None:
    raw = b"HTTP/1.1 302 Found\r\nLocation: mailto:x\r\nContent-Length: 0\r\n\r\n"
    async with answering(raw) as (client, _):
        with pytest.raises(WitnessUnreachable):
            await client.submit(b"old 0\n\n")
