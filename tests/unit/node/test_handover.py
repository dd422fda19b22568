"""A leader that goes, or had better not lead, hands over to who can lead: one after the other, and not only once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
from driver_rig import CONFIGURATION, LEADER, ME, TERM, WAIT_S, Peers, Rig, until
from msgspec.structs import replace

from appliance.node.handover import UNFITNESS_CALL, hand_over, unfitness_of
from appliance.raft.messages import Role, TimeoutNow
from appliance.tables.errors import ApplianceError

pytestmark = pytest.mark.anyio


@pytest.fixture
def hurried(rig: Rig, peers: Peers) -> Rig:
    """A leader that gives who is to take over a moment only."""
    rig.driver.settings = replace(rig.driver.settings, election_timeout_s=0.2)
    return rig


def asked(rig: Rig) -> list[int]:
    """Whom this node has told to campaign."""
    return [m.to for m in rig.network.sent if isinstance(m, TimeoutNow)]


async def test_the_next_one_is_asked_when_one_does_not_take_over(hurried: Rig, peers: Peers) -> None:
    peers.unwilling = {3}
    assert await asyncio.wait_for(hand_over(hurried.driver), WAIT_S)
    assert (asked(hurried)[0], asked(hurried)[-1]) == (3, 2)
    assert hurried.driver.core is not None
    assert hurried.driver.core.state.role is Role.FOLLOWER


async def test_each_one_is_asked_once(hurried: Rig, peers: Peers) -> None:
    peers.unwilling = {2, 3}
    assert not await asyncio.wait_for(hand_over(hurried.driver), WAIT_S)
    assert sorted(asked(hurried)) == [2, 3]
    assert hurried.driver.core is not None
    assert hurried.driver.core.state.role is Role.LEADER


async def test_who_is_silent_is_asked_last(hurried: Rig, peers: Peers) -> None:
    peers.silent = {3}
    assert hurried.driver.core is not None
    followers = hurried.driver.core.state.progress
    await until(lambda: followers[3].silent_ticks > 10 > followers[2].silent_ticks, "node 3 to be silent")
    assert await asyncio.wait_for(hand_over(hurried.driver), WAIT_S)
    assert asked(hurried) == [2]


async def test_who_had_better_not_lead_is_not_asked(hurried: Rig) -> None:
    hurried.network.unfit = {3: "the disk of node 3 is full"}
    assert await asyncio.wait_for(hand_over(hurried.driver), WAIT_S)
    assert asked(hurried) == [2]


async def test_nobody_is_asked_where_there_is_no_link(hurried: Rig) -> None:
    hurried.network.reachable = set()
    assert not await asyncio.wait_for(hand_over(hurried.driver), WAIT_S)
    assert not asked(hurried)


@pytest.mark.parametrize(
    ("error", "may"),
    [
        (ApplianceError("conflict", "Node 2 does not know the call 'unfitness'."), True),  # an older version
        (ApplianceError("no_leader", "there is no link to node 2"), False),
        (ApplianceError("outcome_unknown", "it did not answer within 1 s"), False),
    ],
    ids=lambda value: getattr(value, "code", ""),
)
async def test_an_older_node_is_taken_for_fit_and_a_silent_one_is_not(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, error: ApplianceError, may: bool
) -> None:
    async def call(node_id: int, name: str, body: bytes, timeout_s: float) -> bytes:
        raise error

    monkeypatch.setattr(rig.network, "call", call)
    assert (await unfitness_of(rig.driver, 2) == "") is may


async def test_a_leader_that_is_not_fit_tries_again_until_one_takes_over(
    hurried: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.node.fitness.GIVE_WAY_INTERVAL_S", 0.05)
    driver = hurried.driver
    hurried.network.unfit = {2: "its disk is full", 3: "its clock is off"}
    driver.clocks.off = True
    driver.fitness.judge()
    await asyncio.sleep(0.2)
    assert not asked(hurried), "writes would wait for nothing"
    assert driver.can_propose()
    hurried.network.unfit = {2: "its disk is full"}
    assert driver.core is not None
    await until(lambda: driver.core is not None and driver.core.state.role is Role.FOLLOWER, "node 3 to take over")
    assert set(asked(hurried)) == {3}
    assert not driver.core.state.may_campaign


async def test_a_node_that_is_elected_while_it_is_not_fit_hands_over(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.node.fitness.GIVE_WAY_INTERVAL_S", 0.05)
    rig.driver.clocks.off = True
    rig.driver.fitness.judge()
    assert rig.driver.core is not None
    rig.driver.core.set_may_campaign(True)  # as it does by itself where nobody else can lead
    Peers(rig)
    rig.desk.on_message(TimeoutNow(sender=LEADER, sender_incarnation=LEADER * 10, to=ME, term=TERM))
    await until(lambda: bool(asked(rig)), "it to hand over")


async def test_peers_may_ask_why_a_node_had_better_not_lead(rig: Rig) -> None:
    async def answer() -> str:
        return msgspec.msgpack.decode(await rig.desk.on_call(LEADER, UNFITNESS_CALL, b""), type=str)

    assert await answer() == ""
    rig.driver.clocks.off = True
    assert await answer() == "the clock of node 1 is off"
    rig.driver.room.full = True
    assert await answer() == "the disk of node 1 is full"
    rig.driver.room.full = rig.driver.clocks.off = False


async def test_a_node_that_was_not_fit_before_it_belonged_to_a_cluster_does_not_campaign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.node.fitness.GIVE_WAY_INTERVAL_S", 0.05)
    rig = Rig(tmp_path, founded=False)
    await rig.driver.start()
    rig.driver.clocks.off = True
    rig.driver.fitness.judge()
    rig.driver.found(CONFIGURATION)
    assert rig.driver.core is not None
    state = rig.driver.core.state
    await until(lambda: not state.may_campaign, "the core to be told")
    await asyncio.wait_for(rig.driver.stop(), WAIT_S)
