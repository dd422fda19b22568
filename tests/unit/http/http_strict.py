"""A client that takes nothing on trust: every byte of an answer is accounted for, and each send is seen to arrive."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest
from http_rig import until

from appliance.http.direct import DirectProtocol

_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-5]\d\d) [ -~]*")
_HEADER = re.compile(rb"([a-z0-9-]+): ([ -~]*)")
_VARIES = (
    (re.compile(rb"\r\ndate: [ -~]+"), b"\r\ndate: -"),
    (re.compile(rb"\r\nx-request-id: [!-~]+"), b"\r\nx-request-id: -"),
    (re.compile(rb'"request_id":"[^"]+"'), b'"request_id":"-"'),
)


@dataclass(frozen=True)
class Asked:
    """A request. `body` None: no Content-Length either."""

    method: str
    target: str
    headers: tuple[str, ...] = ()
    body: bytes | None = None
    key: str | None = "admin"

    def head(self, *more: str) -> bytes:
        """Its head, with further headers."""
        credentials = () if self.key is None else (f"X-API-Key: {self.key}-key",)
        lines = (f"{self.method} {self.target} HTTP/1.1", "Host: x", *credentials, *self.headers, *more)
        return "\r\n".join((*lines, "", "")).encode()

    def plain(self) -> bytes:
        """All of it, the body by its length."""
        return self.head() if self.body is None else self.head(f"Content-Length: {len(self.body)}") + self.body

    def chunked(self) -> bytes:
        """All of it, the body in two chunks."""
        if self.body is None:
            return self.head()
        middle = len(self.body) // 2
        parts = [part for part in (self.body[:middle], self.body[middle:]) if part]
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
        return self.head("Transfer-Encoding: chunked") + chunks + b"0\r\n\r\n"


@dataclass(frozen=True)
class Answer:
    """A response, byte for byte."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes
    raw: bytes

    def settled(self) -> bytes:
        """Its bytes without what differs from one time to the next: the date and the request id."""
        raw = self.raw
        for pattern, constant in _VARIES:
            raw = pattern.sub(constant, raw)
        return re.sub(rb"content-length: \d+", b"content-length: -", raw) if b'"request_id"' in raw else raw


class Wire:
    """Counts what the server's protocol was given, so that a sender can wait until its segment has been seen."""

    def __init__(self) -> None:
        self.received_bytes = 0
        self.segments = 0
        self.protocols: list[DirectProtocol] = []
        self.looks = 0


@contextlib.contextmanager
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    """Watch the connections that are made from now on."""
    wire = Wire()
    data_received, connection_made = DirectProtocol.data_received, DirectProtocol.connection_made
    look = DirectProtocol._look_whether_idle

    def made(self: DirectProtocol, transport: asyncio.BaseTransport) -> None:
        wire.protocols.append(self)
        connection_made(self, transport)

    def received(self: DirectProtocol, data: bytes) -> None:
        data_received(self, data)
        wire.received_bytes += len(data)
        wire.segments += 1

    def looked(self: DirectProtocol) -> None:
        wire.looks += 1
        look(self)

    with monkeypatch.context() as patch:
        patch.setattr(DirectProtocol, "connection_made", made)
        patch.setattr(DirectProtocol, "data_received", received)
        patch.setattr(DirectProtocol, "_look_whether_idle", looked)
        yield wire


class Client:
    """One connection."""

    def __init__(self, wire: Wire, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._wire = wire
        self._reader = reader
        self.writer = writer

    async def segment(self, data: bytes) -> None:
        """Send bytes and wait until the server has had them, before anything else is sent."""
        target = self._wire.received_bytes + len(data)
        self.writer.write(data)
        for _ in range(10_000):
            if self._wire.received_bytes >= target:
                return
            await asyncio.sleep(0)
        await until(lambda: self._wire.received_bytes >= target)

    async def bytewise(self, data: bytes) -> None:
        """Send each byte in a segment of its own."""
        for place in range(len(data)):
            await self.segment(data[place : place + 1])

    async def interim(self) -> bytes:
        """Read an interim response (1xx)."""
        return await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), 10)

    async def answer(self, method: str = "GET") -> Answer:
        """Read one final response and hold it to RFC 9112."""
        head = await self.interim()
        status_line, *lines = head[:-4].split(b"\r\n")
        status = _STATUS_LINE.fullmatch(status_line)
        assert status is not None, status_line
        pairs: list[tuple[bytes, bytes]] = []
        for line in lines:
            header = _HEADER.fullmatch(line)
            assert header is not None, line
            pairs.append((header[1], header[2]))
        headers = dict(pairs)
        assert len(headers) == len(pairs), "a header came twice"
        assert b"transfer-encoding" not in headers
        assert b"x-request-id" in headers
        assert b"date" in headers
        assert (b"content-length" in headers) is (status[1] != b"304"), "304 has no body, and does not say how long"
        length = 0 if method == "HEAD" or status[1] == b"304" else int(headers[b"content-length"])
        body = await asyncio.wait_for(self._reader.readexactly(length), 10)
        return Answer(int(status[1]), headers, body, head + body)

    async def end(self) -> bytes:
        """What comes until the server closes the connection."""
        return await asyncio.wait_for(self._reader.read(), 10)

    async def nothing_left(self) -> None:
        """See that the connection is in step: a last request gets the last bytes that there are."""
        await self.segment(Asked("GET", "/health/live", ("Connection: close",)).plain())
        assert (await self.answer()).headers[b"connection"] == b"close"
        assert await self.end() == b""

    def has_answer(self) -> bool:
        """Whether bytes came that were not read."""
        return bool(self._reader._buffer)  # type: ignore[attr-defined]


@contextlib.asynccontextmanager
async def connected(wire: Wire, port: int, limit_bytes: int = 2**16) -> AsyncIterator[Client]:
    """Open a connection."""
    before = len(wire.protocols)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=limit_bytes)
    await until(lambda: len(wire.protocols) > before)
    try:
        yield Client(wire, reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
