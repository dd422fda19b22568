"""The node compares its clock with those of its peers, and gives way when it is off."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import pytest
from driver_rig import LEADER, Rig

from appliance.node.clocks import OFF_S, median_low
from appliance.node.view import health_of
from appliance.tables.errors import ApplianceError

pytestmark = pytest.mark.anyio


def peers_are_ahead(rig: Rig, by_s: Mapping[int, float]) -> None:
    """What the peers answer, as seconds that they are ahead of the real time; those that are missing do not answer."""

    async def answer(node_id: int, name: str, body: bytes) -> bytes:
        if name != "clock" or node_id not in by_s:
            raise ApplianceError("conflict", "it knows no clock")
        now_us = rig.clock.now_us() - rig.clock.ahead_us
        return msgspec.msgpack.encode(now_us + round(by_s[node_id] * 1e6))

    rig.network.on_call = answer


@pytest.mark.parametrize(
    ("values", "median"),
    [([], 0), ([7], 7), ([0, 60], 0), ([-9, 60], -9), ([1, 2, 60], 2), ([-60, -60], -60), ([1, 7, 8, 9], 7)],
)
def test_of_two_in_the_middle_the_one_nearer_to_zero_counts(values: list[float], median: float) -> None:
    assert median_low(values) == median


async def test_a_clock_that_agrees_is_left_alone(rig: Rig) -> None:
    peers_are_ahead(rig, {2: 0.5, 3: 60})
    await rig.driver.clocks.look()
    assert rig.driver.clocks.offset_s == pytest.approx(-0.5, abs=0.2)
    assert health_of(rig.driver).alarms == ()
    assert rig.driver.core is not None
    assert rig.driver.core.state.may_campaign


async def test_a_clock_that_is_off_keeps_a_node_from_campaigning_until_it_is_right(rig: Rig) -> None:
    peers_are_ahead(rig, {2: 0, 3: 0})
    rig.clock.ahead_us = round((OFF_S + 1) * 1e6)
    await rig.driver.clocks.look()
    assert rig.driver.core is not None
    assert not rig.driver.core.state.may_campaign
    assert health_of(rig.driver).alarms == ("clock_off",)
    assert "clock.off" in rig.log.events
    rig.clock.ahead_us = 0
    await rig.driver.clocks.look()
    assert rig.driver.core.state.may_campaign
    assert health_of(rig.driver).alarms == ()


async def test_room_on_the_disk_does_not_make_up_for_a_clock_that_is_off(rig: Rig) -> None:
    peers_are_ahead(rig, {2: 0, 3: 0})
    rig.clock.ahead_us = -round((OFF_S + 1) * 1e6)
    await rig.driver.clocks.look()
    rig.driver.fitness.judge()
    assert rig.driver.core is not None
    assert not rig.driver.core.state.may_campaign


async def test_a_single_peer_accuses_nobody(rig: Rig) -> None:
    """Of two clocks that differ nobody knows which one is off: where both gave way, nobody would lead."""
    peers_are_ahead(rig, {3: 60})
    await rig.driver.clocks.look()
    assert not rig.driver.clocks.off
    assert rig.driver.clocks.offset_s == pytest.approx(-60, abs=0.2)
    assert rig.driver.core is not None
    assert rig.driver.core.state.may_campaign


async def test_a_clock_that_is_off_stays_so_while_fewer_answer_until_one_agrees(rig: Rig) -> None:
    peers_are_ahead(rig, {2: 60, 3: 60})
    await rig.driver.clocks.look()
    assert rig.driver.clocks.off
    peers_are_ahead(rig, {2: 60})
    await rig.driver.clocks.look()
    assert rig.driver.clocks.off
    peers_are_ahead(rig, {})
    await rig.driver.clocks.look()
    assert rig.driver.clocks.off, "nobody has said otherwise"
    assert rig.driver.clocks.offset_s == 0
    peers_are_ahead(rig, {3: 0})
    await rig.driver.clocks.look()
    assert not rig.driver.clocks.off


async def test_an_answer_that_is_none_says_nothing(rig: Rig) -> None:
    async def answer(node_id: int, name: str, body: bytes) -> bytes:
        return b"\xc1 no time"

    rig.network.on_call = answer
    await rig.driver.clocks.look()
    assert (rig.driver.clocks.offset_s, rig.driver.clocks.off) == (0, False)


async def test_peers_may_ask_for_the_time(rig: Rig) -> None:
    before_us = rig.clock.now_us()
    answer = msgspec.msgpack.decode(await rig.desk.on_call(LEADER, "clock", b""), type=int)
    assert before_us <= answer <= rig.clock.now_us()
