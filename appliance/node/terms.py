"""Elections and leaders as they come and go: told to the log and the metrics, and to who waits for another leader."""

from __future__ import annotations

import asyncio

from appliance.node.ports import Instruments, Log
from appliance.raft.core import RaftCore
from appliance.raft.messages import NOBODY, Role


class Terms:
    """Notes what has changed since it looked last.

    Args:
        node_id: of this node.
        changed: set when the leader, or the role of this node, is another.
        instruments: metrics.
        log: structured log.
    """

    def __init__(self, node_id: int, changed: asyncio.Event, instruments: Instruments, log: Log) -> None:
        self._node_id = node_id
        self._changed = changed
        self._log = log
        self._leader_changes = instruments.counter("scribe_raft_leader_changes_total")
        self._elections = instruments.counter("scribe_raft_elections_total")
        self._elections_seen = 0
        self._leader_seen = NOBODY
        self._role_seen = Role.FOLLOWER

    def look(self, core: RaftCore) -> None:
        """Look at a core; called often, and cheap when nothing has changed."""
        state = core.state
        if state.elections_started != self._elections_seen:
            self._elections.inc(state.elections_started - self._elections_seen)
            self._elections_seen = state.elections_started
            self._log.info("raft.election", node_id=self._node_id, term=state.term)
        if (state.leader_id, state.role) == (self._leader_seen, self._role_seen):
            return
        if state.leader_id not in {NOBODY, self._leader_seen}:
            self._leader_changes.inc()
            self._log.info("raft.leader", leader_id=state.leader_id, term=state.term)
        elif state.leader_id == NOBODY and self._leader_seen != NOBODY:
            self._log.warning("raft.no_leader", term=state.term)
        self._leader_seen, self._role_seen = state.leader_id, state.role
        self._changed.set()
