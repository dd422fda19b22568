"""Single keys over HTTP: write, read, delete, list, history, conditions, idempotency."""

from __future__ import annotations

import httpx
import pytest
from http_rig import Rig, assert_problem, fresh_key, running
from http_stubs import NOW_US

from appliance.http.wire import rfc3339
from appliance.ledger.encoding import value_hash
from appliance.tables.errors import ApplianceError

pytestmark = pytest.mark.anyio


async def test_a_put_answers_where_it_went_and_a_get_reads_it_back(rig: Rig) -> None:
    put = await rig.call("PUT", "/kv/a", content=b"\x00\xff value", key="write")
    assert put.status_code == 200
    assert put.json() == {
        "status": "ok",
        "key": "a",
        "version": 1,
        "index": 1,
        "term": 7,
        "leaf_index": 0,
        "timestamp": "2026-11-23T19:25:31.123457Z",
    }
    got = await rig.call("GET", "/kv/a", key="read")
    assert got.content == b"\x00\xff value"
    assert (got.headers["etag"], got.headers["scribe-leaf-index"]) == ('"1"', "0")
    assert got.headers["content-type"] == "application/octet-stream"
    leaf = rig.node.store.leaf(0)
    assert leaf is not None
    salt = bytes.fromhex(got.headers["scribe-salt"])
    assert value_hash(salt, got.content).encode() in leaf.leaf
    assert rig.node.requests[0].actor == "write"
    assert rig.node.requests[0].request_id == put.headers["x-request-id"]


@pytest.mark.parametrize(
    "content_type", [None, "application/json", "application/x-www-form-urlencoded", "text/plain", "nonsense"]
)
async def test_any_content_type_or_none_is_taken_as_raw_bytes(shared: Rig, content_type: str | None) -> None:
    key = fresh_key()
    headers = {} if content_type is None else {"content-type": content_type}
    put = await shared.call("PUT", f"/kv/{key}", content=b"a=1&b=%20", headers=headers)
    assert put.status_code == 200
    assert (await shared.call("GET", f"/kv/{key}")).content == b"a=1&b=%20"


async def test_an_empty_value_is_a_value(shared: Rig) -> None:
    key = fresh_key()
    assert (await shared.call("PUT", f"/kv/{key}")).status_code == 200
    got = await shared.call("GET", f"/kv/{key}")
    assert (got.status_code, got.content) == (200, b"")


async def test_a_delete_leaves_404_and_versions_go_on_counting(shared: Rig) -> None:
    key = fresh_key()
    await shared.call("PUT", f"/kv/{key}", content=b"1")
    deleted = await shared.call("DELETE", f"/kv/{key}")
    assert deleted.json()["version"] == 2
    assert_problem(await shared.call("GET", f"/kv/{key}"), 404, "not_found")
    assert_problem(await shared.call("DELETE", f"/kv/{key}"), 404, "not_found")
    assert (await shared.call("PUT", f"/kv/{key}", content=b"3")).json()["version"] == 3


async def test_a_list_is_paged_in_key_order_and_filtered(rig: Rig) -> None:
    for key in ("b", "p/2", "p/1", "p/10", "é", "p/3"):
        await rig.call("PUT", f"/kv/{key}", content=b"xy")
    first = (await rig.call("GET", "/kv", params={"prefix": "p/", "limit": "3"}, key="read")).json()
    assert [item["key"] for item in first["items"]] == ["p/1", "p/10", "p/2"]
    assert first["next"] == "p/2"
    assert first["items"][0] == {
        "key": "p/1",
        "version": 1,
        "leaf_index": 2,
        "size": 2,
        "timestamp": rfc3339(NOW_US + 3),
    }
    rest = (await rig.call("GET", "/kv", params={"prefix": "p/", "after": first["next"]})).json()
    assert ([item["key"] for item in rest["items"]], rest["next"]) == (["p/3"], None)
    everything = (await rig.call("GET", "/kv")).json()
    assert [item["key"] for item in everything["items"]] == ["b", "p/1", "p/10", "p/2", "p/3", "é"]


