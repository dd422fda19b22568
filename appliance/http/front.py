"""The ASGI shell around the gateway: what goes by its raw path is served here, the rest is handed to Litestar."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from appliance.http.exchange import ClientGoneError, GatewayRequest, GatewayResponse
from appliance.http.gateway import CLIENT_GONE_STATUS, Gateway
from appliance.http.limits import BODY_TIMEOUT_S
from appliance.http.problems import method_not_allowed
from appliance.http.routes import PLAIN_ROUTES, SHORT_METHODS

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Message, Receive, Send], Awaitable[None]]  # the first is the scope

REQUEST_SCOPE_KEY: Final = "scribe_request"
"""Where Litestar's handlers find the `GatewayRequest` in the scope."""


class AsgiBody:
    """A request's body over ASGI's receive channel."""

    __slots__ = ("_receive",)

    def __init__(self, receive: Receive) -> None:
        self._receive = receive

    async def read(self, bytes_max: int) -> bytes | None:
        """See `BodySource.read`."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        body: bytes = message.get("body", b"")
        if not message.get("more_body", False):
            return body if len(body) <= bytes_max else None
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return await self._read_rest(bytearray(body), bytes_max)

    async def _read_rest(self, body: bytearray, bytes_max: int) -> bytes | None:
        while len(body) <= bytes_max:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            body += message.get("body", b"")
            if not message.get("more_body", False):
                return bytes(body) if len(body) <= bytes_max else None
        return None

    async def closed(self) -> None:
        """See `BodySource.closed`."""
        while (await self._receive())["type"] != "http.disconnect":
            pass


class Front:
    """The ASGI application that uvicorn runs; `gateway` also serves what does not come by ASGI."""

    def __init__(self, gateway: Gateway, litestar: AsgiApp) -> None:
        self.gateway = gateway
        self._litestar = litestar
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
            AsgiBody(receive),
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
