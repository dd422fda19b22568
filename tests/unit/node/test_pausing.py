"""Pauses of writes at a leader and at a follower, and the rest of the ledger file while one holds."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from driver_rig import CLUSTER_ID, LEADER, ME, TERM, WAIT_S, Peers, Rig, put, until

from appliance.adapters.ledger_rows import decode_summary
from appliance.adapters.ledger_store import SqliteLedgerStore
from appliance.adapters.ledger_verify import verify_copy
from appliance.adapters.sqlite import Reader
from appliance.ledger.commands import Op, Operation, Outcome, WriteRequest, WriteResult, encode_pause
from appliance.node.api import PauseAnswer
from appliance.node.peer_ports import Hello
from appliance.node.ports import Identity
from appliance.raft.messages import Configuration, Entry, EntryKind, make_entry
from appliance.tables.errors import ApplianceError

pytestmark = pytest.mark.anyio

HOUR_US = 3600 * 1_000_000


@pytest.fixture
async def rig(rig: Rig) -> Rig:
    rig.heartbeat()
    return rig


def request(key: str = "k") -> WriteRequest:
    return WriteRequest((Operation(Op.PUT, key, b"v"),), "tester", "r")


async def pause(rig: Rig, ttl_s: float = 3600.0) -> PauseAnswer:
    return await asyncio.wait_for(rig.service.pause_writes(ttl_s, "carol", "p"), WAIT_S)


async def resume(rig: Rig) -> PauseAnswer:
    return await asyncio.wait_for(rig.service.resume_writes("carol", "p"), WAIT_S)


async def error_of(work: Awaitable[object]) -> ApplianceError:
    with pytest.raises(ApplianceError) as caught:
        await asyncio.wait_for(work, WAIT_S)
    return caught.value


# -- at the leader


async def test_a_pause_refuses_every_way_in_and_not_reads(rig: Rig, peers: Peers) -> None:
    await rig.service.write(request())
    assert rig.service.health().alarms == ()
    core = rig.driver.core
    assert core is not None
    answer = await pause(rig)
    assert answer.paused_until_us > rig.clock.now_us()
    assert (answer.settled, answer.unsettled) == ((ME,), (2, 3))
    last_index = core.state.log.last_index
    ways: list[Callable[[], Awaitable[object]]] = [
        lambda: rig.service.write(request()),
        lambda: rig.service.serve_write(request()),
    ]
    for way in ways:
        error = await error_of(way())
        assert (error.code, error.row.status) == ("writes_paused", 503)
    with pytest.raises(ApplianceError, match="An operator has paused writes"):
        rig.service.write_now(request(), lambda outcome: None)
    assert core.state.log.last_index == last_index
    assert (await rig.service.read("k", linearizable=False)).value == b"v"
    assert rig.service.health().alarms == ("writes_paused",)
    assert rig.service.health().healthy


@pytest.mark.parametrize(("ttl_s", "at_least", "at_most"), [(3600.0, 30, 30), (20.0, 10, 20), (0.5, 1, 1)])
async def test_retry_after_is_what_is_left_within_bounds(
    rig: Rig, peers: Peers, ttl_s: float, at_least: int, at_most: int
) -> None:
    answer = await pause(rig, ttl_s)
    error = rig.service._pausing.refusal(answer.paused_until_us - round(ttl_s * 1e6))
    assert error.retry_after_s is not None
    assert at_least <= error.retry_after_s <= at_most


async def test_a_pause_ends_by_itself(rig: Rig, peers: Peers) -> None:
    await pause(rig)
    rig.clock.ahead_us = HOUR_US - 60_000_000
    assert (await error_of(rig.service.write(request()))).code == "writes_paused"
    rig.clock.ahead_us = HOUR_US
    assert rig.service.health().alarms == ()
    assert (await rig.service.write(request())).outcome == Outcome.OK


async def test_writes_are_taken_again_once_or_twice(rig: Rig, peers: Peers) -> None:
    await pause(rig)
    first = await resume(rig)
    assert (first.paused_until_us, first.settled, first.unsettled) == (0, (), ())
    assert (await rig.service.write(request())).outcome == Outcome.OK
    again = await resume(rig)
    assert again.index > first.index
    assert (await rig.service.write(request())).outcome == Outcome.OK


async def test_a_second_pause_sets_a_new_end(rig: Rig, peers: Peers) -> None:
    await pause(rig)
    answer = await pause(rig, 60.0)
    assert answer.settled == (ME,)
    assert answer.paused_until_us <= rig.clock.now_us() + 60_000_000
    rig.clock.ahead_us = 60_000_000
    assert (await rig.service.write(request())).outcome == Outcome.OK


async def test_each_member_is_asked_to_settle(rig: Rig, peers: Peers) -> None:
    calls: list[tuple[int, str]] = []

    async def on_call(node_id: int, name: str, body: bytes) -> bytes:
        if name == "states":  # which nodes ask each other for all the time
            raise ApplianceError("conflict", "")
        calls.append((node_id, name))
        assert msgspec.msgpack.decode(body)[0] >= rig.driver.applier.applied_index
        if node_id == 3:
            raise ApplianceError("outcome_unknown", "was lost before it answered")
        return b""

    rig.network.on_call = on_call  # type: ignore[method-assign]
    answer = await pause(rig)
    assert (answer.settled, answer.unsettled) == ((1, 2), (3,))
    assert sorted(calls) == [(2, "settle"), (3, "settle")]


async def test_a_write_that_overtook_nothing_is_refused_by_the_entry(rig: Rig, peers: Peers) -> None:
    """Proposed behind the pause, before the pause was committed; its audit row is in the file when that settles."""
    peers.deaf = True
    pausing = asyncio.ensure_future(pause(rig))
    told: list[WriteResult | ApplianceError] = []
    core = rig.driver.core
    assert core is not None
    await until(lambda: core.state.log.last_index > rig.driver.applier.applied_index, "the pause in the log")
    assert rig.service.write_now(request(), told.append)
    peers.listen()
    answer = await pausing
    (result,) = told
    assert isinstance(result, WriteResult)
    assert (result.outcome, result.raft_index) == (Outcome.WRITES_PAUSED, answer.index + 1)
    reader = Reader(rig.directory / "ledger.db", cache_bytes=2**20)
    rows = reader.rows("SELECT raft_index, op, key, outcome FROM refusals ORDER BY raft_index")
    reader.close()
    assert rows == [(answer.index, "pause", "", "ok"), (answer.index + 1, "put", "k", "writes_paused")]


async def test_no_pause_beside_a_node_that_would_stop_at_it(rig: Rig, peers: Peers) -> None:
    old = Hello("1.0", 1, ("traces",), Identity(CLUSTER_ID, 3, 30), "a:1", "a:2", 1, Configuration())
    rig.driver.members.hellos[3] = old
    error = await error_of(rig.service.pause_writes(60.0, "carol", "p"))
    assert error.code == "conflict"
    assert "Upgrade" in error.detail
    assert (await rig.service.write(request())).outcome == Outcome.OK
    rig.network.reachable.discard(3)  # nobody knows what it will be when it comes back
    assert (await pause(rig)).paused_until_us > 0


# -- at a follower


ANSWER = PauseAnswer(17, 5, (1, 2), (3,))


async def test_a_follower_has_the_leader_do_it(rig: Rig) -> None:
    asked: list[list[object]] = []

    async def on_call(node_id: int, name: str, body: bytes) -> bytes:
        if name == "states":
            raise ApplianceError("conflict", "")
        assert (node_id, name) == (LEADER, "pause")
        asked.append(msgspec.msgpack.decode(body))
        if len(asked) == 1:
            raise ApplianceError("no_leader", "The node that was asked does not lead at the moment.")
        return msgspec.msgpack.encode(ANSWER)

    rig.network.on_call = on_call  # type: ignore[method-assign]
    assert await pause(rig, 1.5) == ANSWER
    assert await resume(rig) == ANSWER
    assert asked == [[1_500_000, "carol", "p"], [1_500_000, "carol", "p"], [0, "carol", "p"]]


async def test_what_may_have_been_done_is_not_tried_again(rig: Rig) -> None:
    calls: list[int] = []

    async def on_call(node_id: int, name: str, body: bytes) -> bytes:
        if name == "states":
            raise ApplianceError("conflict", "")
        calls.append(node_id)
        raise ApplianceError("outcome_unknown", "was lost before it answered")

    rig.network.on_call = on_call  # type: ignore[method-assign]
    assert (await error_of(rig.service.pause_writes(60.0, "carol", "p"))).code == "outcome_unknown"
    assert calls == [LEADER]


async def test_a_follower_that_is_asked_as_the_leader_says_so(rig: Rig) -> None:
    body = msgspec.msgpack.encode([60_000_000, "carol", "p"])
    assert (await error_of(rig.desk.on_call(3, "pause", body))).code == "no_leader"


async def test_a_leader_decides_for_who_asks(rig: Rig, peers: Peers) -> None:
    body = msgspec.msgpack.encode([60_000_000, "carol", "p"])
    answer = msgspec.msgpack.decode(await rig.desk.on_call(3, "pause", body), type=PauseAnswer)
    assert answer.settled == (ME,)
    assert rig.service.health().alarms == ("writes_paused",)


# -- the rest of the file


def pause_entry(rig: Rig, index: int, ttl_us: int = HOUR_US) -> Entry:
    now_us = rig.clock.now_us()
    return make_entry(
        TERM, index, EntryKind.NORMAL, encode_pause(now_us, now_us + ttl_us if ttl_us else 0, "carol", "p")
    )


def noop(index: int) -> Entry:
    return make_entry(TERM, index, EntryKind.NOOP, b"")


def held(path: Path) -> dict[str, bytes]:
    """The bytes of the ledger file and of its WAL."""
    return {one.name: one.read_bytes() for one in path.glob("ledger.db*") if not one.name.endswith("-shm")}


def index_in(path: Path) -> int:
    reader = Reader(path / "ledger.db", cache_bytes=2**20)
    try:
        ((data,),) = reader.rows("SELECT value FROM meta WHERE name = 'summary'")
        assert isinstance(data, bytes)
        return decode_summary(data).applied_index
    finally:
        reader.close()


async def applied(rig: Rig, index: int) -> None:
    await until(lambda: rig.driver.applier.applied_index == index, f"entry {index} is applied")


async def keeper_turns(rig: Rig) -> None:
    """Two turns of the keeper: one of them began after this was called."""
    for _ in range(2):
        await asyncio.wait_for(rig.driver.keeper.flushed(), WAIT_S)


async def test_the_file_rests_until_writes_are_taken_again(rig: Rig, tmp_path: Path) -> None:
    rig.append(2, 5, commit=6)
    rig.take([pause_entry(rig, 7)], commit=7)
    await asyncio.wait_for(rig.desk.on_call(2, "settle", msgspec.msgpack.encode([7])), WAIT_S)
    assert rig.driver.keeper.durable_index == 7
    before = held(rig.directory)
    assert before["ledger.db-wal"] == b""

    rig.take([noop(8), noop(9)], commit=9)
    await applied(rig, 9)
    await keeper_turns(rig)
    assert rig.driver.keeper.is_resting()
    assert await asyncio.wait_for(rig.service.settle(), WAIT_S) == rig.directory / "ledger.db"
    assert held(rig.directory) == before
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in before:
        shutil.copy(rig.directory / name, copy)
    summary, _ = verify_copy(copy / "ledger.db", CLUSTER_ID)
    assert (summary.applied_index, summary.tree_size) == (7, 5)

    rig.take([pause_entry(rig, 10, 0), put(11)], commit=11)
    await applied(rig, 11)
    await until(lambda: index_in(rig.directory) == 11, "the file goes on")
    assert not rig.driver.keeper.is_resting()


async def test_a_file_that_nobody_asked_to_settle_rests_too(rig: Rig) -> None:
    rig.take([put(2), pause_entry(rig, 3)], commit=3)
    await until(lambda: rig.driver.keeper.durable_index == 3, "the file is synced")
    before = held(rig.directory)
    rig.take([noop(4)], commit=4)
    await applied(rig, 4)
    await keeper_turns(rig)
    assert held(rig.directory) == before
    rig.clock.ahead_us = HOUR_US
    await until(lambda: index_in(rig.directory) == 4, "the pause is over, and the file goes on")


async def test_what_was_in_flight_is_written_when_the_node_is_asked(rig: Rig) -> None:
    rig.take([pause_entry(rig, 2)], commit=2)
    await until(lambda: rig.driver.keeper.durable_index == 2, "the file rests")
    rig.take([put(3), put(4)], commit=4)  # refused
    await applied(rig, 4)
    await keeper_turns(rig)
    assert index_in(rig.directory) == 2
    await asyncio.wait_for(rig.desk.on_call(2, "settle", msgspec.msgpack.encode([4])), WAIT_S)
    assert (rig.driver.keeper.durable_index, index_in(rig.directory)) == (4, 4)


async def test_settling_waits_for_what_is_still_to_come(rig: Rig) -> None:
    rig.append(2, 1, commit=2)
    asking = asyncio.ensure_future(rig.desk.on_call(2, "settle", msgspec.msgpack.encode([4])))
    await applied(rig, 2)
    rig.log_store.open.clear()
    rig.take([put(3), pause_entry(rig, 4)], commit=4)
    await applied(rig, 4)
    await keeper_turns(rig)
    assert not asking.done()  # it is not synced in the log
    rig.log_store.open.set()
    assert await asyncio.wait_for(asking, WAIT_S) == b""
    assert index_in(rig.directory) == 4


async def test_a_node_that_is_not_paused_does_not_settle(rig: Rig) -> None:
    rig.take([put(2), pause_entry(rig, 3), pause_entry(rig, 4, 0)], commit=4)
    error = await error_of(rig.desk.on_call(2, "settle", msgspec.msgpack.encode([3])))
    assert (error.code, error.detail) == ("conflict", "Writes are not paused any more.")


async def test_a_node_that_settles_too_slowly_says_so(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.node.pausing.SETTLE_S", 0.05)
    assert (await error_of(rig.desk.on_call(2, "settle", msgspec.msgpack.encode([100])))).code == "unhealthy"


async def test_a_node_that_stops_and_starts_in_a_pause_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    first = Rig(tmp_path)
    await first.driver.start()
    first.take([put(2), pause_entry(first, 3)], commit=3)
    await until(lambda: first.driver.keeper.durable_index == 3, "the file rests")
    first.take([noop(4)], commit=4)
    await applied(first, 4)
    await asyncio.wait_for(first.driver.stop(), WAIT_S)
    rested = (tmp_path / "ledger.db").read_bytes()
    assert index_in(tmp_path) == 3

    first.data.close()
    again = Rig(tmp_path)
    await again.driver.start()
    assert again.service.health().alarms == ("writes_paused",)
    again.take([noop(5)], commit=5)
    await applied(again, 5)
    await keeper_turns(again)
    assert index_in(tmp_path) == 3
    assert (tmp_path / "ledger.db").read_bytes() == rested
    again.take([pause_entry(again, 6, 0)], commit=6)
    await until(lambda: index_in(tmp_path) == 6, "the file goes on")
    await asyncio.wait_for(again.driver.stop(), WAIT_S)


async def test_a_file_that_an_older_program_wrote_is_not_paused(tmp_path: Path) -> None:
    store = SqliteLedgerStore(tmp_path / "ledger.db", 2**20, CLUSTER_ID)
    summary, _ = store.load()
    assert summary.paused_until_us == 0
    store.close()
    rig = Rig(tmp_path)
    assert rig.driver.rest.index() is None
    await rig.driver.start()
    await asyncio.wait_for(rig.driver.stop(), WAIT_S)
