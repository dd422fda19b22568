"""What the state machine reads and what it changes, as plain values.

The machine (`appliance.ledger.machine`) reads through `StateView` and answers `Changes`; a store keeps
the changes in memory at once and writes them to disk in bulk, later.
"""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

from appliance.ledger.commands import NOTHING_PUBLISHED, Outcome, PublishedTree, WriteResult


class Head(Struct, frozen=True, array_like=True, gc=False):
    """The current state of a key; a deleted key keeps its head, so that versions go on counting.

    Attributes:
        version: number of the last operation on the key, 1 for the first.
        leaf_index: leaf of that operation; its value is stored under it.
        deleted: whether that operation was a delete.
        timestamp_us: leader's stamp of that operation, Unix microseconds.
        size: length of the value in bytes, 0 when deleted.
    """

    version: int
    leaf_index: int
    deleted: bool
    timestamp_us: int
    size: int


class NewLeaf(Struct, frozen=True, array_like=True, gc=False):
    """A leaf as it is stored: `leaf` is the canonical JSON, its hash is derived, never stored beside it.

    `salt` has 16 bytes for a put and is empty for a delete.
    """

    leaf_index: int
    raft_index: int
    leaf: bytes
    salt: bytes
    value: bytes | None  # None for a delete


class Refusal(Struct, frozen=True, array_like=True, gc=False):
    """What was decided and left no leaf: an audit row. An operation that was refused (condition failed, absent,
    duplicate, paused) with its `Op`; a pause or its end as `pause` or `resume`, without a key.
    """

    raft_index: int
    position: int
    timestamp_us: int
    actor: str
    op: str
    key: str
    version: int  # version that the key has, 0 when absent or deleted
    size: int
    outcome: Outcome
    request_id: str


class StoredAnswer(Struct, frozen=True, array_like=True, gc=False):
    """The first answer to an idempotency key."""

    actor: str
    idempotency_key: str
    request_hash: bytes
    timestamp_us: int
    result: WriteResult


class Changes(Struct, frozen=True, array_like=True, gc=False):
    """Everything that applying one entry changed."""

    raft_index: int
    result: WriteResult | None  # None for entries that are no writes
    leaves: tuple[NewLeaf, ...] = ()
    heads: tuple[tuple[str, Head], ...] = ()
    refusals: tuple[Refusal, ...] = ()
    answer: StoredAnswer | None = None
    forget_answers_before_us: int = 0  # expired idempotency keys to drop: those stamped earlier; 0 for none
    leaf_hashes: tuple[bytes, ...] = ()  # of `leaves`, as they went into the tree


class StateAt(Struct, frozen=True, array_like=True, gc=False):
    """What a node's state was behind an entry, for comparing it with that of others.

    Attributes:
        raft_index: index of the entry.
        digest: SHA-256 over the state hash and the root of the tree.
    """

    raft_index: int
    digest: bytes


class Summary(Struct, frozen=True, array_like=True, gc=False):
    """The machine's own state after an applied index; stored in the same transaction as the changes up to it.

    Attributes:
        applied_index: last applied index of the replicated log.
        applied_term: its term; opaque here, needed to continue the log behind a snapshot.
        tree_size: leaves in the Merkle tree.
        frontier: hashes of the complete subtrees that make up the tree, largest first (RFC 9162, 2.1).
        last_timestamp_us: stamp of the last write.
        state_hash: running hash over (index, entry, outcome).
        key_count: keys that are present.
        answer_count: idempotency keys held.
        answers_expired_us: stamp up to which idempotency keys were dropped.
        paused_until_us: writes with an earlier stamp are refused; 0 in files that are older than this field.
        published: the tree that was published last.
        cosigned: the one that witnesses cosigned last.
        cosignatures: their signature lines over it, without newlines.
    """

    applied_index: int = 0
    applied_term: int = 0
    tree_size: int = 0
    frontier: tuple[bytes, ...] = ()
    last_timestamp_us: int = 0
    state_hash: bytes = bytes(32)
    key_count: int = 0
    answer_count: int = 0
    answers_expired_us: int = 0
    paused_until_us: int = 0
    published: PublishedTree = NOTHING_PUBLISHED
    cosigned: PublishedTree = NOTHING_PUBLISHED
    cosignatures: tuple[str, ...] = ()


class StateView(Protocol):
    """What the machine reads while it applies; answers include everything applied before."""

    def head(self, key: str) -> Head | None:
        """The head of a key, or None if it was never written."""
        ...

    def answer(self, actor: str, idempotency_key: str) -> StoredAnswer | None:
        """The stored first answer to an idempotency key, or None."""
        ...

    def answers_before(self, timestamp_us: int) -> int:
        """How many stored answers have a stamp earlier than this."""
        ...
