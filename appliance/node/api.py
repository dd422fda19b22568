"""What a node offers to the floors above: the calls behind the HTTP routes, and their answers as plain values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from msgspec import Struct

from appliance.ledger.commands import WriteRequest, WriteResult
from appliance.ledger.state import Head, NewLeaf
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
    """A page of a key's versions, newest first; `next` is the leaf index at which the next page starts, or None."""

    leaves: tuple[NewLeaf, ...]
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
    """The cluster as this node sees it."""

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

    def health(self) -> Health:
        """The node's state; no quorum is asked."""
        ...

    def cluster(self) -> ClusterInfo:
        """The cluster as this node sees it; no quorum is asked."""
        ...

    def figures(self) -> Figures:
        """Figures of storage and tree."""
        ...
