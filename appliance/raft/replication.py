"""Replication: appends, their answers, the commit rule, snapshots (thesis, sections 3.5, 3.6, chapter 5)."""

from __future__ import annotations

from typing import Final

from appliance.raft import membership, sparing
from appliance.raft.log import InvariantViolation
from appliance.raft.messages import (
    NOBODY,
    AppendRequest,
    AppendResponse,
    Heartbeat,
    HeartbeatResponse,
    Role,
    SnapshotMeta,
    TimeoutNow,
)
from appliance.raft.progress import Progress, ProgressState
from appliance.raft.quorum import quorum_index
from appliance.raft.state import RaftState

APPENDS_PER_READY_MAX: Final = 16  # append messages to one follower in one `Ready`


def fill_appends(state: RaftState) -> None:
    """Queue what may be sent to each follower now; called once for each `Ready`, so that proposals share messages."""
    sparing.choose(state)
    for node_id, progress in state.progress.items():
        if node_id in state.spared:
            continue
        for _ in range(APPENDS_PER_READY_MAX):
            if not send_append(state, node_id, progress):
                break


def appends_wait(state: RaftState) -> bool:
    """Whether a follower lacks something and may be sent it."""
    settings = state.settings
    spared = () if state.spared_must_follow else state.spared
    for node_id, progress in state.progress.items():
        if (
            node_id not in spared
            and progress.may_send(settings.inflight_messages_max, settings.inflight_bytes_max)
            and (progress.state is ProgressState.PROBE or progress.next_index <= state.log.last_index)
        ):
            return True
    return False


def send_append(state: RaftState, node_id: int, progress: Progress) -> bool:
    """Queue one append if the follower lacks something (or must be probed) and may be sent more."""
    if progress.state is ProgressState.REPLICATE and progress.next_index > state.log.last_index:
        return False
    if not progress.may_send(state.settings.inflight_messages_max, state.settings.inflight_bytes_max):
        return False
    prev_index = progress.next_index - 1
    prev_term = state.log.term_at(prev_index)
    if prev_term is None:  # compacted away: only a snapshot helps
        progress.become_snapshot()
        if not progress.leaving_ticks:
            state.snapshots_to_send.append(node_id)
        return False
    entries = state.log.slice(
        progress.next_index,
        state.log.last_index,
        state.settings.append_bytes_max,
        state.settings.append_entries_max,
    )
    state.messages.append(
        state.make(
            AppendRequest,
            node_id,
            prev_index=prev_index,
            prev_term=prev_term,
            entries=tuple(entries),
            commit_index=state.commit_index,
        )
    )
    last = entries[-1].index if entries else prev_index
    progress.sent(last, sum(len(e.data) for e in entries))
    progress.commit_sent = max(progress.commit_sent, min(state.commit_index, last))
    return progress.state is ProgressState.REPLICATE


def on_append_request(state: RaftState, request: AppendRequest) -> None:
    """Follow a leader's append: refuse what does not fit, drop what conflicts, keep the rest (5.3 of the paper)."""
    state.hear_leader()
    log = state.log
    entries = request.entries
    if request.prev_index < state.commit_index:  # what is committed matches any leader's log
        entries = tuple(e for e in entries if e.index > state.commit_index)
    elif log.term_at(request.prev_index) != request.prev_term:
        refuse(state, request)
        return
    last = max(request.prev_index + len(request.entries), state.commit_index)
    for position, entry in enumerate(entries):
        known = log.term_at(entry.index)
        if known == entry.term:
            continue
        if known is not None:
            state.truncate_from(entry.index)
        state.append_entries(entries[position:])
        break
    state.commit_index = max(state.commit_index, min(request.commit_index, last))
    state.messages_after_persist.append(state.make(AppendResponse, request.sender, success=True, index=last))


def refuse(state: RaftState, request: AppendRequest) -> None:
    """Answer that the log does not hold the place that an append builds on, and where the logs may meet."""
    hint_index, hint_term = state.log.last_index_of_term_up_to(request.prev_index, request.prev_term)
    answer = state.make(
        AppendResponse,
        request.sender,
        success=False,
        index=request.prev_index,
        hint_index=hint_index,
        hint_term=hint_term,
    )
    state.messages_after_persist.append(answer)


