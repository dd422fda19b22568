"""What changes the cluster or a node over HTTP: what is asked of the node, what is refused, and how long it waits."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from http_rig import Rig, assert_problem, running, until

from appliance.http.limits import ERRANDS_MAX
from appliance.tables.errors import ApplianceError

pytestmark = pytest.mark.anyio

ADD, REMOVE, TRANSFER = "/cluster/nodes/add", "/cluster/nodes/remove", "/cluster/leader/transfer"
PAUSE, RESUME, COMPACT = "/admin/pause-writes", "/admin/resume-writes", "/admin/compact"
SCRUB, RESYNC = "/admin/scrub", "/admin/resync"
NEW = {"node_id": 4, "address": "10.0.1.13:8004"}


async def post(rig: Rig, path: str, body: Any = None, **options: Any) -> Any:
    content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    return await rig.call("POST", path, content=content, **options)


class TestMembers:
    async def test_a_member_is_added_and_waited_for(self, rig: Rig) -> None:
        answer = (await post(rig, ADD, NEW)).json()
        assert {name: answer[name] for name in ("status", "node_id", "role", "changed", "index")} == {
            "status": "ok",
            "node_id": 4,
            "role": "voter",
            "changed": True,
            "index": 11,
        }
        assert answer["members"] == (await rig.call("GET", "/cluster/nodes")).json()["nodes"]
        assert [(m["node_id"], m["role"]) for m in answer["members"]] == [(1, "voter"), (2, "voter"), (4, "voter")]
        assert rig.node.asked == [("add", 4, "10.0.1.13:8004", "")]

    async def test_again_it_changes_nothing(self, rig: Rig) -> None:
        first, again = [(await post(rig, ADD, NEW)).json() for _ in range(2)]
        assert (first["changed"], again["changed"]) == (True, False)
        assert first["members"] == again["members"]

    async def test_it_need_not_be_waited_for(self, rig: Rig) -> None:
        rig.node.promoted.clear()
        answer = (await post(rig, ADD + "?wait=false", {**NEW, "raft_address": "10.0.1.13:9104"})).json()
        assert (answer["role"], answer["changed"], rig.node.waiting) == ("learner", True, 0)
        assert rig.node.asked == [("add", 4, "10.0.1.13:8004", "10.0.1.13:9104")]

    async def test_a_learner_is_answered_when_the_wait_is_over(self, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("appliance.http.cluster.ADD_WAIT_S", 0.05)
        rig.node.promoted.clear()
        reply = await post(rig, ADD, NEW)
        assert (reply.status_code, reply.json()["role"], reply.json()["changed"]) == (200, "learner", True)
        assert rig.node.waiting == 0

    async def test_the_wait_goes_on_when_the_leader_changes(self, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("appliance.http.cluster.ADD_RETRY_S", 0.0)
        rig.node.wait_faults = [ApplianceError(code, "x") for code in ("no_leader", "outcome_unknown", "no_quorum")]
        assert (await post(rig, ADD, NEW)).json()["role"] == "voter"

    async def test_the_wait_ends_when_it_has_no_object_any_more(self, rig: Rig) -> None:
        rig.node.wait_faults = [ApplianceError("conflict", "It was removed meanwhile.")]
        assert_problem(await post(rig, ADD, NEW), 409, "conflict")

    async def test_a_member_is_removed(self, rig: Rig) -> None:
        await post(rig, ADD, NEW)
        answers = [(await post(rig, REMOVE, {"node_id": 4})).json() for _ in range(2)]
        assert [(a["role"], a["changed"]) for a in answers] == [("removed", True), ("removed", False)]
        assert [member["node_id"] for member in answers[0]["members"]] == [1, 2]

    @pytest.mark.parametrize(("body", "asked", "leader"), [(None, None, 2), ({}, None, 2), ({"node_id": 3}, 3, 3)])
    async def test_leadership_moves(self, rig: Rig, body: Any, asked: int | None, leader: int) -> None:
        answer = (await post(rig, TRANSFER, body)).json()
        assert answer == {"status": "ok", "leader_id": leader, "term": 8, "changed": True}
        assert rig.node.asked == [("transfer", asked)]


class TestAdmin:
    @pytest.mark.parametrize(
        ("body", "ttl_s"),
        [
            (None, 900),
            ({}, 900),
            ({"ttl_seconds": 1}, 1),
            ({"ttl_seconds": 86_400}, 86_400),
            ({"ttl_seconds": 2.5}, 2.5),
        ],
    )
    async def test_writes_are_paused(self, rig: Rig, body: Any, ttl_s: float) -> None:
        answer = (await post(rig, PAUSE, body, headers={"x-request-id": "me-1"})).json()
        assert answer == {
            "status": "ok",
            "paused": True,
            "paused_until": "2026-11-23T19:40:31.123456Z",
            "index": str(2**60),
            "settled": [1],
            "unsettled": [2],
        }
        assert rig.node.asked == [("pause", ttl_s, "admin", "me-1")]

    async def test_writes_are_resumed(self, rig: Rig) -> None:
        answer = (await post(rig, RESUME, headers={"x-request-id": "me-2"})).json()
        assert answer == {
            "status": "ok",
            "paused": False,
            "paused_until": None,
            "index": 12,
            "settled": [1, 2],
            "unsettled": [],
        }
        assert rig.node.asked == [("resume", "admin", "me-2")]

    async def test_a_node_is_compacted(self, rig: Rig) -> None:
        assert (await post(rig, COMPACT)).json() == {
            "status": "ok",
            "snapshot_index": 900,
            "entries_dropped": 850,
            "log_bytes_before": 2**21,
            "log_bytes_after": 2**20,
            "ledger_bytes_before": str(2**60),
            "ledger_bytes_after": 2**23,
            "seconds": 1.235,
        }

    @pytest.mark.parametrize(
        ("path", "body", "asked"),
        [
            (SCRUB, None, ("scrub", 16 * 2**20, True)),
            (SCRUB + "?wait=false", {"rate": 2**16}, ("scrub", 2**16, False)),
        ],
    )
    async def test_what_a_node_stores_is_read_back(
        self, rig: Rig, path: str, body: Any, asked: tuple[Any, ...]
    ) -> None:
        assert (await post(rig, path, body)).json() == {
            "status": "ok",
            "running": not asked[2],
            "number": 3,
            "rate": asked[1],
            "share": 0.25,
            "bytes_read": str(2**60),
            "findings": 1,
            "details": ["leaf 3"],
            "completed_at": None,
            "seconds": 0.0,
        }
        assert rig.node.asked == [asked]

    @pytest.mark.parametrize(("body", "asked"), [(None, None), ({"incarnation": "000000000000000a"}, 10)])
    async def test_a_node_gets_its_data_again(self, rig: Rig, body: Any, asked: int | None) -> None:
        answer = (await post(rig, RESYNC, body)).json()
        assert answer == {"status": "ok", "node_id": 1, "changed": asked is None, "incarnation": "0000000000000007"}
        assert rig.node.asked == [("resync", asked)]


REFUSED = [
    (SCRUB, {"rate": 2**16 - 1}, "rate is from 65536"),
    (SCRUB, {"rate": "fast"}, "$.rate"),
    (SCRUB + "?wait=maybe", None, "wait"),
    (RESYNC, {"incarnation": "7"}, "16 hex digits"),
    (RESYNC, {"node_id": 2}, "`node_id`"),
    (ADD, b"", "node_id"),
    (ADD, b"{", "cannot be read"),
    (ADD, b"[]", "`array`"),
    (ADD, b'{"node_id":4}', "address"),
    (ADD, {**NEW, "role": "voter"}, "`role`"),
    (ADD, {**NEW, "node_id": "4"}, "$.node_id"),
    (ADD, {**NEW, "node_id": True}, "$.node_id"),
    (ADD, {**NEW, "node_id": 0}, "node_id is from 1 to 65535"),
    (ADD, {**NEW, "node_id": 65_536}, "node_id is from 1 to 65535"),
    (ADD, {**NEW, "node_id": 2**70}, "node_id is from"),
    (ADD, {**NEW, "address": 8004}, "$.address"),
    (ADD, {**NEW, "raft_address": 1}, "$.raft_address"),
    *(
        (ADD, {**NEW, "address": text}, "address is host:port")
        for text in ("", "h", "h:0", "h:65536", "http://h:1", "::1:8001", "h:x", "x" * 300 + ":1")
    ),
    (ADD, {**NEW, "address": "0.0.0.0:8004"}, "address: 0.0.0.0:8004"),
    (ADD, {**NEW, "raft_address": "h"}, "raft_address is host:port"),
    (REMOVE, b"", "node_id"),
    (REMOVE, {"node_id": -1}, "node_id is from 1"),
    (REMOVE, {"node_id": 4, "force": True}, "`force`"),
    (TRANSFER, {"node_id": 0}, "node_id is from 1"),
    (TRANSFER, {"to": 1}, "`to`"),
    (PAUSE, {"ttl_seconds": 0}, "ttl_seconds is from 1 to 86400"),
    (PAUSE, {"ttl_seconds": 86_401}, "ttl_seconds is from 1 to 86400"),
    (PAUSE, {"ttl_seconds": "15m"}, "$.ttl_seconds"),
    (PAUSE, {"ttl": 1}, "`ttl`"),
    (RESUME, {"now": True}, "`now`"),
    (COMPACT, {"all": True}, "`all`"),
    (COMPACT, b"null", "`null`"),
]


@pytest.mark.parametrize(("path", "body", "named"), REFUSED)
async def test_what_cannot_be_meant_is_refused_by_name(rig: Rig, path: str, body: Any, named: str) -> None:
    assert named in assert_problem(await post(rig, path, body), 400, "bad_request")["detail"]
    assert rig.node.asked == []


@pytest.mark.parametrize("address", ["10.0.1.13:8004", "node4:8004", "[::1]:8004", "[fe80::1]:1", "a.b-c_d:65535"])
async def test_addresses_that_are_taken(rig: Rig, address: str) -> None:
    assert (await post(rig, ADD, {"node_id": 4, "address": address, "raft_address": address})).status_code == 200


@pytest.mark.parametrize("query", ["wait=no", "wait=", "wait=true&wait=true", "wait=False", "now=1"])
async def test_queries_that_are_refused(rig: Rig, query: str) -> None:
    assert_problem(await post(rig, f"{ADD}?{query}", NEW), 400, "bad_request")
    assert_problem(await post(rig, f"{REMOVE}?{query}", {"node_id": 1}), 400, "bad_request")
    assert rig.node.asked == []


@pytest.mark.parametrize(
    "given", [{}, {"content-type": "application/x-www-form-urlencoded"}, {"content-type": "text/plain; charset=x"}]
)
async def test_any_content_type_will_do(rig: Rig, given: dict[str, str]) -> None:
    for path, body in (
        (ADD, NEW),
        (REMOVE, {"node_id": 4}),
        (TRANSFER, {}),
        (PAUSE, {"ttl_seconds": 5}),
        (COMPACT, {}),
    ):
        assert (await post(rig, path, body, headers=given)).status_code == 200


@pytest.mark.parametrize("path", [ADD, REMOVE, TRANSFER, PAUSE, RESUME, COMPACT])
async def test_what_the_node_refuses_reaches_the_client(rig: Rig, path: str) -> None:
    body = NEW if path == ADD else {"node_id": 4} if path == REMOVE else None
    rig.node.change_fault = ApplianceError("overloaded", "Ask again.")
    assert_problem(await post(rig, path, body), 503, "overloaded")
    rig.node.change_fault = RuntimeError("secret internals")
    document = assert_problem(await post(rig, path, body), 504, "outcome_unknown")
    assert "secret" not in document["detail"]
    assert "/cluster/nodes" in document["detail"]
    assert len(rig.log.of("http.error")) == 1


async def begun(rig: Rig, path: str, body: dict[str, Any]) -> asyncio.StreamWriter:
    """Send a request whose answer nobody will read."""
    content = json.dumps(body).encode()
    _, writer = await asyncio.open_connection("127.0.0.1", rig.port)
    writer.write(f"POST {path} HTTP/1.1\r\nhost: x\r\nx-api-key: admin-key\r\n".encode())
    writer.write(b"content-length: %d\r\n\r\n" % len(content) + content)
    return writer


class TestClientsThatGoAway:
    async def test_the_change_is_carried_out_all_the_same(self, rig: Rig) -> None:
        rig.node.change_hold = asyncio.Event()
        writer = await begun(rig, REMOVE, {"node_id": 2})
        await until(lambda: rig.node.asked == [("remove", 2)])
        writer.close()
        await until(lambda: rig.metric('scribe_ops_total{op="cluster",status="4xx"}') == 1.0)
        assert rig.node.done == []
        rig.node.change_hold.set()
        await until(lambda: rig.node.done == ["remove"])
        assert rig.log.of("http.error") == []

    async def test_only_the_wait_for_a_learner_ends(self, rig: Rig) -> None:
        rig.node.promoted.clear()
        writer = await begun(rig, ADD, NEW)
        await until(lambda: rig.node.waiting == 1)
        writer.close()
        await until(lambda: rig.node.waiting == 0)
        assert rig.node.done == ["add"]
        assert rig.node.joined[4].role == "learner"

    async def test_a_fault_of_a_change_that_goes_on_alone_is_logged(self, rig: Rig) -> None:
        rig.node.change_hold, rig.node.change_fault = asyncio.Event(), RuntimeError("broken")
        writer = await begun(rig, COMPACT, {})
        await until(lambda: rig.node.asked == [("compact",)])
        writer.close()
        await until(lambda: rig.metric('scribe_ops_total{op="admin",status="4xx"}') == 1.0)
        rig.node.change_hold.set()
        await until(lambda: bool(rig.log.of("http.error")))
        (line,) = rig.log.of("http.error")
        assert (line["route"], line["error"]) == (COMPACT, rig.node.change_fault)

    async def test_those_that_go_on_alone_have_a_limit(self, rig: Rig) -> None:
        rig.node.change_hold = asyncio.Event()
        writers = [await begun(rig, TRANSFER, {}) for _ in range(ERRANDS_MAX)]
        await until(lambda: len(rig.node.asked) == ERRANDS_MAX)
        for writer in writers:
            writer.close()
        gone = 'scribe_ops_total{op="cluster",status="4xx"}'
        await until(lambda: rig.metric(gone) == ERRANDS_MAX)
        assert_problem(await post(rig, TRANSFER), 503, "overloaded")
        rig.node.change_hold.set()
        await until(lambda: len(rig.node.done) == ERRANDS_MAX)
        assert (await post(rig, TRANSFER)).status_code == 200


async def test_a_node_that_stops_does_not_call_a_change_failed() -> None:
    async with running() as rig:
        rig.node.promoted.clear()
        adding = asyncio.ensure_future(post(rig, ADD, NEW))
        await until(lambda: rig.node.waiting == 1)
        await rig.server.stop(0.05)
        document = assert_problem(await adding, 504, "outcome_unknown")
        assert "/cluster/nodes" in document["detail"]
        assert rig.node.done == ["add"]


async def test_waiting_is_no_latency(rig: Rig) -> None:
    """An hour of catching up must neither raise HighLatency nor be logged as a slow request."""
    rig.clock.at_s = 100.0
    rig.node.promoted.clear()
    adding = asyncio.ensure_future(post(rig, ADD, NEW))
    await until(lambda: rig.node.waiting == 1)
    rig.clock.at_s += 3600.0
    rig.node.promoted.set()
    assert (await adding).status_code == 200
    assert rig.metric('scribe_ops_total{op="cluster",status="2xx"}') == 1.0
    assert rig.metric('scribe_request_latency_seconds_count{op="cluster"}') == 0.0
    assert rig.log.of("http.slow") == []
    await rig.call("GET", "/cluster/nodes")
    assert rig.metric('scribe_request_latency_seconds_count{op="cluster"}') == 1.0
