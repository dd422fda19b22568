"""What the Raft core speaks: entries, configurations, messages and the `Ready` value.

All values are frozen. Integers only where the paper has integers; entry data is opaque bytes.
Section numbers refer to Ongaro's thesis, "Consensus: Bridging Theory and Practice" (2014).
"""

from __future__ import annotations

import zlib
from enum import IntEnum, StrEnum
from typing import Final

from msgspec import Struct

NOBODY: Final = 0  # no node: ids start at 1
NO_INCARNATION: Final = 0  # of a member whose node is about to come back as a new one; no node is it


class EntryKind(IntEnum):
    """What a log entry carries."""

    NORMAL = 0  # a command of the state machine
    NOOP = 1  # the first entry of a leader's term (section 6.4)
    CONFIGURATION = 2  # a membership; acts when it is appended (section 4.1)


class Entry(Struct, frozen=True, array_like=True, gc=False):
    """One entry of the replicated log; `checksum` is CRC-32 over term, index, kind and data."""

    term: int
    index: int
    kind: int
    data: bytes
    checksum: int


def entry_checksum(term: int, index: int, kind: int, data: bytes) -> int:
    """CRC-32 of an entry, seeded with its place so that an entry in the wrong place does not match."""
    return zlib.crc32(data, (term * 0x9E3779B1 ^ index * 0x85EBCA6B ^ kind * 0xC2B2AE35) & 0xFFFFFFFF)


def make_entry(term: int, index: int, kind: int, data: bytes) -> Entry:
    """Make an entry with its checksum."""
    return Entry(term, index, kind, data, entry_checksum(term, index, kind, data))


def entry_intact(entry: Entry) -> bool:
    """Tell whether an entry still is what its proposer made; checked on arrival and on reading back."""
    return entry.checksum == entry_checksum(entry.term, entry.index, entry.kind, entry.data)


class MemberRole(StrEnum):
    """What a member of a configuration may do."""

    VOTER = "voter"
    LEARNER = "learner"  # receives the log, never counts toward a quorum


class Member(Struct, frozen=True):
    """A node in a configuration. Only the pair (node_id, incarnation) votes and acknowledges.

    Attributes:
        node_id: number of the node, 1 to 65535.
        incarnation: random 63-bit number drawn when the data directory was made.
        role: voter or learner.
        address: client address, host:port.
        raft_address: peer address, host:port.
    """

    node_id: int
    incarnation: int
    role: MemberRole
    address: str
    raft_address: str


class Configuration(Struct, frozen=True, omit_defaults=True):
    """A membership.

    Attributes:
        members: in the order of their ids.
        recoveries: a random number for each time that an operator has made one node the only voter, oldest first.
            Logs of two nodes may contradict each other in what is committed where one's recoveries are not the
            other's. Not written where there is none, so that entries are the bytes that earlier versions write.
    """

    members: tuple[Member, ...] = ()
    recoveries: tuple[int, ...] = ()

    def member(self, node_id: int) -> Member | None:
        """The member with this id, or None."""
        return next((m for m in self.members if m.node_id == node_id), None)

    def voters(self) -> tuple[int, ...]:
        """Ids of the members that count toward a quorum."""
        return tuple(m.node_id for m in self.members if m.role is MemberRole.VOTER)

    def quorum(self) -> int:
        """How many voters make a majority."""
        return len(self.voters()) // 2 + 1


class HardState(Struct, frozen=True):
    """What must be durable before a promise: the term, the vote in it, and (as a hint only) the commit index."""

    term: int = 0
    vote: int = NOBODY
    commit_index: int = 0


class SnapshotMeta(Struct, frozen=True):
    """What a snapshot covers: everything up to and including (index, term), under this configuration."""

    index: int
    term: int
    configuration: Configuration


class Message(Struct, frozen=True, tag_field="type", kw_only=True):
    """Base of all messages: who sends it, to whom, in which term of the sender."""

    sender: int
    sender_incarnation: int
    to: int
    term: int


