"""`/openapi.json`, rendered from the table of routes, the table of errors and the shapes beside this file."""

from __future__ import annotations

import re
from typing import Any, Final

from appliance.http.openapi_schemas import SCHEMAS
from appliance.http.openapi_shapes import (
    ANSWERS,
    BODIES,
    HEADER_PARAMETERS,
    KNOWN_TAG,
    PATH_PARAMETERS,
    QUERY_PARAMETERS,
)
from appliance.http.problems import PROBLEM_TYPE, TYPE_PREFIX
from appliance.http.route import Route
from appliance.http.routes import ROUTES
from appliance.tables.errors import ERRORS, ErrorRow
from appliance.tables.roles import GRANTS, Access

_Json = dict[str, Any]

_DESCRIPTION: Final = (
    "A replicated, tamper-evident ledger. Any node takes any request. A key is the rest of the raw path, decoded once "
    "and never normalised: `a//b`, a trailing `/` and `%2F` belong to it. Integers above 2^53 are strings. "
    "Values and bodies are accepted under any Content-Type or none."
)
_IN_PATH: Final = re.compile(r"{(\w+)}")
_SECURITY_SCHEMES: Final[_Json] = {
    "api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "bearer": {"type": "http", "scheme": "bearer"},
}
_REQUEST_ID_HEADER: Final[_Json] = {
    "X-Request-Id": {
        "description": "The client's, when it was 1 to 128 bytes of visible ASCII, else the node's",
        "schema": {"type": "string"},
    }
}
_ERROR_HEADERS: Final[dict[int, _Json]] = {
    401: {"WWW-Authenticate": {"schema": {"type": "string"}}},
    429: {"Retry-After": {"description": "seconds", "required": True, "schema": {"type": "integer"}}},
    503: {"Retry-After": {"description": "seconds", "schema": {"type": "integer"}}},
}


def describe(version: str, opened: frozenset[Access]) -> _Json:
    """The OpenAPI 3.1 document of this node; what is `opened` needs no API key."""
    paths: dict[str, _Json] = {}
    for route in ROUTES:
        operation = _operation(route, open_to_all=route.access in opened)
        paths.setdefault(route.path, {})[route.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "Scribe Ledger appliance", "version": version, "description": _DESCRIPTION},
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {"securitySchemes": _SECURITY_SCHEMES, "schemas": {**SCHEMAS, "Problem": _problem_schema()}},
    }


def _operation(route: Route, *, open_to_all: bool) -> _Json:
    roles = ", ".join(role.value for role in GRANTS if route.access in GRANTS[role])
    operation: _Json = {
        "operationId": route.name,
        "summary": route.summary,
        "description": f"{'Needs no API key.' if open_to_all else f'Roles: {roles}.'} {route.notes}".rstrip(),
        "tags": [route.op.value],
        "security": [] if open_to_all else [{name: []} for name in _SECURITY_SCHEMES],
        "parameters": _parameters(route),
        "responses": _responses(route, open_to_all=open_to_all),
    }
    if route.body:
        operation["requestBody"] = BODIES[route.body]
    return operation


def _parameters(route: Route) -> list[_Json]:
    parameters: list[_Json] = [
        {"name": name, "in": "path", "required": True, **PATH_PARAMETERS[name]} for name in _IN_PATH.findall(route.path)
    ]
    parameters += [
        {"name": name, "in": "query", "required": name in route.needed, **QUERY_PARAMETERS[name]}
        for name in route.query
    ]
    parameters += [
        {"name": name, "in": "header", "required": False, **HEADER_PARAMETERS[name]} for name in route.headers
    ]
    if route.cached:
        parameters.append(KNOWN_TAG)
    return parameters


def _responses(route: Route, *, open_to_all: bool) -> dict[str, _Json]:
    answer = ANSWERS[route.answer]
    responses: dict[str, _Json] = {
        "200": {
            "description": answer["description"],
            "headers": {**_REQUEST_ID_HEADER, **answer.get("headers", {})},
            "content": answer["content"],
        }
    }
    if route.cached:
        kept = {name: header for name, header in answer["headers"].items() if name != "Content-Encoding"}
        responses["304"] = {"description": "The client has it", "headers": {**_REQUEST_ID_HEADER, **kept}}
    by_status: dict[int, list[ErrorRow]] = {}
    for code in sorted({*route.common_errors, *route.errors}):
        row = ERRORS[code]
        if not (open_to_all and row.status in (401, 403)):
            by_status.setdefault(row.status, []).append(row)
    for status, rows in sorted(by_status.items()):
        responses[str(status)] = _problem_response(status, rows)
    return responses


def _problem_response(status: int, rows: list[ErrorRow]) -> _Json:
    examples = {
        row.code: {
            "value": {
                "type": TYPE_PREFIX + row.code,
                "title": row.title,
                "status": row.status,
                "detail": "What is wrong with this request, and what to do about it.",
                "code": row.code,
                "retryable": row.retryable,
                "request_id": "5f0c6f6c5a0e4f3b-1",
                "error": "What is wrong with this request, and what to do about it.",
            }
        }
        for row in rows
    }
    return {
        "description": "; ".join(f"`{row.code}`: {row.title}" for row in rows),
        "headers": {**_REQUEST_ID_HEADER, **_ERROR_HEADERS.get(status, {})},
        "content": {PROBLEM_TYPE.decode(): {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": examples}},
    }


def _problem_schema() -> _Json:
    return {
        "type": "object",
        "description": "RFC 9457; further members may stand beside these.",
        "required": ["type", "title", "status", "detail", "code", "retryable", "request_id", "error"],
        "properties": {
            "type": {"type": "string", "format": "uri"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "code": {"type": "string", "enum": sorted(ERRORS)},
            "retryable": {"type": "boolean", "description": "Whether the same request may succeed when sent again"},
            "request_id": {"type": "string"},
            "error": {"type": "string", "description": "The detail again, for old clients"},
        },
    }
