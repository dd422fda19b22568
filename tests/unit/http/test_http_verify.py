"""GET /verify/{key}."""

from __future__ import annotations

import json

import pytest
from http_log_stub import LOG_KEY
from http_rig import Rig, assert_problem

from appliance.ledger.encoding import decode_leaf
from appliance.ledger.merkle import leaf_hash, node_hash
from appliance.ledger.note import format_verifier_key
from appliance.tables.errors import ApplianceError
from tests.log_client import LogClient

pytestmark = pytest.mark.anyio

UNPROVEN = {"leaf_index": None, "tree_size": None, "leaf": None, "proof": None, "checkpoint": None}


@pytest.mark.parametrize("key", ["a", "a/b", "x%20y", "%C3%A9", "a//"])
async def test_the_latest_version_leads_to_a_signed_root(rig: Rig, key: str) -> None:
    for n in range(9):
        await rig.call("PUT", f"/kv/other{n}")
    for value in (b"old", b"new"):
        await rig.call("PUT", f"/kv/{key}", content=value)
    await rig.call("PUT", "/kv/behind")
    answer = (await rig.call("GET", f"/verify/{key}", key="read")).json()
    assert list(answer) == ["key", "verified", "leaf_index", "tree_size", "leaf", "proof", "checkpoint", "error"]
    assert (answer["verified"], answer["error"], answer["leaf_index"], answer["tree_size"]) == (True, None, 10, 12)
    assert answer["leaf"].encode() == rig.node.store.leaves[10].leaf
    leaf = decode_leaf(answer["leaf"].encode())
    assert (leaf.key, leaf.version) == (answer["key"], 2)
    current = leaf_hash(answer["leaf"].encode())
    proof = answer["proof"]
    assert list(proof) == ["root_hash", "siblings", "directions"]
    for sibling, side in zip(proof["siblings"], proof["directions"], strict=True):
        assert sibling == sibling.lower()
        pair = (bytes.fromhex(sibling), current)
        current = node_hash(*(pair if side == "left" else pair[::-1]))
    assert current.hex() == proof["root_hash"]
    client = LogClient(lambda path: b"", format_verifier_key(LOG_KEY.verifier_key))
    checkpoint = client.opened(answer["checkpoint"].encode())
    assert (checkpoint.size, checkpoint.root) == (12, current)


async def test_the_first_leaf_of_all_has_no_siblings(rig: Rig) -> None:
    await rig.call("PUT", "/kv/a")
    answer = (await rig.call("GET", "/verify/a")).json()
    assert answer["proof"] == {"root_hash": leaf_hash(answer["leaf"].encode()).hex(), "siblings": [], "directions": []}


async def test_what_is_absent_is_not_verified(rig: Rig) -> None:
    document = assert_problem(await rig.call("GET", "/verify/never"), 404, "not_found")
    assert document.items() >= {"key": "never", "verified": False, **UNPROVEN}.items()
    await rig.call("PUT", "/kv/a")
    await rig.call("DELETE", "/kv/a")
    document = assert_problem(await rig.call("GET", "/verify/a"), 404, "not_found")
    assert document.items() >= {"key": "a", "verified": False, **UNPROVEN}.items()
    assert "leaf 1" in document["detail"]
    await rig.call("PUT", "/kv/a")
    assert (await rig.call("GET", "/verify/a")).json()["leaf_index"] == 2


async def test_what_does_not_fit_is_a_500_that_is_counted(rig: Rig) -> None:
    await rig.call("PUT", "/kv/a")
    rig.node.log_fault = ApplianceError("verification_failed", "Leaf 0 does not lead to the root.")
    document = assert_problem(await rig.call("GET", "/verify/a"), 500, "verification_failed")
    assert document.items() >= {"key": "a", "verified": False, **UNPROVEN}.items()
    assert document["error"] == "Leaf 0 does not lead to the root."
    assert rig.metric('scribe_errors_total{code="verification_failed"}') == 1.0


@pytest.mark.parametrize("code", ["not_published", "no_log_key", "no_leader", "quarantined", "read_timeout"])
async def test_what_says_nothing_of_the_key_is_no_verdict(rig: Rig, code: str) -> None:
    await rig.call("PUT", "/kv/a")
    rig.node.log_fault = ApplianceError(code, "Not now.")
    assert "verified" not in assert_problem(await rig.call("GET", "/verify/a"), 503, code)


async def test_to_wait_for_a_checkpoint_is_no_latency(rig: Rig) -> None:
    """It would stand in the 99th percentile of a quiet cluster, which is alerted on."""
    await rig.call("PUT", "/kv/a")
    await rig.call("GET", "/verify/a")
    await rig.call("GET", "/log/checkpoint")
    for op in ("verify", "log"):
        assert rig.metric(f'scribe_request_latency_seconds_count{{op="{op}"}}') == 0.0
    assert rig.metric('scribe_request_latency_seconds_count{op="put"}') == 1.0


async def test_no_query_is_known(rig: Rig) -> None:
    await rig.call("PUT", "/kv/a")
    for path in ("/verify/a?consistency=stale", "/log/proof/file/a?x=1"):
        assert_problem(await rig.call("GET", path), 400, "bad_request")


async def test_it_is_read_by_any_reader_of_json(rig: Rig) -> None:
    await rig.call("PUT", "/kv/a", content=b"v")
    leaf = json.loads((await rig.call("GET", "/verify/a")).json()["leaf"])
    assert (leaf["key"], leaf["op"], leaf["value_size"]) == ("a", "put", 1)
