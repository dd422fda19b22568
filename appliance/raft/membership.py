"""Changes of the membership: one member at a time, learners first (thesis, chapter 4).

A learner is promoted by the leader itself once it keeps up; a voter that comes back under a new incarnation (its data
directory was cleared or replaced) is made a learner by the leader, so that it never votes before it has caught up.
A configuration acts as soon as it stands in a log, and the next one may follow only when it is committed.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from msgspec.structs import replace

from appliance.raft.messages import NOBODY, Configuration, EntryKind, Member, MemberRole, Role, TimeoutNow, make_entry
from appliance.raft.progress import ProgressState
from appliance.raft.state import RaftState, encode_configuration

ALIVE_HEARTBEATS: Final = 2  # who was silent for longer is not counted on when the quorum changes


class Refusal(StrEnum):
    """Why a change of the membership is not made now."""

    NOT_READY = "not_ready"  # nothing of the leader's own term is committed yet
    PENDING = "pending"  # another change is not committed yet
    QUORUM = "quorum"  # too few voters of the new membership are alive and hold a log that entries can follow
    STEP = "step"  # no member, or more than one, would change
    EMPTY = "empty"  # no voter would be left


class ChangeRefused(Exception):
    """A change of the membership is not made; nothing was proposed. When it is for the quorum, `silent` are the voters
    that are missed, and `behind` those that live and have to get a snapshot first.
    """

    def __init__(
        self, reason: Refusal, detail: str, silent: tuple[int, ...] = (), behind: tuple[int, ...] = ()
    ) -> None:
        self.reason = reason
        self.silent = silent
        self.behind = behind
        super().__init__(detail)


def propose(state: RaftState, wanted: Configuration) -> int:
    """Append a configuration that differs in one member; answers its index. Raises `ChangeRefused`."""
    refuse_change(state, wanted)
    index = state.log.last_index + 1
    state.append_entries([make_entry(state.term, index, EntryKind.CONFIGURATION, encode_configuration(wanted))])
    return index


def refuse_change(state: RaftState, wanted: Configuration) -> None:
    """Raise `ChangeRefused` when this leader may not propose a configuration now."""
    if state.commit_index < state.term_start_index:
        raise ChangeRefused(Refusal.NOT_READY, "the leader has not committed an entry of its own term yet")
    if state.configuration_index > state.commit_index:
        detail = f"the change in entry {state.configuration_index} is not committed yet"
        raise ChangeRefused(Refusal.PENDING, detail)
    changed = changed_members(state.configuration, wanted)
    if len(changed) != 1:
        raise ChangeRefused(Refusal.STEP, f"{len(changed)} members would change, and it must be one")
    voters = wanted.voters()
    if not voters:
        raise ChangeRefused(Refusal.EMPTY, "no voter would be left")
    if voters == state.voters and changed[0] not in voters:
        return
    _refuse_without_quorum(state, wanted)


def _refuse_without_quorum(state: RaftState, wanted: Configuration) -> None:
    """Raise `ChangeRefused` when a configuration, which acts at once, could not commit anything for now."""
    voters, alive = wanted.voters(), alive_voters(state, wanted)
    silent = tuple(node_id for node_id in voters if node_id not in alive)
    behind = tuple(node_id for node_id in alive if _needs_snapshot(state, node_id))
    able = len(alive) - len(behind)
    if able >= wanted.quorum():
        return
    reasons = [f"nothing is heard of {_nodes(silent)}"] if silent else []
    if behind:
        reasons.append(f"a snapshot is on its way to {_nodes(behind)}")
    detail = (
        f"only {able} of the {len(voters)} voters that there would be could take entries now, {wanted.quorum()} are "
        f"needed: {', and '.join(reasons)}"
    )
    raise ChangeRefused(Refusal.QUORUM, detail, silent, behind)


def _needs_snapshot(state: RaftState, node_id: int) -> bool:
    progress = state.progress.get(node_id)
    return progress is not None and progress.state is ProgressState.SNAPSHOT


def _nodes(node_ids: tuple[int, ...]) -> str:
    return " and ".join(f"node {node_id}" for node_id in node_ids)


def changed_members(old: Configuration, new: Configuration) -> list[int]:
    """Ids of the members in which two configurations differ."""
    before, after = ({member.node_id: member for member in each.members} for each in (old, new))
    return [node_id for node_id in sorted(before | after) if before.get(node_id) != after.get(node_id)]


def alive_voters(state: RaftState, configuration: Configuration) -> list[int]:
    """Of the voters of a configuration, those that this leader has heard from within the last heartbeats. An election
    time-out would be too long: a change would rest on a node that has just died, and could not be committed.
    """
    return [m.node_id for m in configuration.members if m.role is MemberRole.VOTER and is_alive(state, m)]


def is_alive(state: RaftState, member: Member) -> bool:
    """Whether a member is this leader, or was heard within the last heartbeats under the incarnation that it has."""
    if member.node_id == state.node_id:
        return True
    progress = state.progress.get(member.node_id)
    if progress is None or not progress.heard:
        return False
    is_another = state.returned.get(member.node_id, member).incarnation != member.incarnation
    return not is_another and progress.silent_ticks <= ALIVE_HEARTBEATS * state.settings.heartbeat_ticks


def with_member(configuration: Configuration, member: Member) -> Configuration:
    """The configuration with a member added, or put in the place of the one with its id."""
    others = [each for each in configuration.members if each.node_id != member.node_id]
    return replace(configuration, members=tuple(sorted([*others, member], key=lambda each: each.node_id)))


def without_member(configuration: Configuration, node_id: int) -> Configuration:
    """The configuration without a member."""
    return replace(configuration, members=tuple(m for m in configuration.members if m.node_id != node_id))


def meet(state: RaftState, node_id: int, incarnation: int, address: str, raft_address: str) -> None:
    """A member was met under an incarnation or addresses that the leader's configuration does not name: it is changed
    as soon as that may be. One with a new incarnation has forgotten what it promised, and is a learner from then on.
    """
    if state.role is not Role.LEADER:
        return
    member = state.configuration.member(node_id)
    state.returned.pop(node_id, None)
    if member is None or node_id == state.node_id:
        return
    role = member.role if member.incarnation == incarnation else MemberRole.LEARNER
    seen = Member(node_id, incarnation, role, address, raft_address)
    if seen != member:
        state.returned[node_id] = seen


def hear(state: RaftState, index: int, configuration: Configuration) -> None:
    """Others have committed a configuration, as one of them tells: a node that was removed while it could not hear of
    it must not campaign for ever.
    """
    if not configuration.members or index <= state.told[0]:
        return
    state.told = index, configuration
    if state.is_told_removed() and state.role in {Role.PRE_CANDIDATE, Role.CANDIDATE}:
        state.become_follower(state.term, NOBODY)


def tick(state: RaftState) -> None:
    """One tick of a leader: who has left is forgotten, who came back or has caught up is changed."""
    for node_id in [n for n, p in state.progress.items() if p.leaving_ticks == 1]:
        del state.progress[node_id]
    for progress in state.progress.values():
        progress.silent_ticks += 1
        progress.leaving_ticks = max(0, progress.leaving_ticks - 1)
    _follow_learners(state)
    if state.configuration_index > state.commit_index or state.transfer_target != NOBODY:
        return
    for wanted in _due(state):
        try:
            propose(state, wanted)
        except ChangeRefused:
            continue
        return


def _follow_learners(state: RaftState) -> None:
    """See which learners keep up: the leader's log as it stood at the beginning of a round reaches a learner within
    an election time-out (section 4.2.1).
    """
    for member in state.configuration.members:
        progress = state.progress.get(member.node_id)
        if member.role is not MemberRole.LEARNER or progress is None:
            continue
        progress.round_ticks += 1
        if progress.state is ProgressState.REPLICATE and progress.match_index >= progress.round_target:
            progress.caught_up = progress.round_target > 0 and progress.round_ticks <= state.settings.election_ticks
            progress.round_target, progress.round_ticks = state.log.last_index, 0
        elif progress.round_ticks > state.settings.election_ticks:
            progress.caught_up = False


def _due(state: RaftState) -> list[Configuration]:
    """Configurations that this leader wants by itself, the most urgent first."""
    configuration = state.configuration
    due = []
    for node_id, seen in sorted(state.returned.items()):
        member = configuration.member(node_id)
        if member is None or member == seen:
            del state.returned[node_id]
        else:
            due.append(with_member(configuration, seen))
    for member in configuration.members:
        progress = state.progress.get(member.node_id)
        is_learner = member.role is MemberRole.LEARNER
        if is_learner and progress is not None and progress.caught_up and is_alive(state, member):
            due.append(with_member(configuration, replace(member, role=MemberRole.VOTER)))
    return due


def step_down_if_removed(state: RaftState) -> None:
    """A leader leads on until the configuration without it is committed; then another takes over at once (4.2.2)."""
    if state.role is not Role.LEADER or state.is_voter() or state.configuration_index > state.commit_index:
        return
    voters = [(state.progress[n].match_index, n) for n in state.voters if n in state.progress]
    if voters:
        state.messages.append(state.make(TimeoutNow, max(voters)[1]))
    state.become_follower(state.term, NOBODY)
