"""Who may do what: every route for every role, how a key is shown, and what is counted and logged of a refusal."""

from __future__ import annotations

from typing import ClassVar

import pytest
from http_rig import KEYS, Rig, assert_problem, path_of, running

from appliance.http.route import Route
from appliance.http.routes import ROUTES
from appliance.tables.roles import Access, Role

pytestmark = pytest.mark.anyio

# What a role may do, written out here a second time on purpose: the table in `appliance.tables.roles` is held to it.
MAY = {
    Role.READ: {Access.READ, Access.LOG},
    Role.WRITE: {Access.READ, Access.LOG, Access.WRITE},
    Role.ADMIN: {Access.READ, Access.LOG, Access.WRITE, Access.ADMIN, Access.AUDIT, Access.METRICS},
    Role.AUDIT: {Access.AUDIT},
    Role.METRICS: {Access.METRICS},
}
WHO = {
    "put_key": Access.WRITE,
    "get_key": Access.READ,
    "delete_key": Access.WRITE,
    "put_key_short": Access.WRITE,
    "get_key_short": Access.READ,
    "delete_key_short": Access.WRITE,
    "get_history": Access.READ,
    "verify_key": Access.READ,
    "get_checkpoint": Access.LOG,
    "get_tile": Access.LOG,
    "get_entries": Access.LOG,
    "get_inclusion": Access.LOG,
    "get_consistency": Access.LOG,
    "get_proof_file": Access.LOG,
    "list_keys": Access.READ,
    "write_batch": Access.WRITE,
    "get_health": Access.NOBODY,
    "get_live": Access.NOBODY,
    "get_metrics": Access.METRICS,
    "get_metrics_prometheus": Access.METRICS,
    "get_cluster": Access.READ,
    "get_nodes": Access.READ,
    "get_leader": Access.READ,
    "query_audit": Access.AUDIT,
    "add_member": Access.ADMIN,
    "remove_member": Access.ADMIN,
    "transfer_leadership": Access.ADMIN,
    "pause_writes": Access.ADMIN,
    "resume_writes": Access.ADMIN,
    "compact": Access.ADMIN,
    "scrub": Access.ADMIN,
    "resync": Access.ADMIN,
    "get_openapi": Access.NOBODY,
}
BODIES = {
    "write_batch": b'{"operations":[{"op":"put","key":"a","value":""}]}',
    "query_audit": b'{"sql":"SELECT 1"}',
    "add_member": b'{"node_id":4,"address":"h:1"}',
    "remove_member": b'{"node_id":4}',
}


@pytest.fixture(scope="module")
async def guarded(anyio_backend: str):  # type: ignore[no-untyped-def]
    async with running(metrics_access="metrics") as rig:
        yield rig


async def _status(rig: Rig, route: Route, key: str | None) -> int:
    if route.method == "DELETE":
        await rig.call("PUT", "/kv/a")
    return (await rig.call(route.method, path_of(route), key, content=BODIES.get(route.name))).status_code


def test_the_table_here_has_every_route() -> None:
    assert {route.name for route in ROUTES} == WHO.keys()


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
async def test_every_route_for_every_role(guarded: Rig, route: Route) -> None:
    await guarded.call("PUT", "/kv/a")
    access = WHO[route.name]
    expected = {role.value: 200 if access in {*MAY[role], Access.NOBODY} else 403 for role in Role}
    expected |= {"unknown": 200 if access is Access.NOBODY else 401}
    assert {name: await _status(guarded, route, name) for name in expected} == expected
    assert await _status(guarded, route, None) == expected["unknown"]


async def test_a_public_log_needs_no_key_and_the_rest_does() -> None:
    async with running(public=True) as rig:
        await rig.call("PUT", "/kv/a")
        for route in ROUTES:
            if WHO[route.name] in (Access.LOG, Access.READ):
                opened = WHO[route.name] is Access.LOG
                for key in (None, "unknown", "audit"):
                    assert await _status(rig, route, key) == (200 if opened else 403 if key == "audit" else 401)
                assert await _status(rig, route, "read") == 200


