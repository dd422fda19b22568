"""The client against stand-in nodes: fail-over, waiting, and what happens to a write whose answer is lost."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from urllib.parse import unquote

import pytest
from cli_standin import API_KEY, Ledger, Node, refused_url

from appliance.cli.client import AsyncClient, Client
from appliance.cli.exits import CliError, Exit
from appliance.cli.failover import Answer
from appliance.cli.paths import key_path

StartNode = Callable[..., Node]


def put(urls: list[str], *, key: str | None, timeout_s: float = 10.0, api_key: str = API_KEY) -> Answer:
    with Client(urls, api_key, timeout_s=timeout_s, chance=random.Random(1)) as client:
        return client.request("PUT", "/kv/a", content=b"1", idempotency_key=key)


def test_a_refused_connection_goes_to_the_next_node(start_node: StartNode, ledger: Ledger) -> None:
    node = start_node()
    answer = put([refused_url(), node.url], key=None)
    assert (answer.status, answer.url, answer.attempts) == (200, node.url, 2)
    assert ledger.leaves == [("a", b"1")]


def test_no_leader_is_waited_out_for_as_long_as_the_node_asks(start_node: StartNode, ledger: Ledger) -> None:
    node = start_node("no_leader:1")
    began_s = time.monotonic()
    assert put([node.url], key=None).attempts == 2
    assert time.monotonic() - began_s >= 1.0
    assert len(ledger.leaves) == 1


def test_another_node_is_asked_at_once_while_one_asks_for_patience(start_node: StartNode) -> None:
    busy, free = start_node(always="no_leader:30"), start_node()
    assert put([busy.url, free.url], key=None).url == free.url


@pytest.mark.parametrize("fault", ["cut-before", "cut-after", "504", "stranger-503"])
def test_a_write_without_key_is_not_sent_again_when_it_may_have_been_carried_out(
    fault: str, start_node: StartNode, ledger: Ledger
) -> None:
    first, second = start_node(fault), start_node()
    with pytest.raises(CliError) as caught:
        put([first.url, second.url], key=None)
    assert caught.value.exit_code is Exit.OUTCOME_UNKNOWN
    assert len(first.requests) + len(second.requests) == 1
    assert len(ledger.leaves) <= 1


@pytest.mark.parametrize(
    ("fault", "replayed"), [("cut-before", False), ("cut-after", True), ("504", True), ("stranger-503", False)]
)
def test_a_write_with_key_is_sent_again_and_applied_once(
    fault: str, replayed: bool, start_node: StartNode, ledger: Ledger
) -> None:
    first, second = start_node(fault), start_node()
    answer = put([first.url, second.url], key="k1")
    assert answer.url == second.url
    assert (answer.headers.get("idempotency-replayed") == "true") is replayed
    assert ledger.leaves == [("a", b"1")]


def test_an_unreachable_cluster_is_told_soon(start_node: StartNode) -> None:
    began_s = time.monotonic()
    with pytest.raises(CliError) as caught:
        put([refused_url(), refused_url()], key="k", timeout_s=60.0)
    assert (caught.value.exit_code, caught.value.code) == (Exit.UNAVAILABLE, "no_connection")
    assert "appliance up" in caught.value.hint
    assert time.monotonic() - began_s < 10.0


def test_the_deadline_ends_it_with_the_last_reason(start_node: StartNode, ledger: Ledger) -> None:
    node = start_node(always="no_quorum:0.1")
    with pytest.raises(CliError) as caught:
        put([node.url], key=None, timeout_s=5.0)
    assert (caught.value.exit_code, caught.value.code) == (Exit.UNAVAILABLE, "no_quorum")
    assert ledger.leaves == []
    assert len(node.requests) > 1


def test_a_wrong_api_key_is_not_tried_elsewhere(start_node: StartNode) -> None:
    first, second = start_node(), start_node()
    with pytest.raises(CliError) as caught:
        put([first.url, second.url], key=None, api_key="wrong")
    assert caught.value.exit_code is Exit.AUTH
    assert second.requests == []


@pytest.mark.parametrize(
    "key", ["a/b", "a//b", "trailing/", "../up", "a/./b", "50%", "?q=1#f", "grüße", "sp ace", "%2F"]
)
def test_a_key_reaches_the_node_as_it_is(key: str, start_node: StartNode, ledger: Ledger) -> None:
    node = start_node()
    with Client([node.url], API_KEY, timeout_s=5.0) as client:
        client.request("PUT", key_path("/kv", key), content=b"v")
    assert ledger.current() == {key: b"v"}
    assert unquote(node.requests[0][1]) == f"/kv/{key}"


@pytest.mark.anyio
async def test_many_calls_at_once_move_on_together(start_node: StartNode, ledger: Ledger) -> None:
    dying = start_node("ok", "ok", always="cut-after")
    living = start_node()
    async with AsyncClient([dying.url, living.url], API_KEY, timeout_s=20.0) as client:
        answers = await asyncio.gather(
            *(client.request("PUT", f"/kv/{n}", content=b"v", idempotency_key=f"k{n}") for n in range(40))
        )
    assert {answer.status for answer in answers} == {200}
    assert sorted(key for key, _ in ledger.leaves) == sorted(str(n) for n in range(40))
    assert len(living.requests) >= 38
