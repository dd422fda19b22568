"""The state of one Raft node, and the outbox in which effects wait for the next `Ready`.

The rules live in `elections`, `replication` and `reads`; `core` is what a driver talks to.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from random import Random
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct

from appliance.raft.log import WINDOW_BYTES_MAX, InvariantViolation, RaftLog
from appliance.raft.messages import (
    NOBODY,
    AnyMessage,
    Configuration,
    Entry,
    EntryKind,
    HardState,
    Member,
    MemberRole,
    Message,
    ReadReady,
    Role,
    SnapshotMeta,
)
from appliance.raft.progress import Progress

M = TypeVar("M", bound=Message)

LEAVING_TIMEOUTS: Final = 2  # election time-outs for which a removed node is still told what happened
READ_CONTEXT_BITS: Final = 32
READ_EPOCH_BITS: Final = 31  # together within a signed 64-bit integer


class RaftSettings(Struct, frozen=True, kw_only=True):
    """Bounds of the core, in ticks, entries and bytes.

    Attributes:
        election_ticks: silence of the leader before a node campaigns; each wait is drawn from this to twice this.
        heartbeat_ticks: ticks between two heartbeats.
        append_entries_max: entries in one append message.
        append_bytes_max: bytes of entry data in one append message (a larger entry travels alone).
        inflight_messages_max: append messages to one follower without an answer.
        inflight_bytes_max: bytes of entry data to one follower without an answer.
        committed_bytes_max: bytes of committed entries in one `Ready`.
        unapplied_bytes_max: bytes of committed entries that the driver holds and has not applied; none are handed out
            beyond.
        log_window_bytes_max: bytes of recent entries held in memory for followers that lag a little.
        spare_entries_max: no follower is spared while more entries than this are not committed; 0: none ever is.
        spared_entries_max: how many entries a spared follower may lack.
    """

    election_ticks: int = 20
    heartbeat_ticks: int = 2
    append_entries_max: int = 512
    append_bytes_max: int = 1024 * 1024
    inflight_messages_max: int = 64
    inflight_bytes_max: int = 16 * 1024 * 1024
    committed_bytes_max: int = 1024 * 1024  # 5 ms to read them back
    unapplied_bytes_max: int = 4 * 1024 * 1024
    log_window_bytes_max: int = WINDOW_BYTES_MAX
    spare_entries_max: int = 0
    spared_entries_max: int = 64


class PendingRead(Struct, frozen=True):
    """On the leader: a read that waits for its heartbeat round."""

    requester: int  # node id; the leader itself for its own reads
    context: int


class RaftState:
    """All mutable state of one node. Only `elections`, `replication`, `reads` and `core` change it."""

    def __init__(
        self,
        *,
        node_id: int,
        incarnation: int,
        settings: RaftSettings,
        log: RaftLog,
        hard_state: HardState,
        snapshot: SnapshotMeta,
        configurations: Sequence[tuple[int, Configuration]],
        applied_index: int,
        random: Random,
    ) -> None:
        self.node_id = node_id
        self.incarnation = incarnation
        self.settings = settings
        self.log = log
        self.random = random
        # durable
        self.term = hard_state.term
        self.vote = hard_state.vote
        self.commit_index = max(min(hard_state.commit_index, log.last_index), snapshot.index, applied_index)
        self.configurations: list[tuple[int, Configuration]] = [(snapshot.index, snapshot.configuration)]
        self.configurations.extend(configurations)
        self._voters_of: Configuration | None = None
        self._voters: tuple[int, ...] = ()
        # volatile
        self.role = Role.FOLLOWER
        self.leader_id = NOBODY
        self.handed_index = applied_index  # committed entries up to here were handed to the driver
        self.unapplied: deque[tuple[int, int]] = deque()  # last index and bytes of what was handed and is not applied
        self.unapplied_bytes = 0
        self.applied_index = applied_index
        self.elapsed_ticks = 0
        self.heartbeat_elapsed_ticks = 0
        self.timeout_ticks = 0
        self.told: tuple[int, Configuration] = (0, Configuration())  # the newest committed one that others told of
        self.may_campaign = True
        self.silent_timeouts = 0  # since anything came from a leader
        self.votes: dict[int, bool] = {}
        self.progress: dict[int, Progress] = {}
        self.spared: tuple[int, ...] = ()  # followers that get entries later: see `sparing`
        self.spared_before: tuple[int, ...] = ()
        self.spared_must_follow = False
        self.transfer_target = NOBODY
        self.returned: dict[int, Member] = {}  # on a leader: members that were met changed, see `membership`
        self.term_start_index = 0  # on a leader: index of the no-op of its term
        # reads
        self.round = 0
        self.round_reads: list[PendingRead] = []  # wait for the answers to `round`
        self.round_index = 0
        self.waiting_reads: list[PendingRead] = []  # wait for the next round
        self.asked_reads: set[int] = set()  # contexts asked of the leader by this follower
        # Contexts are small numbers that begin anew with each start of the node: a late answer to a question of an
        # earlier life must not pass for the answer to this one's, because its index may be too old.
        self.read_epoch = random.getrandbits(READ_EPOCH_BITS) << READ_CONTEXT_BITS
        # outbox
        self.messages: list[AnyMessage] = []
        self.messages_after_persist: list[AnyMessage] = []
        self.unsaved_entries: list[Entry] = []
        self.unsaved_snapshot: SnapshotMeta | None = None
        self.saved_hard_state = hard_state
        self.reads_ready: list[ReadReady] = []
        self.reads_failed: list[int] = []
        self.snapshots_to_send: list[int] = []
        self.elections_started = 0
        self.reset_timeout()

    # -- membership

    @property
    def configuration(self) -> Configuration:
        """The configuration that acts: the last one in the log, committed or not (section 4.1)."""
        return self.configurations[-1][1]

    @property
    def configuration_index(self) -> int:
        """Index of the entry that carries the acting configuration."""
        return self.configurations[-1][0]

    @property
    def voters(self) -> tuple[int, ...]:
        """Ids of the voters of the acting configuration; worked out once for each."""
        configuration = self.configurations[-1][1]
        if configuration is not self._voters_of:
            self._voters_of, self._voters = configuration, configuration.voters()
        return self._voters

    def is_voter(self) -> bool:
        """Whether this very incarnation is a voter of the acting configuration."""
        return self._votes_in(self.configuration)

    def may_stand(self) -> bool:
        """Whether this node may campaign: as a voter, or while its removal is not committed, because its log may be
        the only one that is complete enough to be elected, by the others (section 4.2.2).
        """
        if self.is_told_removed():
            return False
        if self.is_voter():
            return True
        removing = self.configuration_index > self.commit_index and len(self.configurations) > 1
        return removing and self._votes_in(self.configurations[-2][1])

    def is_told_removed(self) -> bool:
        """Whether the others have committed a configuration without this node, and it does not know by its own log what
        came of that. From then on no majority needs it, and what its own log says of it is out of date.
        """
        index, configuration = self.told
        if index <= self.commit_index or configuration.member(self.node_id) is not None:
            return False
        return self.told not in self.configurations or index == self.configuration_index

    def _votes_in(self, configuration: Configuration) -> bool:
        me = configuration.member(self.node_id)
        return me is not None and me.incarnation == self.incarnation and me.role is MemberRole.VOTER

    def counts(self, message: Message) -> bool:
        """Whether the sender is the (id, incarnation) that the configuration names."""
        member = self.configuration.member(message.sender)
        return member is not None and member.incarnation == message.sender_incarnation

    def peers(self) -> tuple[int, ...]:
        """Ids of the other members."""
        return tuple(m.node_id for m in self.configuration.members if m.node_id != self.node_id)

    # -- log

    def append_entries(self, entries: Sequence[Entry]) -> None:
        """Put entries behind the log and into the next `Ready`; configurations among them act at once."""
        self.log.append(entries)
        self.unsaved_entries.extend(entries)
        for entry in entries:
            if entry.kind == EntryKind.CONFIGURATION:
                self.configurations.append((entry.index, decode_configuration(entry.data)))
                self.sync_progress()

    def truncate_from(self, index: int) -> None:
        """Drop a conflicting tail; configurations in it never were (section 4.1)."""
        if index <= self.commit_index:
            raise InvariantViolation(f"entry {index} is committed (up to {self.commit_index}) and conflicts")
        self.log.truncate_from(index)
        while self.unsaved_entries and self.unsaved_entries[-1].index >= index:
            self.unsaved_entries.pop()
        while self.configurations[-1][0] >= index:
            self.configurations.pop()

    def forget_configurations(self, index: int) -> None:
        """The log is compacted up to `index`: of the configurations up to it only the last is needed."""
        keep = max(n for n, (at, _) in enumerate(self.configurations) if at <= index)
        del self.configurations[:keep]

    def sync_progress(self) -> None:
        """Make the leader's bookkeeping follow the acting configuration."""
        if self.role is not Role.LEADER:
            return
        wanted = {m.node_id: m for m in self.configuration.members if m.node_id != self.node_id}
        for node_id, progress in self.progress.items():
            if node_id not in wanted and not progress.leaving_ticks:
                progress.leaving_ticks = LEAVING_TIMEOUTS * self.settings.election_ticks
        for node_id, member in wanted.items():
            known = self.progress.get(node_id)
            # One that was leaving is followed anew: it may wait for a snapshot that nobody sends to who leaves.
            if known is None or known.incarnation != member.incarnation or known.leaving_ticks:
                self.progress[node_id] = Progress(self.log.last_index + 1, member.incarnation)

    def hard_state(self) -> HardState:
        """What would have to be durable now."""
        return HardState(self.term, self.vote, self.commit_index)

    # -- clocks and outbox

    def hear_leader(self) -> None:
        """Something came from the leader."""
        self.elapsed_ticks = self.silent_timeouts = 0

    def reset_timeout(self) -> None:
        """Draw a new election time-out (section 3.4)."""
        self.elapsed_ticks = 0
        self.timeout_ticks = self.random.randint(self.settings.election_ticks, 2 * self.settings.election_ticks - 1)

    def make(self, kind: type[M], to: int, *, term: int | None = None, **fields: Any) -> M:
        """Make a message of this node; `term` is the current one unless a pre-vote says otherwise."""
        return kind(
            sender=self.node_id,
            sender_incarnation=self.incarnation,
            to=to,
            term=self.term if term is None else term,
            **fields,
        )

    def become_follower(self, term: int, leader_id: int) -> None:
        """Step back, or follow another leader; a new term takes away the vote."""
        if term != self.term:
            self.term = term
            self.vote = NOBODY
        if self.role is Role.LEADER:
            self.fail_leader_reads()
        if self.leader_id not in (NOBODY, leader_id) or self.role is Role.LEADER:
            self.fail_asked_reads()
        self.role = Role.FOLLOWER
        self.leader_id = leader_id
        self.votes = {}
        self.progress = {}
        self.spared, self.spared_must_follow = (), False
        self.transfer_target = NOBODY
        self.reset_timeout()

    def fail_leader_reads(self) -> None:
        """The leader's own waiting reads cannot be confirmed any more; those of followers run into their time-out."""
        for read in (*self.round_reads, *self.waiting_reads):
            if read.requester == self.node_id:
                self.reads_failed.append(read.context)
        self.round_reads, self.waiting_reads = [], []

    def fail_asked_reads(self) -> None:
        """The leader that was asked for read indexes is no longer the leader."""
        self.reads_failed.extend(sorted(self.asked_reads))
        self.asked_reads.clear()


def encode_configuration(configuration: Configuration) -> bytes:
    """The data of a configuration entry (msgpack)."""
    return msgspec.msgpack.encode(configuration)


def decode_configuration(data: bytes) -> Configuration:
    """The inverse of `encode_configuration`."""
    return msgspec.msgpack.decode(data, type=Configuration)
