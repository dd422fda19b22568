"""Commands: what a Raft entry's data means to the ledger, and what applying one answers.

Encoded with msgpack. The first field of every command is its format version; a node refuses to apply
a format that it does not know, because guessing would make it diverge.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from msgspec import Struct

COMMAND_FORMAT: Final = 1
SALT_BYTES: Final = 16
KEY_BYTES_MAX: Final = 1024
ACTOR_BYTES_MAX: Final = 256
REQUEST_ID_BYTES_MAX: Final = 128
IDEMPOTENCY_KEY_BYTES_MAX: Final = 128
IDEMPOTENCY_TTL_US: Final = 24 * 3600 * 1_000_000

MUST_BE_ABSENT: Final = 0  # if_version: the key must be absent or deleted (If-None-Match: *)


class Op(StrEnum):
    """What an operation does to its key."""

    PUT = "put"
    DELETE = "delete"


class Operation(Struct, frozen=True, array_like=True, gc=False):
    """One operation as the client asked for it.

    Attributes:
        op: put or delete.
        key: 1 to 1024 bytes of UTF-8 without control characters; validated at the gateway.
        value: the bytes of a put, empty for a delete.
        if_version: None for always, `MUST_BE_ABSENT`, or the version that the key must have now.
    """

    op: Op
    key: str
    value: bytes = b""
    if_version: int | None = None


class WriteRequest(Struct, frozen=True, array_like=True, gc=False):
    """A write as it reaches the leader, from its own gateway or forwarded by a follower.

    Attributes:
        operations: one for PUT and DELETE, up to `max_batch_operations` for a batch: all or nothing.
        actor: name of the API key.
        request_id: id of the HTTP request.
        batch: whether it came through /batch (a batch's delete of an absent key refuses the whole batch).
        idempotency_key: the client's, or None.
        request_hash: SHA-256 over method, path, conditions and body; set when idempotency_key is.
        traceparent: W3C trace context when the request is sampled, else empty; never replicated.
    """

    operations: tuple[Operation, ...]
    actor: str
    request_id: str
    batch: bool = False
    idempotency_key: str | None = None
    request_hash: bytes = b""
    traceparent: str = ""


class WriteCommand(Struct, frozen=True, array_like=True, gc=False, tag="write"):
    """A write as it stands in the log: the request plus what only the leader may decide.

    Attributes:
        format: `COMMAND_FORMAT`.
        timestamp_us: leader's stamp, Unix microseconds, never earlier than the stamp before it.
        salts: `SALT_BYTES` for each operation, concatenated.
    """

    format: int
    timestamp_us: int
    operations: tuple[Operation, ...]
    salts: bytes
    actor: str
    request_id: str
    batch: bool = False
    idempotency_key: str | None = None
    request_hash: bytes = b""


class Outcome(StrEnum):
    """What became of a write when it was applied."""

    OK = "ok"
    NOT_FOUND = "not_found"  # delete of a key that is absent
    CONDITION_FAILED = "condition_failed"
    DUPLICATE = "duplicate"  # an idempotency key seen before: the first answer again
    IDEMPOTENCY_MISMATCH = "idempotency_mismatch"
    IDEMPOTENCY_FULL = "idempotency_full"
    WRITES_PAUSED = "writes_paused"


class OperationResult(Struct, frozen=True, array_like=True, gc=False):
    """Where one operation of an applied write went: key, its new version, its leaf."""

    key: str
    version: int
    leaf_index: int


class WriteResult(Struct, frozen=True, array_like=True, gc=False):
    """The answer to a write, the same on every node.

    Attributes:
        outcome: what became of it. A duplicate carries the first answer's other fields, and `replayed`.
        raft_index: index of the entry that decided it.
        raft_term: term of that entry.
        timestamp_us: the leader's stamp.
        results: one for each operation when `outcome` is OK, else empty.
        failed_position: position of the operation that refused the write, or -1.
        current_version: version that the refusing key has now (0 when absent or deleted).
        replayed: True when this is the stored first answer to the same idempotency key.
    """

    outcome: Outcome
    raft_index: int
    raft_term: int
    timestamp_us: int
    results: tuple[OperationResult, ...] = ()
    failed_position: int = -1
    current_version: int = 0
    replayed: bool = False
