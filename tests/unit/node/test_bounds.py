"""Bounds of the write path: past one the answer comes at once and nothing queues; what was accepted is carried out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from driver_rig import LEADER, ME, TERM, WAIT_S, Peers, Rig, until

from appliance.ledger.commands import Op, Operation, Outcome, WriteRequest, WriteResult
from appliance.node.waiting import Adrift
from appliance.raft.core import RaftCore
from appliance.raft.messages import Heartbeat
from appliance.tables.errors import ApplianceError

pytestmark = pytest.mark.anyio

WRITES_MAX = 100  # the rig's concurrency_max
BYTES_MAX = 20_000
VALUE = bytes(1000)


@pytest.fixture
async def rig(rig: Rig) -> Rig:
    rig.heartbeat()
    return rig


def request(number: int, value: bytes = VALUE) -> WriteRequest:
    return WriteRequest((Operation(Op.PUT, f"k{number}", value),), "tester", f"r{number}")


def refused(rig: Rig) -> float:
    return rig.service._outcomes["refused"].value


async def overloaded(writing: Callable[[], Awaitable[object]]) -> None:
    """See a write refused at once: before the loop has had more than a turn."""
    task = asyncio.ensure_future(_await(writing))
    for _ in range(3):
        await asyncio.sleep(0)
    assert task.done(), "it waits"
    with pytest.raises(ApplianceError) as caught:
        task.result()
    assert (caught.value.code, caught.value.row.status, caught.value.retry_after_s) == ("overloaded", 503, 1)


async def _await(writing: Callable[[], Awaitable[object]]) -> object:
    return await writing()


class Leader:
    """Writes at a leader, and what became of each."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self.accepted = 0
        self.told: list[WriteResult | ApplianceError] = []

    async def now(self) -> None:
        assert self._rig.service.write_now(request(self.accepted), self.told.append)
        self.accepted += 1

    async def fill(self) -> None:
        """Write until a bound says no."""
        while True:
            try:
                await self.now()
            except ApplianceError:
                return

    def entrances(self) -> list[Callable[[], Awaitable[object]]]:
        """All ways that a write can take to the leader: the fast path, the long way, a follower's link."""
        service, extra = self._rig.service, request(10**6)
        return [self.now, lambda: service.write(extra), lambda: service.serve_write(extra)]


async def full(rig: Rig, peers: Peers, monkeypatch: pytest.MonkeyPatch, bound: str) -> tuple[Leader, RaftCore]:
    """A leader that has as many writes, or bytes of them, as it may, since its followers take none."""
    if bound == "bytes":
        monkeypatch.setattr("appliance.node.service.IN_FLIGHT_BYTES_MAX", BYTES_MAX)
    peers.deaf = True
    writes, core = Leader(rig), rig.driver.core
    assert core is not None
    await writes.fill()
    return writes, core


