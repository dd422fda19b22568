"""`/openapi.json`: a valid document, and what it describes is what exists, both ways."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from http_rig import Rig, assert_problem, path_of, running

from appliance.http.openapi import describe
from appliance.http.route import Route
from appliance.http.routes import ROUTES
from appliance.tables.errors import ERRORS
from appliance.tables.roles import Access

pytestmark = pytest.mark.anyio

OPEN = frozenset({Access.NOBODY, Access.METRICS})
METHODS = ("get", "put", "post", "delete", "patch", "options", "head", "trace")


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return describe("0.1.0", OPEN)


def _walk(node: Any) -> Iterator[Any]:
    yield node
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    for child in children:
        yield from _walk(child)


async def test_it_is_served_to_everybody(shared: Rig, document: dict[str, Any]) -> None:
    reply = await shared.call("GET", "/openapi.json", key=None)
    assert reply.json() == document
    assert document["openapi"] == "3.1.0"


def test_it_holds_to_the_rules_of_openapi(document: dict[str, Any]) -> None:
    """No validator is among the dependencies, so the rules of OpenAPI 3.1 that matter are checked by hand."""
    assert {"openapi", "info", "paths", "components"} <= document.keys()
    schemas = document["components"]["schemas"]
    referred = {node["$ref"] for node in _walk(document) if isinstance(node, dict) and "$ref" in node}
    assert referred == {f"#/components/schemas/{name}" for name in schemas}, "no dangling and no unused schema"
    ids = []
    for path, item in document["paths"].items():
        assert path.startswith("/")
        assert set(item) <= set(METHODS)
        for operation in item.values():
            ids.append(operation["operationId"])
            named = {(p["name"], p["in"]) for p in operation["parameters"]}
            assert len(named) == len(operation["parameters"])
            assert {n for n, where in named if where == "path"} == set(re.findall(r"{(\w+)}", path))
            assert all(p["required"] for p in operation["parameters"] if p["in"] == "path")
            assert all("schema" in p for p in operation["parameters"])
            assert operation["responses"]["200"]["content"]
            assert all(response["description"] for response in operation["responses"].values())
            for requirement in operation["security"]:
                assert requirement.keys() <= document["components"]["securitySchemes"].keys()
    assert len(set(ids)) == len(ids)
    for node in _walk(schemas):
        if isinstance(node, dict) and isinstance(node.get("properties"), dict):
            assert set(node.get("required", ())) <= node["properties"].keys()


def test_every_problem_is_documented_with_its_codes(document: dict[str, Any]) -> None:
    for route in ROUTES:
        responses = document["paths"][route.path][route.method.lower()]["responses"]
        for status, response in responses.items():
            if status in ("200", "304"):
                continue
            examples = response["content"]["application/problem+json"]["examples"]
            assert {ERRORS[code].status for code in examples} == {int(status)}


def _paths_of(document: dict[str, Any]) -> set[tuple[str, str]]:
    return {(method.upper(), path) for path, item in document["paths"].items() for method in item}


def test_what_is_in_the_table_is_documented_and_the_other_way_round(document: dict[str, Any]) -> None:
    assert _paths_of(document) == {(route.method, route.path) for route in ROUTES}


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
async def test_what_is_documented_exists(shared: Rig, route: Route) -> None:
    await shared.call("PUT", "/kv/a")
    bodies = {
        "batch": b'{"operations":[{"op":"put","key":"a","value":""}]}',
        "audit": b'{"sql":"x"}',
        "add": b'{"node_id":4,"address":"h:1"}',
        "remove": b'{"node_id":4}',
    }
    reply = await shared.call(route.method, path_of(route), content=bodies.get(route.body))
    assert reply.status_code == 200
    documented = describe("", OPEN)["paths"][route.path][route.method.lower()]["responses"]["200"]
    assert reply.headers["content-type"].split(";")[0] in documented["content"]


async def test_what_is_not_documented_does_not_exist(shared: Rig, document: dict[str, Any]) -> None:
    documented = _paths_of(document)
    by_path = {route.path: route for route in ROUTES}
    for path in document["paths"]:
        for method in METHODS:
            short_form_of_a_route = method in ("put", "get", "delete", "head")
            asked = "GET" if method == "head" else method.upper()  # HEAD goes with GET, as HTTP has it
            if (asked, path) in documented:
                continue
            reply = await shared.call(method.upper(), path_of(by_path[path]))
            assert reply.status_code in ((400, 404, 405) if short_form_of_a_route else (405,)), (method, path)


async def test_documented_query_parameters_are_the_known_ones(shared: Rig) -> None:
    leaf = str((await shared.call("PUT", "/kv/a")).json()["leaf_index"])
    values = {"consistency": "stale", "at_leaf": leaf, "prefix": "a", "after": "a", "from": leaf, "limit": "1"}
    size = str(int(leaf) + 1)
    values |= {"leaf": leaf, "size": size, "to": size, "receipt": "true", "wait": "false"}
    assert {name for route in ROUTES for name in route.query} == values.keys()
    for route in ROUTES:
        path = path_of(route).partition("?")[0]
        for name, value in values.items():
            if route.method != "GET":
                continue
            needed = {one: values[one] for one in route.needed}
            reply = await shared.call("GET", path, params={**needed, name: value})
            assert (reply.status_code == 200) is (name in route.query), (route.name, name, reply.text)


async def test_what_a_query_needs_is_asked_for_by_name(shared: Rig) -> None:
    for route in ROUTES:
        if route.needed:
            refused = await shared.call(route.method, route.path)
            assert route.needed[0] in assert_problem(refused, 400, "bad_request")["detail"]


def _check(schema: dict[str, Any], value: Any, schemas: dict[str, Any]) -> None:
    """As much of JSON Schema as these answers need."""
    if "$ref" in schema:
        return _check(schemas[schema["$ref"].rpartition("/")[2]], value, schemas)
    if "const" in schema:
        assert value == schema["const"]
        return None
    if "enum" in schema:
        assert value in schema["enum"]
    types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}
    actual = {name for name, kind in kinds.items() if isinstance(value, kind)}
    if isinstance(value, int | float) and not isinstance(value, bool):
        actual |= {"number"} | ({"integer"} if isinstance(value, int) else set())
    assert actual & set(types), (schema, value)
    if isinstance(value, dict) and "properties" in schema:
        assert set(schema.get("required", ())) <= value.keys() <= schema["properties"].keys()
        for name, member in value.items():
            _check(schema["properties"][name], member, schemas)
    if isinstance(value, list) and "items" in schema:
        for item in value:
            _check(schema["items"], item, schemas)
    if isinstance(value, str) and "pattern" in schema:
        assert re.search(schema["pattern"], value)
    return None


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
async def test_answers_have_the_documented_shape(shared: Rig, document: dict[str, Any], route: Route) -> None:
    operation = document["paths"][route.path][route.method.lower()]
    content = operation["responses"]["200"]["content"]
    if "application/json" not in content:
        assert set(content) & {"application/octet-stream", "text/plain", "application/vnd.oai.openapi+json"}
        return
    await shared.call("PUT", "/kv/a")
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("example")
    if route.name == "write_batch":
        for key in "abc":
            await shared.call("DELETE", f"/kv/{key}")
        await shared.call("PUT", "/kv/c")
    reply = await shared.call(route.method, path_of(route), **({"json": body} if body else {}))
    assert reply.status_code == 200, reply.text
    _check(content["application/json"]["schema"], reply.json(), document["components"]["schemas"])


def test_what_a_setting_opens_is_documented_as_it_is_guarded() -> None:
    for access, path in ((Access.METRICS, "/metrics"), (Access.LOG, "/log/checkpoint")):
        guarded = describe("0.1.0", frozenset({Access.NOBODY}))["paths"][path]["get"]
        opened = describe("0.1.0", frozenset({Access.NOBODY, access}))["paths"][path]["get"]
        assert guarded["security"]
        assert "401" in guarded["responses"]
        assert opened["security"] == []
        assert "401" not in opened["responses"]


async def test_the_document_follows_the_settings() -> None:
    async with running(metrics_access="metrics", public=True) as rig:
        served = (await rig.call("GET", "/openapi.json", key=None)).json()
    assert served == describe("0.1.0", frozenset({Access.NOBODY, Access.LOG}))
