"""Commands: what a Raft entry's data means to the ledger, and what applying one answers.

Encoded with msgpack: an array of the command's tag, its format version, and its fields. A node refuses to
apply a tag, a format or a field that it does not know, because guessing would make it diverge.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import ClassVar, Final

import msgspec
from msgspec import Struct

from appliance.ledger import encoding
from appliance.ledger.merkle import HASH_BYTES

COMMAND_FORMAT: Final = 1
SALT_BYTES: Final = encoding.SALT_BYTES
KEY_BYTES_MAX: Final = 1024
REQUEST_ID_BYTES_MAX: Final = 128
IDEMPOTENCY_KEY_BYTES_MAX: Final = 128
IDEMPOTENCY_TTL_US: Final = 24 * 3600 * 1_000_000
TIMESTAMP_US_MAX: Final = encoding.INTEGER_MAX

FEATURE_PAUSES: Final = "pauses"  # nodes that know `PauseCommand` tell each other so
FEATURE_CHECKPOINTS: Final = "checkpoints"  # nodes that know `CheckpointCommand` and `CosignaturesCommand` do, too
COSIGNATURES_MAX: Final = 64  # lines in one command
COSIGNATURE_CHARACTERS_MAX: Final = 1024  # of one line
MUST_BE_ABSENT: Final = 0  # if_version: the key must be absent or deleted (If-None-Match: *)


class Op(StrEnum):
    """What an operation does to its key."""

    PUT = "put"
    DELETE = "delete"


class Operation(Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True):
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


class WriteCommand(Struct, frozen=True, array_like=True, gc=False, tag="write", forbid_unknown_fields=True):
    """A write as it stands in the log: the request plus what only the leader may decide.

    Attributes:
        format: `COMMAND_FORMAT`.
        timestamp_us: leader's stamp, Unix microseconds, never earlier than the stamp before it.
        salts: `SALT_BYTES` for each operation, concatenated.
        idempotency_keys_max: the leader's limit on idempotency keys held, set when idempotency_key is; replicas
            decide by it and not by their own settings, which may differ. 0 stands for the machine's own limit.
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
    idempotency_keys_max: int = 0


class PauseCommand(Struct, frozen=True, array_like=True, gc=False, tag="pause", forbid_unknown_fields=True):
    """From here on writes are refused until an instant of stamps; the last such command in the log rules.

    Attributes:
        format: `COMMAND_FORMAT`.
        timestamp_us: leader's stamp, Unix microseconds, never earlier than the stamp before it.
        until_us: writes with an earlier stamp are refused; one that is not after `timestamp_us` ends a pause.
        actor: name of the API key.
        request_id: id of the HTTP request.
    """

    operations: ClassVar[tuple[Operation, ...]] = ()

    format: int
    timestamp_us: int
    until_us: int
    actor: str
    request_id: str


class CheckpointCommand(Struct, frozen=True, array_like=True, gc=False, tag="checkpoint", forbid_unknown_fields=True):
    """The tree as it is right here is published: every node may sign this size and no other until the next.

    Attributes:
        format: `COMMAND_FORMAT`.
        timestamp_us: leader's stamp, Unix microseconds, never earlier than the stamp before it.
    """

    operations: ClassVar[tuple[Operation, ...]] = ()

    format: int
    timestamp_us: int


