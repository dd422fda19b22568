"""Shapes of what goes over HTTP, as OpenAPI wants them: parameters, bodies, answers and the schemas they name."""

from __future__ import annotations

from typing import Any, Final

from appliance.http.limits import PAGE_DEFAULT, PAGE_MAX, PAUSE_TTL_DEFAULT_S, PAUSE_TTL_MAX_S
from appliance.http.openapi_repair import REPAIR_ANSWERS, REPAIR_BODIES, REPAIR_SCHEMAS

_Json = dict[str, Any]

_HASH: Final[_Json] = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_TIME: Final[_Json] = {"type": "string", "format": "date-time", "examples": ["2026-11-23T19:25:31.123456Z"]}
_TEXT: Final[_Json] = {"type": "string"}
_FLAG: Final[_Json] = {"type": "boolean"}
_TEXTS: Final[_Json] = {"type": "array", "items": _TEXT}
_INTEGER: Final[_Json] = {"type": "integer", "minimum": 0}
_BIG: Final[_Json] = {"type": ["integer", "string"], "description": "A string above 2^53"}
_LEAF: Final[_Json] = {"type": "integer", "minimum": 0, "maximum": 2**53}
_MILLISECONDS: Final[_Json] = {"type": ["number", "null"]}


def _object(properties: _Json, *, optional: tuple[str, ...] = ()) -> _Json:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "required": required, "properties": properties}


def _array(items: _Json) -> _Json:
    return {"type": "array", "items": items}


def _or_null(schema: _Json) -> _Json:
    return {**schema, "type": [schema["type"], "null"]}


def _json_content(schema: _Json | str, example: Any = None) -> _Json:
    content: _Json = {"schema": {"$ref": f"#/components/schemas/{schema}"} if isinstance(schema, str) else schema}
    if example is not None:
        content["example"] = example
    return {"application/json": content}


QUERY_PARAMETERS: Final[dict[str, _Json]] = {
    "consistency": {
        "description": "`linearizable` sees every write answered before; `stale` answers from this node alone",
        "schema": {"type": "string", "enum": ["linearizable", "stale"], "default": "linearizable"},
    },
    "at_leaf": {"description": "The state after the whole batch that holds this leaf", "schema": _LEAF},
    "prefix": {"description": "Only keys that begin with this", "schema": {**_TEXT, "maxLength": 1024}},
    "after": {
        "description": "Only keys behind this one: `next` of the page before",
        "schema": {**_TEXT, "maxLength": 1024},
    },
    "from": {"description": "Leaf index at which the page begins: `next` of the page before", "schema": _LEAF},
    "limit": {
        "description": "Items on the page",
        "schema": {"type": "integer", "minimum": 1, "maximum": PAGE_MAX, "default": PAGE_DEFAULT},
    },
    "wait": {
        "description": "`false` answers as soon as it has begun: when the node is a learner, the pass under way",
        "schema": {"type": "boolean", "default": True},
    },
}

HEADER_PARAMETERS: Final[dict[str, _Json]] = {
    "If-Match": {
        "description": "Only when the key has this version: one strong entity tag",
        "schema": {"type": "string", "pattern": '^"[1-9][0-9]{0,15}"$'},
        "example": '"3"',
    },
    "If-None-Match": {"description": "Only when the key is absent", "schema": {"type": "string", "enum": ["*"]}},
    "Idempotency-Key": {
        "description": "Makes a retry safe for 24 h; the first answer comes again with `Idempotency-Replayed: true`",
        "schema": {"type": "string", "minLength": 1, "maxLength": 128},
    },
}

_RAW_BODY: Final[_Json] = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}

