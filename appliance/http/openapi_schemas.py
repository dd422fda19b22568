"""The schemas that the shapes of `appliance.http.openapi_shapes` name."""

from __future__ import annotations

from typing import Final

from appliance.http.limits import PAUSE_TTL_DEFAULT_S, PAUSE_TTL_MAX_S
from appliance.http.openapi_proofs import PROOF_SCHEMAS
from appliance.http.openapi_repair import REPAIR_SCHEMAS
from appliance.http.openapi_types import (
    BIG,
    FLAG,
    HASH,
    INTEGER,
    TEXT,
    TEXTS,
    TIME,
    Json,
    array_of,
    object_of,
    or_null,
    ref,
)

_MILLISECONDS: Final[Json] = {"type": ["number", "null"]}
_ROLE: Final[Json] = {"type": "string", "description": "leader, follower, candidate, learner, founding, outsider"}
_HEALTH: Final[Json] = {
    "status": {"const": "ok"},
    "node_id": INTEGER,
    "role": _ROLE,
    "leader_id": {**INTEGER, "description": "0 when none is known"},
    "term": BIG,
    "commit_index": BIG,
    "applied_index": BIG,
    "lag": BIG,
    "alarms": TEXTS,
}
_INDEXES: Final[Json] = dict.fromkeys(("commit_index", "applied_index", "last_index", "snapshot_index"), BIG)
_NODE_ID: Final[Json] = {"type": "integer", "minimum": 1, "maximum": 65_535}
_ADDRESS: Final[Json] = {"type": "string", "maxLength": 300, "description": "host:port or [IPv6]:port"}
_IF_VERSION: Final[Json] = {"type": ["integer", "null"], "minimum": 0, "maximum": 2**53}

_RECEIPT: Final[Json] = {"receipt": ref("Receipt"), "receipt_error": ref("ReceiptError")}