class PublishedTree(Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """A state of the tree that every node may sign.

    Attributes:
        tree_size: leaves; 0 while nothing was published.
        root: root hash of that tree.
        raft_index: index of the entry that published it.
        timestamp_us: that entry's stamp, Unix microseconds.
    """

    tree_size: int = 0
    root: bytes = b""
    raft_index: int = 0
    timestamp_us: int = 0


NOTHING_PUBLISHED: Final = PublishedTree()


class CosignaturesCommand(
    Struct, frozen=True, array_like=True, gc=False, tag="cosignatures", forbid_unknown_fields=True
):
    """What witnesses say of a published tree.

    Attributes:
        format: `COMMAND_FORMAT`.
        timestamp_us: leader's stamp, Unix microseconds, never earlier than the stamp before it.
        tree: the one that they cosigned; others may have been published since, so it is named whole.
        lines: their signature lines, without newlines; the leader has verified them.
    """

    operations: ClassVar[tuple[Operation, ...]] = ()

    format: int
    timestamp_us: int
    tree: PublishedTree
    lines: tuple[str, ...]


Command = WriteCommand | PauseCommand | CheckpointCommand | CosignaturesCommand


class UnknownCommand(Exception):
    """An entry's data is no command that this version of the program knows. The node must stop, not skip it."""


_encoder = msgspec.msgpack.Encoder()
_decoder: Final[msgspec.msgpack.Decoder[Command]] = msgspec.msgpack.Decoder(Command)  # told apart by their tags


def encode_write(request: WriteRequest, timestamp_us: int, salts: bytes, idempotency_keys_max: int) -> bytes:
    """Make the data of a log entry out of a request and what the leader decides; see `WriteCommand`.

    What `decode_command` would refuse must not get into the log, where it would stop every node.
    """
    assert request.operations, "a write has at least one operation"
    assert len(salts) == SALT_BYTES * len(request.operations)
    assert 0 <= timestamp_us <= TIMESTAMP_US_MAX
    return _encoder.encode(
        WriteCommand(
            COMMAND_FORMAT,
            timestamp_us,
            request.operations,
            salts,
            request.actor,
            request.request_id,
            request.batch,
            request.idempotency_key,
            request.request_hash,
            idempotency_keys_max if request.idempotency_key is not None else 0,
        )
    )


def encode_pause(timestamp_us: int, until_us: int, actor: str, request_id: str) -> bytes:
    """Make the data of a log entry that pauses writes, or, with `until_us` 0, takes them again."""
    assert 0 <= timestamp_us <= TIMESTAMP_US_MAX
    assert 0 <= until_us <= TIMESTAMP_US_MAX
    return _encoder.encode(PauseCommand(COMMAND_FORMAT, timestamp_us, until_us, actor, request_id))


def encode_checkpoint(timestamp_us: int) -> bytes:
    """Make the data of a log entry that publishes the tree."""
    assert 0 <= timestamp_us <= TIMESTAMP_US_MAX
    return _encoder.encode(CheckpointCommand(COMMAND_FORMAT, timestamp_us))


def encode_cosignatures(timestamp_us: int, tree: PublishedTree, lines: Sequence[str]) -> bytes:
    """Make the data of a log entry that keeps cosignatures beside the checkpoint of a published tree."""
    assert 0 <= timestamp_us <= TIMESTAMP_US_MAX
    command = CosignaturesCommand(COMMAND_FORMAT, timestamp_us, tree, tuple(lines))
    assert _are_cosignatures(command)
    return _encoder.encode(command)


def _are_cosignatures(command: CosignaturesCommand) -> bool:
    tree = command.tree
    return (
        0 < tree.tree_size <= encoding.INTEGER_MAX
        and len(tree.root) == HASH_BYTES
        and 0 < tree.raft_index <= encoding.INTEGER_MAX
        and 0 <= tree.timestamp_us <= TIMESTAMP_US_MAX
        and 0 < len(command.lines) <= COSIGNATURES_MAX
        and all(len(line) <= COSIGNATURE_CHARACTERS_MAX and "\n" not in line for line in command.lines)
    )


def decode_command(data: bytes) -> Command:
    """Read the data of a log entry. Raises `UnknownCommand`."""
    try:
        command = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnknownCommand(f"the entry's data is no known command: {error}") from error
    if command.format != COMMAND_FORMAT:
        raise UnknownCommand(f"the command's format is {command.format}, and only {COMMAND_FORMAT} is known here")
    if isinstance(command, WriteCommand):  # asked this way round: of its own class it costs next to nothing
        if not command.operations or len(command.salts) != SALT_BYTES * len(command.operations):
            raise UnknownCommand(
                f"the command has {len(command.operations)} operations and {len(command.salts)} bytes of salts"
            )
    elif isinstance(command, PauseCommand):
        if not 0 <= command.until_us <= TIMESTAMP_US_MAX:
            raise UnknownCommand(f"the pause's end {command.until_us} is out of bounds")
    elif isinstance(command, CosignaturesCommand) and not _are_cosignatures(command):
        raise UnknownCommand(f"the command's cosignatures of tree size {command.tree.tree_size} are out of bounds")
    if not 0 <= command.timestamp_us <= TIMESTAMP_US_MAX:
        raise UnknownCommand(f"the command's stamp {command.timestamp_us} is out of bounds")
    return command


class Outcome(StrEnum):
    """What became of a write when it was applied."""

    OK = "ok"
    NOT_FOUND = "not_found"  # delete of a key that is absent
    CONDITION_FAILED = "condition_failed"
    DUPLICATE = "duplicate"  # in audit rows only: an idempotency key seen before, answered with the first answer
    IDEMPOTENCY_MISMATCH = "idempotency_mismatch"
    IDEMPOTENCY_FULL = "idempotency_full"
    WRITES_PAUSED = "writes_paused"
    BATCH_REFUSED = "batch_refused"  # in audit rows only: not applied because another of the same batch was refused


class OperationResult(Struct, frozen=True, array_like=True, gc=False):
    """Where one operation of an applied write went: key, its new version, its leaf."""

    key: str
    version: int
    leaf_index: int


class WriteResult(Struct, frozen=True, array_like=True, gc=False):
    """The answer to a write, the same on every node.

    Attributes:
        outcome: what became of it. A repeat of an idempotency key gets the first answer as it was, outcome and all,
            with `replayed` set; only its audit rows say DUPLICATE.
        raft_index: index of the entry that decided it.
        raft_term: term of that entry.
        timestamp_us: the leader's stamp.
        results: one for each operation when `outcome` is OK, else empty.
        failed_position: position of the operation that refused the write, or -1.
        current_version: version that the refusing operation found its key at (0 when absent or deleted),
            earlier operations of the same batch counted.
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