@pytest.mark.parametrize("bound", ["writes", "bytes"])
async def test_a_leader_refuses_at_once_what_it_cannot_hold(
    rig: Rig, peers: Peers, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    writes, core = await full(rig, peers, monkeypatch, bound)
    entry_bytes = len(core.state.log.slice(core.state.log.last_index, core.state.log.last_index, 2**20, 1)[0].data)
    assert writes.accepted == (WRITES_MAX if bound == "writes" else -(-BYTES_MAX // entry_bytes))
    last_index, refused_before = core.state.log.last_index, refused(rig)
    for entrance in writes.entrances():
        await overloaded(entrance)
    assert refused(rig) == refused_before + 3
    assert core.state.log.last_index == last_index
    assert writes.told == []

    peers.listen()
    await until(lambda: len(writes.told) == writes.accepted, "an answer to each that was accepted")
    assert [one.outcome for one in writes.told if isinstance(one, WriteResult)] == [Outcome.OK] * writes.accepted
    for number in range(writes.accepted):
        head = rig.ledger_store.head(f"k{number}")
        assert head is not None
        assert head.version == 1
    again = await asyncio.wait_for(rig.service.write(request(0)), WAIT_S)
    assert again.results[0].version == 2
    assert (rig.service._in_flight, rig.service._in_flight_bytes, rig.service._elsewhere_bytes) == (0, 0, 0)


async def test_one_write_always_passes_however_large(rig: Rig, peers: Peers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.node.service.IN_FLIGHT_BYTES_MAX", 1)
    for version in (1, 2):
        result = await asyncio.wait_for(rig.service.write(request(0)), WAIT_S)
        assert result.results[0].version == version


@pytest.mark.parametrize("bound", ["writes", "bytes"])
async def test_a_follower_holds_no_more_for_its_leader(rig: Rig, monkeypatch: pytest.MonkeyPatch, bound: str) -> None:
    if bound == "bytes":
        monkeypatch.setattr("appliance.node.service.IN_FLIGHT_BYTES_MAX", BYTES_MAX)
    forwarded: list[tuple[WriteRequest, asyncio.Future[WriteResult]]] = []

    async def forward_write(node_id: int, request: WriteRequest, timeout_s: float) -> WriteResult:
        assert node_id == LEADER
        forwarded.append((request, asyncio.get_running_loop().create_future()))
        return await forwarded[-1][1]

    monkeypatch.setattr(rig.network, "forward_write", forward_write)
    room = WRITES_MAX if bound == "writes" else BYTES_MAX // len(VALUE)
    accepted = [asyncio.ensure_future(rig.service.write(request(number))) for number in range(room)]
    await until(lambda: len(forwarded) == room, "all of them at the leader")
    await overloaded(lambda: rig.service.write(request(room)))
    with pytest.raises(ApplianceError, match="overloaded"):  # the fast path asks first
        rig.service.write_now(request(room), lambda outcome: None)
    assert refused(rig) == 2
    assert len(forwarded) == room

    result = WriteResult(Outcome.OK, 5, TERM, 1)
    for _, answer in forwarded:
        answer.set_result(result)
    assert await asyncio.wait_for(asyncio.gather(*accepted), WAIT_S) == [result] * room
    late = asyncio.ensure_future(rig.service.write(request(room)))
    await until(lambda: len(forwarded) == room + 1, "the next one at the leader")
    forwarded[-1][1].set_result(result)
    assert await late == result


async def test_writes_that_wait_for_a_leader_are_bounded_too(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.node.service.IN_FLIGHT_BYTES_MAX", BYTES_MAX)
    core = rig.driver.core
    assert core is not None
    monkeypatch.setattr(rig.service._leadership, "is_ready", lambda: False)
    waiting = [asyncio.ensure_future(rig.service.write(request(number))) for number in range(BYTES_MAX // len(VALUE))]
    await asyncio.sleep(0)
    await overloaded(lambda: rig.service.write(request(0)))
    for write in waiting:
        write.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert (rig.service._elsewhere, rig.service._elsewhere_bytes) == (0, 0)


@pytest.mark.parametrize("bound", ["writes", "bytes"])
async def test_what_was_not_committed_in_time_still_takes_room(
    rig: Rig, peers: Peers, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    """The followers live, and can store nothing: each time-out must not make room in the log for as many again."""
    writes, core = await full(rig, peers, monkeypatch, bound)
    rig.clock.ahead_s += 6  # the time of all is over
    await until(lambda: len(writes.told) == writes.accepted, "that nobody knows what became of them")
    assert {one.code for one in writes.told if isinstance(one, ApplianceError)} == {"outcome_unknown"}
    last_index = core.state.log.last_index
    for entrance in writes.entrances():
        await overloaded(entrance)
    with pytest.raises(ApplianceError, match=f"{writes.accepted} of them could not be committed in time"):
        await rig.service.write(request(0))
    assert core.state.log.last_index == last_index

    peers.listen()
    await until(lambda: core.state.commit_index == last_index, "all of them to be committed after all")
    assert (await asyncio.wait_for(rig.service.write(request(0)), WAIT_S)).results[0].version == 2


async def test_another_term_makes_room_for_what_was_lost_with_the_last(rig: Rig, peers: Peers) -> None:
    """What was not committed may be gone from the log, so that its end is never reached again."""
    peers.deaf = True
    core, adrift = rig.driver.core, Adrift()
    assert core is not None
    await Leader(rig).now()
    adrift.add(10, core.state)
    adrift.look(core.state)
    assert (adrift.count, adrift.size_bytes) == (1, 10)
    rig.desk.on_message(
        Heartbeat(sender=3, sender_incarnation=30, to=ME, term=core.state.term + 1, commit_index=0, round=0)
    )
    adrift.look(core.state)
    assert (adrift.count, adrift.size_bytes) == (0, 0)


async def test_a_node_that_leads_no_more_counts_nothing(rig: Rig, peers: Peers) -> None:
    """Its time-out may come when it follows already, and whoever leads has yet to drop what it had in the log."""
    peers.deaf = True
    core, adrift = rig.driver.core, Adrift()
    assert core is not None
    await Leader(rig).now()
    rig.desk.on_message(
        Heartbeat(sender=3, sender_incarnation=30, to=ME, term=core.state.term + 1, commit_index=0, round=0)
    )
    assert core.state.log.last_index > core.state.commit_index
    adrift.add(10, core.state)
    adrift.look(core.state)
    assert (adrift.count, adrift.size_bytes) == (0, 0)
