"""Leaving in good order: a leader hands over before it goes (thesis, section 3.10)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from appliance.raft.messages import NOBODY, Role

if TYPE_CHECKING:
    from appliance.node.driver import Driver


async def hand_over(driver: Driver) -> None:
    """If this node leads, make the voter that is furthest along lead instead; at most one election time-out."""
    core = driver.core
    if core is None or core.state.role is not Role.LEADER or driver.failure:
        return
    connected = driver.network.connected()
    voters = core.state.voters
    best = max(
        ((p.match_index, n) for n, p in core.state.progress.items() if n in voters and n in connected),
        default=(0, NOBODY),
    )[1]
    if best == NOBODY:
        return
    core.transfer_leadership(best)
    driver.pump_soon()
    deadline_s = driver.clock.monotonic_s() + driver.settings.election_timeout_s
    while core.state.role is Role.LEADER and driver.clock.monotonic_s() < deadline_s:
        driver.leader_changed.clear()
        try:
            await asyncio.wait_for(driver.leader_changed.wait(), driver.settings.tick_s)
        except TimeoutError:
            continue
