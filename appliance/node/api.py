"""What a node offers to the floors above: the calls behind the HTTP routes, and their answers as plain values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from msgspec import Struct

from appliance.ledger.commands import WriteRequest, WriteResult
from appliance.ledger.encoding import Leaf
from appliance.ledger.state import Head
from appliance.ledger.tile_paths import BundleId, TileId
from appliance.node.ports import Identity
from appliance.tables.errors import ApplianceError


class ReadAnswer(Struct, frozen=True):
    """A present key as it was read."""

    head: Head
    salt: bytes
    value: bytes


class ScanAnswer(Struct, frozen=True):
    """A page of keys; `next` is the `after` of the next page, or None."""

    items: tuple[tuple[str, Head], ...]
    next: str | None


class HistoryAnswer(Struct, frozen=True):
    """What the leaves of a page of a key's versions say, newest first; `next` is the leaf index at which the next page
    starts, or None.
    """

    leaves: tuple[Leaf, ...]
    next: int | None


class Health(Struct, frozen=True):
    """Whether this node can serve linearizable reads, and why not."""

    healthy: bool
    reasons: tuple[str, ...]
    node_id: int
    role: str
    leader_id: int
    term: int
    commit_index: int
    applied_index: int
    lag: int
    alarms: tuple[str, ...]


class MemberInfo(Struct, frozen=True):
    """A member as this node sees it; the match index, lag and contact of others are known to the leader only."""

    node_id: int
    incarnation: str
    role: str
    address: str
    raft_address: str
    is_leader: bool
    is_self: bool
    connected: bool
    match_index: int | None
    lag: int | None
    last_contact_s: float | None
    version: str | None


class ClusterInfo(Struct, frozen=True):
    """The cluster as this node sees it.

    Attributes:
        key_history: the log's keys, as `appliance.ledger.note` writes them: that of the beginning, and one for each
            recovery; the last one signs. Empty where this node has no log key.
    """

    identity: Identity
    version: str
    role: str
    term: int
    leader_id: int
    leader_address: str
    commit_index: int
    applied_index: int
    last_index: int
    snapshot_index: int
    quorum: int
    members: tuple[MemberInfo, ...]
    key_history: tuple[str, ...] = ()

    @property
    def verifier_key(self) -> str:
        """The log's key that signs now; empty where this node has none."""
        return self.key_history[-1] if self.key_history else ""


class CompactionFigures(Struct, frozen=True, kw_only=True):
    """How a compaction stands that an operator has asked for, or how the last one ended.

    Attributes:
        running: whether one is under way.
        entries_left: dropped entries of the log that still take room in its file.
        bytes_left: free room in the file that is being shortened.
        freed_bytes: what the last one gave back.
        seconds: how long the last one took; 0 before the first one, and when it failed.
    """

    running: bool = False
    entries_left: int = 0
    bytes_left: int = 0
    freed_bytes: int = 0
    seconds: float = 0.0


class ScrubFigures(Struct, frozen=True, kw_only=True):
    """How a scrub of this node stands, or how the last one ended.

    Attributes:
        running: whether a pass is under way.
        number: of that pass, or the last one, counted from the start of the node; 0 before the first.
        rate: bytes a second that it may read.
        share: of the pass that is done, 0 to 1.
        bytes_read: in this pass.
        findings: what it found rotten.
        details: the first of these.
        completed_us: when the last pass was completed, Unix microseconds; 0 before.
        seconds: how long that took.
    """

    running: bool = False
    number: int = 0
    rate: int = 0
    share: float = 0.0
    bytes_read: int = 0
    findings: int = 0
    details: tuple[str, ...] = ()
    completed_us: int = 0
    seconds: float = 0.0


class Figures(Struct, frozen=True):
    """Figures for GET /metrics; `root_hash` is lower-case hex."""

    key_count: int
    capacity_keys: int
    ledger_bytes: int
    log_bytes: int
    pending_bytes: int
    cache_bytes: int
    tree_size: int
    root_hash: str
    state_hash: str
    published_size: int = 0
    compaction: CompactionFigures = CompactionFigures()
    scrub: ScrubFigures = ScrubFigures()


