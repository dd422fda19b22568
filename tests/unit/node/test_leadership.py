"""Whether enough voters can be reached, and when a silence says nothing about them."""

from __future__ import annotations

import asyncio

import pytest
from driver_rig import WAIT_S, Peers, Rig, until
from msgspec.structs import replace

from appliance.ledger.commands import Op, Operation, WriteRequest
from appliance.node.leadership import CONTACT_S_MIN, Leadership
from appliance.raft.messages import Role
from appliance.tables.errors import ApplianceError

pytestmark = pytest.mark.anyio

STALL_S = 5.0


@pytest.fixture(autouse=True)
def impatient(rig: Rig) -> None:
    """Make the patience with others `CONTACT_S_MIN`; the core keeps its long election time-out, and leads on."""
    rig.driver.settings = replace(rig.driver.settings, election_timeout_s=0.3)


class Heard:
    """Links that stand, and when something came over them last, by the clock of the rig."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self.now()
        rig.network.connected = self._connected  # type: ignore[method-assign]

    def now(self) -> None:
        self._at_s = self._rig.clock.monotonic_s()

    def _connected(self) -> dict[int, float]:
        return dict.fromkeys(self._rig.network.reachable, self._rig.clock.monotonic_s() - self._at_s)


def refusal(rig: Rig) -> str:
    """The code of what a leader says to a write before it takes it; empty when it takes it."""
    try:
        Leadership(rig.driver).refuse_without_quorum()
    except ApplianceError as error:
        return error.code
    return ""


async def test_a_leader_that_was_held_up_takes_a_write_before_it_has_read_what_the_others_sent(
    rig: Rig, peers: Peers
) -> None:
    Heard(rig)
    rig.clock.ahead_s += STALL_S
    operation = Operation(Op.PUT, "key", b"value")
    writing = rig.service.write(WriteRequest((operation,), "tester", "request"))
    assert (await asyncio.wait_for(writing, WAIT_S)).raft_index > 1


async def test_a_stall_is_no_silence_after_the_next_tick_either(rig: Rig, peers: Peers) -> None:
    core = rig.driver.core
    assert core is not None
    Heard(rig)
    peers.silent = {2, 3}  # what they sent comes later
    rig.clock.ahead_s += STALL_S
    silent_ticks = core.state.progress[2].silent_ticks
    await until(lambda: core.state.progress[2].silent_ticks >= silent_ticks + 2, "two ticks")
    assert refusal(rig) == ""
    peers.silent = set()


async def test_voters_of_a_leader_that_are_frozen_are_noticed_and_come_back(rig: Rig, peers: Peers) -> None:
    core = rig.driver.core
    assert core is not None
    peers.silent = {2, 3}
    await until(lambda: refusal(rig) == "no_quorum", "their silence to be noticed")
    silent_s = core.state.progress[2].silent_ticks * rig.driver.settings.tick_s
    assert CONTACT_S_MIN <= silent_s < CONTACT_S_MIN + 0.25
    assert core.state.role is Role.LEADER
    peers.silent = set()
    await until(lambda: refusal(rig) == "", "them to be heard again")


async def test_a_voter_without_a_link_is_not_reached_however_lately_it_was_heard(rig: Rig, peers: Peers) -> None:
    rig.network.reachable = {2}
    assert refusal(rig) == ""
    rig.network.reachable = set()
    assert refusal(rig) == "no_quorum"


@pytest.mark.parametrize(("frozen", "code"), [(False, "no_leader"), (True, "no_quorum")])
async def test_without_a_leader_what_came_during_a_stall_is_read_before_the_others_are_judged(
    rig: Rig, frozen: bool, code: str
) -> None:
    heard = Heard(rig)
    rig.clock.ahead_s += STALL_S
    if not frozen:
        asyncio.get_running_loop().call_soon(heard.now)
    with pytest.raises(ApplianceError) as caught:
        await Leadership(rig.driver).wait(rig.clock.monotonic_s())  # with no task of its own: nothing runs before it
    assert caught.value.code == code


async def test_ticks_are_counted_one_by_one(rig: Rig, peers: Peers) -> None:
    core = rig.driver.core
    assert core is not None
    peers.silent = {3}
    await until(lambda: core.state.progress[3].silent_ticks > core.state.settings.heartbeat_ticks, "it to be silent")
    heartbeats = 3
    before = core.state.progress[3].silent_ticks
    await Leadership(rig.driver).count_heartbeats(heartbeats)
    counted = core.state.progress[3].silent_ticks - before
    due = heartbeats * core.state.settings.heartbeat_ticks
    assert due <= counted <= due + 2
