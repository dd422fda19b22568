"""Writes that ask for a receipt: the proof in the answer, and a write that is done whatever becomes of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import pytest
from http_log_stub import LOG_KEY
from http_rig import Rig, assert_problem, running, until

from appliance.ledger.encoding import decode_leaf
from appliance.ledger.merkle import leaf_hash, verify_inclusion
from appliance.ledger.note import format_verifier_key
from appliance.tables.errors import ApplianceError
from tests.log_client import LogClient

pytestmark = pytest.mark.anyio

OPERATIONS = [{"op": "put", "key": "b0", "value": "x"}, {"op": "put", "key": "b1", "value": "y"}]
BATCH = {"operations": [*OPERATIONS, {"op": "delete", "key": "b0"}]}
WAYS = ["/kv/a", "/a", "/batch"]


async def write(rig: Rig, path: str, query: str = "?receipt=true", **kwargs: Any) -> Any:
    if path == "/batch":
        return await rig.call("POST", path + query, json=BATCH, **kwargs)
    return await rig.call("PUT", path + query, content=b"value", **kwargs)


def leaves_of(answer: dict[str, Any]) -> list[int]:
    return [answer["leaf_index"]] if "leaf_index" in answer else [one["leaf_index"] for one in answer["results"]]


def hold_to(answer: dict[str, Any]) -> dict[str, Any]:
    """See that a receipt proves each operation of its write, with the key of the log alone; answers it."""
    receipt: dict[str, Any] = answer["receipt"]
    assert list(receipt) == ["tree_size", "root_hash", "checkpoint", "inclusion"]
    client = LogClient(lambda path: b"", format_verifier_key(LOG_KEY.verifier_key))
    checkpoint = client.opened(receipt["checkpoint"].encode())
    assert (receipt["tree_size"], receipt["root_hash"]) == (checkpoint.size, checkpoint.root.hex())
    assert [one["leaf_index"] for one in receipt["inclusion"]] == leaves_of(answer)
    for one in receipt["inclusion"]:
        path = [bytes.fromhex(sibling) for sibling in one["siblings"]]
        own_hash = leaf_hash(one["leaf"].encode())
        assert verify_inclusion(own_hash, one["leaf_index"], checkpoint.size, path, checkpoint.root)
    return receipt


@pytest.mark.parametrize("follows", [False, True], ids=["leads", "follows"])
@pytest.mark.parametrize("path", WAYS)
async def test_a_receipt_proves_what_was_written(rig: Rig, path: str, follows: bool) -> None:
    rig.node.follows = follows
    for n in range(5):
        await rig.call("PUT", f"/kv/before{n}")
    plain = (await write(rig, path, "")).json()
    reply = await write(rig, path)
    answer = reply.json()
    assert reply.status_code == 200
    assert answer.keys() == {*plain, "receipt"}
    receipt = hold_to(answer)
    keys = [decode_leaf(one["leaf"].encode()).key for one in receipt["inclusion"]]
    assert keys == (["b0", "b1", "b0"] if path == "/batch" else ["a"])
    assert (await write(rig, path, "?receipt=false")).json().keys() == plain.keys()


@pytest.mark.parametrize("path", WAYS)
async def test_without_a_checkpoint_in_time_the_write_is_done_all_the_same(rig: Rig, path: str) -> None:
    rig.node.published_max = 0
    reply = await write(rig, path)
    answer = reply.json()
    assert reply.status_code == 200
    assert answer["status"] == "ok"
    assert answer["receipt"] is None
    error = answer["receipt_error"]
    assert error["code"] == "not_published"
    assert error["detail"]
    assert rig.node.machine.tree_size == len(leaves_of(answer))
    rig.node.published_max = None
    proof = await rig.call("GET", error["url"])
    assert proof.status_code == 200
    assert proof.json()["leaf_index"] == leaves_of(answer)[0]


@pytest.mark.parametrize("path", WAYS)
async def test_a_fault_in_proving_is_logged_and_no_failure_of_the_write(rig: Rig, path: str) -> None:
    rig.node.log_fault = RuntimeError("secret internals")
    reply = await write(rig, path)
    assert reply.status_code == 200
    assert reply.json()["receipt_error"]["code"] == "internal"
    assert "secret" not in reply.text
    (line,) = rig.log.of("http.error")
    assert line["error"] is rig.node.log_fault
    assert line["request_id"] == reply.headers["x-request-id"]


@pytest.mark.parametrize("path", WAYS)
async def test_a_refused_write_has_neither(rig: Rig, path: str) -> None:
    rig.node.fault = ApplianceError("no_quorum", "Nobody is there.")
    assert "receipt" not in assert_problem(await write(rig, path), 503, "no_quorum")
    rig.node.fault = None
    if path != "/batch":
        await write(rig, path, "")
        refused = await write(rig, path, headers={"if-none-match": "*"})
        assert "receipt" not in assert_problem(refused, 412, "condition_failed")


@pytest.mark.parametrize("path", WAYS)
async def test_a_retry_gets_the_receipt_of_the_write_that_was_done(rig: Rig, path: str) -> None:
    """Whether a receipt is asked for is no part of the request that an idempotency key is bound to."""
    head = {"idempotency-key": "once"}
    first = (await write(rig, path, "", headers=head)).json()
    await rig.call("PUT", "/kv/between")
    again = await write(rig, path, headers=head)
    assert again.headers["idempotency-replayed"] == "true"
    answer = again.json()
    hold_to(answer)
    assert {name: value for name, value in answer.items() if name != "receipt"} == first


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("PUT", "/kv/a?receipt=maybe"),
        ("PUT", "/kv/a?receipt="),
        ("PUT", "/kv/a?receipt=true&receipt=true"),
        ("PUT", "/kv/a?receipts=true"),
        ("PUT", "/a?receipt=1"),
        ("POST", "/batch?receipt=TRUE"),
        ("DELETE", "/kv/a?receipt=true"),
        ("GET", "/kv/a?receipt=true"),
    ],
)
async def test_anything_else_is_refused_before_anything_is_written(rig: Rig, method: str, target: str) -> None:
    assert "receipt" in assert_problem(await rig.call(method, target, json=BATCH), 400, "bad_request")["detail"]
    assert rig.node.requests == []


@pytest.mark.parametrize("path", WAYS)
async def test_the_wait_for_a_receipt_is_no_latency(path: str) -> None:
    async with running(frozen=True) as rig:
        rig.node.log_hold = asyncio.Event()
        waiting = asyncio.create_task(write(rig, path))
        await until(lambda: rig.node.proving == 1)
        assert rig.clock.at_s is not None
        rig.clock.at_s += 4.0
        rig.node.log_hold.set()
        hold_to((await waiting).json())
        op = "batch" if path == "/batch" else "put"
        assert rig.metric(f'scribe_request_latency_seconds_sum{{op="{op}"}}') == 0.0
        assert rig.metric(f'scribe_request_latency_seconds_count{{op="{op}"}}') == 1.0
        assert rig.log.of("http.slow") == []


@pytest.mark.parametrize("path", WAYS)
async def test_a_server_that_stops_tells_that_the_write_is_done(path: str) -> None:
    async with running() as rig:
        rig.node.log_hold = asyncio.Event()
        waiting = asyncio.create_task(write(rig, path))
        await until(lambda: rig.node.proving == 1)
        await rig.server.stop(0.05)
        answer = (await waiting).json()
        assert answer["status"] == "ok"
        assert answer["receipt_error"]["code"] == "shutting_down"


async def test_a_client_that_leaves_harms_nobody(rig: Rig) -> None:
    rig.node.log_hold = asyncio.Event()
    waiting = asyncio.create_task(write(rig, "/kv/a"))
    await until(lambda: rig.node.proving == 1)
    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiting
    rig.node.log_hold.set()
    await until(lambda: rig.node.proving == 0)
    assert (await rig.call("GET", "/kv/a")).content == b"value"
    assert rig.log.of("http.error") == []


async def test_the_receipt_is_json_that_a_program_may_keep(rig: Rig) -> None:
    answer = (await write(rig, "/kv/a")).json()
    assert json.loads(answer["receipt"]["inclusion"][0]["leaf"])["key"] == "a"