class AuditAnswer(Struct, frozen=True):
    """The answer to an audit query.

    Attributes:
        columns: names of the columns, in order.
        rows: the rows when the format is json, each a list of JSON values or such a list encoded; else empty.
        truncated: whether a limit on rows or bytes cut the answer.
        media_type: of `body`.
        body: the encoded answer, in the format that was asked for; for json the whole document.
    """

    columns: tuple[str, ...]
    rows: list[Any]
    truncated: bool
    media_type: str
    body: bytes


class PauseAnswer(Struct, frozen=True):
    """How writes stand after a pause or a resume.

    Attributes:
        paused_until_us: entry stamp at which the pause ends by itself, Unix microseconds; 0: writes are not paused.
        index: Raft index of the entry that decided it.
        settled: ids of the nodes whose `ledger.db` holds and has synced everything up to that entry.
        unsettled: ids of the other members: not reached, or not done in time.
    """

    paused_until_us: int
    index: int
    settled: tuple[int, ...]
    unsettled: tuple[int, ...]


class CompactAnswer(Struct, frozen=True):
    """What a compaction of this node gave back.

    Attributes:
        snapshot_index: up to where the log is dropped now.
        entries_dropped: entries of the log that it dropped.
        log_bytes_before: size of `raft.db` with its WAL, bytes.
        log_bytes_after: the same behind it.
        ledger_bytes_before: size of `ledger.db` with its WAL, bytes.
        ledger_bytes_after: the same behind it.
        seconds: how long it took.
    """

    snapshot_index: int
    entries_dropped: int
    log_bytes_before: int
    log_bytes_after: int
    ledger_bytes_before: int
    ledger_bytes_after: int
    seconds: float


class ResyncAnswer(Struct, frozen=True):
    """What a node does that was asked to give up its data and get them again.

    Attributes:
        node_id: of the node.
        changed: False when it is another incarnation than was asked about, and goes on.
        incarnation: the one that ends; the one that there is when nothing changed.
    """

    node_id: int
    changed: bool
    incarnation: int


class CheckpointAnswer(Struct, frozen=True):
    """A checkpoint that this node has signed.

    Attributes:
        size: leaves in the tree.
        root: its root hash.
        note: the signed note, with the cosignatures that are known for this very tree.
    """

    size: int
    root: bytes
    note: bytes


class InclusionAnswer(Struct, frozen=True):
    """The inclusion of a leaf in the tree of a checkpoint.

    Attributes:
        leaf_index: place of the leaf.
        leaf: the leaf as it is in the tree.
        path: its inclusion path, lowest hash first.
        checkpoint: what it leads to.
        salt: salt of its value; empty for a delete, and for a value that was retired.
    """

    leaf_index: int
    leaf: bytes
    path: tuple[bytes, ...]
    checkpoint: CheckpointAnswer
    salt: bytes


class ChangeAnswer(Struct, frozen=True):
    """How a member stands after a change of the membership was asked for.

    Attributes:
        node_id: of the member.
        role: `voter`, `learner` (not caught up yet), or `removed`.
        changed: False when it stood so before.
        index: Raft index of the configuration that acts.
        members: all of them.
    """

    node_id: int
    role: str
    changed: bool
    index: int
    members: tuple[MemberInfo, ...]


class TransferAnswer(Struct, frozen=True):
    """Who leads after a transfer; `changed` is False when the asked node led already."""

    leader_id: int
    term: int
    changed: bool