BODIES: Final[dict[str, _Json]] = {
    "value": {"description": "The value, byte for byte", "required": False, "content": _RAW_BODY},
    "batch": {
        "required": True,
        "content": _json_content(
            "Batch",
            {
                "operations": [
                    {"op": "put", "key": "a", "value": "text", "if_version": 0},
                    {"op": "put", "key": "b", "value_base64": "AAE="},
                    {"op": "delete", "key": "c"},
                ]
            },
        ),
    },
    "audit": {
        "required": True,
        "content": _json_content(
            "AuditQuery", {"sql": "SELECT actor, count(*) FROM audit GROUP BY 1", "format": "json", "limit": 100}
        ),
    },
    "add": {
        "required": True,
        "content": _json_content("AddMember", {"node_id": 4, "address": "10.0.1.13:8004"}),
    },
    "remove": {"required": True, "content": _json_content("RemoveMember", {"node_id": 4})},
    "transfer": {"required": False, "content": _json_content("TransferLeadership", {"node_id": 2})},
    "pause": {"required": False, "content": _json_content("PauseWrites", {"ttl_seconds": 600})},
    **REPAIR_BODIES,
    "nothing": {"required": False, "content": _json_content({"type": "object", "additionalProperties": False})},
}

_VERSION_HEADERS: Final[_Json] = {
    "ETag": {"description": "The version in quotes", "required": True, "schema": _TEXT},
    "Scribe-Leaf-Index": {"description": "Leaf of this version", "required": True, "schema": _INTEGER},
    "Scribe-Salt": {"description": "Salt of the value hash, hex", "required": True, "schema": _TEXT},
}
_REPLAYED_HEADER: Final[_Json] = {
    "Idempotency-Replayed": {
        "description": "The write had been carried out before",
        "schema": {"type": "string", "enum": ["true"]},
    }
}
_BINARY: Final[_Json] = {"schema": {"type": "string", "format": "binary"}}

ANSWERS: Final[dict[str, _Json]] = {
    "written": {"description": "Committed", "content": _json_content("Written"), "headers": _REPLAYED_HEADER},
    "value": {"description": "The value, byte for byte", "content": _RAW_BODY, "headers": _VERSION_HEADERS},
    "keys": {"description": "A page of keys", "content": _json_content("Keys")},
    "history": {"description": "A page of versions", "content": _json_content("History")},
    "batch": {"description": "All committed", "content": _json_content("BatchWritten"), "headers": _REPLAYED_HEADER},
    "health": {"description": "Can serve linearizable reads", "content": _json_content("Health")},
    "live": {"description": "The process answers", "content": _json_content(_object({"status": {"const": "ok"}}))},
    "metrics": {"description": "Figures", "content": _json_content("Figures")},
    "exposition": {
        "description": "Exposition",
        "content": {"text/plain": {"schema": _TEXT}, "application/openmetrics-text": {"schema": _TEXT}},
    },
    "cluster": {"description": "The cluster", "content": _json_content("Cluster")},
    "nodes": {
        "description": "The members",
        "content": _json_content(_object({"nodes": _array({"$ref": "#/components/schemas/Member"})})),
    },
    "leader": {"description": "The leader", "content": _json_content("Leader")},
    "change": {"description": "How the member stands now", "content": _json_content("MemberChange")},
    "transfer": {"description": "Who leads now", "content": _json_content("LeadershipTransfer")},
    "pause": {"description": "How writes stand now", "content": _json_content("WritesPause")},
    **REPAIR_ANSWERS,
    "compaction": {"description": "What was given back", "content": _json_content("Compaction")},
    "audit": {
        "description": "The rows",
        "content": {
            **_json_content("AuditAnswer"),
            "text/csv": {"schema": _TEXT},
            "application/vnd.apache.arrow.stream": _BINARY,
            "application/vnd.apache.parquet": _BINARY,
        },
        "headers": {
            "Scribe-Truncated": {
                "description": "Whether a limit cut rows off; in every format",
                "schema": {"type": "string", "enum": ["true", "false"]},
            }
        },
    },
    "openapi": {
        "description": "OpenAPI 3.1",
        "content": {"application/vnd.oai.openapi+json": {"schema": {"type": "object"}}},
    },
}

