"""What the shapes of OpenAPI are put together from."""

from __future__ import annotations

from typing import Any, Final

Json = dict[str, Any]

HASH: Final[Json] = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
TIME: Final[Json] = {"type": "string", "format": "date-time", "examples": ["2026-11-23T19:25:31.123456Z"]}
TEXT: Final[Json] = {"type": "string"}
FLAG: Final[Json] = {"type": "boolean"}
TEXTS: Final[Json] = {"type": "array", "items": TEXT}
INTEGER: Final[Json] = {"type": "integer", "minimum": 0}
BIG: Final[Json] = {"type": ["integer", "string"], "description": "A string above 2^53"}
LEAF: Final[Json] = {"type": "integer", "minimum": 0, "maximum": 2**53}


def object_of(properties: Json, *, optional: tuple[str, ...] = ()) -> Json:
    """An object with these properties, all required but some."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "required": required, "properties": properties}


def ref(name: str) -> Json:
    """One of the components, by its name."""
    return {"$ref": f"#/components/schemas/{name}"}


def array_of(items: Json) -> Json:
    """An array of such items."""
    return {"type": "array", "items": items}


def or_null(schema: Json) -> Json:
    """The same, or null."""
    return {**schema, "type": [schema["type"], "null"]}


def json_content(schema: Json | str, example: Any = None) -> Json:
    """Content of type JSON: of a schema, or of one of the components by its name."""
    content: Json = {"schema": ref(schema) if isinstance(schema, str) else schema}
    if example is not None:
        content["example"] = example
    return {"application/json": content}
