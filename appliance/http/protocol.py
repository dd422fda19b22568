"""uvicorn's httptools protocol with the bounds that it lacks, and with our error shape where it answers by itself."""

from __future__ import annotations

import asyncio
from asyncio.events import TimerHandle
from typing import Any, Final
from urllib.parse import quote_from_bytes

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from appliance.http.limits import CONNECTIONS_MAX, HEAD_BYTES_MAX, HEAD_TIMEOUT_S
from appliance.http.problems import problem
from appliance.tables.errors import ApplianceError

_ASCII: Final = bytes(range(0x80)).decode("ascii")


class GatewayProtocol(HttpToolsProtocol):
    """One client connection.

    Beyond uvicorn's: a head has a size and a time, connections have a number, a path may hold raw UTF-8 (curl sends
    what it is given), and what the parser refuses is answered as a problem document.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_bytes = 0  # of the head that is coming in, in earlier chunks; -1 when none is
        self._head_timer: TimerHandle | None = None
        self._between = True  # requests: nothing has come yet of the next one
        self._refused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection, unless there are too many."""
        super().connection_made(transport)  # type: ignore[arg-type]
        self._await_head()
        if len(self.connections) > CONNECTIONS_MAX:
            self._refuse("overloaded", f"This node has {CONNECTIONS_MAX} open connections, as many as it takes.")

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_head_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feed the parser, and measure a head that does not come to its end."""
        if self._refused:
            return
        if self._between and not data.isascii():
            data = _with_ascii_target(data)
        before = self._head_bytes
        super().data_received(data)
        if self._head_bytes < 0 or self._between:
            return
        if self._head_timer is None and not self._refused:
            self._await_head()
        if before >= 0 and self._head_bytes == before:  # the same head as before this chunk
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX:
                self._refuse("bad_request", f"Request line and headers have more than {HEAD_BYTES_MAX} bytes.")

    def on_message_begin(self) -> None:
        """A request begins."""
        self._note_begin()
        self.make_scope()

    def on_headers_complete(self) -> None:
        """The head is complete; the request starts."""
        self._note_head_complete()
        self.start_cycle()

    def on_message_complete(self) -> None:
        """The request is complete, its body included."""
        self._note_message_complete()
        super().on_message_complete()

    def make_scope(self) -> None:
        """What uvicorn does when a request begins."""
        super().on_message_begin()

    def start_cycle(self) -> None:
        """What uvicorn does when a head is complete."""
        super().on_headers_complete()

    def _note_begin(self) -> None:
        self._head_bytes = 0
        self._between = False

    def _note_head_complete(self) -> None:
        self._head_bytes = -1
        if self._head_timer is not None:
            self._stop_head_timer()

    def _note_message_complete(self) -> None:
        self._between = True

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
        """Answer without a request and close; silently when an earlier request on the connection is still served."""
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        self._stop_head_timer()
        if self.cycle is None or self.cycle.response_complete:
            response = problem(ApplianceError(code, detail), "")
            lines = [STATUS_LINE[response.status]]
            lines += [name + b": " + value + b"\r\n" for name, value in response.headers]
            lines += [b"content-length: %d\r\nconnection: close\r\n\r\n" % len(response.body), response.body]
            self.transport.write(b"".join(lines))
        self.transport.close()


def _with_ascii_target(data: bytes) -> bytes:
    """Percent-encode the bytes beyond ASCII in a request line, as the client should have done: the parser refuses
    them, but curl sends a path as it was typed.
    """
    end = data.find(b"\n") + 1 or len(data)
    line = data[:end]
    if line.isascii():
        return data
    return quote_from_bytes(line, safe=_ASCII).encode("ascii") + data[end:]