_ROLE: Final[_Json] = {"type": "string", "description": "leader, follower, candidate, learner, founding, outsider"}
_HEALTH: Final[_Json] = {
    "status": {"const": "ok"},
    "node_id": _INTEGER,
    "role": _ROLE,
    "leader_id": {**_INTEGER, "description": "0 when none is known"},
    "term": _BIG,
    "commit_index": _BIG,
    "applied_index": _BIG,
    "lag": _BIG,
    "alarms": _TEXTS,
}
_INDEXES: Final[_Json] = dict.fromkeys(("commit_index", "applied_index", "last_index", "snapshot_index"), _BIG)
_SIZES: Final = ("ledger_bytes", "log_bytes", "pending_bytes", "cache_bytes")
_NODE_ID: Final[_Json] = {"type": "integer", "minimum": 1, "maximum": 65_535}
_ADDRESS: Final[_Json] = {"type": "string", "maxLength": 300, "description": "host:port or [IPv6]:port"}
_IF_VERSION: Final[_Json] = {"type": ["integer", "null"], "minimum": 0, "maximum": 2**53}

SCHEMAS: Final[dict[str, _Json]] = {
    "Written": _object(
        {
            "status": {"const": "ok"},
            "key": _TEXT,
            "version": _BIG,
            "index": _BIG,
            "term": _BIG,
            "leaf_index": _BIG,
            "timestamp": _TIME,
        }
    ),
    "Keys": _object(
        {
            "items": _array(
                _object({"key": _TEXT, "version": _BIG, "leaf_index": _BIG, "size": _INTEGER, "timestamp": _TIME})
            ),
            "next": _or_null(_TEXT),
        }
    ),
    "History": _object(
        {
            "key": _TEXT,
            "versions": _array(
                _object(
                    {
                        "version": _BIG,
                        "leaf_index": _BIG,
                        "timestamp": _TIME,
                        "actor": _TEXT,
                        "op": {"type": "string", "enum": ["put", "delete"]},
                        "value_hash": _or_null(_HASH),
                        "size": _INTEGER,
                    }
                )
            ),
            "next": _or_null(_INTEGER),
        }
    ),
    "Batch": {
        **_object(
            {
                "operations": {
                    **_array(
                        {
                            "oneOf": [
                                {"$ref": "#/components/schemas/BatchPut"},
                                {"$ref": "#/components/schemas/BatchDelete"},
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
        **_object(
            {
                "op": {"const": "put"},
                "key": _TEXT,
                "value": {**_TEXT, "description": "Stored as UTF-8"},
                "value_base64": {**_TEXT, "contentEncoding": "base64"},
                "if_version": {**_IF_VERSION, "description": "0: the key must be absent"},
            },
            optional=("value", "value_base64", "if_version"),
        ),
        "oneOf": [{"required": ["value"]}, {"required": ["value_base64"]}],
        "additionalProperties": False,
    },
    "BatchDelete": {
        **_object(
            {"op": {"const": "delete"}, "key": _TEXT, "if_version": {**_IF_VERSION, "minimum": 1}},
            optional=("if_version",),
        ),
        "additionalProperties": False,
    },
    "BatchWritten": _object(
        {
            "status": {"const": "ok"},
            "index": _BIG,
            "term": _BIG,
            "timestamp": _TIME,
            "batch_id": {**_BIG, "description": "Leaf index of the first leaf"},
            "results": _array(
                _object(
                    {
                        "op": {"type": "string", "enum": ["put", "delete"]},
                        "key": _TEXT,
                        "version": _BIG,
                        "leaf_index": _BIG,
                    }
                )
            ),
        }
    ),
    "Health": _object(_HEALTH),
    "Figures": _object(
        {
            "storage": _object(
                dict.fromkeys(
                    ("keys", "capacity_keys", "ledger_bytes", "log_bytes", "pending_bytes", "cache_bytes"), _BIG
                )
            ),
            "raft": _object({"node_id": _INTEGER, "role": _ROLE, "leader_id": _INTEGER, "term": _BIG, **_INDEXES}),
            "merkle": _object({"tree_size": _BIG, "root_hash": _HASH, "state_hash": _HASH}),
            "compaction": _object(
                {
                    "running": _FLAG,
                    **dict.fromkeys(("entries_left", "bytes_left", "freed_bytes"), _BIG),
                    "seconds": {"type": "number"},
                }
            ),
            "scrub": {"$ref": "#/components/schemas/Scrub"},
            "latency_ms": _object(dict.fromkeys(("p50", "p95", "p99"), _MILLISECONDS)),
        }
    ),
    "Member": _object(
        {
            "node_id": _INTEGER,
            "incarnation": _TEXT,
            "role": _ROLE,
            "address": _TEXT,
            "raft_address": _TEXT,
            "is_leader": _FLAG,
            "is_self": _FLAG,
            "connected": _FLAG,
            "match_index": _or_null(_INTEGER),
            "lag": _or_null(_INTEGER),
            "last_contact_s": {"type": ["number", "null"]},
            "version": _or_null(_TEXT),
        }
    ),
    "Cluster": _object(
        {
            "cluster_id": _TEXT,
            "node_id": _INTEGER,
            "incarnation": _TEXT,
            "version": _TEXT,
            "role": _ROLE,
            "term": _BIG,
            "leader_id": _INTEGER,
            "leader_address": _TEXT,
            **_INDEXES,
            "quorum": _INTEGER,
            "members": _array({"$ref": "#/components/schemas/Member"}),
        }
    ),
    "Leader": _object(
        {
            "leader_id": _INTEGER,
            "address": _TEXT,
            "raft_address": _or_null(_TEXT),
            "version": _or_null(_TEXT),
            "term": _BIG,
            "is_self": _FLAG,
        }
    ),
    "AddMember": {
        **_object(
            {
                "node_id": _NODE_ID,
                "address": {**_ADDRESS, "description": "Client address of the node, host:port or [IPv6]:port"},
                "raft_address": {
                    **_or_null(_ADDRESS),
                    "description": "Its peer address; else the node is asked, else the same host and port + 1000",
                },
            },
            optional=("raft_address",),
        ),
        "additionalProperties": False,
    },
    "RemoveMember": {**_object({"node_id": _NODE_ID}), "additionalProperties": False},
    "TransferLeadership": {
        **_object(
            {"node_id": {**_or_null(_NODE_ID), "description": "Without it the voter that is furthest along"}},
            optional=("node_id",),
        ),
        "additionalProperties": False,
    },
    "PauseWrites": {
        **_object(
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
    "MemberChange": _object(
        {
            "status": {"const": "ok"},
            "node_id": _NODE_ID,
            "role": {"type": "string", "enum": ["voter", "learner", "removed"]},
            "changed": {**_FLAG, "description": "False when it stood so before"},
            "index": {**_BIG, "description": "Raft index of the configuration that acts"},
            "members": _array({"$ref": "#/components/schemas/Member"}),
        }
    ),
    "LeadershipTransfer": _object(
        {
            "status": {"const": "ok"},
            "leader_id": _INTEGER,
            "term": _BIG,
            "changed": {**_FLAG, "description": "False when that node led before"},
        }
    ),
    "WritesPause": _object(
        {
            "status": {"const": "ok"},
            "paused": _FLAG,
            "paused_until": {**_or_null(_TIME), "description": "When the pause ends by itself; null without one"},
            "index": {**_BIG, "description": "Raft index of the entry that decided it"},
            "settled": {
                **_array(_NODE_ID),
                "description": "Nodes whose ledger file holds, synced, everything up to that entry",
            },
            "unsettled": {**_array(_NODE_ID), "description": "The other members: not reached, or not done in time"},
        }
    ),
    "Compaction": _object(
        {
            "status": {"const": "ok"},
            "snapshot_index": {**_BIG, "description": "Up to where the log is dropped now"},
            **dict.fromkeys(
                (
                    "entries_dropped",
                    "log_bytes_before",
                    "log_bytes_after",
                    "ledger_bytes_before",
                    "ledger_bytes_after",
                ),
                _BIG,
            ),
            "seconds": {"type": "number"},
        }
    ),
    "AuditQuery": {
        **_object(
            {
                "sql": {**_TEXT, "minLength": 1, "description": "One SELECT over the tables audit and current"},
                "params": {"type": ["array", "object", "null"]},
                "format": {"type": "string", "enum": ["json", "csv", "arrow", "parquet"], "default": "json"},
                "limit": {"type": ["integer", "null"], "minimum": 1},
            },
            optional=("params", "format", "limit"),
        ),
        "additionalProperties": False,
    },
    "AuditAnswer": _object({"columns": _TEXTS, "rows": _array({"type": "array"}), "truncated": _FLAG}),
}
