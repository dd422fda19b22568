"""Forwarded writes over real sockets: answered, refused, and what is said when the link goes."""

from __future__ import annotations

import asyncio

import pytest
from peer_harness import REQUEST, RESULT, Node, World, until

from appliance.adapters.peer_protocol import Failure, Kind, encode_frame
from appliance.ledger.commands import Op, Operation, WriteRequest, WriteResult
from appliance.tables.errors import ApplianceError

pytestmark = pytest.mark.anyio


async def code_of(writing: asyncio.Future[WriteResult]) -> str:
    with pytest.raises(ApplianceError) as caught:
        await writing
    return caught.value.code


def forward(node: Node, to: int, timeout_s: float = 5.0) -> asyncio.Task[WriteResult]:
    return asyncio.ensure_future(node.network.forward_write(to, REQUEST, timeout_s))


async def never(request: WriteRequest) -> WriteResult:
    await asyncio.Event().wait()
    raise AssertionError


@pytest.mark.parametrize("auth", ["secret", "tls"])
async def test_answered(nodes: World, auth: str) -> None:
    one, two = await nodes.pair(auth)
    request = WriteRequest(
        (Operation(Op.PUT, "käse", b"\x00" * 3_000_000, 0), Operation(Op.DELETE, "b", if_version=3)),
        "admin",
        "r-1",
        True,
        "idem",
        b"h" * 32,
        "00-aa-bb-01",
    )
    assert await two.network.forward_write(1, request, 5) == RESULT
    assert one.writes == [request]


async def test_many_at_once_each_gets_its_own_answer(nodes: World) -> None:
    one, two = await nodes.pair()

    async def write(request: WriteRequest) -> WriteResult:
        for _ in range(int(request.request_id) % 7):
            await asyncio.sleep(0)
        return WriteResult(RESULT.outcome, int(request.request_id), 1, 1)

    one.write = write
    requests = [WriteRequest(REQUEST.operations, "admin", str(n)) for n in range(300)]
    answers = await asyncio.gather(*(two.network.forward_write(1, request, 5) for request in requests))
    assert [answer.raft_index for answer in answers] == list(range(300))


async def test_the_leaders_error_travels(nodes: World) -> None:
    one, two = await nodes.pair()

    async def write(request: WriteRequest) -> WriteResult:
        raise ApplianceError("writes_paused", "until noon", retry_after_s=77)

    one.write = write
    with pytest.raises(ApplianceError) as caught:
        await two.network.forward_write(1, REQUEST, 5)
    assert (caught.value.code, caught.value.detail, caught.value.retry_after_s) == ("writes_paused", "until noon", 77)


async def test_a_bug_at_the_leader_leaves_the_outcome_unknown(nodes: World) -> None:
    one, two = await nodes.pair()

    async def write(request: WriteRequest) -> WriteResult:
        raise ZeroDivisionError

    one.write = write
    assert await code_of(forward(two, 1)) == "outcome_unknown"
    assert one.log.of("peer.write_failed")[0]["request_id"] == "r1"


async def test_an_error_of_a_newer_leader(nodes: World) -> None:
    one, two = await nodes.pair()
    one.write = never
    writing = forward(two, 1)
    await until(lambda: one.writes)
    incoming = one.network._peers[2].incoming
    assert incoming is not None
    incoming.send(encode_frame(Kind.FAILURE, Failure(1, "of_tomorrow", "who knows")))
    assert await code_of(writing) == "outcome_unknown"


async def test_without_a_link_nothing_is_handed_over(nodes: World) -> None:
    one = await nodes.node(1).start()
    assert await code_of(forward(one, 2)) == "no_leader"


async def test_a_link_that_breaks_before_the_write_left(nodes: World) -> None:
    one, two = await nodes.pair()
    link = two.network.outgoing(1)
    assert link is not None
    writing = forward(two, 1)
    await asyncio.sleep(0)  # the write is queued; what is queued leaves at the end of this turn
    await asyncio.sleep(0) if link.queued == 0 else None
    assert link.queued > link.written
    link.abort()
    assert await code_of(writing) == "no_leader"
    assert not one.writes


async def test_a_link_that_breaks_after_the_write_left(nodes: World) -> None:
    one, two = await nodes.pair()
    one.write = never
    writing = forward(two, 1)
    await until(lambda: one.writes)
    link = two.network.outgoing(1)
    assert link is not None
    link.abort()
    assert await code_of(writing) == "outcome_unknown"


async def test_a_leader_that_goes_away(nodes: World) -> None:
    one, two = await nodes.pair()
    one.write = never
    writing = forward(two, 1)
    await until(lambda: one.writes)
    await one.network.close()
    assert await code_of(writing) == "outcome_unknown"


async def test_a_leader_that_goes_away_in_good_order_answers_first(nodes: World) -> None:
    one, two = await nodes.pair()
    await asyncio.wait_for(one.network.writes_served(), 1)
    decided = asyncio.Event()

    async def write(request: WriteRequest) -> WriteResult:
        await decided.wait()
        return RESULT

    one.write = write
    writing = forward(two, 1)
    await until(lambda: one.writes)
    served = asyncio.create_task(one.network.writes_served())
    await asyncio.sleep(0)
    one.write = never
    later = forward(two, 1)
    await until(lambda: len(one.writes) == 2)
    assert not served.done()
    decided.set()
    await asyncio.wait_for(served, 1)
    await one.network.close()
    assert await writing == RESULT
    assert await code_of(later) == "outcome_unknown"


async def test_a_leader_that_does_not_answer_in_time(nodes: World) -> None:
    one, two = await nodes.pair()
    one.write = never
    assert await code_of(forward(two, 1, timeout_s=0.05)) == "outcome_unknown"
    one.write = one._write_ok
    assert await two.network.forward_write(1, REQUEST, 5) == RESULT


async def test_writes_under_way_are_bounded_where_they_are_served(nodes: World) -> None:
    one = await nodes.node(1, writes_max=2).start()
    two = await nodes.node(2).start(one.raft_address)
    await until(lambda: two.links_to(1))
    one.write = never
    held = [forward(two, 1), forward(two, 1)]
    await until(lambda: len(one.writes) == 2)
    assert await code_of(forward(two, 1)) == "overloaded"
    for writing in held:
        writing.cancel()


async def test_writes_under_way_are_bounded_where_they_are_sent(nodes: World) -> None:
    one = await nodes.node(1).start()
    two = await nodes.node(2, writes_max=1).start(one.raft_address)
    await until(lambda: two.links_to(1))
    one.write = never
    held = forward(two, 1)
    await until(lambda: one.writes)
    assert await code_of(forward(two, 1)) == "overloaded"
    held.cancel()
    await until(held.done)
    one.write = one._write_ok
    assert await two.network.forward_write(1, REQUEST, 5) == RESULT


async def test_a_write_that_no_frame_holds(nodes: World) -> None:
    _, two = await nodes.pair(frame_bytes_max=1000)
    large = WriteRequest((Operation(Op.PUT, "k", b"x" * 2000),), "admin", "r")
    assert await code_of(asyncio.ensure_future(two.network.forward_write(1, large, 5))) == "too_large"