async def test_history_is_newest_first_paged_and_holds_the_deletes(rig: Rig) -> None:
    for value in (b"1", b"22"):
        await rig.call("PUT", "/kv/a", content=value, key="write")
    await rig.call("DELETE", "/kv/a")
    page = (await rig.call("GET", "/history/a?limit=2", key="read")).json()
    assert [(v["version"], v["op"], v["actor"], v["size"]) for v in page["versions"]] == [
        (3, "delete", "admin", 0),
        (2, "put", "write", 2),
    ]
    assert page["key"] == "a"
    assert page["versions"][0]["value_hash"] is None
    assert page["versions"][1]["timestamp"] == rfc3339(NOW_US + 2)
    rest = (await rig.call("GET", f"/history/a?from={page['next']}")).json()
    assert ([v["version"] for v in rest["versions"]], rest["next"]) == ([1], None)
    assert_problem(await rig.call("GET", "/history/never"), 404, "not_found")


async def test_stale_reads_do_not_ask_the_quorum(rig: Rig) -> None:
    await rig.call("PUT", "/kv/a", content=b"1")
    rig.node.fault = ApplianceError("no_quorum", "Two of three nodes are gone.")
    for path in ("/kv/a", "/kv", "/history/a"):
        assert (await rig.call("GET", f"{path}?consistency=stale")).status_code == 200
        for query in ("", "?consistency=linearizable"):
            refused = await rig.call("GET", path + query)
            assert_problem(refused, 503, "no_quorum")
            assert refused.headers["retry-after"] == "1"


async def test_a_leaf_beyond_the_tree_is_refused(shared: Rig) -> None:
    assert_problem(await shared.call("GET", "/kv/a?at_leaf=999999"), 400, "leaf_out_of_range")


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("/kv/a?receipt=true", "receipt"),
        ("/kv/a?consistency=eventual", "eventual"),
        ("/kv/a?consistency=stale&consistency=stale", "more than once"),
        ("/kv/a?at_leaf=-1", "at_leaf"),
        ("/kv/a?at_leaf=1e3", "at_leaf"),
        ("/kv/a?at_leaf=99999999999999999999", "at_leaf"),
        ("/kv/a?at_leaf=%D9%A1", "at_leaf"),
        ("/kv?limit=0", "1 to 1000"),
        ("/kv?limit=1001", "1 to 1000"),
        ("/kv?limit=", "limit"),
        ("/kv?prefx=a", "prefx"),
        ("/kv?prefix=" + "a" * 1025, "prefix"),
        ("/kv?prefix=%ff", "UTF-8"),
        ("/kv?prefix", "name=value"),
        ("/kv?" + "&".join(f"a{n}=1" for n in range(40)), "name=value"),
        ("/history/a?after=b", "after"),
        ("/history/a?from=x", "from"),
        ("/health?verbose=1", "verbose"),
        ("/metrics?x=1", "x"),
        ("/cluster/info?x=1", "x"),
        ("/openapi.json?x=1", "x"),
    ],
)
async def test_a_query_that_is_not_known_is_refused_by_name(shared: Rig, path: str, named: str) -> None:
    assert named in assert_problem(await shared.call("GET", path), 400, "bad_request")["detail"]


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
async def test_writes_take_no_query(shared: Rig, method: str) -> None:
    assert_problem(await shared.call(method, "/kv/a?consistency=stale"), 400, "bad_request")


