"""Who is fit to lead: a node whose disk is full, whose clock is off or whose state is wrong leads only if no other
can.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from appliance.node.clocks import PeerClocks
from appliance.node.directory_ports import Reserve
from appliance.node.divergence import Divergence
from appliance.node.handover import hand_over
from appliance.node.ports import Log
from appliance.node.room import Room

if TYPE_CHECKING:
    from appliance.node.driver import Driver


class Fitness:
    """Watches what a leader needs. A node that is not fit still votes, and serves reads unless its state is wrong.

    Args:
        driver: the running node.
        reserve: the reserved room of the data directory.
        log: structured log.

    Attributes:
        room: whether there is room on the disk.
        clocks: whether the clock agrees with those of the peers.
        divergence: whether the state agrees with those of the peers.
    """

    def __init__(self, driver: Driver, reserve: Reserve, log: Log) -> None:
        self._driver = driver
        self._giving_way: asyncio.Task[bool] | None = None
        self.room = Room(reserve, driver.settings.directory, log, self.judge)
        self.clocks = PeerClocks(driver, log, self.judge)
        self.divergence = Divergence(driver, self.judge)

    async def watch(self) -> None:
        """Look until cancelled; a failure ends the node."""
        try:
            await asyncio.gather(self.room.watch(), self.clocks.watch(), self.divergence.watch())
        except Exception as error:
            self._driver.fail(error)

    def judge(self) -> None:
        """Something has changed: let the core campaign or not, and hand over if this node leads and should not."""
        core = self._driver.core
        if core is None:
            return
        is_fit = not self.room.full and not self.clocks.off and not self._driver.quarantine
        core.set_may_campaign(is_fit)
        if not is_fit and (self._giving_way is None or self._giving_way.done()):
            self._giving_way = asyncio.create_task(hand_over(self._driver))
