"""Shapes of what goes over HTTP, as OpenAPI wants them: parameters, bodies and answers."""

from __future__ import annotations

from typing import Final

from appliance.http.limits import PAGE_DEFAULT, PAGE_MAX
from appliance.http.openapi_proofs import PROOF_ANSWERS
from appliance.http.openapi_repair import REPAIR_ANSWERS, REPAIR_BODIES
from appliance.http.openapi_types import INTEGER, LEAF, TEXT, Json, array_of, json_content, object_of, ref

PATH_PARAMETERS: Final[dict[str, Json]] = {
    "key": {
        "description": "1 to 1,024 bytes of UTF-8 without control characters, percent-encoded",
        "schema": {"type": "string", "minLength": 1, "maxLength": 1024},
        "example": "a/b",
    },
    "level": {"description": "Level of the tile, 0 to 63", "schema": {"type": "integer", "minimum": 0, "maximum": 63}},
    "index": {
        "description": "Place in the level in groups of three digits, with `.p/<width>` behind it when it is partial; "
        "the slashes belong to it",
        "schema": {"type": "string", "pattern": r"^(x[0-9]{3}/){0,6}[0-9]{3}(\.p/[1-9][0-9]{0,2})?$"},
        "example": "x001/x234/067.p/112",
    },
}

QUERY_PARAMETERS: Final[dict[str, Json]] = {
    "consistency": {
        "description": "`linearizable` sees every write answered before; `stale` answers from this node alone",
        "schema": {"type": "string", "enum": ["linearizable", "stale"], "default": "linearizable"},
    },
    "at_leaf": {"description": "The state after the whole batch that holds this leaf", "schema": LEAF},
    "prefix": {"description": "Only keys that begin with this", "schema": {**TEXT, "maxLength": 1024}},
    "after": {
        "description": "Only keys behind this one: `next` of the page before",
        "schema": {**TEXT, "maxLength": 1024},
    },
    "from": {
        "description": "Of a page, the leaf index at which it begins: `next` of the page before; of a consistency "
        "proof, the leaves of the tree that was there first",
        "schema": LEAF,
    },
    "to": {"description": "Leaves of the tree that continues it; without it the latest checkpoint's", "schema": LEAF},
    "leaf": {"description": "Index of the leaf", "schema": LEAF},
    "size": {"description": "Leaves of the tree; without it the latest checkpoint's", "schema": LEAF},
    "receipt": {
        "description": "`true` waits for the checkpoint that covers the write, and answers with it and the proof",
        "schema": {"type": "boolean", "default": False},
    },
    "limit": {
        "description": "Items on the page",
        "schema": {"type": "integer", "minimum": 1, "maximum": PAGE_MAX, "default": PAGE_DEFAULT},
    },
    "wait": {
        "description": "`false` answers as soon as it has begun: when the node is a learner, the pass under way",
        "schema": {"type": "boolean", "default": True},
    },
}

HEADER_PARAMETERS: Final[dict[str, Json]] = {
    "If-Match": {
        "description": "Only when the key has this version: one strong entity tag",
        "schema": {"type": "string", "pattern": '^"[1-9][0-9]{0,15}"$'},
        "example": '"3"',
    },
    "If-None-Match": {"description": "Only when the key is absent", "schema": {"type": "string", "enum": ["*"]}},
    "Accept-Encoding": {"description": "With `gzip` in it, the answer is compressed", "schema": TEXT},
    "Idempotency-Key": {
        "description": "Makes a retry safe for 24 h; the first answer comes again with `Idempotency-Replayed: true`",
        "schema": {"type": "string", "minLength": 1, "maxLength": 128},
    },
}

KNOWN_TAG: Final[Json] = {
    "name": "If-None-Match",
    "in": "header",
    "required": False,
    "description": "Entity tags of answers that the client has; one of these is answered 304",
    "schema": TEXT,
}

_RAW_BODY: Final[Json] = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}

BODIES: Final[dict[str, Json]] = {
    "value": {"description": "The value, byte for byte", "required": False, "content": _RAW_BODY},
    "batch": {
        "required": True,
        "content": json_content(
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
        "content": json_content(
            "AuditQuery", {"sql": "SELECT actor, count(*) FROM audit GROUP BY 1", "format": "json", "limit": 100}
        ),
    },
    "add": {
        "required": True,
        "content": json_content("AddMember", {"node_id": 4, "address": "10.0.1.13:8004"}),
    },
    "remove": {"required": True, "content": json_content("RemoveMember", {"node_id": 4})},
    "transfer": {"required": False, "content": json_content("TransferLeadership", {"node_id": 2})},
    "pause": {"required": False, "content": json_content("PauseWrites", {"ttl_seconds": 600})},
    **REPAIR_BODIES,
    "nothing": {"required": False, "content": json_content({"type": "object", "additionalProperties": False})},
}

_VERSION_HEADERS: Final[Json] = {
    "ETag": {"description": "The version in quotes", "required": True, "schema": TEXT},
    "Scribe-Leaf-Index": {"description": "Leaf of this version", "required": True, "schema": INTEGER},
    "Scribe-Salt": {"description": "Salt of the value hash, hex", "required": True, "schema": TEXT},
}
_REPLAYED_HEADER: Final[Json] = {
    "Idempotency-Replayed": {
        "description": "The write had been carried out before",
        "schema": {"type": "string", "enum": ["true"]},
    }
}
_BINARY: Final[Json] = {"schema": {"type": "string", "format": "binary"}}

ANSWERS: Final[dict[str, Json]] = {
    **PROOF_ANSWERS,
    "written": {"description": "Committed", "content": json_content("Written"), "headers": _REPLAYED_HEADER},
    "value": {"description": "The value, byte for byte", "content": _RAW_BODY, "headers": _VERSION_HEADERS},
    "keys": {"description": "A page of keys", "content": json_content("Keys")},
    "history": {"description": "A page of versions", "content": json_content("History")},
    "batch": {"description": "All committed", "content": json_content("BatchWritten"), "headers": _REPLAYED_HEADER},
    "health": {"description": "Can serve linearizable reads", "content": json_content("Health")},
    "live": {"description": "The process answers", "content": json_content(object_of({"status": {"const": "ok"}}))},
    "metrics": {"description": "Figures", "content": json_content("Figures")},
    "exposition": {
        "description": "Exposition",
        "content": {"text/plain": {"schema": TEXT}, "application/openmetrics-text": {"schema": TEXT}},
    },
    "cluster": {"description": "The cluster", "content": json_content("Cluster")},
    "nodes": {
        "description": "The members",
        "content": json_content(object_of({"nodes": array_of(ref("Member"))})),
    },
    "leader": {"description": "The leader", "content": json_content("Leader")},
    "change": {"description": "How the member stands now", "content": json_content("MemberChange")},
    "transfer": {"description": "Who leads now", "content": json_content("LeadershipTransfer")},
    "pause": {"description": "How writes stand now", "content": json_content("WritesPause")},
    **REPAIR_ANSWERS,
    "compaction": {"description": "What was given back", "content": json_content("Compaction")},
    "audit": {
        "description": "The rows",
        "content": {
            **json_content("AuditAnswer"),
            "text/csv": {"schema": TEXT},
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
