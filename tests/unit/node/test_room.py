"""A full disk: nothing that was not stored is promised, writes are refused, and all of it ends by itself."""

import asyncio
from pathlib import Path

import pytest
from driver_rig import LEADER, ME, TERM, Rig, until

from appliance.adapters.identity import RESERVE_FILE
from appliance.ledger.commands import Op, Operation, Outcome, WriteRequest
from appliance.node.ports import DiskFull
from appliance.raft.messages import AppendRequest, AppendResponse, TimeoutNow, VoteResponse
from appliance.tables.errors import ApplianceError

pytestmark = pytest.mark.anyio


@pytest.fixture
async def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    monkeypatch.setattr("appliance.node.room.LOOK_INTERVAL_S", 0.2)
    monkeypatch.setattr("appliance.node.log_writer.FULL_RETRY_S", 0.02)
    made = Rig(tmp_path)
    await made.driver.start()
    yield made
    made.log_store.full = False
    made.network.reachable = set()  # a leader that stops has nobody to hand over to, and does not wait for it
    await made.driver.stop()
    made.data.close()


def acknowledged(rig: Rig) -> int:
    return max((m.index for m in rig.network.sent if isinstance(m, AppendResponse) and m.success), default=0)


async def test_a_follower_promises_nothing_and_goes_on_when_there_is_room(rig: Rig) -> None:
    reserve = rig.directory / RESERVE_FILE
    await until(reserve.exists, "the reserve to be held")
    rig.log_store.full = True
    rig.append(2, 3, commit=1)
    await until(lambda: rig.driver.room.full, "the full disk to be noticed")
    assert not rig.fatal
    assert acknowledged(rig) == 0
    assert rig.service.health().alarms == ("disk_full",)
    assert rig.driver.core is not None
    assert not rig.driver.core.state.may_campaign
    rig.log_store.full = False
    await until(lambda: acknowledged(rig) == 4, "what waited to be stored and acknowledged")
    await until(lambda: not rig.driver.room.full, "the alarm to end by itself")
    assert rig.driver.core.state.may_campaign
    assert reserve.exists()
    assert rig.service.health().alarms == ()
    told = ["storage.disk_full", "storage.room_again"]
    assert [event for event in rig.log.events if event in told] == told


def one_put(key: str) -> WriteRequest:
    return WriteRequest((Operation(Op.PUT, key, b"v"),), "tester", key)


def answer(rig: Rig, node: int, index: int, term: int) -> None:
    """A follower holds everything up to an index."""
    rig.desk.on_message(
        AppendResponse(sender=node, sender_incarnation=node * 10, to=ME, term=term, success=True, index=index)
    )


async def lead(rig: Rig) -> None:
    """Make it the leader of followers that acknowledge whatever they are sent."""
    term = TERM + 1

    def acknowledge(message: object) -> None:
        if isinstance(message, AppendRequest):
            answer(rig, message.to, message.prev_index + len(message.entries), term)

    rig.network.on_send = acknowledge
    rig.append(2, 1, commit=2)
    await until(lambda: acknowledged(rig) == 2, "the follower to follow")
    rig.desk.on_message(TimeoutNow(sender=LEADER, sender_incarnation=LEADER * 10, to=ME, term=TERM))
    vote = VoteResponse(sender=LEADER, sender_incarnation=LEADER * 10, to=ME, term=term, granted=True)
    rig.desk.on_message(vote)
    await until(rig.driver.can_propose, "it to have committed in its term")


@pytest.mark.parametrize("reachable", [{2, 3}, set()], ids=["others can lead", "nobody else can"])
async def test_a_leader_takes_no_writes_and_hands_over_if_it_can(rig: Rig, reachable: set[int]) -> None:
    await lead(rig)
    rig.log_store.full = True
    rig.log_store.open.clear()
    written = await rig.service.write(one_put("a"))  # a majority holds it, this disk does not: that is enough
    assert written.outcome is Outcome.OK
    rig.network.reachable = reachable
    rig.log_store.open.set()
    await until(lambda: rig.driver.room.full, "the full disk to be noticed")
    if reachable:
        await until(lambda: any(isinstance(m, TimeoutNow) for m in rig.network.sent), "it to hand over")
    else:
        with pytest.raises(ApplianceError) as refused:
            await rig.service.write(one_put("b"))
        assert refused.value.code == "disk_full"
    assert (await rig.service.read("a", linearizable=False)).value == b"v"


async def test_what_was_set_aside_goes_before_writes_are_refused_for_long(rig: Rig) -> None:
    kept = rig.directory / "damaged-20261123T204343Z"
    kept.mkdir()
    (kept / "ledger.db").write_bytes(b"x")
    await until(lambda: rig.service.health().alarms == ("data_set_aside",), "the alarm")
    rig.log_store.full = True
    rig.append(2, 3, commit=1)
    await until(lambda: rig.driver.room.full, "the full disk to be noticed")
    assert not kept.exists()
    assert rig.service.health().alarms == ("disk_full",)


async def test_a_reserve_that_has_no_room_is_no_reason_to_drop_what_was_set_aside(rig: Rig) -> None:
    """Nobody may be there who has it: only a write, or a snapshot that comes, shows that others do."""
    kept = rig.directory / "damaged-20261123T204343Z"
    kept.mkdir()

    def no_room() -> None:
        raise DiskFull("no room")

    rig.data.hold_reserve = no_room  # type: ignore[method-assign]
    rig.driver.room.full = True  # so that it looks again
    await until(lambda: rig.driver.room.kept == 1, "it to have looked")
    await asyncio.sleep(0)
    assert kept.exists()
