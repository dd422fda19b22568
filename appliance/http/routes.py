"""The one table of routes: method, path, who may, what it counts as, what it takes and which errors it can answer.

The gateway serves from it and `/openapi.json` is rendered from it, so what is documented is what exists.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from appliance.http.limits import ADD_WAIT_S
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
    OTHER = "other"


DATA_OPS: Final = frozenset({Op.PUT, Op.GET, Op.DELETE, Op.BATCH, Op.LIST, Op.HISTORY})
"""Whose latency the percentiles of GET /metrics are about."""


@dataclass(frozen=True, slots=True)
class Route:
    """One route.

    Attributes:
        name: its operation id, and the name of what serves it.
        method: HTTP method.
        path: template; `{key}` stands for the rest of the raw path.
        op: what it counts as.
        access: what the API key's role must allow.
        summary: one line.
        query: names of its query parameters.
        headers: names of the request headers that change what it does, besides credentials and X-Request-Id.
        body: name of its request body in `openapi.BODIES`, or empty.
        answer: name of its answer in `openapi.ANSWERS`.
        errors: codes it can answer besides those of `common_errors`.
        limited: whether the rate limit counts it. Probes are not counted: a limit must not make a node look dead.
        waits: whether its work is to wait for disks and other nodes, perhaps for minutes: that time is no latency, so
            neither the histogram nor the log of slow requests has it.
        notes: what the description says besides its roles.
        keyed: whether its path ends with a key, so that it is found by the raw path.
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
    headers: tuple[str, ...] = ()
    body: str = ""
    errors: tuple[str, ...] = ()
    limited: bool = True
    waits: bool = False
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


_WRITE_ERRORS = (
    "no_quorum",
    "no_leader",
    "not_committed",
    "writes_paused",
    "disk_full",
    "overloaded",
    "outcome_unknown",
    "idempotency_mismatch",
    "idempotency_full",
    "condition_failed",
    "quarantined",
)
_READ_ERRORS = ("no_quorum", "no_leader", "read_timeout", "overloaded", "quarantined")
_CHANGE_ERRORS = ("no_quorum", "no_leader", "not_committed", "disk_full", "overloaded", "outcome_unknown")
_GOES_ON = "What was begun is carried out though the client goes away."
_AGAIN = f"{_GOES_ON} Asked again, it changes nothing twice."
_PUT_HEADERS = ("If-Match", "If-None-Match", "Idempotency-Key")
_DELETE_HEADERS = ("If-Match", "Idempotency-Key")


def _keyed(prefix: str, suffix: str, words: str) -> tuple[Route, ...]:
    path = prefix + "{key}"
    return (
        Route(
            "put_key" + suffix,
            "PUT",
            path,
            Op.PUT,
            Access.WRITE,
            f"Write a value{words}",
            "written",
            headers=_PUT_HEADERS,
            body="value",
            errors=_WRITE_ERRORS,
        ),
        Route(
            "get_key" + suffix,
            "GET",
            path,
            Op.GET,
            Access.READ,
            f"Read a value{words}",
            "value",
            query=("consistency", "at_leaf"),
            errors=(*_READ_ERRORS, "not_found", "leaf_out_of_range", "value_retired", "verification_failed"),
        ),
        Route(
            "delete_key" + suffix,
            "DELETE",
            path,
            Op.DELETE,
            Access.WRITE,
            f"Delete a key{words}; its versions stay",
            "written",
            headers=_DELETE_HEADERS,
            errors=(*_WRITE_ERRORS, "not_found"),
        ),
    )