def on_append_response(state: RaftState, response: AppendResponse) -> None:
    """Learn how far a follower is."""
    progress = state.progress.get(response.sender)
    if progress is None or progress.incarnation != response.sender_incarnation:
        return
    progress.hear()
    if not response.success:
        index, _ = state.log.last_index_of_term_up_to(response.hint_index, response.hint_term)
        progress.refused(response.index, index + 1)
        return
    if response.index > state.log.last_index:
        raise InvariantViolation(f"node {response.sender} acknowledged {response.index}, beyond this leader's log")
    if progress.acknowledged(response.index):
        advance_commit(state)
        if state.transfer_target == response.sender:
            hand_over(state)


def advance_commit(state: RaftState) -> None:
    """Commit what a majority holds durably, if it is of this leader's term (5.4.2 of the paper)."""
    if state.role is not Role.LEADER:
        return
    match = {node_id: p.match_index for node_id, p in state.progress.items()}
    match[state.node_id] = state.log.stable_index
    index = quorum_index(state.voters, match)
    if index > state.commit_index and commits_by_counting(state, index):
        state.commit_index = index
        membership.step_down_if_removed(state)


def commits_by_counting(state: RaftState, index: int) -> bool:
    """Only an entry of the own term is committed by counting; older ones follow with it (Figure 8 of the paper)."""
    return state.log.term_at(index) == state.term


def on_heartbeat(state: RaftState, message: Heartbeat) -> None:
    """A follower hears that its leader lives, and how far the log is committed."""
    state.hear_leader()
    if message.to_incarnation in {0, state.incarnation}:
        state.commit_index = max(state.commit_index, min(message.commit_index, state.log.last_index))
    state.messages_after_persist.append(state.make(HeartbeatResponse, message.sender, round=message.round))


def on_heartbeat_response(state: RaftState, message: HeartbeatResponse) -> None:
    """A follower lives: send again what may have been lost, and note the round that it answered."""
    progress = state.progress.get(message.sender)
    if progress is None or progress.incarnation != message.sender_incarnation:
        return
    progress.hear()
    progress.round_acked = max(progress.round_acked, message.round)
    if progress.state is ProgressState.PROBE:
        progress.probe_sent = False
    elif progress.state is ProgressState.REPLICATE and progress.match_index + 1 < progress.next_index:
        ask_where(state, message.sender, progress)


def ask_where(state: RaftState, node_id: int, progress: Progress) -> None:
    """Queue an append without entries behind all that was sent: a refusal shows that something was lost."""
    prev_index = progress.next_index - 1
    prev_term = state.log.term_at(prev_index)
    if prev_term is None:  # compacted meanwhile, so what is in flight cannot be asked about: start over
        progress.become_probe()
        return
    probe = state.make(
        AppendRequest,
        node_id,
        prev_index=prev_index,
        prev_term=prev_term,
        entries=(),
        commit_index=state.commit_index,
    )
    state.messages.append(probe)


def hand_over(state: RaftState) -> None:
    """Tell the transfer target to campaign once it holds the whole log (3.10)."""
    target = state.progress.get(state.transfer_target)
    if target is not None and target.match_index == state.log.last_index:
        state.messages.append(state.make(TimeoutNow, state.transfer_target))


def restore(state: RaftState, meta: SnapshotMeta) -> bool:
    """A snapshot was received completely. True when it has to be installed; it holds committed state only, so no
    term is compared (chapter 5).
    """
    if meta.index <= state.commit_index:
        installed = False
        index = state.commit_index
    elif state.log.term_at(meta.index) == meta.term:
        installed = False
        state.commit_index = index = meta.index
    else:
        installed = True
        index = meta.index
        state.log.reset(meta.index, meta.term)
        state.unsaved_entries = []
        state.unsaved_snapshot = meta
        state.commit_index = state.handed_index = state.applied_index = meta.index
        state.unapplied.clear()
        state.unapplied_bytes = 0
        state.configurations = [(meta.index, meta.configuration)]
        state.become_follower(state.term, NOBODY if state.leader_id == state.node_id else state.leader_id)
    if state.leader_id not in (NOBODY, state.node_id):
        answer = state.make(AppendResponse, state.leader_id, success=True, index=index)
        state.messages_after_persist.append(answer)
    return installed
