"""Leaving in good order: a leader hands over before it goes (thesis, section 3.10)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import msgspec

from appliance.raft import membership
from appliance.raft.messages import NOBODY, Role
from appliance.raft.progress import ProgressState
from appliance.tables.errors import ApplianceError

if TYPE_CHECKING:
    from appliance.node.driver import Driver

UNFITNESS_CALL: Final = "unfitness"  # asks a node why it had better not lead


async def hand_over(driver: Driver) -> bool:
    """If this node leads, make another voter lead instead: those that there is a link to, that need no snapshot and
    that are fit to lead, one after the other, at most one election time-out each; first who was heard lately and is
    furthest along. Answers whether this node leads no more.
    """
    tried: set[int] = set()
    while _leads(driver):
        target = _best(driver, tried)
        if target == NOBODY:
            return False
        tried.add(target)
        if not await unfitness_of(driver, target):
            await hand_over_to(driver, target)
    return True


async def hand_over_to(driver: Driver, node_id: int) -> bool:
    """Make another node lead instead of this one, if this one leads and the other is a voter; at most one election
    time-out. Answers whether this node leads no more.
    """
    core = driver.core
    if core is None or not _leads(driver) or node_id not in core.state.voters:
        return not _leads(driver)
    core.transfer_leadership(node_id)
    driver.pump_soon()
    deadline_s = driver.clock.monotonic_s() + driver.settings.election_timeout_s
    while _leads(driver) and driver.clock.monotonic_s() < deadline_s:
        driver.leader_changed.clear()
        try:
            await asyncio.wait_for(driver.leader_changed.wait(), driver.settings.tick_s)
        except TimeoutError:
            continue
    return not _leads(driver)


async def unfitness_of(driver: Driver, node_id: int) -> str:
    """Why another node had better not lead, as a sentence without its full stop; empty when it may. One of a version
    that does not know the question may.
    """
    try:
        answer = await driver.network.call(node_id, UNFITNESS_CALL, b"", driver.settings.election_timeout_s)
        return msgspec.msgpack.decode(answer, type=str)
    except ApplianceError as error:
        return "" if error.code == "conflict" else f"node {node_id} does not say whether it is fit to"
    except msgspec.MsgspecError:
        return f"node {node_id} says nothing that can be read about whether it is fit to"


def _leads(driver: Driver) -> bool:
    core = driver.core
    return core is not None and core.state.role is Role.LEADER and not driver.failure


def _best(driver: Driver, tried: set[int]) -> int:
    """Who is asked next to take over, or `NOBODY`."""
    core = driver.core
    assert core is not None
    state, connected = core.state, driver.network.connected()
    alive = membership.alive_voters(state, state.configuration)
    return max(
        (
            (node_id in alive, progress.match_index, node_id)
            for node_id, progress in state.progress.items()
            if node_id in state.voters and node_id in connected and node_id not in tried
            if progress.state is not ProgressState.SNAPSHOT  # it would not be there in time
        ),
        default=(False, 0, NOBODY),
    )[2]
