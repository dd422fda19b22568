"""The ASGI shell around the gateway: what goes by its raw path is served here, the rest is handed to Litestar."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from appliance.http.exchange import ClientGoneError, GatewayRequest, GatewayResponse
from appliance.http.gateway import CLIENT_GONE_STATUS, Gateway
from appliance.http.limits import BODIES_BYTES_MAX, BODY_TIMEOUT_S
from appliance.http.problems import method_not_allowed
from appliance.http.routes import PLAIN_ROUTES, SHORT_METHODS
from appliance.tables.errors import ApplianceError

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Message, Receive, Send], Awaitable[None]]  # the first is the scope

REQUEST_SCOPE_KEY: Final = "scribe_request"
"""Where Litestar's handlers find the `GatewayRequest` in the scope."""

BODY_IS_HERE_SCOPE_KEY: Final = "scribe_body_is_here"
"""Where the server notes in the scope that it has the whole body, so that nothing is to be waited for."""


class Intake:
    """Counts the bytes of the bodies that are still coming in, of all connections together."""

    __slots__ = ("held_bytes",)

    def __init__(self) -> None:
        self.held_bytes = 0

    def take(self, size_bytes: int) -> None:
        """Charge what came in. Raises `overloaded`, with nothing charged, when that is more than may be held."""
        if self.held_bytes + size_bytes > BODIES_BYTES_MAX:
            raise ApplianceError(
                "overloaded", f"Bodies of {self.held_bytes} bytes together are coming in already; nothing was done."
            )
        self.held_bytes += size_bytes

    def give_back(self, size_bytes: int) -> None:
        """A body is complete, refused or given up."""
        self.held_bytes -= size_bytes
        assert self.held_bytes >= 0, "what is given back was taken"


class AsgiBody:
    """A request's body over ASGI's receive channel."""

    __slots__ = ("_intake", "_receive", "_scope")

    def __init__(self, scope: Message, receive: Receive, intake: Intake) -> None:
        self._scope = scope
        self._receive = receive
        self._intake = intake

    async def read(self, bytes_max: int) -> bytes | None:
        """See `BodySource.read`. Raises also `overloaded`, when too much is coming in on all connections together."""
        if BODY_IS_HERE_SCOPE_KEY in self._scope:  # a timer and a count would be for nothing
            body, more = _part(await self._receive())
            assert not more, "the server says so when it has all of it"
            return body if len(body) <= bytes_max else None
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return await self._read_parts(bytes_max)

    async def _read_parts(self, bytes_max: int) -> bytes | None:
        body = bytearray()
        charged_bytes = 0
        try:
            while True:
                part, more = _part(await self._receive())
                if len(body) + len(part) > bytes_max:
                    return None
                self._intake.take(len(part))
                charged_bytes += len(part)
                body += part
                if not more:
                    return bytes(body)
        finally:
            self._intake.give_back(charged_bytes)

    async def closed(self) -> None:
        """See `BodySource.closed`."""
        while (await self._receive())["type"] != "http.disconnect":
            pass


def _part(message: Message) -> tuple[bytes, bool]:
    """A part of a body, and whether there is more to come."""
    if message["type"] == "http.disconnect":
        raise ClientGoneError
    return message.get("body", b""), message.get("more_body", False)


class Front:
    """The ASGI application that uvicorn runs; `gateway` also serves what does not come by ASGI."""

    def __init__(self, gateway: Gateway, litestar: AsgiApp) -> None:
        self.gateway = gateway
        self._litestar = litestar
        self._intake = Intake()
        methods: dict[bytes, list[str]] = {}
        for route in PLAIN_ROUTES:
            methods.setdefault(route.path.encode(), []).append(route.method)
        self._plain = {path: tuple(names) for path, names in methods.items()}

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one connection of the ASGI protocol; everything but HTTP and lifespan is Litestar's to refuse."""
        if scope["type"] != "http":
            await self._litestar(scope, receive, send)
            return
        if scope["method"] == "HEAD":  # as GET; the server, which keeps its own scope, leaves the body out
            scope = {**scope, "method": "GET"}
        client = scope["client"]
        request = GatewayRequest(
            scope["method"],
            scope["raw_path"],
            scope["query_string"],
            scope["headers"],
            client[0] if client else "",
            AsgiBody(scope, receive, self._intake),
        )
        methods = self._plain.get(request.raw_path, ())
        if request.method in methods:
            scope[REQUEST_SCOPE_KEY] = request
            await self._litestar(scope, receive, send)
            return
        if not methods or request.method in SHORT_METHODS:
            response = await self.gateway.serve(request)
        else:
            response = await self.gateway.refuse(request, method_not_allowed(request.method, methods))
        if response.status != CLIENT_GONE_STATUS:
            await _send(response, send)


async def _send(response: GatewayResponse, send: Send) -> None:
    body = response.body
    if response.status != 304:  # its length would be that of the answer that the client has (RFC 9110, 8.6)
        response.headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": response.status, "headers": response.headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
