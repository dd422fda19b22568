"""The application: Litestar routes what its router may see, in front of it stands what goes by the raw path."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import msgspec
from litestar import Litestar, Request, Response
from litestar.enums import HttpMethod
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler
from litestar.response.base import ASGIResponse

from appliance.http.exchange import Exchange, GatewayRequest, GatewayResponse, Handler
from appliance.http.front import REQUEST_SCOPE_KEY, AsgiApp, Front
from appliance.http.gate import opened_by
from appliance.http.gateway import Gateway, GatewayDeps
from appliance.http.openapi import describe
from appliance.http.query import parse_query
from appliance.http.route import Route
from appliance.http.routes import PLAIN_ROUTES
from appliance.tables.errors import ApplianceError

AnyRequest = Request[Any, Any, Any]

# Which row of the table of errors stands for an HTTP error that Litestar raises by itself.
_CODE_OF_STATUS = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}


def create_app(deps: GatewayDeps) -> Front:
    """Build the application of the client port from everything it needs."""
    gateway = Gateway(deps)
    description = describe(deps.version, opened_by(deps.settings))
    handlers = {**gateway.handlers, "get_openapi": _document(msgspec.json.encode(description))}
    litestar = Litestar(
        route_handlers=[_route(gateway, route, handlers[route.name]) for route in PLAIN_ROUTES],
        exception_handlers={Exception: _exception_handler(gateway)},
        openapi_config=None,  # rendered from the table of routes, which has the keyed routes too
        logging_config=None,  # the gateway logs what fails
        request_max_body_size=None,  # each route has its own bound, checked while the body comes in
        debug=False,
    )
    return Front(gateway, cast("AsgiApp", litestar))


def _route(gateway: Gateway, route: Route, handler: Handler) -> HTTPRouteHandler:
    """Litestar's handler of a route: the same way through the gateway as the keyed routes take."""

    async def handle(request: AnyRequest) -> ASGIResponse:
        return _to_litestar(await gateway.conduct(_gateway_request(request), route, handler))

    return HTTPRouteHandler(route.path, http_method=HttpMethod(route.method), name=route.name)(handle)


def _document(encoded: bytes) -> Handler:
    async def serve_document(exchange: Exchange) -> GatewayResponse:
        parse_query(exchange.request.query, ())
        return GatewayResponse(200, [(b"content-type", b"application/vnd.oai.openapi+json")], encoded)

    return serve_document


def _exception_handler(gateway: Gateway) -> Callable[[AnyRequest, Exception], Response[bytes]]:
    """Give what Litestar raises by itself the one error shape."""

    def answer(request: AnyRequest, error: Exception) -> Response[bytes]:
        refusal = None
        if isinstance(error, HTTPException) and error.status_code < 500:
            code = _CODE_OF_STATUS.get(error.status_code, "bad_request")
            refusal = ApplianceError(code, f"{error.detail}.")
        response = gateway.stumbled(_gateway_request(request), refusal or error)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in response.headers}
        return Response(response.body, status_code=response.status, headers=headers)

    return answer


def _gateway_request(request: AnyRequest) -> GatewayRequest:
    found = request.scope[REQUEST_SCOPE_KEY]  # type: ignore[typeddict-item]
    assert isinstance(found, GatewayRequest)
    return found


def _to_litestar(response: GatewayResponse) -> ASGIResponse:
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in response.headers]
    return ASGIResponse(body=response.body, status_code=response.status, headers=headers)
