"""Who leads, whether it can, and how to wait for that."""

from __future__ import annotations

import asyncio
from typing import Final

from appliance.node.driver import Driver
from appliance.node.members import standing
from appliance.raft.core import RaftCore
from appliance.raft.messages import NOBODY, Role
from appliance.tables.errors import ApplianceError

LOOK_INTERVAL_S: Final = 0.05  # how old the count of voters that can be reached may be
CONTACT_S_MIN: Final = 1.5  # idle links are probed once a second


class Leadership:
    """The leader of the cluster as a node knows it.

    Args:
        driver: the running node.
    """

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._reached = 0
        self._look_again_s = 0.0

    def refuse_without_quorum(self) -> None:
        """Raise `no_quorum` when a write could not be committed."""
        core = self._driver.core
        assert core is not None
        reached = self._voters_reached(core)
        if reached < len(core.state.voters) // 2 + 1:
            raise self._no_quorum(reached, len(core.state.voters))

    def _voters_reached(self, core: RaftCore) -> int:
        """Voters that something was heard from lately, this node among them; a link to a frozen peer still stands."""
        driver = self._driver
        now_s = driver.clock.monotonic_s()
        if now_s >= self._look_again_s:
            patience_s = max(CONTACT_S_MIN, 1.5 * driver.settings.election_timeout_s)
            heard = {node_id for node_id, silent_s in driver.network.connected().items() if silent_s < patience_s}
            self._reached = len((heard | {driver.identity.node_id}) & set(core.state.voters))
            self._look_again_s = now_s + LOOK_INTERVAL_S
        return self._reached

    @staticmethod
    def _no_quorum(reached: int, voters: int) -> ApplianceError:
        return ApplianceError(
            "no_quorum",
            f"Only {reached} of {voters} voters can be reached, {voters // 2 + 1} are needed. Start the other nodes.",
        )

    def leader_id(self) -> int:
        """The leader that this node knows, or `NOBODY`."""
        core = self._driver.core
        return core.state.leader_id if core is not None else NOBODY

    def is_ready(self) -> bool:
        """Whether a leader is known, and ready if it is this node."""
        core = self._driver.core
        if core is None or self._driver.failure or core.state.leader_id == NOBODY:
            return False
        return core.state.role is not Role.LEADER or self._driver.can_propose()

    async def wait(self, deadline_s: float, term: int = 0) -> None:
        """Wait until a leader of this term or a later one is known, and ready if it is this node; at most two election
        time-outs.
        """
        driver = self._driver
        deadline_s = min(deadline_s, driver.clock.monotonic_s() + 2 * driver.settings.election_timeout_s)
        while True:
            if driver.failure:
                raise ApplianceError("unhealthy", f"This node has failed ({driver.failure}). Ask another node.")
            if self.is_ready() and self._term() >= term:
                return
            left_s = deadline_s - driver.clock.monotonic_s()
            if left_s <= 0:
                raise self._no_leader()
            driver.leader_changed.clear()
            try:
                await asyncio.wait_for(driver.leader_changed.wait(), min(left_s, driver.settings.tick_s))
            except TimeoutError:
                continue

    def _term(self) -> int:
        core = self._driver.core
        return core.state.term if core is not None else 0

    def _no_leader(self) -> ApplianceError:
        driver = self._driver
        if driver.core is None:
            refusal = driver.founding.refusal if driver.founding is not None else ""
            waiting = driver.founding.waiting() if driver.founding is not None else "this node is starting"
            return ApplianceError(
                "no_quorum",
                refusal or f"The cluster is not founded yet: {waiting}. Start the nodes that are missing.",
            )
        outside = standing(driver.core, driver.members.hellos)
        if outside:
            return ApplianceError("no_leader", f"No leader can be asked from here: {outside}.")
        reached = self._voters_reached(driver.core)
        if reached < len(driver.core.state.voters) // 2 + 1:
            return self._no_quorum(reached, len(driver.core.state.voters))
        return ApplianceError("no_leader", "A majority is there, but it has not elected a leader yet. Send it again.")
