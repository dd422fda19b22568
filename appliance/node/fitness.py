"""Who is fit to lead: a node whose disk is full, whose clock is off or whose state is wrong leads only if no other
can.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import msgspec

from appliance.node.clocks import PeerClocks
from appliance.node.directory_ports import Reserve
from appliance.node.divergence import Divergence
from appliance.node.handover import UNFITNESS_CALL, hand_over
from appliance.node.ports import Log
from appliance.node.room import Room

if TYPE_CHECKING:
    from appliance.node.driver import Driver

GIVE_WAY_INTERVAL_S: Final = 5.0  # between two tries to hand over; each may hold writes up for a moment


class Fitness:
    """Watches what a leader needs. A node that is not fit still votes, and serves reads unless its state is wrong. It
    does not campaign before several election time-outs have passed without a leader, and where it leads all the same
    it hands over as soon as a node that is fit can take over.

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
        self._changed = asyncio.Event()
        self.room = Room(reserve, driver.settings.directory, log, self.judge)
        self.clocks = PeerClocks(driver, log, self.judge)
        self.divergence = Divergence(driver, self.judge)
        driver.calls[UNFITNESS_CALL] = self._serve

    def unfitness(self) -> str:
        """Why this node had better not lead, as a sentence without its full stop; empty when it may."""
        node_id = self._driver.identity.node_id
        if self._driver.quarantine:
            return f"the state of node {node_id} is not that of the others"
        if self.room.full:
            return f"the disk of node {node_id} is full"
        if self.clocks.off:
            return f"the clock of node {node_id} is off"
        return ""

    async def watch(self) -> None:
        """Look until cancelled; a failure ends the node."""
        try:
            watching = (self.room.watch(), self.clocks.watch(), self.divergence.watch(), self._give_way())
            await asyncio.gather(*watching)
        except Exception as error:
            self._driver.fail(error)

    def judge(self) -> None:
        """Something has changed: let the core campaign or not, and hand over if this node leads and should not."""
        if self._driver.core is not None:
            self._driver.core.set_may_campaign(not self.unfitness())
        self._changed.set()

    async def _give_way(self) -> None:
        """Hand over while this node leads and should not. Who can take over may come later, so it is tried again."""
        while True:
            self.judge()  # the core may have come into being since
            self._changed.clear()
            if self.unfitness():
                await hand_over(self._driver)
            try:
                await asyncio.wait_for(self._changed.wait(), GIVE_WAY_INTERVAL_S)
            except TimeoutError:
                continue

    async def _serve(self, sender_node_id: int, body: bytes) -> bytes:
        return msgspec.msgpack.encode(self.unfitness())
