"""Shapes of proofs: what the routes under /log and /verify answer, and receipts."""

from __future__ import annotations

from typing import Final

from appliance.http.openapi_types import (
    BIG,
    HASH,
    TEXT,
    Json,
    array_of,
    json_content,
    object_of,
    or_null,
)

_CACHE_HEADERS: Final[Json] = {
    "ETag": {"description": "Strong: it is over the very bytes", "required": True, "schema": TEXT},
    "Cache-Control": {"description": "Who may keep it, and how long", "required": True, "schema": TEXT},
}
_CODED: Final[Json] = {
    "Content-Encoding": {"description": "For who takes gzip", "schema": {"type": "string", "enum": ["gzip"]}},
    "Vary": {"required": True, "schema": TEXT},
}
_BYTES: Final[Json] = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_PLAIN: Final[Json] = {"text/plain": {"schema": TEXT}}
_NOTE: Final[Json] = {"type": "string", "description": "The checkpoint, a signed note, with all its lines"}
_PATH: Final[Json] = {**array_of(HASH), "description": "Lowest hash first"}
_DIRECTIONS: Final[Json] = {
    **array_of({"type": "string", "enum": ["left", "right"]}),
    "description": "On which side each sibling stands",
}
_LATEST: Final[Json] = {**or_null(_NOTE), "description": "The checkpoint of that size, when none was asked for"}

PROOF_ANSWERS: Final[dict[str, Json]] = {
    "verified": {"description": "The key's latest version is in the tree", "content": json_content("Verified")},
    "checkpoint": {"description": "A signed note", "content": _PLAIN, "headers": _CACHE_HEADERS},
    "tile": {"description": "Hashes of 32 bytes, side by side", "content": _BYTES, "headers": _CACHE_HEADERS},
    "entries": {
        "description": "Leaves, each behind its length in two bytes, big-endian",
        "content": _BYTES,
        "headers": {**_CACHE_HEADERS, **_CODED},
    },
    "inclusion": {"description": "A path", "content": json_content("Inclusion"), "headers": _CACHE_HEADERS},
    "consistency": {"description": "A proof", "content": json_content("Consistency"), "headers": _CACHE_HEADERS},
    "proof_file": {
        "description": "A file to be checked offline",
        "content": _PLAIN,
        "headers": {"Content-Disposition": {"description": "A name for it", "required": True, "schema": TEXT}},
    },
}

PROOF_SCHEMAS: Final[dict[str, Json]] = {
    "Verified": object_of(
        {
            "key": TEXT,
            "verified": {"const": True},
            "leaf_index": BIG,
            "tree_size": BIG,
            "leaf": {**TEXT, "description": "The leaf, byte for byte; it is JSON itself"},
            "proof": object_of({"root_hash": HASH, "siblings": _PATH, "directions": _DIRECTIONS}),
            "checkpoint": _NOTE,
            "error": {"type": "null"},
        }
    ),
    "Inclusion": object_of(
        {"leaf_index": BIG, "tree_size": BIG, "siblings": _PATH, "directions": _DIRECTIONS, "checkpoint": _LATEST}
    ),
    "Consistency": object_of(
        {
            "from": BIG,
            "to": BIG,
            "path": {**array_of(HASH), "description": "As RFC 9162, 2.1.4, has it"},
            "checkpoint": _LATEST,
        }
    ),
    "Receipt": {
        **object_of(
            {
                "tree_size": BIG,
                "root_hash": HASH,
                "checkpoint": _NOTE,
                "inclusion": array_of(object_of({"leaf_index": BIG, "leaf": TEXT, "siblings": _PATH})),
            }
        ),
        "type": ["object", "null"],
        "description": "With `receipt=true` only: what proves the write; null when no checkpoint came in time",
    },
    "ReceiptError": {
        **object_of({"code": TEXT, "detail": TEXT, "url": {**TEXT, "description": "Where the proof will be"}}),
        "description": "Why there is no receipt; the write is done",
    },
}
