"""Whatever bodies, queries, headers and paths come: never a 500, always one of the documented shapes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from http_rig import Reply, Rig, path_of, running
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.http.openapi import describe
from appliance.http.route import Route
from appliance.http.routes import CHANGE_ROUTES, ROUTES
from appliance.tables.roles import Access

EXAMPLES = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


class Stepped:
    """A client port on an event loop that hypothesis, which knows no coroutines, steps by hand."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._context = running()
        self._rig: Rig = self._loop.run_until_complete(self._context.__aenter__())

    def raw(self, method: bytes, target: bytes, headers: tuple[bytes, ...] = (), body: bytes = b"") -> Reply:
        return self._loop.run_until_complete(self._rig.raw(method, target, headers, body))

    def close(self) -> None:
        self._loop.run_until_complete(self._context.__aexit__(None, None, None))
        self._loop.close()


@pytest.fixture(scope="module")
def stepped() -> Iterator[Stepped]:
    stepped = Stepped()
    yield stepped
    stepped.close()


DOCUMENTED = {
    (method.upper(), path): {int(status) for status in operation["responses"]}
    for path, item in describe("0.1.0", frozenset({Access.NOBODY, Access.METRICS}))["paths"].items()
    for method, operation in item.items()
}


def _hold(reply: Reply, method: str = "", path: str = "") -> None:
    """No 500, the one error shape, and on a route that is known only what it documents."""
    assert reply.status != 500, reply.body
    if path:
        assert reply.status in DOCUMENTED[method, path], reply.body
    if reply.status >= 400:
        assert reply.headers["content-type"] == "application/problem+json"
        assert reply.json()["status"] == reply.status


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = ("op", "key", "value", "value_base64", "if_version", "ttl")
OPERATION = st.dictionaries(
    st.sampled_from(FIELDS),
    st.sampled_from(["put", "delete", "", "QQ==", "a", None, 0, 1, -1, 2**64, 1.5, True]) | JSON,
)
BATCH = st.fixed_dictionaries({"operations": st.lists(OPERATION, max_size=6)}) | JSON
QUERY = st.dictionaries(
    st.sampled_from(["sql", "params", "format", "limit", "x"]), st.sampled_from(["json", 1, 0]) | JSON
)
CHANGE = st.dictionaries(
    st.sampled_from(["node_id", "address", "raft_address", "ttl_seconds", "x"]),
    st.sampled_from([1, 4, 65_535, 65_536, 0, 2**64, 900, 0.5, "h:1", "[::1]:9", "0.0.0.0:1", "h", "", None]) | JSON,
)
VISIBLE = st.characters(min_codepoint=0x21, max_codepoint=0x7E)
TARGET = st.lists(
    st.sampled_from(
        [
            "kv",
            "history",
            "batch",
            "health",
            "metrics",
            "cluster",
            "verify",
            "log",
            "tile",
            "entries",
            "proof/file",
            "0",
            "000",
            "000.p",
            "x001",
            "a",
            "..",
            "",
            "%2F",
            "%00",
            "%",
            "?",
            "&",
            "limit=1",
        ]
    )
    | st.text(VISIBLE.filter(lambda c: c not in " #"), max_size=6),
    max_size=6,
).map("/".join)
HEADER = st.sampled_from(
    [
        "if-match",
        "if-none-match",
        "idempotency-key",
        "x-request-id",
        "traceparent",
        "accept",
        "accept-encoding",
        "authorization",
        "range",
    ]
)


def _encode(value: Any) -> bytes:
    return json.dumps(value).encode()


@EXAMPLES
@given(body=st.binary(max_size=200) | BATCH.map(_encode))
def test_any_body_of_a_batch(stepped: Stepped, body: bytes) -> None:
    _hold(stepped.raw(b"POST", b"/batch", (), body), "POST", "/batch")


@EXAMPLES
@given(body=st.binary(max_size=200) | (QUERY | JSON).map(_encode))
def test_any_body_of_an_audit_query(stepped: Stepped, body: bytes) -> None:
    _hold(stepped.raw(b"POST", b"/audit/query", (), body), "POST", "/audit/query")


@EXAMPLES
@given(
    path=st.sampled_from([route.path for route in CHANGE_ROUTES]),
    body=st.binary(max_size=60) | (CHANGE | JSON).map(_encode),
)
def test_any_body_of_a_change(stepped: Stepped, path: str, body: bytes) -> None:
    _hold(stepped.raw(b"POST", path.encode(), (), body), "POST", path)


@EXAMPLES
@given(
    route=st.sampled_from([route for route in ROUTES if route.method == "GET"]),
    query=st.text(VISIBLE.filter(lambda c: c not in " #"), max_size=40)
    | st.lists(
        st.tuples(
            st.sampled_from(
                ["limit", "after", "prefix", "consistency", "at_leaf", "from", "to", "leaf", "size", "receipt", "x"]
            ),
            st.sampled_from(["", "1", "0", "2", "stale", "%ff", "%F0%9F%97%9D", "-1", "1" * 30, "a+b", "%00"]),
        ),
        max_size=4,
    ).map(lambda pairs: "&".join(f"{name}={value}" for name, value in pairs)),
)
def test_any_query(stepped: Stepped, route: Route, query: str) -> None:
    path = path_of(route).partition("?")[0]
    _hold(stepped.raw(b"GET", f"{path}?{query}".encode()), "GET", route.path)


@EXAMPLES
@given(
    path=st.lists(
        st.sampled_from(["0", "1", "63", "entries", "000", "001", "x000", "x001", "000.p", "1", "2", "255", "256", ""])
        | st.text(VISIBLE.filter(lambda c: c not in " #?"), max_size=4),
        max_size=5,
    ).map("/".join)
)
def test_any_tile(stepped: Stepped, path: str) -> None:
    reply = stepped.raw(b"GET", f"/log/tile/{path}".encode())
    _hold(reply, "GET", "/log/tile/entries/{index}" if path.startswith("entries/") else "/log/tile/{level}/{index}")
    assert reply.status != 404


@EXAMPLES
@given(receipt=st.sampled_from(["true", "false", "", "1", "x"]), body=st.binary(max_size=60) | BATCH.map(_encode))
def test_any_body_of_a_batch_with_a_receipt(stepped: Stepped, receipt: str, body: bytes) -> None:
    _hold(stepped.raw(b"POST", f"/batch?receipt={receipt}".encode(), (), body), "POST", "/batch")


@EXAMPLES
@given(method=st.sampled_from([b"GET", b"PUT", b"DELETE", b"POST", b"PATCH", b"OPTIONS"]), target=TARGET)
def test_any_path(stepped: Stepped, method: bytes, target: str) -> None:
    _hold(stepped.raw(method, b"/" + target.encode()))


@EXAMPLES
@given(
    route=st.sampled_from([route for route in ROUTES if route.keyed or route.cached]),
    headers=st.lists(
        st.tuples(HEADER, st.binary(max_size=40) | st.sampled_from([b'"1"', b"*", b'W/"1"', b'"1","2"', b'"0"'])),
        max_size=4,
    ),
)
def test_any_header(stepped: Stepped, route: Route, headers: list[tuple[str, bytes]]) -> None:
    lines = tuple(
        name.encode() + b": " + value
        for name, value in headers
        if not any(byte < 0x20 or byte == 0x7F for byte in value)
    )
    _hold(stepped.raw(route.method.encode(), path_of(route).encode(), lines), route.method, route.path)
