"""The core of the HTTP floor: every request passes here once, whichever shell it came through.

`serve` takes the keyed routes by their raw path, because a key must not be normalised by a router; `conduct` is the
one way from a request to its answer (gate, route, errors, metrics, trace), for these and for Litestar's handlers. The
fast path (`appliance.http.direct`) goes the same way by the same steps, `begin`, `admit` and `end`, without a task.
Nothing here knows ASGI.
"""

from __future__ import annotations

import asyncio
import os
import re
from dataclasses import dataclass
from itertools import count
from typing import Final

from appliance.admission.keys import KeyRegistry
from appliance.admission.rate import RateLimiter
from appliance.http.admin import AdminRoutes
from appliance.http.audit import AuditRoutes
from appliance.http.batch import BatchRoute
from appliance.http.cluster import MembershipRoutes
from appliance.http.errands import Errands
from appliance.http.exchange import (
    ClientGoneError,
    Exchange,
    GatewayRequest,
    GatewayResponse,
    Handler,
    HotRoute,
    Settled,
    Starter,
)
from appliance.http.gate import Gate, opened_by
from appliance.http.kv import DeleteRoute, KeyRoutes, PutRoute, decode_key, key_of
from appliance.http.log import LogRoutes
from appliance.http.meter import Meter
from appliance.http.ports import AuditEngine, GatewayTracer, RenderMetrics
from appliance.http.problems import method_not_allowed, problem
from appliance.http.receipts import Receipts
from appliance.http.route import Route
from appliance.http.routes import (
    HISTORY_ROUTES,
    KV_ROUTES,
    NOT_SERVED_YET,
    PLAIN_ROUTES,
    RAW_PATH_ROUTES,
    RESERVED,
    SHORT_METHODS,
    SHORT_ROUTES,
    UNMATCHED,
)
from appliance.http.status import StatusRoutes
from appliance.http.verify import VerifyRoute
from appliance.ledger.commands import REQUEST_ID_BYTES_MAX
from appliance.node.api import NodeService
from appliance.node.ports import Clock, Instruments, Log, Span
from appliance.tables.errors import ApplianceError
from appliance.tables.settings import Settings

Endpoints = dict[str, tuple[Route, Handler]]  # by method

SLOW_S: Final = 1.0  # the runbook's threshold for P99; `grep slow` in the logs finds the requests beyond it
CLIENT_GONE_STATUS: Final = 499
"""What nginx logs for a client that went away; counted as 4xx, never sent."""

_REQUEST_ID: Final = re.compile(rb"[\x21-\x7e]{1,%d}" % REQUEST_ID_BYTES_MAX)  # any other is replaced by one of ours
_SAMPLED_PARENT: Final = re.compile(rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f][13579bdf]")


@dataclass(frozen=True, slots=True)
class GatewayDeps:
    """Everything that the gateway is given. `version` is the program's."""

    node: NodeService
    audit: AuditEngine
    keys: KeyRegistry
    limiter: RateLimiter
    settings: Settings
    instruments: Instruments
    tracer: GatewayTracer
    log: Log
    clock: Clock
    render_metrics: RenderMetrics
    version: str


