"""Leaving in good order: a leader hands over before it goes (thesis, section 3.10)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from appliance.raft.messages import NOBODY, Role

if TYPE_CHECKING:
    from appliance.node.driver import Driver


async def hand_over(driver: Driver) -> bool:
    """If this node leads, make the voter that is furthest along lead instead, of those that would, if any; at most one
    election time-out. Answers whether this node leads no more.
    """
    core = driver.core
    if core is None or core.state.role is not Role.LEADER or driver.failure:
        return True
    connected = driver.network.connected()
    voters = core.state.voters
    unfit = driver.fitness.divergence.unfit
    best = max(
        ((n not in unfit, p.match_index, n) for n, p in core.state.progress.items() if n in voters and n in connected),
        default=(False, 0, NOBODY),
    )[2]
    return best != NOBODY and await hand_over_to(driver, best)


async def hand_over_to(driver: Driver, node_id: int) -> bool:
    """Make another voter lead instead of this node, which leads; at most one election time-out. Answers whether this
    node leads no more.
    """
    core = driver.core
    assert core is not None
    core.transfer_leadership(node_id)
    driver.pump_soon()
    deadline_s = driver.clock.monotonic_s() + driver.settings.election_timeout_s
    while core.state.role is Role.LEADER and driver.clock.monotonic_s() < deadline_s:
        driver.leader_changed.clear()
        try:
            await asyncio.wait_for(driver.leader_changed.wait(), driver.settings.tick_s)
        except TimeoutError:
            continue
    return core.state.role is not Role.LEADER