class NodeService(Protocol):
    """A running node. Every method raises `ApplianceError` and nothing else on purpose."""

    async def write(self, request: WriteRequest) -> WriteResult:
        """Carry out a write, here or through the leader, and wait for its outcome at most `write_timeout`."""
        ...

    def write_now(self, request: WriteRequest, done: Callable[[WriteResult | ApplianceError], None]) -> bool:
        """Propose a write at once. False when this node does not lead, and `write` has to find who does; nothing was
        done then. Otherwise `done` is called exactly once, on the event loop, with the outcome that `write` would have
        answered or raised; it must raise nothing.
        """
        ...

    def read_now(self, key: str, done: Callable[[ReadAnswer | Exception], None], *, linearizable: bool) -> None:
        """Read a key as `read` does. `done` is called exactly once, on the event loop, perhaps before this returns; it
        must raise nothing.
        """
        ...

    async def read(self, key: str, *, linearizable: bool, at_leaf: int | None = None) -> ReadAnswer:
        """Read a key. `not_found` when absent or deleted, `leaf_out_of_range`, `value_retired`."""
        ...

    async def scan(self, prefix: str, after: str, limit: int, *, linearizable: bool) -> ScanAnswer:
        """List present keys in the order of their UTF-8 bytes."""
        ...

    async def history(self, key: str, from_leaf: int | None, limit: int, *, linearizable: bool) -> HistoryAnswer:
        """List a key's versions, deletes among them. `not_found` when it was never written."""
        ...

    async def settle(self) -> Path:
        """Wait until the ledger file holds everything applied when this was called; answers its path."""
        ...

    async def checkpoint(self, size_min: int = 0) -> CheckpointAnswer:
        """The latest checkpoint; the latest that witnesses cosigned, where that is not much older. Waits for one of
        `size_min` leaves at least. Raises `not_published`, `no_log_key`, `verification_failed`.
        """
        ...

    async def tile(self, tile: TileId) -> bytes:
        """The hashes of a tile, once a tree that has it is published; waits for it. Raises `not_published`."""
        ...

    async def entries(self, bundle: BundleId) -> list[bytes]:
        """The leaves of an entry bundle. Raises as `tile`."""
        ...

    async def inclusion(self, leaf_index: int, tree_size: int) -> list[bytes]:
        """An inclusion path. Raises as `tile`, and `leaf_out_of_range`."""
        ...

    async def consistency(self, first_size: int, second_size: int) -> list[bytes]:
        """A consistency proof. Raises as `tile`, and `leaf_out_of_range`."""
        ...

    async def prove(self, key: str) -> InclusionAnswer:
        """Prove the latest operation on a key, a delete included: what is stored is hashed again, value and leaf, and
        has to lead to the checkpoint.

        Raises:
            ApplianceError: `not_found` for a key that was never written, `verification_failed` when something stored
                is not what it was, and as a linearizable read and `checkpoint`.
        """
        ...

    async def receipt(self, first_leaf: int, count: int) -> list[InclusionAnswer]:
        """The inclusion of the leaves of a write, all in one checkpoint's tree. Raises as `prove`."""
        ...

    def health(self) -> Health:
        """The node's state; no quorum is asked."""
        ...

    def cluster(self) -> ClusterInfo:
        """The cluster as this node sees it; no quorum is asked."""
        ...

    def figures(self) -> Figures:
        """Figures of storage and tree."""
        ...

    async def pause_writes(self, ttl_s: float, actor: str, request_id: str) -> PauseAnswer:
        """Refuse writes everywhere for at most this many seconds of entry stamps; waits until each reachable node has
        applied, flushed and checkpointed what came before. Asked again, it sets a new end.
        """
        ...

    async def resume_writes(self, actor: str, request_id: str) -> PauseAnswer:
        """Take writes again; nothing changes when they are not paused."""
        ...

    async def compact(self) -> CompactAnswer:
        """Drop what the ledger file covers from this node's log, and give space back; writes go on. `conflict` while
        another one is under way.
        """
        ...

    async def scrub(self, rate: int, *, wait: bool) -> ScrubFigures:
        """Begin to read all that this node stores back, at so many bytes a second, and wait for the end of it if that
        is wanted. `conflict` while another one that was asked for is under way.
        """
        ...

    async def resync(self, incarnation: int | None) -> ResyncAnswer:
        """Give up what this node holds and end, so that it is started again and comes back as a new incarnation, with
        the data of the others; only while it is the given one, if that is given. `conflict` when the other voters could
        not go on without it.
        """
        ...

    async def add_member(self, node_id: int, address: str, raft_address: str, *, wait: bool) -> ChangeAnswer:
        """Make a node a member: a learner first, a voter once it has caught up, which `wait` waits for. An empty
        `raft_address` is asked of the node, else taken to be the same host and port + 1000. `conflict` when another
        change is pending, the quorum would be lost, or the address answers as another node or cluster.

        Who wants to wait asks without `wait` first, and then with it, when nothing is left but to wait for the voter:
        such a call may be cancelled and asked again at any time, also after an error that may pass (`no_leader`).
        """
        ...

    async def remove_member(self, node_id: int) -> ChangeAnswer:
        """Remove a member; a leader hands over first. `conflict` when the live quorum would be lost."""
        ...

    async def transfer_leadership(self, node_id: int | None) -> TransferAnswer:
        """Let another voter lead: this one, or the one that is furthest along. `conflict` when it is no voter, cannot
        be reached or does not catch up in time.
        """
        ...
