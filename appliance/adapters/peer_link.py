"""One connection to a peer: frames in, frames out, nothing that waits and nothing that grows without a limit."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from contextlib import suppress
from typing import Final, Protocol, cast

from appliance.adapters.peer_protocol import (
    HANDSHAKE_FRAME_BYTES_MAX,
    FrameDecoder,
    Kind,
    Payload,
    Ping,
    Pong,
    ProtocolError,
    decode_payload,
    encode_frame,
)

EARLY_FRAMES_MAX: Final = 8  # a handshake has two a side
CLOSE_TIMEOUT_S: Final = 1.0  # what a peer that does not read may delay a close

_PING: Final = bytes(encode_frame(Kind.PING, Ping()))
_PONG: Final = bytes(encode_frame(Kind.PONG, Pong()))


class LinkHandler(Protocol):
    """What a link calls once its handshake is over."""

    def on_frame(self, link: Link, kind: int, value: Payload) -> None:
        """A frame came in. Raises `ProtocolError` when it does not belong here."""
        ...

    def on_violation(self, link: Link, error: ProtocolError) -> None:
        """The peer broke the protocol; the link is being cut."""
        ...

    def on_lost(self, link: Link) -> None:
        """The link is gone; called once."""
        ...


class Link(asyncio.Protocol):
    """A connection. Frames wait in `receive` until `attach` hands them to a handler as they come.

    A frame that is sent `at_once` goes to the kernel in this turn, with all that waits: a Raft message is worth a
    system call of its own, since a later turn may come milliseconds later. Others, such as forwarded writes and their
    answers, leave together at the end of the turn.

    Args:
        output_bytes_max: what may wait here and in the transport before `send` refuses.
        idle_timeout_s: silence after which its owner cuts it.
        registry: holds the link from the first moment of the connection to the last.

    Attributes:
        last_received_s: loop time at which something came last.
        written: how many of the frames that `send` took have been given to the transport.
        queued: how many frames `send` took.
        closed: done when the connection is gone.
    """

    def __init__(self, output_bytes_max: int, idle_timeout_s: float, registry: set[Link]) -> None:
        self._loop = asyncio.get_running_loop()
        self._output_bytes_max = output_bytes_max
        self.idle_timeout_s = idle_timeout_s
        self._registry = registry
        self._decoder = FrameDecoder(HANDSHAKE_FRAME_BYTES_MAX)
        self._handler: LinkHandler | None = None
        self._early: deque[tuple[int, Payload]] = deque()
        self._waiting: asyncio.Future[None] | None = None
        self._failure: Exception | None = None
        self._pending: list[bytes | bytearray] = []
        self._pending_bytes = 0
        self._transport: asyncio.Transport | None = None
        self._can_write = asyncio.Event()
        self._can_write.set()
        self.last_received_s = self._loop.time()
        self.written = 0
        self.queued = 0
        self.closed: asyncio.Future[None] = self._loop.create_future()

    @property
    def ssl_object(self) -> ssl.SSLObject | None:
        """The TLS session, for the peer's certificate."""
        found = self._transport.get_extra_info("ssl_object") if self._transport is not None else None
        return found if isinstance(found, ssl.SSLObject) else None

    @property
    def made(self) -> bool:
        """Whether the connection stands, or stood."""
        return self._transport is not None

    @property
    def alive(self) -> bool:
        """Whether frames can still be sent."""
        return self._transport is not None and not self._transport.is_closing()

    @property
    def end_reason(self) -> str:
        """Why the link is gone, once it is."""
        return str(self._failure) if self._failure is not None else ""

    def attach(self, handler: LinkHandler, frame_bytes_max: int) -> None:
        """End the handshake: from now on frames, those that waited first, go to the handler."""
        self._handler = handler
        self._decoder.frame_bytes_max = frame_bytes_max
        try:
            while self._early and self.alive:
                self._take(*self._early.popleft())
        except ProtocolError as error:
            self._violated(error)
        if self.closed.done():
            handler.on_lost(self)

    async def receive(self) -> tuple[int, Payload]:
        """Wait for the next frame of the handshake.

        Raises:
            ProtocolError: what came was no frame.
            ConnectionError: the link was lost.
        """
        while not self._early:
            if self._failure is not None:
                raise self._failure
            self._waiting = self._loop.create_future()
            await self._waiting
        return self._early.popleft()

    def send(self, frame: bytes | bytearray, *, always: bool = False, at_once: bool = False) -> bool:
        """Queue a frame; False when it was dropped because the link is gone or too much waits on it.

        Args:
            frame: what `encode_frame` made.
            always: for answers whose number is bounded elsewhere: only a lost link drops them.
            at_once: do not wait for what else is sent in this turn.
        """
        transport = self._transport
        if transport is None or transport.is_closing():
            return False
        if not always and transport.get_write_buffer_size() + self._pending_bytes > self._output_bytes_max:
            return False
        if not self._pending and not at_once:
            self._loop.call_soon(self._flush)
        self._pending.append(frame)
        self._pending_bytes += len(frame)
        self.queued += 1
        if at_once:
            self._flush()
        return True

    def queued_unwritten(self, place: int) -> bool:
        """Tell whether the frame after which `queued` was `place` never reached the transport."""
        return place > self.written

    def ping(self) -> None:
        """Ask for a sign of life."""
        self.send(_PING)

    @property
    def attached(self) -> bool:
        """Whether the handshake is over."""
        return self._handler is not None

    async def drain(self) -> None:
        """Wait until the transport takes more, or the link is lost."""
        self._flush()
        await self._can_write.wait()

    def pause_reading(self) -> None:
        """Let the peer wait."""
        if self.alive and self._transport is not None:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Let the peer go on."""
        if self.alive and self._transport is not None:
            self._transport.resume_reading()

    def close(self) -> None:
        """Send what waits and close; cut after `CLOSE_TIMEOUT_S`, whoever has begun to close it."""
        if self._transport is None or self.closed.done():
            return
        if self.alive:
            self._flush()
            self._transport.close()
        self._loop.call_later(CLOSE_TIMEOUT_S, self._cut)

    def abort(self) -> None:
        """Cut the connection now; what was not flushed is not sent."""
        self._pending.clear()
        if self._transport is not None:
            self._transport.abort()

    def _cut(self) -> None:
        if not self.closed.done():
            self.abort()

    def _flush(self) -> None:
        if not self._pending or not self.alive or self._transport is None:
            return
        frames, self._pending, self._pending_bytes = self._pending, [], 0
        self.written = self.queued
        self._transport.write(frames[0] if len(frames) == 1 else b"".join(frames))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport (asyncio's callback)."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self._registry.add(self)
        raw = transport.get_extra_info("socket")
        if raw is not None:
            with suppress(OSError):  # the other side is gone already: an error here would keep its loss from being told
                raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # frames are coalesced here already

    def data_received(self, data: bytes) -> None:
        """Cut into frames and hand them on (asyncio's callback)."""
        self.last_received_s = self._loop.time()
        try:
            for kind, payload in self._decoder.feed(data):
                self._take(kind, decode_payload(kind, payload))
                if not self.alive:
                    return
        except ProtocolError as error:
            self._violated(error)

    def _take(self, kind: int, value: Payload) -> None:
        if self._handler is None:
            if len(self._early) >= EARLY_FRAMES_MAX:
                raise ProtocolError("bad_frame", "too many frames before the handshake is over")
            self._early.append((kind, value))
            self._wake()
        elif kind == Kind.PING:
            self.send(_PONG)
        elif kind != Kind.PONG:
            self._handler.on_frame(self, kind, value)

    def _violated(self, error: ProtocolError) -> None:
        if self._handler is not None:
            self._handler.on_violation(self, error)
            self.abort()
            return
        self._failure = error  # the handshake reports it, and closes
        self._wake()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def pause_writing(self) -> None:
        """The transport is full (asyncio's callback)."""
        self._can_write.clear()

    def resume_writing(self) -> None:
        """The transport takes more (asyncio's callback)."""
        self._can_write.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone (asyncio's callback)."""
        self._registry.discard(self)
        self._pending.clear()
        if self._failure is None:
            self._failure = exc or ConnectionResetError("the other side closed the connection")
        self._can_write.set()
        self._wake()
        self.closed.set_result(None)
        if self._handler is not None:
            self._handler.on_lost(self)
