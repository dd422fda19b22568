"""The one table of routes: method, path, who may, what it counts as, what it takes and which errors it can answer.

The gateway serves from it and `/openapi.json` is rendered from it, so what is documented is what exists.
"""

from __future__ import annotations

from typing import Final

from appliance.http.limits import ADD_WAIT_S
from appliance.http.route import Op, Route
from appliance.tables.roles import Access

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
_READ_ERRORS = ("no_quorum", "no_leader", "read_timeout", "overloaded", "unhealthy", "quarantined")
_PUBLISHED_ERRORS = ("not_published", "unhealthy", "quarantined")
_LOG_ERRORS = (*_PUBLISHED_ERRORS, "verification_failed")
_CHECKPOINT_ERRORS = (*_LOG_ERRORS, "no_log_key")
_PROOF_ERRORS = (*_READ_ERRORS, *_CHECKPOINT_ERRORS, "not_found")
_LAGS = "A node that has not got so far waits, and then answers 503 `not_published`."
_RECEIPT = "With `receipt=true` it waits for the checkpoint that covers the write, and answers 200 also when none came."
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
            query=("receipt",),
            headers=_PUT_HEADERS,
            body="value",
            errors=_WRITE_ERRORS,
            notes=_RECEIPT,
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
VERIFY_ROUTE: Final = Route(
    "verify_key",
    "GET",
    "/verify/{key}",
    Op.VERIFY,
    Access.READ,
    "Prove that a key's latest version is in the tree of a checkpoint",
    "verified",
    errors=_PROOF_ERRORS,
    waits=True,
    notes="Leaf and path are worked out anew from what the node stores. That there is no later version is not proven; "
    "`appliance verify log` shows that.",
)
CHECKPOINT_ROUTE: Final = Route(
    "get_checkpoint",
    "GET",
    "/log/checkpoint",
    Op.LOG,
    Access.LOG,
    "The latest checkpoint, a signed note (c2sp.org/tlog-checkpoint)",
    "checkpoint",
    errors=_CHECKPOINT_ERRORS,
    waits=True,
    cached=True,
)
TILE_ROUTE: Final = Route(
    "get_tile",
    "GET",
    "/log/tile/{level}/{index}",
    Op.LOG,
    Access.LOG,
    "A tile of the tree (c2sp.org/tlog-tiles)",
    "tile",
    errors=_LOG_ERRORS,
    waits=True,
    cached=True,
    notes=_LAGS,
)
ENTRIES_ROUTE: Final = Route(
    "get_entries",
    "GET",
    "/log/tile/entries/{index}",
    Op.LOG,
    Access.LOG,
    "An entry bundle: leaves, each behind its length in two bytes (c2sp.org/tlog-tiles)",
    "entries",
    headers=("Accept-Encoding",),
    errors=_LOG_ERRORS,
    waits=True,
    cached=True,
    notes=_LAGS,
)
INCLUSION_ROUTE: Final = Route(
    "get_inclusion",
    "GET",
    "/log/proof/inclusion",
    Op.LOG,
    Access.LOG,
    "The inclusion path of a leaf (RFC 9162, 2.1.3)",
    "inclusion",
    query=("leaf", "size"),
    needed=("leaf",),
    errors=(*_CHECKPOINT_ERRORS, "leaf_out_of_range"),
    waits=True,
    cached=True,
    notes=_LAGS,
)
CONSISTENCY_ROUTE: Final = Route(
    "get_consistency",
    "GET",
    "/log/proof/consistency",
    Op.LOG,
    Access.LOG,
    "The proof that one tree only adds leaves to another (RFC 9162, 2.1.4)",
    "consistency",
    query=("from", "to"),
    needed=("from",),
    errors=(*_CHECKPOINT_ERRORS, "leaf_out_of_range"),
    waits=True,
    cached=True,
    notes=_LAGS,
)
PROOF_FILE_ROUTE: Final = Route(
    "get_proof_file",
    "GET",
    "/log/proof/file/{key}",
    Op.LOG,
    Access.LOG,
    "The proof of the latest operation on a key, a delete included, as a file (c2sp.org/tlog-proof)",
    "proof_file",
    errors=_PROOF_ERRORS,
    waits=True,
    notes="Without an API key, where none is needed, the salt of the value hash is left out of the file.",
)
RAW_PATH_ROUTES: Final = (VERIFY_ROUTE, PROOF_FILE_ROUTE, ENTRIES_ROUTE, TILE_ROUTE)
"""Found by how their raw path begins, the first that fits."""

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
        query=("receipt",),
        headers=("Idempotency-Key",),
        body="batch",
        errors=(*_WRITE_ERRORS, "bad_key", "not_found"),
        notes=_RECEIPT,
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
        errors=("bad_query", "query_timeout", "query_memory", "overloaded", "unhealthy", "quarantined"),
    ),
    CHECKPOINT_ROUTE,
    INCLUSION_ROUTE,
    CONSISTENCY_ROUTE,
    *CHANGE_ROUTES,
    Route("get_openapi", "GET", "/openapi.json", Op.OTHER, Access.NOBODY, "This description of the API", "openapi"),
)
ROUTES: Final = (*KV_ROUTES, *SHORT_ROUTES, *HISTORY_ROUTES, *RAW_PATH_ROUTES, *PLAIN_ROUTES)

UNMATCHED: Final = Route("none", "", "", Op.OTHER, Access.NOBODY, "Whatever is no route", "")
"""Stands for a request that no route takes, so that it is limited, counted and answered like any other."""

RESERVED: Final = frozenset(
    ("kv", "history", "batch", "verify", "log", "health", "metrics", "cluster", "admin", "audit", "schema")
) | {"openapi.json"}
"""First segments that the short form does not take as the beginning of a key."""

NOT_SERVED_YET: Final = frozenset({"admin", "audit"})
"""First segments whose other GET routes belong to a later version: 404, where the rest is a key in the wrong place."""
