"""Shapes of what finds and repairs damage of one node, as OpenAPI wants them; see `openapi_shapes`."""

from __future__ import annotations

from typing import Any, Final

from appliance.http.limits import SCRUB_RATE_DEFAULT, SCRUB_RATE_MAX, SCRUB_RATE_MIN

_Json = dict[str, Any]

_BIG: Final[_Json] = {"type": ["integer", "string"], "description": "A string above 2^53"}
_FLAG: Final[_Json] = {"type": "boolean"}
_INCARNATION: Final[_Json] = {"type": "string", "pattern": "^[0-9a-f]{16}$"}
_STATUS: Final[_Json] = {"const": "ok"}

_SCRUB: Final[_Json] = {
    "running": _FLAG,
    "number": {"type": "integer", "minimum": 0, "description": "Passes since the node started; 0 before the first"},
    "rate": {**_BIG, "description": "Bytes a second that it may read"},
    "share": {"type": "number", "minimum": 0, "maximum": 1},
    "bytes_read": _BIG,
    "findings": {**_BIG, "description": "What it found rotten"},
    "details": {"type": "array", "items": {"type": "string"}, "description": "The first of these"},
    "completed_at": {
        "type": ["string", "null"],
        "format": "date-time",
        "description": "When the last pass was completed; null before",
    },
    "seconds": {"type": "number", "description": "How long that took"},
}
_RESYNC: Final[_Json] = {
    "status": _STATUS,
    "node_id": {"type": "integer", "minimum": 1},
    "changed": {**_FLAG, "description": "False when the node is another incarnation than was asked about"},
    "incarnation": {**_INCARNATION, "description": "The one that ends now; the one that there is when nothing changed"},
}


def _object(properties: _Json) -> _Json:
    return {"type": "object", "required": list(properties), "properties": properties}


REPAIR_SCHEMAS: Final[dict[str, _Json]] = {
    "Scrub": _object(_SCRUB),
    "ScrubNode": {
        "type": "object",
        "properties": {
            "rate": {
                "type": "integer",
                "minimum": SCRUB_RATE_MIN,
                "maximum": SCRUB_RATE_MAX,
                "default": SCRUB_RATE_DEFAULT,
                "description": "Bytes a second that are read at most",
            }
        },
        "additionalProperties": False,
    },
    "ScrubStarted": _object({"status": _STATUS, **_SCRUB}),
    "ResyncNode": {
        "type": "object",
        "properties": {
            "incarnation": {
                **_INCARNATION,
                "type": ["string", "null"],
                "description": "Only while the node is this one, so that asking twice changes nothing twice",
            }
        },
        "additionalProperties": False,
    },
    "Resync": _object(_RESYNC),
}


def _content(schema: str, example: _Json | None = None) -> _Json:
    content: _Json = {"schema": {"$ref": f"#/components/schemas/{schema}"}}
    if example is not None:
        content["example"] = example
    return {"application/json": content}


REPAIR_BODIES: Final[dict[str, _Json]] = {
    "scrub": {"required": False, "content": _content("ScrubNode", {"rate": SCRUB_RATE_DEFAULT})},
    "resync": {"required": False, "content": _content("ResyncNode", {"incarnation": "0fc2b5e1f3a4c7d9"})},
}
REPAIR_ANSWERS: Final[dict[str, _Json]] = {
    "scrub": {"description": "How the pass stands", "content": _content("ScrubStarted")},
    "resync": {"description": "What the node does now", "content": _content("Resync")},
}
