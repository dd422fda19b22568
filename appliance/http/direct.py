"""The fast path: complete requests of the hot routes go from the parser to the node and back without ASGI, and where
the node can begin at once (a write on the leader, a read) without a task.

What makes a request hot is `Gateway.hot`; the steps on its way (gate, limits, errors, metrics, traces) are those of
`Gateway.conduct`. Here is only what uvicorn would do around it, for the simple case: HTTP/1.1, nothing else under way
on the connection, no Expect, no chunks, and a body that came together with its head. Anything else is handed to uvicorn
as if this class were not there, also when it turns out late that a body is still to come.
"""

from __future__ import annotations

import asyncio
from asyncio.events import TimerHandle
from collections.abc import Coroutine
from functools import partial
from typing import Any, Final, Protocol

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from appliance.http.exchange import Exchange, GatewayRequest, GatewayResponse, HotRoute, Settled
from appliance.http.gateway import CLIENT_GONE_STATUS
from appliance.http.limits import HOT_TARGET_BYTES_MAX, PIPELINE_MAX
from appliance.http.protocol import GatewayProtocol, StopParserError
from appliance.http.route import Route

_NOTHING_LEFT: Final = (0.0, 0)
_NOT_SIMPLE: Final = frozenset((b"expect", b"transfer-encoding", b"upgrade"))


class DirectGateway(Protocol):
    """What the fast path asks of the gateway; see `Gateway`."""

    def hot(self, method: bytes, target: bytes) -> HotRoute | None:
        """The hot route that a request line names, or None."""
        ...

    def begin(self, request: GatewayRequest, route: Route) -> Exchange:
        """Take up a request."""
        ...

    def admit(self, exchange: Exchange) -> None:
        """Take it through the gate. Raises `ApplianceError`."""
        ...

    def end(self, exchange: Exchange, outcome: Settled) -> GatewayResponse:
        """Make an answer of what came of it."""
        ...


class DirectCycle:
    """One request on the fast path: to uvicorn a cycle that is under way, to the gateway the request's body."""

    __slots__ = ("_gone", "body", "disconnected", "exchange", "keep_alive", "response_complete", "task")

    more_body: Final = False  # it came together with its head

    def __init__(self, body: bytes, keep_alive: bool) -> None:
        self.body = body
        self.keep_alive = keep_alive
        self.response_complete = False
        self.disconnected = False
        self.exchange: Exchange | None = None
        self.task: asyncio.Task[None] | None = None
        self._gone: asyncio.Event | None = None

    @property
    def message_event(self) -> DirectCycle:
        """Stands for the event that uvicorn sets when the connection is lost."""
        return self

    def set(self) -> None:
        """The connection is lost."""
        if self._gone is not None:
            self._gone.set()

    async def read(self, bytes_max: int) -> bytes | None:
        """See `BodySource.read`."""
        return self.body if len(self.body) <= bytes_max else None

    async def closed(self) -> None:
        """See `BodySource.closed`."""
        if not self.disconnected:
            self._gone = asyncio.Event()
            await self._gone.wait()


