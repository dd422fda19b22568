"""The Raft core as a driver sees it: `tick`, `step`, `propose`, `request_read`, then one `Ready` to carry out.

Sans-IO: nothing here waits, reads a clock, touches a socket or a file, or draws from a global source of chance.
The driver's loop is: take `ready()` whenever `has_ready()`, do what it says in the order that `Ready` states,
call `persisted(ready.persist_id)` once that part is durable (several may be under way, they become durable in
order), and `applied(index)` for what was applied.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final

from msgspec import Struct

from appliance.raft import elections, heartbeats, membership, reads, replication, sparing
from appliance.raft.log import ENTRY_OVERHEAD_BYTES, InvariantViolation, LogReader, RaftLog
from appliance.raft.messages import (
    NOBODY,
    AnyMessage,
    AppendRequest,
    AppendResponse,
    Configuration,
    Entry,
    EntryKind,
    HardState,
    Heartbeat,
    HeartbeatResponse,
    ReadIndexRequest,
    ReadIndexResponse,
    Ready,
    Role,
    SnapshotMeta,
    TimeoutNow,
    VoteRequest,
    VoteResponse,
    make_entry,
)
from appliance.raft.progress import ProgressState
from appliance.raft.state import READ_CONTEXT_BITS, RaftSettings, RaftState
from appliance.raft.status import RaftStatus, status_of

COMMIT_HINT_ENTRIES: Final = 1024  # by so much the stored commit index may lag: each time costs a further row


class NotLeader(Exception):
    """Only the leader takes proposals; `leader_id` is the leader that this node knows, or 0."""

    def __init__(self, leader_id: int) -> None:
        super().__init__(f"not the leader; the leader is {leader_id or 'not known'}")
        self.leader_id = leader_id


class _Saving(Struct, frozen=True):
    """What one `persist_id` will have made durable."""

    persist_id: int
    first_index: int  # 0 without entries
    last_index: int
    vote_term: int  # term of an own vote among it, else 0


class RaftCore:
    """One node of a Raft group.

    Args:
        node_id: number of the node.
        incarnation: its incarnation; configurations name the pair.
        settings: bounds, in ticks, entries, bytes.
        reader: reads durable entries.
        hard_state: as stored.
        snapshot: what stands before the first entry of the log.
        last_index: index of the last stored entry.
        term_starts: (first index, term) of each run of stored entries of one term.
        configurations: (index, configuration) of the configuration entries in the log.
        applied_index: what the driver has applied already.
        random: the only source of chance.
    """

    def __init__(
        self,
        *,
        node_id: int,
        incarnation: int,
        settings: RaftSettings,
        reader: LogReader,
        hard_state: HardState,
        snapshot: SnapshotMeta,
        last_index: int,
        term_starts: Sequence[tuple[int, int]],
        configurations: Sequence[tuple[int, Configuration]],
        applied_index: int,
        random: Random,
    ) -> None:
        log = RaftLog(
            reader,
            snapshot_index=snapshot.index,
            snapshot_term=snapshot.term,
            last_index=last_index,
            term_starts=term_starts,
            window_bytes_max=settings.log_window_bytes_max,
        )
        if applied_index > last_index:
            raise InvariantViolation(f"applied up to {applied_index}, but the log ends at {last_index}")
        if applied_index < snapshot.index:
            raise InvariantViolation(f"applied up to {applied_index}, but the log begins behind {snapshot.index}")
        self.state = RaftState(
            node_id=node_id,
            incarnation=incarnation,
            settings=settings,
            log=log,
            hard_state=hard_state,
            snapshot=snapshot,
            configurations=configurations,
            applied_index=applied_index,
            random=random,
        )
        self._saving: deque[_Saving] = deque()
        self._persist_id = 0

    # -- inputs

    def tick(self) -> None:
        """Let one tick of time pass."""
        state = self.state
        if state.role is not Role.LEADER:
            elections.tick(state)
            return
        sparing.end(state)
        membership.tick(state)
        state.elapsed_ticks += 1
        state.heartbeat_elapsed_ticks += 1
        if state.elapsed_ticks >= state.settings.election_ticks:
            state.elapsed_ticks = 0
            state.transfer_target = NOBODY
        elections.check_quorum(state)
        if state.role is Role.LEADER and state.heartbeat_elapsed_ticks >= state.settings.heartbeat_ticks:
            state.heartbeat_elapsed_ticks = 0
            heartbeats.broadcast(state)
        elif state.role is Role.LEADER:
            heartbeats.tell_commits(state)

    def step(self, message: AnyMessage) -> None:
        """Take in a message of another node."""
        if message.to != self.state.node_id or not self._compare_terms(message):
            return
        self._dispatch(message)
        if self.state.role is Role.LEADER:
            reads.start_round(self.state)

    def propose(self, data: Sequence[bytes]) -> tuple[int, int]:
        """Append commands to the log of the leader; answers (index of the first, term).

        Raises:
            NotLeader: this node does not lead, or is handing over.
        """
        state = self.state
        if state.role is not Role.LEADER or state.transfer_target != NOBODY:
            raise NotLeader(state.leader_id if state.role is not Role.LEADER else NOBODY)
        first = state.log.last_index + 1
        term = state.term
        state.append_entries([make_entry(term, first + n, EntryKind.NORMAL, d) for n, d in enumerate(data)])
        return first, term

    def propose_configuration(self, wanted: Configuration) -> tuple[int, int]:
        """Append a configuration that differs in one member from the acting one; answers (index, term). It acts at
        once, and is sure when it is committed.

        Raises:
            NotLeader: this node does not lead, or is handing over.
            ChangeRefused: it may not be made now; see `appliance.raft.membership`.
        """
        state = self.state
        if state.role is not Role.LEADER or state.transfer_target != NOBODY:
            raise NotLeader(state.leader_id if state.role is not Role.LEADER else NOBODY)
        return membership.propose(state, wanted), state.term

    def renounce(self, incarnation: int) -> None:
        """This node has forgotten what it promised: it goes on as another incarnation, and without a vote until the
        leader has taken it back. What it was about to say under the old one is dropped; its log is truthful, and stays.
        """
        state = self.state
        state.become_follower(state.term, NOBODY)
        state.incarnation = incarnation
        state.messages.clear()
        state.messages_after_persist.clear()

    def meet(self, node_id: int, incarnation: int, address: str, raft_address: str) -> None:
        """Another node says who it is; a leader takes note of a member that has changed."""
        membership.meet(self.state, node_id, incarnation, address, raft_address)

    def hear_configuration(self, index: int, configuration: Configuration) -> None:
        """Another node tells of a configuration that is committed. One without this node keeps it from campaigning, and
        does nothing else, until this node's own log has it.
        """
        membership.hear(self.state, index, configuration)

    def request_read(self, context: int) -> None:
        """Ask for a linearizable read; it comes back in `Ready.reads` or `Ready.reads_failed` (or, if a message is
        lost, never: the driver has a time-out and calls `forget_read`). `context` is a number below 2**32 that this
        core was not given before.
        """
        assert 0 <= context < 1 << READ_CONTEXT_BITS
        reads.request_read(self.state, context)

    def spare_nobody(self) -> None:
        """Let what the next `Ready` sends go to every follower at once."""
        self.state.spared_must_follow = True

    def forget_read(self, context: int) -> None:
        """Nobody waits for this read any more."""
        self.state.asked_reads.discard(context)

    def transfer_leadership(self, target: int) -> None:
        """Hand over to a voter (3.10); given up after an election time-out. Raises `NotLeader`, `ValueError`."""
        state = self.state
        if state.role is not Role.LEADER:
            raise NotLeader(state.leader_id)
        if target not in state.progress or target not in state.voters:
            raise ValueError(f"node {target} is no other voter")
        state.transfer_target = target
        state.elapsed_ticks = 0
        replication.hand_over(state)

    def campaign(self) -> None:
        """Campaign now instead of waiting for the time-out."""
        if self.state.role is not Role.LEADER and self.state.may_stand():
            elections.campaign(self.state, pre_vote=True)

    def set_may_campaign(self, may: bool) -> None:
        """Whether this node starts elections. One with a bad clock or disk does not, as long as another might: it does
        after `RELUCTANT_TIMEOUTS` time-outs without a leader, and never takes over from one.
        """
        self.state.may_campaign = may

    def restore(self, meta: SnapshotMeta) -> bool:
        """A snapshot was received completely and checked. True when `Ready.snapshot` will ask to install it; False
        when this log holds all of it already.
        """
        return replication.restore(self.state, meta)

    def report_unreachable(self, node_id: int) -> None:
        """The link to a node broke: what was sent ahead may be lost."""
        progress = self.state.progress.get(node_id)
        if progress is not None and progress.state is ProgressState.REPLICATE:
            progress.become_probe()

    def report_snapshot(self, node_id: int, index: int) -> None:
        """The snapshot for a node was received up to `index`, or failed (index 0): go on from there."""
        progress = self.state.progress.get(node_id)
        if progress is not None and progress.state is ProgressState.SNAPSHOT:
            progress.become_probe()
            progress.next_index = max(progress.next_index, index + 1)

    def compact(self, index: int) -> None:
        """Entries up to `index` are about to be dropped from storage. The index must be applied and durable."""
        if index > self.state.applied_index:
            raise InvariantViolation(f"cannot compact to {index}: applied up to {self.state.applied_index}")
        self.state.log.compact(index)
        self.state.forget_configurations(index)

    # -- outputs

    def has_ready(self) -> bool:
        """Whether `ready()` would hold anything to do."""
        s = self.state
        return bool(
            s.messages
            or s.messages_after_persist
            or s.unsaved_entries
            or s.unsaved_snapshot
            or self._may_hand_out()
            or s.reads_ready
            or s.reads_failed
            or s.snapshots_to_send
            or (s.term, s.vote) != (s.saved_hard_state.term, s.saved_hard_state.vote)
            or (s.role is Role.LEADER and replication.appends_wait(s))
        )

    def ready(self) -> Ready:
        """Take everything that waits to be carried out."""
        state = self.state
        if state.role is Role.LEADER:
            replication.fill_appends(state)
        entries = tuple(state.unsaved_entries)
        hard_state = self._unsaved_hard_state(bool(entries) or state.unsaved_snapshot is not None)
        after = tuple(state.messages_after_persist)
        persist_id = 0
        if entries or hard_state or after or state.unsaved_snapshot:
            persist_id = self._note_saving(entries, hard_state)
        ready = Ready(
            messages=tuple(state.messages),
            persist_id=persist_id,
            snapshot=state.unsaved_snapshot,
            entries=entries,
            hard_state=hard_state,
            messages_after_persist=after,
            committed=self._take_committed(),
            reads=tuple(state.reads_ready),
            reads_failed=tuple(state.reads_failed),
            snapshots_to_send=tuple(state.snapshots_to_send),
        )
        state.unsaved_snapshot = None
        for outbox in (
            state.unsaved_entries,
            state.messages,
            state.messages_after_persist,
            state.reads_ready,
            state.reads_failed,
            state.snapshots_to_send,
        ):
            outbox.clear()
        return ready

    def persisted(self, persist_id: int) -> None:
        """Everything of the `Ready` values up to this `persist_id` is durable."""
        state = self.state
        while self._saving and self._saving[0].persist_id <= persist_id:
            saved = self._saving.popleft()
            if saved.first_index:
                # A later write, under way or yet to be handed out, may replace a part of it: that part does not count.
                later = [s.first_index for s in self._saving if s.first_index]
                later.extend(e.index for e in state.unsaved_entries[:1])
                stable = min([saved.last_index, state.log.last_index, *(first - 1 for first in later)])
                state.log.stable_index = max(state.log.stable_index, stable)
            if saved.vote_term:
                elections.own_vote_durable(state, saved.vote_term)
        replication.advance_commit(state)
        if state.role is Role.LEADER:
            reads.start_round(state)

    def applied(self, index: int) -> None:
        """Everything up to `index` was applied."""
        state = self.state
        state.applied_index = max(state.applied_index, index)
        while state.unapplied and state.unapplied[0][0] <= index:
            state.unapplied_bytes -= state.unapplied.popleft()[1]
        self.state.log.trim(self.state.applied_index)

    def status(self) -> RaftStatus:
        """The node at this moment."""
        return status_of(self.state)

    # -- inside

    def _compare_terms(self, message: AnyMessage) -> bool:
        """The rules about terms that come before everything else (5.1 of the paper); False drops the message."""
        state = self.state
        if message.term > state.term:
            if isinstance(message, VoteRequest):
                if not message.transfer and elections.leader_lives(state):
                    return False
                if not message.pre_vote:
                    state.become_follower(message.term, NOBODY)
            elif not (isinstance(message, VoteResponse) and message.pre_vote and message.granted):
                leads = isinstance(message, AppendRequest | Heartbeat)
                state.become_follower(message.term, message.sender if leads else NOBODY)
            return True
        if message.term < state.term:
            if isinstance(message, AppendRequest | Heartbeat):  # tell an old leader about the term
                answer = state.make(HeartbeatResponse, message.sender, round=0)
                state.messages_after_persist.append(answer)
            elif isinstance(message, VoteRequest):
                refusal = state.make(VoteResponse, message.sender, granted=False, pre_vote=message.pre_vote)
                state.messages_after_persist.append(refusal)
            return False
        if isinstance(message, AppendRequest | Heartbeat):
            if state.role is Role.LEADER:
                raise InvariantViolation(f"node {message.sender} leads term {message.term}, and so does this node")
            if state.role is not Role.FOLLOWER or state.leader_id != message.sender:
                state.become_follower(message.term, message.sender)
        return True

    def _dispatch(self, message: AnyMessage) -> None:
        kind = type(message)
        if kind in _FOR_LEADERS and self.state.role is not Role.LEADER:
            return  # an answer to a leader that this node no longer is
        _RULES[kind](self.state, message)

    def _unsaved_hard_state(self, writing: bool) -> HardState | None:
        """The hard state if it must be written. The commit index alone is no reason to write: a stored one that is
        older only delays what a restarted node can apply before it hears of a leader.
        """
        hard_state = self.state.hard_state()
        saved = self.state.saved_hard_state
        if (hard_state.term, hard_state.vote) != (saved.term, saved.vote):
            return hard_state
        stale = hard_state.commit_index - saved.commit_index >= COMMIT_HINT_ENTRIES
        return hard_state if writing and stale else None

    def _note_saving(self, entries: tuple[Entry, ...], hard_state: HardState | None) -> int:
        state = self.state
        self._persist_id += 1
        snapshot = state.unsaved_snapshot
        first = entries[0].index if entries else 0
        last = entries[-1].index if entries else 0
        if snapshot is not None:  # replaces everything behind it
            first, last = snapshot.index + 1, max(last, snapshot.index)
        own_vote = hard_state is not None and state.role is Role.CANDIDATE and hard_state.vote == state.node_id
        if hard_state is not None:
            state.saved_hard_state = hard_state
        self._saving.append(
            _Saving(
                self._persist_id,
                first,
                last,
                hard_state.term if own_vote and hard_state is not None else 0,
            )
        )
        return self._persist_id

    def _may_hand_out(self) -> bool:
        """Whether committed entries wait, and the driver has applied enough of those that it was handed."""
        s = self.state
        return s.commit_index > s.handed_index and s.unapplied_bytes < s.settings.unapplied_bytes_max

    def _take_committed(self) -> tuple[Entry, ...]:
        state = self.state
        if state.unsaved_snapshot is not None or not self._may_hand_out():
            return ()
        count = state.commit_index - state.handed_index
        entries = state.log.slice(state.handed_index + 1, state.commit_index, state.settings.committed_bytes_max, count)
        state.handed_index = entries[-1].index
        size = sum(len(e.data) + ENTRY_OVERHEAD_BYTES for e in entries)
        state.unapplied.append((state.handed_index, size))
        state.unapplied_bytes += size
        return tuple(entries)


def _on_heartbeat_response(state: RaftState, message: HeartbeatResponse) -> None:
    replication.on_heartbeat_response(state, message)
    reads.on_round_acked(state)


_FOR_LEADERS: Final = frozenset((AppendResponse, HeartbeatResponse))
_RULES: Final[dict[type[AnyMessage], Callable[[RaftState, Any], None]]] = {
    AppendRequest: replication.on_append_request,
    AppendResponse: replication.on_append_response,
    Heartbeat: replication.on_heartbeat,
    HeartbeatResponse: _on_heartbeat_response,
    VoteRequest: elections.on_vote_request,
    VoteResponse: elections.on_vote_response,
    ReadIndexRequest: reads.on_read_index_request,
    ReadIndexResponse: reads.on_read_index_response,
    TimeoutNow: elections.on_timeout_now,
}