SCHEMAS: Final[dict[str, Json]] = {
    **PROOF_SCHEMAS,
    "Written": object_of(
        {
            "status": {"const": "ok"},
            "key": TEXT,
            "version": BIG,
            "index": BIG,
            "term": BIG,
            "leaf_index": BIG,
            "timestamp": TIME,
            **_RECEIPT,
        },
        optional=tuple(_RECEIPT),
    ),
    "Keys": object_of(
        {
            "items": array_of(
                object_of({"key": TEXT, "version": BIG, "leaf_index": BIG, "size": INTEGER, "timestamp": TIME})
            ),
            "next": or_null(TEXT),
        }
    ),
    "History": object_of(
        {
            "key": TEXT,
            "versions": array_of(
                object_of(
                    {
                        "version": BIG,
                        "leaf_index": BIG,
                        "timestamp": TIME,
                        "actor": TEXT,
                        "op": {"type": "string", "enum": ["put", "delete"]},
                        "value_hash": or_null(HASH),
                        "size": INTEGER,
                    }
                )
            ),
            "next": or_null(INTEGER),
        }
    ),
    "Batch": {
        **object_of(
            {
                "operations": {
                    **array_of(
                        {
                            "oneOf": [
                                ref("BatchPut"),
                                ref("BatchDelete"),
                            ]
                        }
                    ),
                    "minItems": 1,
                }
            }
        ),
        "additionalProperties": False,
    },
    "BatchPut": {
        **object_of(
            {
                "op": {"const": "put"},
                "key": TEXT,
                "value": {**TEXT, "description": "Stored as UTF-8"},
                "value_base64": {**TEXT, "contentEncoding": "base64"},
                "if_version": {**_IF_VERSION, "description": "0: the key must be absent"},
            },
            optional=("value", "value_base64", "if_version"),
        ),
        "oneOf": [{"required": ["value"]}, {"required": ["value_base64"]}],
        "additionalProperties": False,
    },
    "BatchDelete": {
        **object_of(
            {"op": {"const": "delete"}, "key": TEXT, "if_version": {**_IF_VERSION, "minimum": 1}},
            optional=("if_version",),
        ),
        "additionalProperties": False,
    },
    "BatchWritten": object_of(
        {
            "status": {"const": "ok"},
            "index": BIG,
            "term": BIG,
            "timestamp": TIME,
            "batch_id": {**BIG, "description": "Leaf index of the first leaf"},
            "results": array_of(
                object_of(
                    {
                        "op": {"type": "string", "enum": ["put", "delete"]},
                        "key": TEXT,
                        "version": BIG,
                        "leaf_index": BIG,
                    }
                )
            ),
            **_RECEIPT,
        },
        optional=tuple(_RECEIPT),
    ),
    "Health": object_of(_HEALTH),
    "Figures": object_of(
        {
            "storage": object_of(
                dict.fromkeys(
                    ("keys", "capacity_keys", "ledger_bytes", "log_bytes", "pending_bytes", "cache_bytes"), BIG
                )
            ),
            "raft": object_of({"node_id": INTEGER, "role": _ROLE, "leader_id": INTEGER, "term": BIG, **_INDEXES}),
            "merkle": object_of({"tree_size": BIG, "root_hash": HASH, "state_hash": HASH, "published_size": BIG}),
            "compaction": object_of(
                {
                    "running": FLAG,
                    **dict.fromkeys(("entries_left", "bytes_left", "freed_bytes"), BIG),
                    "seconds": {"type": "number"},
                }
            ),
            "scrub": ref("Scrub"),
            "latency_ms": object_of(dict.fromkeys(("p50", "p95", "p99"), _MILLISECONDS)),
        }
    ),
    "Member": object_of(
        {
            "node_id": INTEGER,
            "incarnation": TEXT,
            "role": _ROLE,
            "address": TEXT,
            "raft_address": TEXT,
            "is_leader": FLAG,
            "is_self": FLAG,
            "connected": FLAG,
            "match_index": or_null(INTEGER),
            "lag": or_null(INTEGER),
            "last_contact_s": {"type": ["number", "null"]},
            "version": or_null(TEXT),
        }
    ),
    "Cluster": object_of(
        {
            "cluster_id": TEXT,
            "node_id": INTEGER,
            "incarnation": TEXT,
            "version": TEXT,
            "role": _ROLE,
            "term": BIG,
            "leader_id": INTEGER,
            "leader_address": TEXT,
            **_INDEXES,
            "quorum": INTEGER,
            "verifier_key": {
                **or_null(TEXT),
                "description": "Public key of the log (c2sp.org/signed-note); null where this node has no log key",
            },
            "key_history": {
                **array_of(TEXT),
                "description": "Keys of the log, the first one first; each recovery by an operator brings another",
            },
            "members": array_of(ref("Member")),
        }
    ),
    "Leader": object_of(
        {
            "leader_id": INTEGER,
            "address": TEXT,
            "raft_address": or_null(TEXT),
            "version": or_null(TEXT),
            "term": BIG,
            "is_self": FLAG,
        }
    ),
    "AddMember": {
        **object_of(
            {
                "node_id": _NODE_ID,
                "address": {**_ADDRESS, "description": "Client address of the node, host:port or [IPv6]:port"},
                "raft_address": {
                    **or_null(_ADDRESS),
                    "description": "Its peer address; else the node is asked, else the same host and port + 1000",
                },
            },
            optional=("raft_address",),
        ),
        "additionalProperties": False,
    },
    "RemoveMember": {**object_of({"node_id": _NODE_ID}), "additionalProperties": False},
    "TransferLeadership": {
        **object_of(
            {"node_id": {**or_null(_NODE_ID), "description": "Without it the voter that is furthest along"}},
            optional=("node_id",),
        ),
        "additionalProperties": False,
    },
    "PauseWrites": {
        **object_of(
            {
                "ttl_seconds": {
                    "type": "number",
                    "minimum": 1,
                    "maximum": PAUSE_TTL_MAX_S,
                    "default": PAUSE_TTL_DEFAULT_S,
                    "description": "The pause ends by itself after this, by the stamps of the log",
                }
            },
            optional=("ttl_seconds",),
        ),
        "additionalProperties": False,
    },
    **REPAIR_SCHEMAS,
    "MemberChange": object_of(
        {
            "status": {"const": "ok"},
            "node_id": _NODE_ID,
            "role": {"type": "string", "enum": ["voter", "learner", "removed"]},
            "changed": {**FLAG, "description": "False when it stood so before"},
            "index": {**BIG, "description": "Raft index of the configuration that acts"},
            "members": array_of(ref("Member")),
        }
    ),
    "LeadershipTransfer": object_of(
        {
            "status": {"const": "ok"},
            "leader_id": INTEGER,
            "term": BIG,
            "changed": {**FLAG, "description": "False when that node led before"},
        }
    ),
    "WritesPause": object_of(
        {
            "status": {"const": "ok"},
            "paused": FLAG,
            "paused_until": {**or_null(TIME), "description": "When the pause ends by itself; null without one"},
            "index": {**BIG, "description": "Raft index of the entry that decided it"},
            "settled": {
                **array_of(_NODE_ID),
                "description": "Nodes whose ledger file holds, synced, everything up to that entry",
            },
            "unsettled": {**array_of(_NODE_ID), "description": "The other members: not reached, or not done in time"},
        }
    ),
    "Compaction": object_of(
        {
            "status": {"const": "ok"},
            "snapshot_index": {**BIG, "description": "Up to where the log is dropped now"},
            **dict.fromkeys(
                (
                    "entries_dropped",
                    "log_bytes_before",
                    "log_bytes_after",
                    "ledger_bytes_before",
                    "ledger_bytes_after",
                ),
                BIG,
            ),
            "seconds": {"type": "number"},
        }
    ),
    "AuditQuery": {
        **object_of(
            {
                "sql": {**TEXT, "minLength": 1, "description": "One SELECT over the tables audit and current"},
                "params": {"type": ["array", "object", "null"]},
                "format": {"type": "string", "enum": ["json", "csv", "arrow", "parquet"], "default": "json"},
                "limit": {"type": ["integer", "null"], "minimum": 1},
            },
            optional=("params", "format", "limit"),
        ),
        "additionalProperties": False,
    },
    "AuditAnswer": object_of({"columns": TEXTS, "rows": array_of({"type": "array"}), "truncated": FLAG}),
}
