"""uvicorn's httptools protocol with the bounds that it lacks, and with our error shape where it answers by itself."""

from __future__ import annotations

import asyncio
from asyncio.events import TimerHandle
from collections.abc import Sized
from typing import Any, Final
from urllib.parse import quote_from_bytes

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from appliance.http.front import BODY_IS_HERE_SCOPE_KEY
from appliance.http.limits import CONNECTIONS_MAX, HEAD_BYTES_MAX, HEAD_TIMEOUT_S, LAST_CALL_S, LINGER_S
from appliance.http.problems import problem
from appliance.tables.errors import ApplianceError

_ASCII: Final = bytes(range(0x80)).decode("ascii")
_HEAD_TOO_LONG: Final = f"Request line and headers have more than {HEAD_BYTES_MAX} bytes."


class StopParserError(Exception):
    """Stops the parser at what this node refuses."""


class PipelineFlow(FlowControl):
    """Reads nothing more of a connection while requests wait on it: what they are is in memory.

    A request that still needs its body has none behind it, so it is always read on for.
    """

    def __init__(self, transport: asyncio.Transport, waiting: Sized) -> None:
        super().__init__(transport)
        self._waiting = waiting

    def resume_reading(self) -> None:
        """Read on, unless requests wait."""
        if not self._waiting:
            super().resume_reading()


