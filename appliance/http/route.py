"""What a route is: one row of the table of routes (`appliance.http.routes`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from appliance.tables.roles import Access


class Op(StrEnum):
    """What a request counts as in the metrics: few and fixed."""

    PUT = "put"
    GET = "get"
    DELETE = "delete"
    BATCH = "batch"
    LIST = "list"
    HISTORY = "history"
    AUDIT_QUERY = "audit_query"
    CLUSTER = "cluster"
    HEALTH = "health"
    METRICS = "metrics"
    ADMIN = "admin"
    VERIFY = "verify"
    LOG = "log"
    OTHER = "other"


DATA_OPS: Final = frozenset({Op.PUT, Op.GET, Op.DELETE, Op.BATCH, Op.LIST, Op.HISTORY})
"""Whose latency the percentiles of GET /metrics are about."""


@dataclass(frozen=True, slots=True)
class Route:
    """One route.

    Attributes:
        name: its operation id, and the name of what serves it.
        method: HTTP method.
        path: template; `{key}` and `{index}` stand for the rest of the raw path.
        op: what it counts as.
        access: what the API key's role must allow.
        summary: one line.
        query: names of its query parameters.
        needed: those of them that must be there.
        headers: names of the request headers that change what it does, besides credentials and X-Request-Id.
        body: name of its request body in `openapi.BODIES`, or empty.
        answer: name of its answer in `openapi.ANSWERS`.
        errors: codes it can answer besides those of `common_errors`.
        limited: whether the rate limit counts it. Probes are not counted: a limit must not make a node look dead.
        waits: whether its work is to wait for disks and other nodes, perhaps for minutes, or for the next checkpoint:
            that time is no latency, so neither the histogram nor the log of slow requests has it.
        cached: whether its answer has an entity tag, so that a client that has it already is answered 304.
        notes: what the description says besides its roles.
        keyed: whether its path ends with a key.
        span_name: what its spans are called.
    """

    name: str
    method: str
    path: str
    op: Op
    access: Access
    summary: str
    answer: str
    query: tuple[str, ...] = ()
    needed: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    body: str = ""
    errors: tuple[str, ...] = ()
    limited: bool = True
    waits: bool = False
    cached: bool = False
    notes: str = ""
    keyed: bool = field(init=False)
    span_name: str = field(init=False)

    def __post_init__(self) -> None:
        """Work out, once, what every request asks for."""
        object.__setattr__(self, "keyed", self.path.endswith("{key}"))
        object.__setattr__(self, "span_name", f"http.{self.op}")

    @property
    def common_errors(self) -> tuple[str, ...]:
        """Codes that the gateway itself can answer on this route."""
        codes = ["bad_request", "internal", "shutting_down"]
        if self.keyed:
            codes.append("bad_key")
        if self.limited:
            codes.append("rate_limited")
        if self.access is not Access.NOBODY:
            codes += ["unauthenticated", "forbidden"]
        if self.body:
            codes.append("too_large")
        return tuple(codes)
