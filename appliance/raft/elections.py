"""Elections: pre-vote, votes, leadership and its loss (thesis, chapter 3 and sections 6.2, 9.6)."""

from __future__ import annotations

from typing import Final

from appliance.raft import heartbeats
from appliance.raft.messages import (
    NOBODY,
    EntryKind,
    Role,
    TimeoutNow,
    VoteRequest,
    VoteResponse,
    make_entry,
)
from appliance.raft.quorum import VoteResult, vote_result
from appliance.raft.state import RaftState

RELUCTANT_TIMEOUTS: Final = 3  # without a leader, before a node that had better not lead campaigns all the same


def tick(state: RaftState) -> None:
    """One tick of a node that does not lead."""
    state.elapsed_ticks += 1
    if state.elapsed_ticks < state.timeout_ticks:
        return
    state.silent_timeouts += 1
    willing = state.may_campaign or state.silent_timeouts >= RELUCTANT_TIMEOUTS
    if state.may_stand() and willing and state.unsaved_snapshot is None:
        campaign(state, pre_vote=True)
    else:  # the leader is gone for this node too: it must not keep others from being elected
        state.become_follower(state.term, NOBODY)


def campaign(state: RaftState, *, pre_vote: bool, transfer: bool = False) -> None:
    """Ask the voters, first whether they would vote (9.6), then for their votes (3.4)."""
    state.elections_started += not pre_vote
    if pre_vote:
        state.fail_asked_reads()
        state.role = Role.PRE_CANDIDATE
        state.leader_id = NOBODY
        term = state.term + 1
    else:
        state.fail_asked_reads()
        state.role = Role.CANDIDATE
        state.leader_id = NOBODY
        state.term += 1
        state.vote = state.node_id
        term = state.term
    state.votes = {state.node_id: True} if pre_vote else {}  # the own vote counts once it is durable
    state.reset_timeout()
    for voter in state.voters:
        if voter != state.node_id:
            request = state.make(
                VoteRequest,
                voter,
                term=term,
                last_log_index=state.log.last_index,
                last_log_term=state.log.last_term,
                pre_vote=pre_vote,
                transfer=transfer,
            )
            state.messages_after_persist.append(request)
    if pre_vote:
        count_votes(state)


def own_vote_durable(state: RaftState, term: int) -> None:
    """The vote that a candidate gave itself in `term` has reached the disk."""
    if state.role is Role.CANDIDATE and state.term == term and state.node_id not in state.votes:
        state.votes[state.node_id] = True
        count_votes(state)


def count_votes(state: RaftState) -> None:
    """Act on the votes that came in."""
    result = vote_result(state.voters, state.votes)
    if result is VoteResult.LOST:
        state.become_follower(state.term, NOBODY)
    elif result is VoteResult.WON:
        if state.role is Role.PRE_CANDIDATE:
            campaign(state, pre_vote=False)
        else:
            become_leader(state)


def become_leader(state: RaftState) -> None:
    """Lead: nothing of an older term counts until the no-op of this one is committed (5.4.2 of the paper, 6.4)."""
    state.role = Role.LEADER
    state.leader_id = state.node_id
    state.elapsed_ticks = state.heartbeat_elapsed_ticks = state.silent_timeouts = 0
    state.progress = {}
    state.sync_progress()
    state.returned.clear()
    state.term_start_index = state.log.last_index + 1
    state.append_entries([make_entry(state.term, state.term_start_index, EntryKind.NOOP, b"")])
    heartbeats.broadcast(state)


def leader_lives(state: RaftState) -> bool:
    """Whether this node heard from a leader within the shortest election time-out (section 6.2, stickiness)."""
    return state.leader_id != NOBODY and state.elapsed_ticks < state.settings.election_ticks


def has_say(state: RaftState) -> bool:
    """Whether this node answers candidates: not while it belongs to no cluster, or was cleared."""
    return bool(state.configuration.members)


def on_vote_request(state: RaftState, request: VoteRequest) -> None:
    """Grant or refuse a vote or pre-vote. The term was compared before; a lower one is refused here."""
    if not has_say(state):
        return
    if request.pre_vote:
        may = request.term > state.term
    else:
        may = request.term == state.term and (
            state.vote == request.sender or (state.vote == NOBODY and state.leader_id == NOBODY)
        )
    granted = may and state.log.up_to_date(request.last_log_index, request.last_log_term)
    if granted and not request.pre_vote:
        state.vote = request.sender
        state.elapsed_ticks = 0
    term = request.term if granted else state.term
    answer = state.make(VoteResponse, request.sender, term=term, granted=granted, pre_vote=request.pre_vote)
    state.messages_after_persist.append(answer)


def on_vote_response(state: RaftState, response: VoteResponse) -> None:
    """Count a vote; only the incarnation that the configuration names has one."""
    wanted = Role.PRE_CANDIDATE if response.pre_vote else Role.CANDIDATE
    asked = state.term + 1 if response.pre_vote else state.term
    if state.role is not wanted or not state.counts(response):
        return
    if response.granted and response.term != asked:
        return
    state.votes.setdefault(response.sender, response.granted)
    count_votes(state)


def on_timeout_now(state: RaftState, message: TimeoutNow) -> None:
    """The leader hands over: campaign at once, without asking first (3.10)."""
    able = state.may_stand() and state.may_campaign and state.unsaved_snapshot is None
    if message.term == state.term and able and state.role is not Role.LEADER:
        campaign(state, pre_vote=False, transfer=True)


def check_quorum(state: RaftState) -> None:
    """A leader that has not heard from a majority for an election time-out steps down (6.2). One that is new, and a
    follower that is, have that long from their beginning.
    """
    active = {n: p.silent_ticks < state.settings.election_ticks for n, p in state.progress.items()}
    active[state.node_id] = True
    if vote_result(state.voters, active) is not VoteResult.WON:
        state.become_follower(state.term, NOBODY)