class GatewayProtocol(HttpToolsProtocol):
    """One client connection.

    Beyond uvicorn's: a head has a size and a time, connections have a number, a path may hold raw UTF-8 (curl sends
    what it is given), what the parser refuses is answered as a problem document, and an upgrade is ignored.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_bytes = -1  # of earlier chunks that hold a part of the head that is coming in; -1 when none is
        self._foreign_bytes = 0  # of these, what the first chunk may hold of requests before
        self._chunk_bytes = 0  # of the chunk that the parser is fed
        self._behind = False  # a request that ended in this chunk: what else is in it came after that
        self._framing_bytes = 0  # of chunks within a body that brought none of it
        self._head_timer: TimerHandle | None = None
        self._between = True  # requests: nothing has come yet of the next one
        self._refused = False
        self._refusal = b""  # that waits until the requests before it have been answered
        self._end_timer: TimerHandle | None = None  # after which the connection is closed
        self._closing = False  # with the next answer
        self._upgrading = False  # the request that comes in asks for another protocol
        self._begun = False  # the request that comes in has a cycle
        self._under_way: RequestResponseCycle | None = None  # others may wait behind it, so it need not be `cycle`

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection, unless there are too many."""
        super().connection_made(transport)  # type: ignore[arg-type]
        self.flow = PipelineFlow(self.transport, self.pipeline)
        self._await_head()
        if len(self.connections) > CONNECTIONS_MAX:
            self._refuse("overloaded", f"This node has {CONNECTIONS_MAX} open connections, as many as it takes.")
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection, and what waits on it; what is under way is told."""
        self._stop_head_timer()
        if self._end_timer is not None:
            self._end_timer.cancel()
            self._end_timer = None
        self.pipeline.clear()
        self._tell_gone(self._under_way)
        super().connection_lost(exc)

    @staticmethod
    def _tell_gone(cycle: Any) -> None:
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()

    def data_received(self, data: bytes) -> None:
        """Feed the parser, and measure a head that does not come to its end."""
        if self._refused:
            return
        if self._between and not data.isascii():
            data = _with_ascii_target(data)
        self._chunk_bytes = len(data)
        self._behind = False
        in_body = not self._between and self._head_bytes < 0
        self._feed(data)
        if self._refused:
            return
        if self._head_bytes < 0:
            if in_body and not self._behind:
                self._count_framing()
            return
        if self._head_timer is None:
            self._await_head()
        if self._behind:  # how much of this chunk is the head's, the parser does not tell
            self._foreign_bytes = len(data)
        self._head_bytes += len(data)
        if self._head_bytes - self._foreign_bytes > HEAD_BYTES_MAX:
            self._refuse("bad_request", _HEAD_TOO_LONG)

    def _feed(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        try:
            while data:
                try:
                    self.parser.feed_data(data)
                    break
                except HttpParserUpgrade as upgrade:
                    data = self._head_without_upgrade() + data[upgrade.args[0] :]
                    self._upgrading = False
                    self.parser = HttpRequestParser(self)
        except HttpParserError:
            self.send_400_response("")

    def _head_without_upgrade(self) -> bytes:
        """The head once more, without its wish for another protocol. It is ignored (RFC 9110, 7.8); the parser would
        take all that follows, the request's own body first, for that protocol.
        """
        lines = [b"%s %s HTTP/%s\r\n" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        for name, value in self.headers:
            if name == b"connection":
                options = [option.strip() for option in value.split(b",")]
                kept = b", ".join(option for option in options if option.lower() != b"upgrade")
                lines.append(b"connection: " + kept + b"\r\n")
            elif name != b"upgrade":
                lines.append(name + b": " + value + b"\r\n")
        lines.append(b"\r\n")
        return b"".join(lines)

    def on_message_begin(self) -> None:
        """A request begins."""
        self._note_begin()
        self.make_scope()

    def on_headers_complete(self) -> None:
        """The head is complete; the request starts."""
        self._note_head_complete()
        if not self._upgrading:
            self.start_cycle()

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._framing_bytes = -self._chunk_bytes  # so that this chunk counts for nothing, nor those before it
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is complete, its body included."""
        if self._upgrading:
            return
        self._note_message_complete()
        super().on_message_complete()
        self.scope[BODY_IS_HERE_SCOPE_KEY] = True  # type: ignore[typeddict-unknown-key]

    def on_response_complete(self) -> None:
        """An answer was sent. Go on with what waits behind it, be it a refusal."""
        self._send_refusal_if_due()
        super().on_response_complete()

    def shutdown(self) -> None:
        """The server stops. A connection in use is closed with its next answer, and an idle one after a while, in which
        a request may come that was sent already: it would be lost with the connection.
        """
        self._closing = True
        if self.is_idle():
            if self._end_timer is None:
                self._end_timer = self.loop.call_later(LAST_CALL_S, self._close_if_idle)
        else:
            super().shutdown()

    def is_idle(self) -> bool:
        """Whether no answer is owed."""
        return self.cycle is None or self.cycle.response_complete

    def _close_if_idle(self) -> None:
        self._end_timer = None
        super().shutdown()

    def make_scope(self) -> None:
        """What uvicorn does when a request begins."""
        self._framing_bytes = 0
        super().on_message_begin()

    def start_cycle(self) -> None:
        """What uvicorn does when a head is complete."""
        super().on_headers_complete()
        self._begun = True
        if self._closing:
            self.cycle.keep_alive = False

    def _note_begin(self) -> None:
        self._head_bytes = self._foreign_bytes = 0
        self._between = self._begun = False

    def _note_head_complete(self) -> None:
        if self._head_bytes + self._chunk_bytes > HEAD_BYTES_MAX and self._is_head_too_long():
            self._refuse("bad_request", _HEAD_TOO_LONG)
            raise StopParserError
        self._head_bytes = -1
        if self._head_timer is not None:
            self._stop_head_timer()
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise StopParserError  # what follows is no HTTP
            self._upgrading = True

    def _is_head_too_long(self) -> bool:
        """Measure a head whose chunks hold more than a head may: it, or a body, or other requests. White space around
        values is not counted; the parser keeps none.
        """
        line_bytes = len(self.parser.get_method()) + len(self.url) + len(b"  HTTP/1.1\r\n")
        fields_bytes = sum(len(name) + len(value) + len(b":\r\n") for name, value in self.headers)
        return line_bytes + fields_bytes + len(b"\r\n") > HEAD_BYTES_MAX

    def _count_framing(self) -> None:
        """Bound what is between the parts of a chunked body and behind it: chunk extensions, and the trailer, which
        the parser gathers, copying all it has of a field for each chunk.
        """
        self._framing_bytes += self._chunk_bytes
        if self._framing_bytes > HEAD_BYTES_MAX:
            self._refuse("bad_request", f"The body has more than {HEAD_BYTES_MAX} bytes of trailer or of chunk sizes.")

    def _note_message_complete(self) -> None:
        self._between = True
        self._behind = True

    def send_400_response(self, msg: str) -> None:
        """Answer what the parser refused."""
        self._refuse("bad_request", "What was sent is no valid HTTP/1.1 request; percent-encode a path.")

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._head_timed_out)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_timed_out(self) -> None:
        self._head_timer = None
        if self.flow.read_paused:  # by us: the rest may have been sent long ago
            self._await_head()
            return
        self._refuse("bad_request", f"The request's head did not come in within {HEAD_TIMEOUT_S:g} s.")

    def _refuse(self, code: str, detail: str) -> None:
        """Answer without a request and close, when what was asked before has been answered. A request whose own body
        is what is refused gets no answer: it was not understood.
        """
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        self._stop_head_timer()
        response = problem(ApplianceError(code, detail), "")
        lines = [STATUS_LINE[response.status]]
        lines += [name + b": " + value + b"\r\n" for name, value in response.headers]
        lines += [b"content-length: %d\r\nconnection: close\r\n\r\n" % len(response.body), response.body]
        self._refusal = b"".join(lines)
        cycle = self.cycle  # of the request that began last
        in_body = self._begun and not self._between
        if cycle is None or (cycle.response_complete and not in_body):
            self._send_refusal_if_due()
        elif in_body and not self.pipeline:  # it was answered before its body was there, or is not at all
            self._refusal = b""
            cycle.waiting_for_100_continue = False
            self._tell_gone(cycle)
            self._close_in_stages()
        elif in_body:
            self.pipeline.popleft()

    def _send_refusal_if_due(self) -> None:
        """Send the refusal that waits, if there is one and no request waits before it."""
        if self._refusal and not self.pipeline and not self.transport.is_closing():
            self.transport.write(self._refusal)
            self._refusal = b""
            self._close_in_stages()

    def _close_in_stages(self) -> None:
        """Say that nothing more is sent, and close when the client does, or after a while; what it sends is dropped. A
        connection that is closed while something of it is unread is reset, and takes answers with it that were not
        read yet (RFC 9112, 9.6).
        """
        if not self.transport.can_write_eof():
            self.transport.close()
            return
        self.transport.write_eof()
        self.flow.resume_reading()
        if self._end_timer is not None:
            self._end_timer.cancel()
        self._end_timer = self.loop.call_later(LINGER_S, self.transport.close)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._under_way = cycle
        super()._start_asgi_task(cycle, app)


def _with_ascii_target(data: bytes) -> bytes:
    """Percent-encode the bytes beyond ASCII in a request line, as the client should have done: the parser refuses
    them, but curl sends a path as it was typed.
    """
    end = data.find(b"\n") + 1 or len(data)
    line = data[:end]
    if line.isascii():
        return data
    return quote_from_bytes(line, safe=_ASCII).encode("ascii") + data[end:]
