"""A request, its answer, and what is known of both on the way: plain values, free of ASGI."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NamedTuple, Protocol

from msgspec import Struct

from appliance.http.route import Route
from appliance.node.ports import Span
from appliance.tables.errors import ApplianceError

Headers = list[tuple[bytes, bytes]]


class ClientGoneError(Exception):
    """The client closed the connection before it was answered; nobody is left to answer."""


class BodySource(Protocol):
    """The body of a request that may still be coming in."""

    async def read(self, bytes_max: int) -> bytes | None:
        """The whole body; None as soon as it is longer than `bytes_max`. Raises `ClientGoneError`, `TimeoutError`, and
        `ApplianceError` when the server holds as much of unfinished bodies as it may.
        """
        ...

    async def closed(self) -> None:
        """Return when the client has gone away. To be called after `read`."""
        ...


class GatewayRequest(Struct):
    """A request as it came off the wire.

    Attributes:
        method: upper case.
        raw_path: the path's bytes, percent-encoded as they came, without the query.
        query: the query's bytes, without the question mark.
        headers: lower-case names and values, in order.
        client: address of the client, without its port.
        body: where the body comes from.
    """

    method: str
    raw_path: bytes
    query: bytes
    headers: Headers
    client: str
    body: BodySource


class GatewayResponse(Struct):
    """An answer. `headers` lack Content-Length, Date and Connection; `code` is the error's, empty otherwise."""

    status: int
    headers: Headers
    body: bytes = b""
    code: str = ""


class Exchange(Struct):
    """One request on its way through the gateway.

    Attributes:
        request: the request.
        route: the route that takes it.
        head: its headers by lower-case name; of a header that came twice, the last.
        request_id: the client's `X-Request-Id`, or ours.
        begun_s: monotonic time of its begin.
        traceparent: W3C trace context when the request is sampled, else empty.
        span: its span when it is sampled.
        actor: name of the API key, empty on an open route.
        key: the key that the path names, once it has been decoded.
        handed_over: whether a write was handed to the node, so that its outcome may be open.
        waited_s: how long the client chose to wait for more than the work itself: that is no latency.
    """

    request: GatewayRequest
    route: Route
    head: dict[bytes, bytes]
    request_id: str
    begun_s: float
    traceparent: str = ""
    span: Span | None = None
    actor: str = ""
    key: str = ""
    handed_over: bool = False
    waited_s: float = 0.0

    def once(self, name: bytes) -> str | None:
        """The value of a header that must not come twice, as ASCII; None when it is absent. Raises `bad_request`."""
        value = self.head.get(name)
        if value is None:
            return None
        if len(self.head) != len(self.request.headers) and sum(n == name for n, _ in self.request.headers) > 1:
            raise ApplianceError("bad_request", f"The header {name.decode()} came more than once; send it once.")
        if not value.isascii():
            raise ApplianceError("bad_request", f"The header {name.decode()} has bytes that are not ASCII.")
        return value.decode("ascii").strip()

    async def read_body(self, bytes_max: int, limit_name: str) -> bytes:
        """The body, at most `bytes_max` long; a longer one is refused as soon as that is known, with `too_large`
        and the name of the limit. Raises also `bad_request` for one that does not come in time, and `overloaded`.
        """
        declared = self.head.get(b"content-length")
        body = None
        if declared is None or int(declared) <= bytes_max:
            try:
                body = await self.request.body.read(bytes_max)
            except TimeoutError as error:
                raise ApplianceError("bad_request", "The body did not come in time; nothing was done.") from error
        if body is None:
            raise _too_large(bytes_max, limit_name)
        return body

    def held_body(self, body: bytes, bytes_max: int, limit_name: str) -> bytes:
        """A body that is here already, under the same bound."""
        if len(body) > bytes_max:
            raise _too_large(bytes_max, limit_name)
        return body


def _too_large(bytes_max: int, limit_name: str) -> ApplianceError:
    return ApplianceError("too_large", f"The body is longer than {bytes_max} bytes ({limit_name}).")


Handler = Callable[[Exchange], Awaitable[GatewayResponse]]
Settled = GatewayResponse | BaseException
Starter = Callable[[Exchange, bytes, Callable[[Settled], None]], Coroutine[Any, Any, GatewayResponse] | None]
"""Begins to serve an exchange whose body is given. Either calls back with the outcome, now or later, and answers None;
or answers a coroutine that has to be run as a task and gives the answer. Raises what is known at once."""


class HotRoute(NamedTuple):
    """A route with the two ways to serve it: as a task, and without one where that is possible."""

    route: Route
    handler: Handler
    start: Starter