async def test_metrics_are_open_by_default(shared: Rig) -> None:
    for path in ("/metrics", "/metrics/prometheus"):
        assert (await shared.call("GET", path, key=None)).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"x-api-key": KEYS["read"]}, 200),
        ({"authorization": "Bearer read-key"}, 200),
        ({"authorization": "bearer  read-key"}, 200),
        ({"authorization": "Basic read-key"}, 401),
        ({"authorization": "read-key"}, 401),
        ({"authorization": "Bearer"}, 401),
        ({"x-api-key": ""}, 401),
        ({"x-api-key": "READ-KEY"}, 401),
        ({"x-api-key": "wrong", "authorization": "Bearer read-key"}, 401),
        ({}, 401),
    ],
)
async def test_how_a_key_is_shown(shared: Rig, headers: dict[str, str], status: int) -> None:
    reply = await shared.client.get("/kv", headers=headers)
    assert reply.status_code == status


async def test_white_space_around_a_key_is_not_part_of_it(shared: Rig) -> None:
    request = b"GET /kv HTTP/1.1\r\nhost: x\r\nx-api-key: \t read-key \t\r\n\r\n"
    assert [reply.status for reply in await shared.bytes(request, replies=1)] == [200]


async def test_a_401_tells_how_to_come_by_a_key(shared: Rig) -> None:
    refused = await shared.call("GET", "/cluster/info", key=None)
    detail = assert_problem(refused, 401, "unauthenticated")["detail"]
    for hint in ("export APPLIANCE_API_KEY", '-H "X-API-Key: ', ".scribe/credentials.env", "Bearer"):
        assert hint in detail
    assert refused.headers["www-authenticate"].startswith("Bearer")


async def test_a_403_names_the_role_that_is_needed(shared: Rig) -> None:
    detail = assert_problem(await shared.call("PUT", "/kv/a", "read"), 403, "forbidden")["detail"]
    assert "write or admin" in detail
    assert "'read' has the role read" in detail


async def test_refusals_are_counted_by_reason_and_logged_without_the_key(rig: Rig) -> None:
    rig.clock.at_s = 100.0
    await rig.call("GET", "/kv", key=None)
    await rig.call("GET", "/kv", key="wrong")
    rig.clock.at_s = 102.0
    await rig.call("PUT", "/kv/a", key="read")
    for reason in ("missing", "unknown", "role"):
        assert rig.metric(f'scribe_auth_failures_total{{reason="{reason}"}}') == 1.0
    lines = rig.log.of("http.auth_failed")
    assert [line["reason"] for line in lines] == ["missing", "role"], "one line a second at most"
    assert (lines[1]["actor"], lines[1]["address"]) == ("read", "127.0.0.1")
    assert "-key" not in repr(lines)


class TestRateLimit:
    TIGHT: ClassVar = {"max_requests": 60, "window_secs": 60, "burst_size": 2}

    async def test_each_key_has_its_own_bucket_that_refills(self) -> None:
        async with running(limits=self.TIGHT, frozen=True) as rig:
            for _ in range(2):
                assert (await rig.call("PUT", "/kv/a", "write")).status_code == 200
            for method, path in (("PUT", "/kv/a"), ("GET", "/kv"), ("GET", "/a"), ("GET", "/history/a")):
                refused = await rig.call(method, path, "write")
                assert_problem(refused, 429, "rate_limited")
                assert refused.headers["retry-after"] == "1"
            assert rig.metric("scribe_rate_limited_total") == 4.0
            assert len(rig.node.requests) == 2
            assert (await rig.call("GET", "/kv", "read")).status_code == 200
            rig.clock.at_s = 101.0
            assert (await rig.call("GET", "/kv", "write")).status_code == 200
            assert (await rig.call("GET", "/kv", "write")).status_code == 429

    async def test_who_shows_no_known_key_is_limited_by_address(self) -> None:
        async with running(limits=self.TIGHT, frozen=True) as rig:
            assert (await rig.call("GET", "/kv", "guess1")).status_code == 401
            assert (await rig.call("GET", "/nowhere/such", None)).status_code == 401
            for key, path in (("guess2", "/kv"), (None, "/openapi.json"), (None, "/metrics"), (None, "/log/x")):
                assert (await rig.call("GET", path, key)).status_code == 429
            assert (await rig.call("GET", "/kv", "read")).status_code == 200

    async def test_probes_are_not_limited(self) -> None:
        async with running(limits=self.TIGHT, frozen=True) as rig:
            for _ in range(5):
                for path in ("/health", "/health/live"):
                    assert (await rig.call("GET", path, None)).status_code == 200

    async def test_retry_after_grows_with_the_wait(self) -> None:
        async with running(limits={"max_requests": 1, "window_secs": 30, "burst_size": 1}, frozen=True) as rig:
            await rig.call("GET", "/kv")
            assert (await rig.call("GET", "/kv")).headers["retry-after"] == "30"