class Gateway:
    """Serves requests. Its coroutines raise nothing: every failure is an answer."""

    def __init__(self, deps: GatewayDeps) -> None:
        settings = deps.settings
        self._clock = deps.clock
        self._tracer = deps.tracer
        self._log = deps.log
        self._meter = Meter(deps.instruments)
        self._gate = Gate(
            keys=deps.keys,
            limiter=deps.limiter,
            opened=opened_by(settings),
            instruments=deps.instruments,
            log=deps.log,
        )
        self._id_prefix = os.urandom(8).hex()  # a restart draws another, so ids do not come twice in a ledger
        self._id_numbers = count(1)

        keys = KeyRoutes(deps.node)
        receipts = Receipts(deps.node, deps.clock, deps.log)
        put, delete = PutRoute(deps.node, receipts, settings.storage.max_value_size), DeleteRoute(deps.node)
        status = StatusRoutes(deps.node, self._meter, deps.render_metrics)
        batch = BatchRoute(
            deps.node,
            receipts,
            value_bytes_max=settings.storage.max_value_size,
            operations_max=settings.performance.max_batch_operations,
        )
        audit = AuditRoutes(deps.audit, settings.audit.max_rows)
        errands = Errands(deps.log)
        membership, admin = MembershipRoutes(deps.node, errands), AdminRoutes(deps.node, errands)
        by_method: dict[str, Handler] = {"PUT": put.handle, "GET": keys.get, "DELETE": delete.handle}
        self._kv = _endpoints(KV_ROUTES, by_method)
        self._short = _endpoints(SHORT_ROUTES, by_method)
        log, verify = LogRoutes(deps.node, public=settings.log.public), VerifyRoute(deps.node)
        raw: dict[str, Handler] = {
            "verify_key": verify.handle,
            "get_proof_file": log.proof_file,
            "get_entries": log.entries,
            "get_tile": log.tile,
        }
        self._by_prefix: list[tuple[bytes, Endpoints]] = [
            (b"/kv/", self._kv),
            (b"/history/", _endpoints(HISTORY_ROUTES, {"GET": keys.history})),
            *((_prefix(route), {route.method: (route, raw[route.name])}) for route in RAW_PATH_ROUTES),
        ]
        self.handlers: dict[str, Handler] = {
            "list_keys": keys.list_keys,
            "write_batch": batch.handle,
            "get_health": status.health,
            "get_live": status.live,
            "get_metrics": status.figures,
            "get_metrics_prometheus": status.exposition,
            "get_cluster": status.cluster,
            "get_nodes": status.nodes,
            "get_leader": status.leader,
            "get_checkpoint": log.checkpoint,
            "get_inclusion": log.inclusion,
            "get_consistency": log.consistency,
            "query_audit": audit.query,
            "add_member": membership.add,
            "remove_member": membership.remove,
            "transfer_leadership": membership.transfer,
            "pause_writes": admin.pause,
            "resume_writes": admin.resume,
            "compact": admin.compact,
            "scrub": admin.scrub,
            "resync": admin.resync,
        }
        starters: dict[str, Starter] = {"PUT": put.start, "GET": keys.start_get, "DELETE": delete.start}
        self._hot_kv = {method.encode(): HotRoute(*self._kv[method], start) for method, start in starters.items()}
        batch_route = next(route for route in PLAIN_ROUTES if route.name == "write_batch")
        self._hot_batch = HotRoute(batch_route, batch.handle, batch.start)

    def hot(self, method: bytes, target: bytes) -> HotRoute | None:
        """The route of a request that takes the fast path (`appliance.http.direct`): single keys by their full form,
        and batches. A target with a fragment is none that a client should send, and goes the long way.
        """
        if target.startswith(b"/kv/"):
            return self._hot_kv.get(method) if b"#" not in target else None
        return self._hot_batch if target == b"/batch" and method == b"POST" else None

    async def serve(self, request: GatewayRequest) -> GatewayResponse:
        """Answer a request on a route that is found by its raw path, and every request that no route takes."""
        path = request.raw_path
        endpoints = next((found for prefix, found in self._by_prefix if path.startswith(prefix)), None)
        if endpoints is None:
            refusal = _short_form_refusal(request.method, path)
            if refusal is not None:
                return await self.refuse(request, refusal)
            endpoints = self._short
        endpoint = endpoints.get(request.method)
        if endpoint is None:
            return await self.refuse(request, method_not_allowed(request.method, tuple(endpoints)))
        return await self.conduct(request, *endpoint)

    async def refuse(self, request: GatewayRequest, error: ApplianceError) -> GatewayResponse:
        """Answer a request that no route takes; it is limited and counted like any other."""

        async def raise_it(exchange: Exchange) -> GatewayResponse:
            raise error

        return await self.conduct(request, UNMATCHED, raise_it)

    async def conduct(self, request: GatewayRequest, route: Route, handler: Handler) -> GatewayResponse:
        """Take a request through the gate to its handler, and whatever comes of it to an answer."""
        exchange = self.begin(request, route)
        outcome: Settled
        try:
            self.admit(exchange)
            outcome = await handler(exchange)
        except (Exception, asyncio.CancelledError) as error:
            outcome = error
        return self.end(exchange, outcome)

    def begin(self, request: GatewayRequest, route: Route) -> Exchange:
        """Take up a request. Each exchange that is begun has to be ended."""
        head = dict(request.headers)
        return Exchange(request, route, head, self._request_id(head), self._clock.monotonic_s())

    def admit(self, exchange: Exchange) -> None:
        """Trace it if it is sampled, take it through the gate, and find its key. Raises `ApplianceError`."""
        route = exchange.route
        exchange.span = self._trace(exchange)
        self._gate.admit(exchange, route, exchange.begun_s)
        if route.keyed:
            exchange.key = key_of(route, exchange.request.raw_path)

    def end(self, exchange: Exchange, outcome: Settled) -> GatewayResponse:
        """Make an answer of what came of an exchange, count it, and end its span. Raises nothing."""
        response = outcome if isinstance(outcome, GatewayResponse) else self._answer_to(exchange, outcome)
        response.headers.append((b"x-request-id", exchange.request_id.encode()))
        route, span = exchange.route, exchange.span
        seconds = self._clock.monotonic_s() - exchange.begun_s - exchange.waited_s
        self._meter.answered(route, response.status, response.code, seconds, span.traceparent if span else "")
        if seconds > SLOW_S and not route.waits:
            self._log.warning(
                "http.slow",
                method=route.method,
                route=route.path,
                status=response.status,
                seconds=round(seconds, 3),
                request_id=exchange.request_id,
                traceparent=span.traceparent if span is not None else "",
            )
        if span is not None:
            span.end(response.code)
        return response

    def _answer_to(self, exchange: Exchange, error: BaseException) -> GatewayResponse:
        if isinstance(error, ApplianceError):
            return problem(error, exchange.request_id)
        if isinstance(error, ClientGoneError):
            return GatewayResponse(CLIENT_GONE_STATUS, [])
        if isinstance(error, asyncio.CancelledError):
            return problem(_cut_short(exchange), exchange.request_id)
        return self._failed(exchange, error)

    def stumbled(self, request: GatewayRequest, error: Exception) -> GatewayResponse:
        """Answer for an error outside `conduct`: the framework's own refusal, or a fault in it."""
        return self.end(self.begin(request, UNMATCHED), error)

    def _request_id(self, head: dict[bytes, bytes]) -> str:
        given = head.get(b"x-request-id")
        if given is not None and _REQUEST_ID.fullmatch(given):
            return given.decode("ascii")
        return f"{self._id_prefix}-{next(self._id_numbers):x}"

    def _trace(self, exchange: Exchange) -> Span | None:
        """Start a span if the request is sampled, by its own trace context or by chance, and note its context."""
        given = exchange.head.get(b"traceparent")
        name = exchange.route.span_name
        if given is None:
            span = self._tracer.root(name, request_id=exchange.request_id)
        elif _SAMPLED_PARENT.fullmatch(given):
            exchange.traceparent = given.decode("ascii")
            span = self._tracer.start(name, exchange.traceparent, request_id=exchange.request_id)
        else:
            return None
        if span is not None:
            exchange.traceparent = span.traceparent
        return span

    def _failed(self, exchange: Exchange, error: BaseException) -> GatewayResponse:
        """500 for an exception that nobody expected: all of it in the log, nothing of it in the answer."""
        fields = {"traceparent": exchange.traceparent} if exchange.traceparent else {}
        self._log.error(
            "http.error",
            method=exchange.route.method or exchange.request.method,
            route=exchange.route.path or "none",
            status=500,
            code="internal",
            request_id=exchange.request_id,
            error=error,
            **fields,
        )
        if exchange.handed_over:
            unknown = ApplianceError(
                "outcome_unknown", f"The node failed before the outcome was known; {_look(exchange)}."
            )
            return problem(unknown, exchange.request_id)
        detail = f"This is a fault of the node; its log has it under request id {exchange.request_id}."
        return problem(ApplianceError("internal", detail), exchange.request_id)