async def test_conditions_hold_or_answer_412_with_the_version(shared: Rig) -> None:
    key = fresh_key()
    absent = {"if-none-match": "*"}
    assert (await shared.call("PUT", f"/kv/{key}", headers=absent)).status_code == 200
    again = assert_problem(await shared.call("PUT", f"/kv/{key}", headers=absent), 412, "condition_failed")
    assert again["current_version"] == 1
    assert "version 1" in again["detail"]
    assert (await shared.call("PUT", f"/kv/{key}", headers={"if-match": '"1"'})).json()["version"] == 2
    assert_problem(await shared.call("DELETE", f"/kv/{key}", headers={"if-match": '"1"'}), 412, "condition_failed")
    assert (await shared.call("DELETE", f"/kv/{key}", headers={"if-match": '"2"'})).json()["version"] == 3
    gone = await shared.call("PUT", f"/kv/{key}", headers={"if-match": '"3"'})
    assert "absent" in assert_problem(gone, 412, "condition_failed")["detail"]
    assert (await shared.call("PUT", f"/kv/{key}", headers=absent)).json()["version"] == 4


@pytest.mark.parametrize(
    ("method", "headers", "named"),
    [
        ("PUT", {"if-match": 'W/"1"'}, "weak"),
        ("PUT", {"if-match": '"1", "2"'}, "list"),
        ("PUT", {"if-match": "1"}, "quotes"),
        ("PUT", {"if-match": '"0"'}, "version"),
        ("PUT", {"if-match": '"01"'}, "version"),
        ("PUT", {"if-match": '"9999999999999999"'}, "version"),
        ("PUT", {"if-match": "*"}, "version"),
        ("PUT", {"if-match": ""}, "version"),
        ("PUT", {"if-none-match": '"1"'}, "If-None-Match: *"),
        ("PUT", {"if-match": '"1"', "if-none-match": "*"}, "contradict"),
        ("DELETE", {"if-none-match": "*"}, "If-None-Match"),
        ("DELETE", {"if-match": 'W/"1"'}, "weak"),
    ],
)
async def test_a_condition_that_cannot_be_meant_is_refused(
    shared: Rig, method: str, headers: dict[str, str], named: str
) -> None:
    refused = await shared.call(method, "/kv/conditions", headers=headers)
    assert named in assert_problem(refused, 400, "bad_request")["detail"]


@pytest.mark.parametrize("name", [b"if-match", b"if-none-match", b"idempotency-key"])
async def test_a_header_that_decides_may_not_come_twice(shared: Rig, name: bytes) -> None:
    value = {b"if-match": b'"1"', b"if-none-match": b"*", b"idempotency-key": b"i"}[name]
    refused = await shared.raw(b"PUT", b"/kv/twice", (name + b": " + value, name + b": " + value))
    assert "more than once" in assert_problem(refused, 400, "bad_request")["detail"]


