"""What of the core a run exercises: changes of roles, of followers' progress and of memberships, and which message
meets which role. They are counted among the totals, so that a range of seeds shows what it never did.
"""

from __future__ import annotations

from collections import Counter
from itertools import permutations
from typing import Final

from appliance.raft.messages import AnyMessage, MemberRole, Message, Role
from appliance.raft.progress import ProgressState
from appliance.raft.state import RaftState

LEARNER: Final = "learner"  # a follower that has no vote, as member or outside
OUTSIDE: Final = "outside"
KINDS: Final = tuple(kind.__name__ for kind in Message.__subclasses__())

ROLE_CHANGES: Final = frozenset(
    f"became: {before} > {after}"
    for before, after in (
        ("follower", "pre_candidate"),
        ("follower", "candidate"),  # told to take over
        ("pre_candidate", "candidate"),
        ("pre_candidate", "follower"),
        ("candidate", "leader"),
        ("candidate", "follower"),
        ("candidate", "pre_candidate"),
        ("leader", "follower"),
        ("leader", "outside"),
        ("outside", "pre_candidate"),  # its removal is not committed
        ("pre_candidate", "outside"),
        ("learner", "follower"),
        ("follower", "learner"),
        ("follower", "outside"),
        ("outside", "learner"),
    )
)
PROGRESS_CHANGES: Final = frozenset(
    f"progress: {before.value} > {after.value}" for before, after in permutations(ProgressState, 2)
)


def standing(state: RaftState) -> str:
    """The role of a node, and whether a follower has a vote."""
    if state.role is not Role.FOLLOWER or state.is_voter():
        return state.role.value
    me = state.configuration.member(state.node_id)
    is_member = me is not None and me.incarnation == state.incarnation and me.role is MemberRole.LEARNER
    return LEARNER if is_member else OUTSIDE


class Exercised:
    """Counts transitions into `totals`.

    Args:
        totals: of the run.
    """

    def __init__(self, totals: Counter[str]) -> None:
        self._totals = totals
        self._standing: dict[int, str] = {}
        self._progress: dict[tuple[int, int], ProgressState] = {}

    def started(self, state: RaftState) -> None:
        """A node has started: what it was before does not count as a change."""
        self._standing[state.node_id] = standing(state)

    def stepped(self, state: RaftState, message: AnyMessage) -> None:
        """A message is about to be handed to a node."""
        self._totals[f"gets: {standing(state)} {type(message).__name__}"] += 1

    def observe(self, state: RaftState) -> None:
        """An event is over: note what has changed."""
        node_id = state.node_id
        now, before = standing(state), self._standing.get(node_id)
        if now != before:
            self._standing[node_id] = now
            self._totals[f"became: {before} > {now}"] += 1
        if state.role is not Role.LEADER:
            return
        for follower, progress in state.progress.items():
            link = node_id, follower
            known = self._progress.get(link)
            if known is not progress.state:
                self._progress[link] = progress.state
                if known is not None and now == before:
                    self._totals[f"progress: {known.value} > {progress.state.value}"] += 1
