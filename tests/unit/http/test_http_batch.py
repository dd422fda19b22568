"""POST /batch."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from http_rig import Rig, assert_problem, fresh_key

pytestmark = pytest.mark.anyio


def _put(key: str, **fields: Any) -> dict[str, Any]:
    return {
        "op": "put",
        "key": key,
        **({"value": "v"} if not {"value", "value_base64"} & fields.keys() else {}),
        **fields,
    }


async def _batch(rig: Rig, *operations: Any, **kwargs: Any) -> Any:
    return await rig.call("POST", "/batch", content=json.dumps({"operations": operations}).encode(), **kwargs)


async def test_all_operations_of_a_batch_are_one_group(rig: Rig) -> None:
    await rig.call("PUT", "/kv/gone")
    binary = base64.b64encode(b"\x00\xff").decode()
    done = await _batch(
        rig,
        _put("a", value="é"),
        _put("b", value_base64=binary, if_version=None),
        {"op": "delete", "key": "gone", "if_version": 1},
        _put("a", value="2", if_version=1),
        key="write",
    )
    assert done.status_code == 200
    assert done.json() == {
        "status": "ok",
        "index": 2,
        "term": 7,
        "timestamp": "2026-11-23T19:25:31.123458Z",
        "batch_id": 1,
        "results": [
            {"op": "put", "key": "a", "version": 1, "leaf_index": 1},
            {"op": "put", "key": "b", "version": 1, "leaf_index": 2},
            {"op": "delete", "key": "gone", "version": 2, "leaf_index": 3},
            {"op": "put", "key": "a", "version": 2, "leaf_index": 4},
        ],
    }
    assert (await rig.call("GET", "/kv/b")).content == b"\x00\xff"
    assert rig.node.requests[-1].batch is True


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "text/plain", "application/json"])
async def test_a_batch_is_taken_under_any_content_type(shared: Rig, content_type: str) -> None:
    done = await _batch(shared, _put(fresh_key()), headers={"content-type": content_type})
    assert done.status_code == 200


@pytest.mark.parametrize(
    ("second", "status", "code"),
    [
        (_put("b", if_version=3), 412, "condition_failed"),
        (_put("taken", if_version=0), 412, "condition_failed"),
        ({"op": "delete", "key": "b"}, 404, "not_found"),
    ],
    ids=["version", "must be absent", "delete of nothing"],
)
async def test_one_refused_operation_refuses_all_and_is_named(
    rig: Rig, second: dict[str, Any], status: int, code: str
) -> None:
    await rig.call("PUT", "/kv/taken")
    refused = await _batch(rig, _put("a"), second)
    assert "operation 1 of the batch" in assert_problem(refused, status, code)["detail"]
    assert rig.node.machine.tree_size == 1


BAD: dict[str, tuple[Any, int, str, str]] = {
    "not json": (b"{", 400, "bad_request", "cannot be read"),
    "empty": (b"", 400, "bad_request", "cannot be read"),
    "not utf-8": (b'{"operations":"\xff"}', 400, "bad_request", "cannot be read"),
    "an array": (b"[]", 400, "bad_request", "object"),
    "no operations": ({"operations": []}, 400, "bad_request", "no operations"),
    "operations missing": ({}, 400, "bad_request", "operations"),
    "unknown field": ({"operations": [], "x": 1}, 400, "bad_request", "`x`"),
    "unknown field of an operation": ({"operations": [_put("a", ttl=1)]}, 400, "bad_request", "`ttl`"),
    "unknown op": ({"operations": [{"op": "incr", "key": "a"}]}, 400, "bad_request", "'incr'"),
    "no op": ({"operations": [{"key": "a", "value": "1"}]}, 400, "bad_request", "`op`"),
    "no key": ({"operations": [{"op": "delete"}]}, 400, "bad_request", "`key`"),
    "key is a number": ({"operations": [{"op": "delete", "key": 1}]}, 400, "bad_request", "`int`"),
    "both values": ({"operations": [_put("a", value="", value_base64="")]}, 400, "bad_request", "either"),
    "no value": ({"operations": [{"op": "put", "key": "a"}]}, 400, "bad_request", "either"),
    "value null": ({"operations": [_put("a", value=None)]}, 400, "bad_request", "`null`"),
    "value an object": ({"operations": [_put("a", value={})]}, 400, "bad_request", "`object`"),
    "delete with a value": ({"operations": [{"op": "delete", "key": "a", "value": ""}]}, 400, "bad_request", "`value`"),
    "base64 with a stray character": ({"operations": [_put("a", value_base64="A*==")]}, 400, "bad_request", "Base64"),
    "base64 without padding": ({"operations": [_put("a", value_base64="AAE")]}, 400, "bad_request", "Base64"),
    "base64 not ascii": ({"operations": [_put("a", value_base64="é")]}, 400, "bad_request", "Base64"),
    "if_version negative": ({"operations": [_put("a", if_version=-1)]}, 400, "bad_request", ">= 0"),
    "if_version true": ({"operations": [_put("a", if_version=True)]}, 400, "bad_request", "`bool`"),
    "if_version text": ({"operations": [_put("a", if_version="1")]}, 400, "bad_request", "`str`"),
    "if_version huge": ({"operations": [_put("a", if_version=2**70)]}, 400, "bad_request", "if_version"),
    "delete of what must be absent": (
        {"operations": [{"op": "delete", "key": "a", "if_version": 0}]},
        400,
        "bad_request",
        "absent",
    ),
    "key empty": ({"operations": [_put("")]}, 400, "bad_key", "Operation 0"),
    "key too long": ({"operations": [_put("a"), _put("k" * 1025)]}, 400, "bad_key", "Operation 1"),
    "key with a control character": ({"operations": [_put("a\n")]}, 400, "bad_key", "control"),
    "key half a pair": (b'{"operations":[{"op":"delete","key":"\\ud800"}]}', 400, "bad_request", "cannot be read"),
    "value half a pair": (b'{"operations":[{"op":"put","key":"a","value":"\\ud800"}]}', 400, "bad_request", "be read"),
    "value too large": ({"operations": [_put("a", value="v" * 4097)]}, 413, "too_large", "max_value_size"),
    "base64 too large": (
        {"operations": [_put("a", value_base64=base64.b64encode(b"v" * 4097).decode())]},
        413,
        "too_large",
        "max_value_size",
    ),
    "too many operations": ({"operations": [_put("a")] * 6}, 413, "too_large", "max_batch_operations"),
    "deeply nested": (b"[" * 100_000, 400, "bad_request", "cannot be read"),
}


@pytest.mark.parametrize(("body", "status", "code", "named"), BAD.values(), ids=BAD.keys())
async def test_a_batch_that_cannot_be_meant_is_refused(
    shared: Rig, body: Any, status: int, code: str, named: str
) -> None:
    before = len(shared.node.requests)
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    refused = await shared.call("POST", "/batch", content=content)
    assert named in assert_problem(refused, status, code)["detail"]
    assert len(shared.node.requests) == before


@pytest.mark.parametrize("header", ["if-match", "if-none-match"])
async def test_a_batch_takes_no_condition_in_its_head(shared: Rig, header: str) -> None:
    refused = await _batch(shared, _put("a"), headers={header: "*"})
    assert "if_version" in assert_problem(refused, 400, "bad_request")["detail"]


async def test_a_batch_is_replayed_whole_or_refused(rig: Rig) -> None:
    head = {"idempotency-key": "x"}
    first, again = [await _batch(rig, _put("a"), _put("b"), headers=head) for _ in range(2)]
    assert again.json() == first.json()
    assert again.headers["idempotency-replayed"] == "true"
    assert rig.node.machine.tree_size == 2
    assert_problem(await _batch(rig, _put("b"), _put("a"), headers=head), 422, "idempotency_mismatch")
