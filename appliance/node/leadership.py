"""Who leads, whether it can, and how to wait for that."""

from __future__ import annotations

import asyncio
from typing import Final

from appliance.node.driver import Driver
from appliance.node.members import standing
from appliance.raft.core import NotLeader, RaftCore
from appliance.raft.messages import NOBODY, Role
from appliance.tables.errors import ApplianceError

LOOK_INTERVAL_S: Final = 0.05  # how old the count of voters that can be reached may be
CONTACT_S_MIN: Final = 1.5  # idle links are probed once a second
LOOKS_PER_TICK: Final = 4  # a tick is waited for that often, each time for as long as one takes


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
        """Voters that there is a link to and that something was heard from lately, this node among them; a link to a
        frozen peer still stands. A leader measures silence in the ticks of its core, not by the clock: a loop that was
        held up drops ticks, so that the time in which it could hear nobody is no silence of the others.
        """
        driver = self._driver
        now_s = driver.clock.monotonic_s()
        if now_s >= self._look_again_s:
            patience_s = max(CONTACT_S_MIN, 1.5 * driver.settings.election_timeout_s)
            silences_s = driver.network.connected()
            if core.state.role is Role.LEADER:
                progress, tick_s = core.state.progress, driver.settings.tick_s
                silences_s = {n: progress[n].silent_ticks * tick_s for n in silences_s if n in progress}
            heard = {node_id for node_id, silent_s in silences_s.items() if silent_s < patience_s}
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
        time-outs, and a tick.
        """
        driver = self._driver
        deadline_s = min(deadline_s, driver.clock.monotonic_s() + 2 * driver.settings.election_timeout_s)
        is_late = False
        while True:
            if driver.failure:
                raise ApplianceError("unhealthy", f"This node has failed ({driver.failure}). Ask another node.")
            if self.is_ready() and self._term() >= term:
                return
            left_s = deadline_s - driver.clock.monotonic_s()
            if is_late:
                raise self._no_leader()
            if left_s <= 0:  # maybe the loop was held up, and what peers sent meanwhile is still unread
                is_late, left_s = True, LOOK_INTERVAL_S
            driver.leader_changed.clear()
            try:
                await asyncio.wait_for(driver.leader_changed.wait(), min(left_s, driver.settings.tick_s))
            except TimeoutError:
                continue

    async def count_heartbeats(self, heartbeats: int) -> None:
        """Wait until this node's core, as the leader, has counted the ticks of so many heartbeats from now on: by these
        it measures who is silent, and by the clock they are fewer, as a loop that is held up drops ticks. Raises
        `NotLeader`, and `ApplianceError` when ticks come no more.
        """
        driver, core = self._driver, self._driver.core
        assert core is not None
        state, per_heartbeat = core.state, core.state.settings.heartbeat_ticks
        left, last = heartbeats * per_heartbeat, state.heartbeat_elapsed_ticks  # which goes round, a step each tick
        for _ in range(LOOKS_PER_TICK * left):
            await asyncio.sleep(driver.settings.tick_s)
            if state.role is not Role.LEADER:
                raise NotLeader(state.leader_id)
            left -= (state.heartbeat_elapsed_ticks - last) % per_heartbeat
            last = state.heartbeat_elapsed_ticks
            if left <= 0:
                return
        raise ApplianceError("no_leader", "The node that led is ending; nothing was done. Send it again.")

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