KV_ROUTES: Final = _keyed("/kv/", "", "")
SHORT_ROUTES: Final = _keyed("/", "_short", " by the short form")
SHORT_METHODS: Final = frozenset(route.method for route in SHORT_ROUTES)
HISTORY_ROUTES: Final = (
    Route(
        "get_history",
        "GET",
        "/history/{key}",
        Op.HISTORY,
        Access.READ,
        "List the versions of a key, newest first",
        "history",
        query=("from", "limit", "consistency"),
        errors=(*_READ_ERRORS, "not_found", "verification_failed"),
    ),
)
CHANGE_ROUTES: Final = (
    Route(
        "add_member",
        "POST",
        "/cluster/nodes/add",
        Op.CLUSTER,
        Access.ADMIN,
        "Make a node a member: a learner first, a voter once it has caught up",
        "change",
        query=("wait",),
        body="add",
        errors=(*_CHANGE_ERRORS, "conflict"),
        waits=True,
        notes=f"Waits at most {ADD_WAIT_S / 60:g} minutes until it votes; then it answers with the role `learner`, and "
        f"the leader promotes it all the same once it has caught up. {_AGAIN}",
    ),
    Route(
        "remove_member",
        "POST",
        "/cluster/nodes/remove",
        Op.CLUSTER,
        Access.ADMIN,
        "Remove a member; a leader hands over first",
        "change",
        body="remove",
        errors=(*_CHANGE_ERRORS, "conflict"),
        waits=True,
        notes=_AGAIN,
    ),
    Route(
        "transfer_leadership",
        "POST",
        "/cluster/leader/transfer",
        Op.CLUSTER,
        Access.ADMIN,
        "Let another voter lead",
        "transfer",
        body="transfer",
        errors=(*_CHANGE_ERRORS, "conflict"),
        waits=True,
        notes=_AGAIN,
    ),
    Route(
        "pause_writes",
        "POST",
        "/admin/pause-writes",
        Op.ADMIN,
        Access.ADMIN,
        "Refuse writes on all nodes for a while",
        "pause",
        body="pause",
        errors=(*_CHANGE_ERRORS, "conflict"),
        waits=True,
        notes="Answers when the files of each node that can be reached are settled. Asked again, it sets a new end. "
        + _GOES_ON,
    ),
    Route(
        "resume_writes",
        "POST",
        "/admin/resume-writes",
        Op.ADMIN,
        Access.ADMIN,
        "Take writes again",
        "pause",
        body="nothing",
        errors=_CHANGE_ERRORS,
        waits=True,
        notes=_AGAIN,
    ),
    Route(
        "compact",
        "POST",
        "/admin/compact",
        Op.ADMIN,
        Access.ADMIN,
        "Drop what the ledger file covers from this node's log, and give space back",
        "compaction",
        body="nothing",
        errors=("conflict", "disk_full", "overloaded", "outcome_unknown"),
        waits=True,
        notes=f"It takes as long as it takes, and writes go on; GET /metrics shows the sizes. {_GOES_ON}",
    ),
    Route(
        "scrub",
        "POST",
        "/admin/scrub",
        Op.ADMIN,
        Access.ADMIN,
        "Read all that this node stores back, and check it",
        "scrub",
        query=("wait",),
        body="scrub",
        errors=("conflict", "unhealthy", "overloaded", "outcome_unknown"),
        waits=True,
        notes="It takes as long as the rate makes it, and all else goes on; GET /metrics shows how far it is. "
        f"`?wait=false` answers when it has begun. What has rotted is an alarm, too. {_GOES_ON}",
    ),
    Route(
        "resync",
        "POST",
        "/admin/resync",
        Op.ADMIN,
        Access.ADMIN,
        "Give up what this node holds, and get it again from the others",
        "resync",
        body="resync",
        errors=(*_CHANGE_ERRORS, "conflict", "unhealthy"),
        waits=True,
        notes="Answers when the leader counts on the node no more and its data are given up; then the process ends, "
        "with exit code 75, to be started again by who supervises it. The node comes back as a new incarnation, a "
        f"learner first. Asked again with the same incarnation, it changes nothing twice. {_GOES_ON}",
    ),
)
PLAIN_ROUTES: Final = (
    Route(
        "list_keys",
        "GET",
        "/kv",
        Op.LIST,
        Access.READ,
        "List keys in the order of their UTF-8 bytes",
        "keys",
        query=("prefix", "after", "limit", "consistency"),
        errors=_READ_ERRORS,
    ),
    Route(
        "write_batch",
        "POST",
        "/batch",
        Op.BATCH,
        Access.WRITE,
        "Write several keys, all or none",
        "batch",
        headers=("Idempotency-Key",),
        body="batch",
        errors=(*_WRITE_ERRORS, "bad_key", "not_found"),
    ),
    Route(
        "get_health",
        "GET",
        "/health",
        Op.HEALTH,
        Access.NOBODY,
        "Whether this node can serve linearizable reads",
        "health",
        errors=("unhealthy",),
        limited=False,
    ),
    Route(
        "get_live",
        "GET",
        "/health/live",
        Op.HEALTH,
        Access.NOBODY,
        "Whether the process answers",
        "live",
        limited=False,
    ),
    Route("get_metrics", "GET", "/metrics", Op.METRICS, Access.METRICS, "Figures of this node as JSON", "metrics"),
    Route(
        "get_metrics_prometheus",
        "GET",
        "/metrics/prometheus",
        Op.METRICS,
        Access.METRICS,
        "Metrics for Prometheus, as text or OpenMetrics",
        "exposition",
    ),
    Route(
        "get_cluster", "GET", "/cluster/info", Op.CLUSTER, Access.READ, "The cluster as this node sees it", "cluster"
    ),
    Route("get_nodes", "GET", "/cluster/nodes", Op.CLUSTER, Access.READ, "The members of the cluster", "nodes"),
    Route(
        "get_leader",
        "GET",
        "/cluster/leader/info",
        Op.CLUSTER,
        Access.READ,
        "The leader that this node knows",
        "leader",
        errors=("no_leader",),
    ),
    Route(
        "query_audit",
        "POST",
        "/audit/query",
        Op.AUDIT_QUERY,
        Access.AUDIT,
        "Answer one SELECT over the audit tables",
        "audit",
        body="audit",
        errors=("bad_query", "query_timeout", "query_memory", "overloaded", "quarantined"),
    ),
    *CHANGE_ROUTES,
    Route("get_openapi", "GET", "/openapi.json", Op.OTHER, Access.NOBODY, "This description of the API", "openapi"),
)
ROUTES: Final = (*KV_ROUTES, *SHORT_ROUTES, *HISTORY_ROUTES, *PLAIN_ROUTES)

UNMATCHED: Final = Route("none", "", "", Op.OTHER, Access.NOBODY, "Whatever is no route", "")
"""Stands for a request that no route takes, so that it is limited, counted and answered like any other."""

RESERVED: Final = frozenset(
    ("kv", "history", "batch", "verify", "log", "health", "metrics", "cluster", "admin", "audit", "schema")
) | {"openapi.json"}
"""First segments that the short form does not take as the beginning of a key."""

NOT_SERVED_YET: Final = frozenset({"verify", "log", "admin", "audit"})
"""First segments whose other GET routes belong to a later version: 404, where the rest is a key in the wrong place."""
