"""Keys come from the raw path, decoded once and never normalised; the short form keeps off the routes' names."""

from __future__ import annotations

import pytest
from http_rig import Rig, assert_problem

from appliance.http.routes import NOT_SERVED_YET, PLAIN_ROUTES, RESERVED

pytestmark = pytest.mark.anyio

# raw path behind /kv/ (and behind / where the short form takes it) -> key
TORTURE = {
    b"plain": "plain",
    b"a//b": "a//b",
    b"a/": "a/",
    b"a//": "a//",
    b"/": "/",
    b"//": "//",
    b"/a": "/a",
    b".": ".",
    b"..": "..",
    b"../a": "../a",
    b"a/./b/../c": "a/./b/../c",
    b"a%2Fb": "a/b",
    b"a%2fb%2F": "a/b/",
    b"%2e%2E": "..",
    b"a%252Fb": "a%2Fb",
    b"%25": "%",
    b"a+b": "a+b",
    b"a%20b": "a b",
    b"a%3Fb%23c": "a?b#c",
    b"a;b=c,d": "a;b=c,d",
    b"a&b=c": "a&b=c",
    b"a:b@c!$'()*~_-": "a:b@c!$'()*~_-",
    b'a"b<c>[d]{e}|f\\g^h`i': 'a"b<c>[d]{e}|f\\g^h`i',
    b"%C3%A9": "é",
    "é/日本".encode(): "é/日本",
    b"e%CC%81": "e\u0301",
    b"%F0%9F%97%9D": "🗝",
    b"http://other/x": "http://other/x",
    b"%E2%80%AE": "\u202e",
    b"x" * 1024: "x" * 1024,
    b"%78" * 1024: "x" * 1024,
}
BAD = {
    b"": "empty",
    b"%00": "control",
    b"a%0Ab": "control",
    b"%7F": "control",
    b"%C2%85": "control",
    b"%FF": "UTF-8",
    b"\xff": "UTF-8",
    b"%C3": "UTF-8",
    b"%ED%A0%80": "UTF-8",
    b"%C0%AF": "UTF-8",
    b"x" * 1025: "1024",
    "é".encode() * 513: "1024",
    b"%": "%25",
    b"a%2": "%25",
    b"%zz": "%25",
    b"100%": "%25",
}


def _ids(table: dict[bytes, str]) -> list[str]:
    return [repr(raw[:20]) + f"~{len(raw)}" for raw in table]


@pytest.mark.parametrize(("raw", "key"), TORTURE.items(), ids=_ids(TORTURE))
async def test_a_key_is_the_raw_path_decoded_once(shared: Rig, raw: bytes, key: str) -> None:
    put = await shared.raw(b"PUT", b"/kv/" + raw, body=raw)
    assert (put.status, put.json()["key"]) == (200, key)
    for path in (b"/kv/" + raw, b"/kv/" + b"".join(b"%%%02X" % byte for byte in key.encode()), b"/" + raw):
        if path == b"/":
            continue
        got = await shared.raw(b"GET", path)
        assert (got.status, got.body) == (200, raw), path
    history = await shared.raw(b"GET", b"/history/" + raw)
    assert history.json()["key"] == key


@pytest.mark.parametrize(("raw", "named"), BAD.items(), ids=_ids(BAD))
@pytest.mark.parametrize("prefix", [b"/kv/", b"/history/", b"/verify/", b"/log/proof/file/"])
async def test_what_is_no_key_is_refused(shared: Rig, prefix: bytes, raw: bytes, named: str) -> None:
    for path in (prefix + raw, b"/" + raw if raw else prefix):
        refused = await shared.raw(b"GET", path)
        assert named in assert_problem(refused, 400, "bad_key")["detail"]


async def test_what_is_no_key_is_told_only_to_those_who_may_ask(shared: Rig) -> None:
    for path in (b"/kv/%FF", b"/%FF", b"/history/%FF"):
        assert_problem(await shared.raw(b"GET", path, key=b"unknown"), 401, "unauthenticated")


async def test_the_root_points_to_the_description(shared: Rig) -> None:
    assert "/openapi.json" in assert_problem(await shared.raw(b"GET", b"/"), 404, "not_found")["detail"]


SHORT_FORM_ON_A_ROUTE = [
    (method, f"/{segment}{rest}")
    for segment in sorted(RESERVED)
    for rest in ("", "/", "/x", "%2Fx", "//")
    for method in ("PUT", "GET", "DELETE")
    if not f"/{segment}{rest}".startswith(("/kv/", "/history/", "/verify/"))
    and (method, f"/{segment}{rest}") not in {(route.method, route.path) for route in PLAIN_ROUTES}
]


@pytest.mark.parametrize(("method", "path"), SHORT_FORM_ON_A_ROUTE)
async def test_the_short_form_leaves_the_names_of_routes_alone(shared: Rig, method: str, path: str) -> None:
    refused = await shared.raw(method.encode(), path.encode())
    later = method == "GET" and path.replace("%2F", "/").split("/")[1] in NOT_SERVED_YET
    document = assert_problem(refused, *((404, "not_found") if later else (400, "bad_key")))
    assert "/kv/" in document["detail"]


async def test_a_name_that_only_begins_like_a_route_is_a_key(shared: Rig) -> None:
    for name in ("kvx", "healthy", "batch2", "Health", "KV/a", "openapi.jsonx", "%20kv/a"):
        assert (await shared.raw(b"PUT", b"/" + name.encode())).status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/admin/backup",
        "/audit/reports",
        "/audit/reports/x",
    ],
)
async def test_routes_of_later_versions_are_absent_and_say_so(shared: Rig, path: str) -> None:
    assert "no such route" in assert_problem(await shared.call("GET", path), 404, "not_found")["detail"]


@pytest.mark.parametrize("path", ["/admin/reload", "/admin/none", "/cluster/nodes/none", "/audit/none"])
async def test_actions_of_later_versions_are_absent_and_say_so(shared: Rig, path: str) -> None:
    refused = await shared.call("POST", path, json={"node_id": 4})
    assert "no such route" in assert_problem(refused, 404, "not_found")["detail"]