def _endpoints(routes: tuple[Route, ...], handlers: dict[str, Handler]) -> Endpoints:
    return {route.method: (route, handlers[route.method]) for route in routes}


def _prefix(route: Route) -> bytes:
    """How the raw paths of a route begin: up to what its template leaves open."""
    return route.path.partition("{")[0].encode()


def _cut_short(exchange: Exchange) -> ApplianceError:
    """What to answer when the server stops before a request is done."""
    if exchange.handed_over:
        return ApplianceError("outcome_unknown", f"The node stopped before the outcome was known; {_look(exchange)}.")
    return ApplianceError("shutting_down", "The node is shutting down; send the request to another node.")


def _look(exchange: Exchange) -> str:
    """How to find out what became of a write, or of a change of the cluster."""
    return "look at GET /cluster/nodes, or ask again" if exchange.route.waits else "read it back"


def _short_form_refusal(method: str, raw_path: bytes) -> ApplianceError | None:
    """Why a path outside /kv/ and /history/ is no key in short form, or None when it may be one."""
    if not raw_path.startswith(b"/"):
        return ApplianceError("bad_request", "The target of the request is not a path.")
    if raw_path == b"/":
        return ApplianceError("not_found", "There is nothing at /; the routes are described at /openapi.json.")
    try:
        first = decode_key(raw_path[1:]).partition("/")[0]
    except ApplianceError:
        return None  # the gate comes first; then the path is decoded again, and this is answered
    if first not in RESERVED:
        return None
    advice = f"A key that begins with {first!r} is reached only through /kv/, such as /kv/{first}/name"
    if (method == "GET" and first in NOT_SERVED_YET) or method not in SHORT_METHODS:
        return ApplianceError("not_found", f"This version has no such route. {advice}.")
    return ApplianceError("bad_key", f"The first segment {first!r} is a route's. {advice}.")