class VoteRequest(Message, frozen=True, tag="vote"):
    """RequestVote, also as pre-vote (section 9.6); `transfer` marks one that a leader asked for (3.10)."""

    last_log_index: int
    last_log_term: int
    pre_vote: bool = False
    transfer: bool = False


class VoteResponse(Message, frozen=True, tag="vote_response"):
    """The answer to a `VoteRequest`; for a granted pre-vote, `term` is the term that was asked for."""

    granted: bool
    pre_vote: bool = False


class AppendRequest(Message, frozen=True, tag="append"):
    """AppendEntries with entries or as a probe."""

    prev_index: int
    prev_term: int
    entries: tuple[Entry, ...]
    commit_index: int


class AppendResponse(Message, frozen=True, tag="append_response"):
    """The answer to an `AppendRequest`.

    On success `index` is the last index known to match. On refusal `index` is the refused `prev_index`,
    and (hint_index, hint_term) the last place of the follower's log that may match (section 5.3 of the paper).
    """

    success: bool
    index: int
    hint_index: int = 0
    hint_term: int = 0


class Heartbeat(Message, frozen=True, tag="heartbeat"):
    """Keeps followers, and confirms leadership for all reads that joined `round` (section 6.4).

    `commit_index` is one that the receiver surely holds, if it is the incarnation that the leader knows: one that was
    wiped or rolled back since may hold something else at that index. 0 for `to_incarnation` names any.
    """

    commit_index: int
    round: int
    to_incarnation: int = 0


class HeartbeatResponse(Message, frozen=True, tag="heartbeat_response"):
    """The answer to a `Heartbeat`."""

    round: int


class ReadIndexRequest(Message, frozen=True, tag="read_index"):
    """A follower asks the leader for a read index."""

    context: int


class ReadIndexResponse(Message, frozen=True, tag="read_index_response"):
    """The read index for `context`, or 0 with `ok` false when the asked node cannot give one."""

    context: int
    index: int
    ok: bool = True


class TimeoutNow(Message, frozen=True, tag="timeout_now"):
    """The leader asks the receiver to campaign at once (section 3.10)."""


AnyMessage = (
    VoteRequest
    | VoteResponse
    | AppendRequest
    | AppendResponse
    | Heartbeat
    | HeartbeatResponse
    | ReadIndexRequest
    | ReadIndexResponse
    | TimeoutNow
)


class Role(StrEnum):
    """The role of a node at this moment."""

    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre_candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


class ReadReady(Struct, frozen=True):
    """The read `context` may be served once everything up to `index` is applied here."""

    context: int
    index: int


class Ready(Struct, frozen=True):
    """What the driver has to do, in this order.

    Attributes:
        messages: send now; they promise nothing that is not yet durable.
        persist_id: 0 when there is nothing to make durable, else hand it to `RaftCore.persisted`.
        snapshot: install this one first (its content was received before the core was told).
        entries: make durable, replacing everything from the first one's index on; same transaction as hard_state.
        hard_state: make durable, or None when unchanged.
        messages_after_persist: send once the above, and all earlier `Ready` values, are durable.
        committed: apply in order; needs no waiting for this node's own disk.
        reads: linearizable reads that were confirmed.
        reads_failed: reads that cannot be confirmed; the driver answers or retries.
        snapshots_to_send: start streaming a snapshot to these nodes, then call `report_snapshot`.
    """

    messages: tuple[AnyMessage, ...] = ()
    persist_id: int = 0
    snapshot: SnapshotMeta | None = None
    entries: tuple[Entry, ...] = ()
    hard_state: HardState | None = None
    messages_after_persist: tuple[AnyMessage, ...] = ()
    committed: tuple[Entry, ...] = ()
    reads: tuple[ReadReady, ...] = ()
    reads_failed: tuple[int, ...] = ()
    snapshots_to_send: tuple[int, ...] = ()
