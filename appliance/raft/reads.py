"""Linearizable reads: one heartbeat round confirms all reads that arrived before it was sent (section 6.4)."""

from __future__ import annotations

from appliance.raft import heartbeats
from appliance.raft.messages import (
    NOBODY,
    ReadIndexRequest,
    ReadIndexResponse,
    ReadReady,
    Role,
)
from appliance.raft.quorum import quorum_index
from appliance.raft.state import PendingRead, RaftState


def request_read(state: RaftState, context: int) -> None:
    """Ask for the index from which a local read may be served."""
    if state.role is Role.LEADER:
        state.waiting_reads.append(PendingRead(state.node_id, context))
        start_round(state)
    elif state.leader_id == NOBODY:
        state.reads_failed.append(context)
    else:
        state.asked_reads.add(context)
        state.messages.append(state.make(ReadIndexRequest, state.leader_id, context=state.read_epoch | context))


def on_read_index_request(state: RaftState, message: ReadIndexRequest) -> None:
    """A follower asks this node, which it takes for the leader."""
    if state.role is not Role.LEADER:
        state.messages.append(state.make(ReadIndexResponse, message.sender, context=message.context, index=0, ok=False))
        return
    state.waiting_reads.append(PendingRead(message.sender, message.context))
    start_round(state)


def on_read_index_response(state: RaftState, message: ReadIndexResponse) -> None:
    """The leader's answer to this follower's question."""
    context = message.context ^ state.read_epoch
    if context not in state.asked_reads:
        return
    state.asked_reads.discard(context)
    if message.ok:
        state.reads_ready.append(ReadReady(context, message.index))
    else:
        state.reads_failed.append(context)


def start_round(state: RaftState) -> None:
    """Start a round for the waiting reads, unless one is under way or nothing of this term is committed yet."""
    if not state.waiting_reads or state.round_reads or state.commit_index < state.term_start_index:
        return
    state.round += 1
    state.round_reads, state.waiting_reads = state.waiting_reads, []
    state.round_index = state.commit_index
    heartbeats.broadcast(state)
    on_round_acked(state)


def on_round_acked(state: RaftState) -> None:
    """Answer the reads of the round once a majority has confirmed that this node still led after they came."""
    if not state.round_reads:
        return
    acked = {node_id: p.round_acked for node_id, p in state.progress.items()}
    acked[state.node_id] = state.round
    if quorum_index(state.voters, acked) < state.round:
        return
    for read in state.round_reads:
        if read.requester == state.node_id:
            state.reads_ready.append(ReadReady(read.context, state.round_index))
        else:
            answer = state.make(
                ReadIndexResponse, read.requester, context=read.context, index=state.round_index, ok=True
            )
            state.messages.append(answer)
    state.round_reads = []
    start_round(state)