class DirectProtocol(GatewayProtocol):
    """A client connection whose hot requests take the fast path.

    Args:
        gateway: see `DirectGateway`; other arguments are uvicorn's.
    """

    def __init__(self, *args: Any, gateway: DirectGateway, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._gateway = gateway
        self._hot: HotRoute | None = None  # of the hot request whose body is coming in
        self._body = b""
        self._direct: DirectCycle | None = None  # under way; others may wait behind it, so it need not be `cycle`
        self._address = ""
        self._idle_since_s = 0.0
        self._idle_timer: TimerHandle | None = None
        self._unread = _NOTHING_LEFT  # when the last answer was written, and its bytes that the last look found unread
        self._default_headers: list[tuple[bytes, bytes]] = []
        self._default_lines = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection."""
        super().connection_made(transport)
        self._address = self.client[0] if self.client else ""

    def data_received(self, data: bytes) -> None:
        """Feed the parser; a hot request that is not complete with this data is no longer simple."""
        super().data_received(data)
        if self._hot is not None and not self._refused:
            self._hot = None
            self._hand_over()

    def on_message_begin(self) -> None:
        """A request begins; what ASGI needs is made when it turns out that ASGI gets it."""
        self._note_begin()
        self.url = b""
        self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header. A trailer is none (RFC 9110, 6.5.1), though the parser calls for it, too."""
        if self._head_bytes >= 0:
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head is complete: decide which way the request goes."""
        self._note_head_complete()
        if self.transport.is_closing():  # with the answer before, which said so
            raise StopParserError
        if self._upgrading:
            return
        if self.is_idle():
            hot = self._gateway.hot(self.parser.get_method(), self.url)
            if hot is not None and self._is_simple():
                self._hot = hot
                return
        elif len(self.pipeline) >= PIPELINE_MAX:
            self._refuse("overloaded", f"{PIPELINE_MAX} requests wait on this connection, as many as may.")
            raise StopParserError
        self._begin_cycle()

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        if self._hot is None:
            super().on_body(body)
        else:
            self._body = self._body + body if self._body else body

    def on_message_complete(self) -> None:
        """The request is complete; if it is hot, it starts."""
        hot = self._hot
        if hot is None:
            super().on_message_complete()
            return
        self._hot = None
        self._note_message_complete()
        path, _, query = self.url.partition(b"?")
        cycle = DirectCycle(self._body, self.parser.should_keep_alive() and not self._closing)
        self._body = b""
        self._direct = cycle
        self.cycle = cycle  # type: ignore[assignment]  # what uvicorn asks of a cycle is there
        request = GatewayRequest(hot.route.method, path, query, self.headers, self._address, cycle)
        self._start(cycle, hot, self._gateway.begin(request, hot.route))

    def _is_simple(self) -> bool:
        for name, _ in self.headers:
            if name in _NOT_SIMPLE:
                return False
        return len(self.url) <= HOT_TARGET_BYTES_MAX and bool(self.parser.get_http_version() == "1.1")

    def _hand_over(self) -> None:
        """Let uvicorn have a request whose body is still coming in."""
        body, self._body = self._body, b""
        self._begin_cycle()
        if body:
            super().on_body(body)

    def _begin_cycle(self) -> None:
        """What uvicorn does from a request's first byte to the end of its head."""
        url, headers = self.url, self.headers
        self.make_scope()
        self.url = url
        self.headers.extend(headers)
        for name, value in headers:
            if name == b"expect" and value.lower() == b"100-continue":
                self.expect_100_continue = self.parser.get_http_version() != "1.0"  # which knows none: RFC 9110, 10.1.1
            elif name == b"transfer-encoding" and value.strip().lower() != b"chunked":
                self._refuse("bad_request", "No transfer coding is known here but chunked.")
                raise StopParserError
        self.start_cycle()

    def _start(self, cycle: DirectCycle, hot: HotRoute, exchange: Exchange) -> None:
        cycle.exchange = exchange
        try:
            self._gateway.admit(exchange)
            rest = hot.start(exchange, cycle.body, partial(self._settle, cycle))
        except Exception as error:
            self._settle(cycle, error)
            return
        if rest is not None:
            cycle.task = self.loop.create_task(self._serve(cycle, rest))
            self.tasks.add(cycle.task)

    async def _serve(self, cycle: DirectCycle, rest: Coroutine[Any, Any, GatewayResponse]) -> None:
        outcome: Settled
        try:
            outcome = await rest
        except (Exception, asyncio.CancelledError) as error:
            outcome = error
        assert cycle.task is not None
        self.tasks.discard(cycle.task)
        self._settle(cycle, outcome)

    def cut_short(self) -> None:
        """The server stops now: answer what is under way without a task, which nobody can cancel."""
        cycle = self._direct
        if cycle is not None:
            cycle.keep_alive = False  # what waits behind it is not begun any more
            self._settle(cycle, asyncio.CancelledError())

    def abort_if_deaf(self) -> None:
        """The server stops now: wait no longer for a client that does not read."""
        if self.flow.write_paused:
            self.transport.abort()

    def _settle(self, cycle: DirectCycle, outcome: Settled) -> None:
        """Answer, once. Raises nothing: who calls may be the node in the middle of its work."""
        exchange = cycle.exchange
        if exchange is None:
            return
        cycle.exchange = None
        cycle.body = b""
        try:
            response = self._gateway.end(exchange, outcome)
            if self.flow.write_paused:
                cycle.task = self.loop.create_task(self._write_later(cycle, response))
                self.tasks.add(cycle.task)
            else:
                self._answer(cycle, response)
        except Exception as error:
            self.loop.call_exception_handler({"message": "an answer could not be sent", "exception": error})
            self.transport.abort()

    async def _write_later(self, cycle: DirectCycle, response: GatewayResponse) -> None:
        """The client does not read: wait until it does."""
        await self.flow.drain()
        assert cycle.task is not None
        self.tasks.discard(cycle.task)
        self._answer(cycle, response)

    def _answer(self, cycle: DirectCycle, response: GatewayResponse) -> None:
        cycle.response_complete = True
        self._direct = None
        if self.transport.is_closing():
            return
        if response.status != CLIENT_GONE_STATUS:
            self._write(response, cycle.keep_alive)
        if not cycle.keep_alive or response.status == CLIENT_GONE_STATUS:
            self.transport.close()
        self.on_response_complete()

    def _write(self, response: GatewayResponse, keep_alive: bool) -> None:
        """Write an answer at once. Its headers are our own, so they are not searched for what no header may hold."""
        default_headers = self.server_state.default_headers
        if default_headers is not self._default_headers:  # the server makes them anew each second, for the date
            self._default_headers = default_headers
            self._default_lines = b"".join(b"%s: %s\r\n" % pair for pair in default_headers)
        parts = [STATUS_LINE[response.status], self._default_lines]
        parts += [b"%s: %s\r\n" % pair for pair in response.headers]
        parts.append(b"content-length: %d\r\n" % len(response.body))
        parts.append(b"\r\n" if keep_alive else b"connection: close\r\n\r\n")
        parts.append(response.body)
        self.transport.write(b"".join(parts))

    def on_response_complete(self) -> None:
        """Go on with the next request of a pipeline; note since when the connection is idle, or the client deaf."""
        self._idle_since_s = self.loop.time()
        if self._idle_timer is None:
            self._watch()
        if self.pipeline:
            super().on_response_complete()
            return
        self.server_state.total_requests += 1
        if self._refused:
            self._send_refusal_if_due()
        self.flow.resume_reading()

    def pause_writing(self) -> None:
        """The client reads more slowly than it is answered: it may have stopped."""
        super().pause_writing()
        if self._idle_timer is None:
            self._watch()

    def _watch(self) -> None:
        if not self.transport.is_closing() or self.transport.get_write_buffer_size():
            self._idle_timer = self.loop.call_later(self.timeout_keep_alive, self._look_whether_idle)

    def _look_whether_idle(self) -> None:
        """Close a connection that was idle too long, and give up a client that reads nothing of its answer. One timer
        for many requests: it looks, and waits for the rest.
        """
        self._idle_timer = None
        left_s = self._idle_since_s + self.timeout_keep_alive - self.loop.time()
        unread_bytes = self.transport.get_write_buffer_size()
        unread = (self._idle_since_s, unread_bytes) if unread_bytes else _NOTHING_LEFT
        if unread_bytes and unread == self._unread:
            self.transport.abort()  # a close would wait for it without end, the answer in memory
            return
        self._unread = unread
        if unread_bytes or self._is_busy():
            left_s = max(left_s, self.timeout_keep_alive)
        if left_s > 0:
            self._idle_timer = self.loop.call_later(left_s, self._look_whether_idle)
        else:
            self.transport.close()

    def _is_busy(self) -> bool:
        """Whether an answer is owed or a head is coming in, which has its own time; the rest of a body that was
        answered already is nothing to wait for.
        """
        if not self.is_idle():
            return True
        return self._head_bytes >= 0 and not self._between

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        self._tell_gone(self._direct)
        super().connection_lost(exc)