class TestIdempotency:
    @staticmethod
    def key(name: str) -> dict[str, str]:
        return {"idempotency-key": name}

    async def test_the_first_answer_comes_again_and_is_marked(self, rig: Rig) -> None:
        first = await rig.call("PUT", "/kv/a", content=b"1", headers=self.key("x"))
        again = await rig.call("PUT", "/kv/a", content=b"1", headers=self.key("x"))
        assert "idempotency-replayed" not in first.headers
        assert again.headers["idempotency-replayed"] == "true"
        assert (again.status_code, again.json()) == (200, first.json())
        assert rig.node.machine.tree_size == 1

    async def test_refusals_come_again_too(self, rig: Rig) -> None:
        for method, headers, status in (("DELETE", {}, 404), ("PUT", {"if-match": '"5"'}, 412)):
            both = [await rig.call(method, "/kv/a", headers={**headers, **self.key(method)}) for _ in range(2)]
            assert [reply.status_code for reply in both] == [status, status]
            assert [reply.headers.get("idempotency-replayed") for reply in both] == [None, "true"]

    @pytest.mark.parametrize(
        ("method", "path", "headers", "body"),
        [
            ("PUT", "/kv/a", {}, b"2"),
            ("PUT", "/kv/b", {}, b"1"),
            ("PUT", "/kv/a", {"if-none-match": "*"}, b"1"),
            ("PUT", "/kv/a", {"if-match": '"1"'}, b"1"),
            ("DELETE", "/kv/a", {}, b""),
        ],
        ids=["body", "key", "if-none-match", "if-match", "method"],
    )
    async def test_another_request_under_the_same_key_is_refused(
        self, shared: Rig, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> None:
        name = fresh_key()
        assert (await shared.call("PUT", "/kv/a", content=b"1", headers=self.key(name))).status_code == 200
        other = await shared.call(method, path, content=body, headers={**headers, **self.key(name)})
        assert_problem(other, 422, "idempotency_mismatch")

    async def test_keys_belong_to_their_actor_and_forms_of_the_path_are_one_request(self, rig: Rig) -> None:
        for key, path in (("write", "/kv/a"), ("admin", "/kv/a"), ("admin", "/a"), ("admin", "/kv/%61")):
            assert (await rig.call("PUT", path, key=key, content=b"1", headers=self.key("x"))).status_code == 200
        assert rig.node.machine.tree_size == 2

    async def test_no_more_keys_than_there_is_room(self) -> None:
        async with running(answers_max=1) as rig:
            assert (await rig.call("PUT", "/kv/a", headers=self.key("x"))).status_code == 200
            full = await rig.call("PUT", "/kv/a", headers=self.key("y"))
            assert_problem(full, 503, "idempotency_full")
            assert full.headers["retry-after"] == "60"

    @pytest.mark.parametrize("value", [b"", b"i" * 129, b"\xff\xfe"], ids=["empty", "long", "binary"])
    async def test_a_bad_key_is_refused(self, shared: Rig, value: bytes) -> None:
        refused = await shared.raw(b"PUT", b"/kv/a", (b"idempotency-key: " + value,))
        assert_problem(refused, 400, "bad_request")


async def test_methods_that_are_not_there_answer_405_with_those_that_are(shared: Rig) -> None:
    table = {
        ("POST", "/kv/a"): "PUT, GET, DELETE",
        ("PATCH", "/a"): "PUT, GET, DELETE",
        ("DELETE", "/history/a"): "GET",
        ("OPTIONS", "/kv"): "GET",
        ("PATCH", "/batch"): "POST",
        ("OPTIONS", "/audit/query"): "POST",
        ("POST", "/health"): "GET",
    }
    for (method, path), allowed in table.items():
        refused = await shared.call(method, path)
        assert refused.headers["allow"] == allowed
        assert_problem(refused, 405, "method_not_allowed")


async def test_the_client_is_answered_in_its_own_words(shared: Rig) -> None:
    """X-Request-Id is the client's where it is sane, and ours where it is not."""
    for given, kept in (
        (b"abc-1", True),
        (b"i" * 128, True),
        (b"i" * 129, False),
        (b"a b", False),
        (b"\xc3\xa9", False),
    ):
        reply = await shared.raw(b"PUT", b"/kv/a", (b"x-request-id: " + given,))
        assert (reply.headers["x-request-id"].encode("latin-1") == given) is kept
        assert shared.node.requests[-1].request_id == reply.headers["x-request-id"]
    absent = {(await shared.call("GET", "/health")).headers["x-request-id"] for _ in range(3)}
    assert len(absent) == 3


async def test_a_response_says_no_more_than_it_has_to(shared: Rig) -> None:
    reply: httpx.Response = await shared.call("GET", "/health")
    assert "server" not in reply.headers
    assert "date" in reply.headers


@pytest.mark.parametrize("path", ["/kv/a", "/a", "/kv?limit=1", "/health", "/history/a", "/kv/absent"])
async def test_head_is_get_without_the_body(rig: Rig, path: str) -> None:
    await rig.call("PUT", "/kv/a", content=b"12345")
    got, headed = await rig.call("GET", path), await rig.call("HEAD", path)
    assert headed.content == b""
    assert headed.status_code == got.status_code
    varying = {"date", "x-request-id"}
    if got.status_code == 200:  # a problem document's request id is part of its length
        assert headed.headers["content-length"] == str(len(got.content))
    for name in got.headers.keys() - varying - {"content-length"}:
        assert headed.headers[name] == got.headers[name]
