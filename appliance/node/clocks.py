"""How far this node's wall clock is from those of its peers: writes carry the leader's time, so a node whose clock is
off does not lead while another can.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

import msgspec

from appliance.node.ports import Log
from appliance.tables.errors import ApplianceError

if TYPE_CHECKING:
    from appliance.node.driver import Driver

LOOK_INTERVAL_S: Final = 10.0
ANSWER_S: Final = 1.0  # a slower answer says too little
OFF_S: Final = 5.0  # from the median of the peers' clocks
ACCUSERS_MIN: Final = 2  # of two clocks that differ nobody knows which one is off
_US: Final = 1_000_000


class PeerClocks:
    """Compares clocks while the node runs; peers may ask for this node's.

    Args:
        driver: the running node.
        log: structured log.
        on_change: called on the event loop when the clock is found off, or right again.

    Attributes:
        offset_s: by how many seconds this node's clock is ahead of the median of its peers'; 0 without any.
        off: whether that is too much, as it was when enough peers answered: a single one can clear this node, but
            not accuse it, so that no node keeps another from leading alone.
    """

    def __init__(self, driver: Driver, log: Log, on_change: Callable[[], None]) -> None:
        self._driver = driver
        self._log = log
        self._on_change = on_change
        self.offset_s = 0.0
        self.off = False
        driver.calls["clock"] = self._serve

    async def watch(self) -> None:
        """Look until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_INTERVAL_S)

    async def look(self) -> None:
        """Ask all peers that there is a link to for their time."""
        found = await asyncio.gather(*(self._ahead_of(node_id) for node_id in self._driver.network.connected()))
        answers = [ahead_s for ahead_s in found if ahead_s is not None]
        self.offset_s = median_low(answers)
        off = abs(self.offset_s) > OFF_S
        if off == self.off or len(answers) < (ACCUSERS_MIN if off else 1):
            return
        self.off = off
        if off:
            self._log.error("clock.off", offset_s=round(self.offset_s, 3))
        else:
            self._log.info("clock.right", offset_s=round(self.offset_s, 3))
        self._on_change()

    async def _ahead_of(self, node_id: int) -> float | None:
        """Seconds by which this node's clock is ahead; None when the peer does not say its time."""
        clock = self._driver.clock
        asked_us, asked_s = clock.now_us(), clock.monotonic_s()
        try:
            answer = await self._driver.network.call(node_id, "clock", b"", ANSWER_S)
            told_us = msgspec.msgpack.decode(answer, type=int)
        except (ApplianceError, msgspec.MsgspecError):
            return None
        half_way_us = asked_us + round((clock.monotonic_s() - asked_s) * _US / 2)
        return (half_way_us - told_us) / _US

    async def _serve(self, sender_node_id: int, body: bytes) -> bytes:
        return msgspec.msgpack.encode(self._driver.clock.now_us())


def median_low(values: Iterable[float]) -> float:
    """The median; of the two in the middle the one nearer to 0, so that a single clock that is off accuses nobody
    else; 0 of none.
    """
    ordered = sorted(values)
    if not ordered:
        return 0.0
    half = len(ordered) // 2
    return min(ordered[half], ordered[~half], key=abs)
