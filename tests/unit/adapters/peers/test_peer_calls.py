"""Calls between nodes over real sockets: answered, refused, and what is said when the link goes or the peer is old."""

from __future__ import annotations

import asyncio

import pytest
from peer_harness import REQUEST, RESULT, Node, World, until

from appliance.adapters import peer_handshake, peer_writes
from appliance.adapters.peer_protocol import FEATURE_CALLS, PEER_FEATURES, Call, Kind, Return, encode_frame
from appliance.tables.errors import ApplianceError

pytestmark = pytest.mark.anyio


async def code_of(calling: asyncio.Future[bytes]) -> str:
    with pytest.raises(ApplianceError) as caught:
        await calling
    return caught.value.code


def call(node: Node, to: int, timeout_s: float = 5.0) -> asyncio.Task[bytes]:
    return asyncio.ensure_future(node.network.call(to, "settle", b"abc", timeout_s))


async def never(sender: int, name: str, body: bytes) -> bytes:
    await asyncio.Event().wait()
    raise AssertionError


@pytest.mark.parametrize("auth", ["secret", "tls"])
async def test_answered_both_ways(nodes: World, auth: str) -> None:
    one, two = await nodes.pair(auth)
    body = bytes(range(256)) * 5000
    assert await two.network.call(1, "mirror", body, 5) == body[::-1]
    assert await one.network.call(2, "mirror", b"", 5) == b""
    assert one.calls == [(2, "mirror", body)]
    assert two.calls == [(1, "mirror", b"")]


async def test_calls_and_writes_do_not_get_each_others_answers(nodes: World) -> None:
    one, two = await nodes.pair()
    bodies = [str(n).encode() for n in range(peer_writes.CALLS_MAX)]
    calls = [two.network.call(1, "mirror", body, 5) for body in bodies]
    writes = [two.network.forward_write(1, REQUEST, 5) for _ in bodies]
    answers = await asyncio.gather(*calls, *writes)
    assert answers == [*(body[::-1] for body in bodies), *[RESULT] * len(bodies)]
    assert len(one.calls) == len(one.writes) == len(bodies)


async def test_an_error_travels(nodes: World) -> None:
    one, two = await nodes.pair()

    async def refuse(sender: int, name: str, body: bytes) -> bytes:
        raise ApplianceError("conflict", f"not for node {sender}", retry_after_s=7)

    one.call = refuse
    with pytest.raises(ApplianceError) as caught:
        await call(two, 1)
    assert (caught.value.code, caught.value.detail, caught.value.retry_after_s) == ("conflict", "not for node 2", 7)


async def test_a_bug_at_the_other_node_leaves_the_outcome_unknown(nodes: World) -> None:
    one, two = await nodes.pair()

    async def fail(sender: int, name: str, body: bytes) -> bytes:
        raise ZeroDivisionError

    one.call = fail
    assert await code_of(call(two, 1)) == "outcome_unknown"
    assert one.log.of("peer.call_failed")[0]["name"] == "settle"


async def test_without_a_link_nothing_is_handed_over(nodes: World) -> None:
    one = await nodes.node(1).start()
    assert await code_of(call(one, 2)) == "no_leader"


async def test_a_link_that_breaks_before_the_call_left(nodes: World) -> None:
    one, two = await nodes.pair()
    link = two.network.outgoing(1)
    assert link is not None
    queued = link.queued
    calling = call(two, 1)
    while link.queued == queued:  # noqa: ASYNC110 - the turn matters, and has no event
        await asyncio.sleep(0)  # what is queued leaves at the end of the turn in which it was queued
    assert link.queued > link.written
    link.abort()
    assert await code_of(calling) == "no_leader"
    assert not one.calls


async def test_a_link_that_breaks_after_the_call_left(nodes: World) -> None:
    one, two = await nodes.pair()
    one.call = never
    calling = call(two, 1)
    await until(lambda: one.calls)
    link = two.network.outgoing(1)
    assert link is not None
    link.abort()
    assert await code_of(calling) == "outcome_unknown"


async def test_a_node_that_goes_away_or_does_not_answer_in_time(nodes: World) -> None:
    one, two = await nodes.pair()
    one.call = never
    assert await code_of(call(two, 1, timeout_s=0.05)) == "outcome_unknown"
    calling = call(two, 1)
    await until(lambda: len(one.calls) == 2)
    await one.network.close()
    assert await code_of(calling) == "outcome_unknown"


async def test_an_answer_that_comes_too_late_is_dropped(nodes: World) -> None:
    one, two = await nodes.pair()
    one.call = never
    assert await code_of(call(two, 1, timeout_s=0.05)) == "outcome_unknown"
    incoming = one.network._peers[2].incoming
    assert incoming is not None
    incoming.send(encode_frame(Kind.RETURN, Return(1, b"late")))
    one.call = one._call_back
    assert await call(two, 1) == b"cba"


async def test_calls_are_bounded_apart_from_writes(nodes: World, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = await nodes.pair(writes_max=1)
    one.call = never
    monkeypatch.setattr(peer_writes, "CALLS_MAX", 2)
    held = [call(two, 1), call(two, 1)]
    await until(lambda: len(one.calls) == 2)
    assert await code_of(call(two, 1)) == "overloaded"  # said by the sender
    two.network.sent._calls = {}  # a peer that does not count
    assert await code_of(call(two, 1)) == "overloaded"  # said by the one that was asked
    assert len(one.calls) == 2
    assert await two.network.forward_write(1, REQUEST, 5) == RESULT
    for calling in held:
        calling.cancel()


async def test_a_call_that_no_frame_holds(nodes: World) -> None:
    _, two = await nodes.pair(frame_bytes_max=1000)
    assert await code_of(asyncio.ensure_future(two.network.call(1, "settle", b"x" * 2000, 5))) == "too_large"


async def test_an_old_peer_gets_no_such_frame(nodes: World, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tuple(feature for feature in PEER_FEATURES if feature != FEATURE_CALLS)
    monkeypatch.setattr(peer_handshake, "PEER_FEATURES", old)
    one, two = await nodes.pair()
    link = two.network.outgoing(1)
    assert link is not None
    queued = link.queued
    with pytest.raises(ApplianceError, match="Upgrade it") as caught:
        await call(two, 1)
    assert caught.value.code == "conflict"
    assert link.queued == queued
    assert not one.calls


async def test_a_call_where_an_answer_belongs_is_a_violation(nodes: World) -> None:
    one, two = await nodes.pair()
    incoming = one.network._peers[2].incoming
    assert incoming is not None
    incoming.send(encode_frame(Kind.CALL, Call(1, "settle", b"")))
    await until(lambda: two.log.of("peer.bad_message"))
    assert not two.calls
