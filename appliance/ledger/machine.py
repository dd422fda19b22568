"""The state machine: applies the entries of the replicated log, one after the other, the same on every node.

It reads through a `StateView`, changes nothing outside itself, and answers `Changes`. The caller hands these to
the store before it applies the next entry. There is no clock here: time is the stamp of the entry.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from hashlib import sha256
from typing import Final, NamedTuple

from msgspec import Struct
from msgspec.structs import astuple, replace

from appliance.ledger.commands import (
    IDEMPOTENCY_TTL_US,
    NOTHING_PUBLISHED,
    SALT_BYTES,
    CheckpointCommand,
    Command,
    CosignaturesCommand,
    Op,
    Operation,
    OperationResult,
    Outcome,
    PauseCommand,
    PublishedTree,
    UnknownCommand,
    WriteCommand,
    WriteResult,
    decode_command,
)
from appliance.ledger.encoding import INTEGER_MAX, LeafError, value_hash, write_leaf
from appliance.ledger.merkle import MerkleFrontier, leaf_hash
from appliance.ledger.state import Changes, Head, NewLeaf, Refusal, StateAt, StateView, StoredAnswer, Summary

__all__ = ["EXPIRY_INTERVAL_US", "STATES_KEPT", "LedgerMachine", "UnknownCommand"]

STATES_KEPT: Final = 64  # entries that are no writes come with each checkpoint: half a minute of them at least

EXPIRY_INTERVAL_US: Final = (
    60 * 1_000_000
)  # expired answers are dropped once a minute of stamps, or when room is needed

_ANSWERED_OUTCOMES: Final = frozenset({Outcome.OK, Outcome.NOT_FOUND, Outcome.CONDITION_FAILED})
_INDEX_BYTES: Final = 8
_OK: Final = Outcome.OK
_PUT: Final = Op.PUT  # looked up once: an enum's attribute costs as much as a hash table's
_PLAIN_OK: Final = b"\xff" * 8 + bytes(8) + b"\x00" + b"ok" + b"\x00"  # no failed position, no version, not replayed


class _Entry(NamedTuple):
    """A write as it stands in the log, with the stamp that rules."""

    command: WriteCommand
    raft_index: int
    term: int
    stamp_us: int


class _Verdict(Struct, gc=False):
    """What was decided about a write, before it becomes a result and changes."""

    outcome: Outcome = Outcome.OK
    failed_position: int = -1
    current_version: int = 0
    first: StoredAnswer | None = None  # the answer that is given again


class _Work:
    """What the operations of one write come to so far; thrown away when one of them is refused."""

    __slots__ = ("batch_id", "entry", "heads", "key_count", "leaf_hashes", "leaves", "results")

    def __init__(self, entry: _Entry, batch_id: int, key_count: int) -> None:
        self.entry = entry
        self.batch_id = batch_id
        self.key_count = key_count
        self.heads: dict[str, Head] = {}
        self.leaves: list[NewLeaf] = []
        self.leaf_hashes: list[bytes] = []
        self.results: list[OperationResult] = []

    def take(self, position: int, operation: Operation, head: Head | None) -> None:
        """Carry out one operation on a key that stands at `head`."""
        command, index, _, stamp_us = self.entry
        batch_id, key = self.batch_id, operation.key
        leaf_index = batch_id + position
        version, prev_leaf_index = _following(head, leaf_index)
        if operation.op is _PUT:
            op, value = "put", operation.value
            salt = command.salts[position * SALT_BYTES : (position + 1) * SALT_BYTES]
            hash_hex, size = value_hash(salt, value), len(value)
            self.heads[key] = Head(version, leaf_index, False, stamp_us, size)
            self.key_count += head is None or head.deleted
        else:
            op, value, salt, hash_hex, size = "delete", None, b"", None, 0
            self.heads[key] = Head(version, leaf_index, True, stamp_us, 0)
            self.key_count -= 1
        leaf = write_leaf(
            batch_id,
            position,
            len(command.operations),
            op,
            key,
            version,
            prev_leaf_index,
            hash_hex,
            size,
            command.actor,
            command.request_id,
            stamp_us,
        )
        self.leaves.append(NewLeaf(leaf_index, index, leaf, salt, value))
        self.leaf_hashes.append(leaf_hash(leaf))
        self.results.append(OperationResult(key, version, leaf_index))


class LedgerMachine:
    """The ledger's state machine.

    Args:
        view: where heads and stored answers are read; it must show everything that was applied before.
        summary: state to go on from, `Summary()` for a new ledger. Raises `ValueError` when its tree makes no sense.
        answers_max: idempotency keys held at most, for entries in which the leader named no limit.
    """

    def __init__(self, view: StateView, summary: Summary, answers_max: int) -> None:
        self._view = view
        self._answers_max = answers_max
        self._applied_index = summary.applied_index
        self._applied_term = summary.applied_term
        self._tree = MerkleFrontier.from_frontier(summary.tree_size, summary.frontier)
        self._last_timestamp_us = summary.last_timestamp_us
        self._state_hash = summary.state_hash
        self._key_count = summary.key_count
        self._answer_count = summary.answer_count
        self._answers_expired_us = summary.answers_expired_us
        self.paused_until_us = summary.paused_until_us  # for reading: writes with an earlier stamp are refused
        self.published, self.cosigned = summary.published, summary.cosigned  # for reading, these three
        self.cosignatures = summary.cosignatures
        self.states: deque[StateAt] = deque(maxlen=STATES_KEPT)  # for reading: behind the last entries without a write

    @property
    def applied_index(self) -> int:
        """Last applied index of the replicated log."""
        return self._applied_index

    @property
    def tree_size(self) -> int:
        """Leaves in the Merkle tree."""
        return self._tree.size

    @property
    def state_hash(self) -> bytes:
        """Running hash over everything applied; equal at the same index on every node that did not diverge."""
        return self._state_hash

    @property
    def last_timestamp_us(self) -> int:
        """Stamp of the last write, Unix microseconds; 0 before the first."""
        return self._last_timestamp_us

    @property
    def key_count(self) -> int:
        """Keys that are present."""
        return self._key_count

    @property
    def answer_count(self) -> int:
        """Idempotency keys held."""
        return self._answer_count

    def root(self) -> bytes:
        """Root hash of the Merkle tree."""
        return self._tree.root()

    def state_now(self) -> StateAt:
        """The state as it is, for comparing it with that of others at the same index."""
        return StateAt(self._applied_index, sha256(self._state_hash + self._tree.root()).digest())

    def summary(self) -> Summary:
        """The machine's own state, to be stored with the changes up to it."""
        return Summary(
            self._applied_index,
            self._applied_term,
            self._tree.size,
            self._tree.hashes(),
            self._last_timestamp_us,
            self._state_hash,
            self._key_count,
            self._answer_count,
            self._answers_expired_us,
            self.paused_until_us,
            self.published,
            self.cosigned,
            self.cosignatures,
        )

    def advance(self, index: int, term: int) -> Changes:
        """Pass over an entry that is no command: a leader's no-op, a configuration."""
        self._step(index, term)
        self._state_hash = sha256(self._state_hash + index.to_bytes(_INDEX_BYTES)).digest()
        self.states.append(self.state_now())
        return Changes(index, None)

    def apply(self, index: int, term: int, data: bytes, command: Command | None = None) -> Changes:
        """Apply the data of a normal entry; `command` is what `decode_command` made of it, if that was asked before.

        Raises:
            UnknownCommand: this program does not know what the data means. Nothing was changed; the node must stop.
        """
        if command is None:
            command = decode_command(data)
        self._step(index, term)
        # A leader never stamps backwards; if one does, all nodes read the same later stamp instead.
        stamp_us = self._last_timestamp_us = max(self._last_timestamp_us, command.timestamp_us)
        if not isinstance(command, WriteCommand):  # asked this way round: of its own class it costs next to nothing
            return self._carry_out_other(index, term, data, command)
        operations = command.operations
        if command.idempotency_key is None and len(operations) == 1 and stamp_us >= self.paused_until_us:
            operation = operations[0]
            if operation.op is _PUT and operation.if_version is None:
                return self._put(index, term, data, command, operation)
        return self._write(index, term, data, command)

    def _carry_out_other(
        self, index: int, term: int, data: bytes, command: PauseCommand | CheckpointCommand | CosignaturesCommand
    ) -> Changes:
        """What is no write: it adds no leaf, and always succeeds."""
        rows: tuple[Refusal, ...] = ()
        if isinstance(command, CosignaturesCommand):
            self._take_cosignatures(command)
        else:
            if isinstance(command, PauseCommand):
                rows = self._pause(index, command)
            self._publish(index)  # a pause, too: the files are about to rest, with a proof for all that is in them
        result = WriteResult(Outcome.OK, index, term, self._last_timestamp_us)
        self._state_hash = _chain(self._state_hash, index, data, result, ())
        self.states.append(self.state_now())
        return Changes(index, result, (), (), rows)

    def _publish(self, index: int) -> None:
        """The tree as it is now may be signed; one that did not grow stays published as it was."""
        if self._tree.size > self.published.tree_size:
            self.published = PublishedTree(self._tree.size, self._tree.root(), index, self._last_timestamp_us)

    def _take_cosignatures(self, command: CosignaturesCommand) -> None:
        """Keep what witnesses say of a tree, unless they have cosigned a larger one since."""
        if self.cosigned.tree_size <= command.tree.tree_size <= self.published.tree_size:
            self.cosigned, self.cosignatures = command.tree, command.lines

    def forget_cosignatures(self) -> None:
        """What witnesses have cosigned is another log's now."""
        self.cosigned, self.cosignatures = NOTHING_PUBLISHED, ()

    def _pause(self, index: int, command: PauseCommand) -> tuple[Refusal, ...]:
        """Refuse the writes that follow for a time, or take them again; the latter means nothing without a pause."""
        stamp_us = self._last_timestamp_us
        ends = command.until_us <= stamp_us
        rows: tuple[Refusal, ...] = ()
        if not ends or stamp_us < self.paused_until_us:
            op = "resume" if ends else "pause"
            rows = (Refusal(index, 0, stamp_us, command.actor, op, "", 0, 0, Outcome.OK, command.request_id),)
        self.paused_until_us = 0 if ends else command.until_us
        return rows

    def _write(self, index: int, term: int, data: bytes, command: WriteCommand) -> Changes:
        """Any write."""
        stamp_us = self._last_timestamp_us
        verdict, forget_before_us = self._admit(command, stamp_us)
        entry = _Entry(command, index, term, stamp_us)
        work: _Work | None = None
        if verdict is None:
            verdict, work = self._carry_out(entry)
        changes = self._settle(entry, verdict, work, forget_before_us)
        assert changes.result is not None
        leaf_hashes = work.leaf_hashes if work is not None else ()
        self._state_hash = _chain(self._state_hash, index, data, changes.result, leaf_hashes)
        return changes

    def _put(self, index: int, term: int, data: bytes, command: WriteCommand, operation: Operation) -> Changes:
        """The commonest write, one put that nothing can refuse: what `_write` does to it, at half the price."""
        stamp_us, tree = self._last_timestamp_us, self._tree
        key, value = operation.key, operation.value
        forget_before_us = self._expire(stamp_us, EXPIRY_INTERVAL_US) if self._answer_count else 0
        head = self._view.head(key)
        leaf_index, size, salt = tree.size, len(value), command.salts
        version, prev = _following(head, leaf_index)
        if head is None or head.deleted:
            self._key_count += 1
        hash_hex, actor, request_id = value_hash(salt, value), command.actor, command.request_id
        leaf = write_leaf(leaf_index, 0, 1, "put", key, version, prev, hash_hex, size, actor, request_id, stamp_us)
        one = leaf_hash(leaf)
        tree.append(one)
        index_bytes = index.to_bytes(_INDEX_BYTES)
        self._state_hash = sha256(self._state_hash + index_bytes + sha256(data).digest() + _PLAIN_OK + one).digest()
        return Changes(
            index,
            WriteResult(_OK, index, term, stamp_us, (OperationResult(key, version, leaf_index),)),
            (NewLeaf(leaf_index, index, leaf, salt, value),),
            ((key, Head(version, leaf_index, False, stamp_us, size)),),
            (),
            None,
            forget_before_us,
            (one,),
        )

    def _step(self, index: int, term: int) -> None:
        assert index == self._applied_index + 1, f"entry {index} cannot follow entry {self._applied_index}"
        assert term >= self._applied_term
        self._applied_index = index
        self._applied_term = term

    def _admit(self, command: WriteCommand, stamp_us: int) -> tuple[_Verdict | None, int]:
        """Judge the pause and the idempotency key. Answers a verdict if the write ends here, and the stamp before which
        stored answers are dropped (0 for none).
        """
        if stamp_us < self.paused_until_us:
            return _Verdict(Outcome.WRITES_PAUSED), 0
        name = command.idempotency_key
        if name is None:
            return None, self._expire(stamp_us, EXPIRY_INTERVAL_US)
        first = self._view.answer(command.actor, name)
        if first is not None and first.timestamp_us >= stamp_us - IDEMPOTENCY_TTL_US:
            if first.request_hash == command.request_hash:
                verdict = _Verdict(Outcome.DUPLICATE, first=first)
            else:
                verdict = _Verdict(Outcome.IDEMPOTENCY_MISMATCH)
            return verdict, self._expire(stamp_us, EXPIRY_INTERVAL_US)
        answers_max = command.idempotency_keys_max or self._answers_max
        needs_room = first is not None or self._answer_count >= answers_max
        forget_before_us = self._expire(stamp_us, 0 if needs_room else EXPIRY_INTERVAL_US)
        if self._answer_count >= answers_max:
            return _Verdict(Outcome.IDEMPOTENCY_FULL), forget_before_us
        return None, forget_before_us

    def _expire(self, stamp_us: int, interval_us: int) -> int:
        """Count out the answers that have expired, if the last time was more than an interval of stamps ago."""
        before_us = stamp_us - IDEMPOTENCY_TTL_US
        if self._answer_count == 0 or before_us <= self._answers_expired_us + interval_us:
            return 0
        self._answer_count -= self._view.answers_before(before_us)
        self._answers_expired_us = before_us
        assert self._answer_count >= 0
        return before_us

    def _carry_out(self, entry: _Entry) -> tuple[_Verdict, _Work | None]:
        """Carry out all operations, each on what those before it left behind, or none."""
        work = _Work(entry, self._tree.size, self._key_count)
        for position, operation in enumerate(entry.command.operations):
            head = work.heads.get(operation.key) or self._view.head(operation.key)
            present_version = 0 if head is None or head.deleted else head.version
            refusing = _refusing(operation, present_version)
            if refusing is not None:
                return _Verdict(refusing, position, present_version), None
            work.take(position, operation, head)
        return _Verdict(), work

    def _settle(self, entry: _Entry, verdict: _Verdict, work: _Work | None, forget_before_us: int) -> Changes:
        """Take what was carried out into the machine, or note the refusal."""
        command, index, term, stamp_us = entry
        if verdict.first is not None:
            result = replace(verdict.first.result, replayed=True)
        else:
            results = tuple(work.results) if work is not None else ()
            result = WriteResult(
                verdict.outcome, index, term, stamp_us, results, verdict.failed_position, verdict.current_version
            )
        answer = None
        if command.idempotency_key is not None and verdict.outcome in _ANSWERED_OUTCOMES:
            answer = StoredAnswer(command.actor, command.idempotency_key, command.request_hash, stamp_us, result)
            self._answer_count += 1
        if work is None:
            refusals = self._refusals(entry, verdict)
            return Changes(index, result, (), (), refusals, answer, forget_before_us)
        self._key_count = work.key_count
        for one in work.leaf_hashes:
            self._tree.append(one)
        heads = tuple(work.heads.items())
        return Changes(index, result, tuple(work.leaves), heads, (), answer, forget_before_us, tuple(work.leaf_hashes))

    def _refusals(self, entry: _Entry, verdict: _Verdict) -> tuple[Refusal, ...]:
        """Audit rows of a refused write, one for each operation, with the versions that the keys still have.

        When one operation is what refused it, the others say BATCH_REFUSED; else all carry the write's outcome.
        """
        command, index, _, stamp_us = entry
        rows = []
        for position, (op, key, value, _) in enumerate(map(astuple, command.operations)):
            outcome = verdict.outcome
            if verdict.failed_position not in (-1, position):
                outcome = Outcome.BATCH_REFUSED
            head = self._view.head(key)
            version = 0 if head is None or head.deleted else head.version
            row = (index, position, stamp_us, command.actor, op, key, version, len(value), outcome, command.request_id)
            rows.append(Refusal(*row))
        return tuple(rows)


def _following(head: Head | None, leaf_index: int) -> tuple[int, int | None]:
    """Version and previous leaf of the next operation on a key. Raises `LeafError` when the head makes no sense."""
    if head is None:
        return 1, None
    if not (0 <= head.leaf_index < leaf_index <= INTEGER_MAX and 1 <= head.version < INTEGER_MAX):
        raise LeafError(
            f"a key's head names leaf {head.leaf_index} and version {head.version} before leaf {leaf_index}"
        )
    return head.version + 1, head.leaf_index


def _refusing(operation: Operation, present_version: int) -> Outcome | None:
    """Why an operation cannot be carried out on a key at this version (0: not there), or None.

    Absence comes before the condition: preconditions count only where the request would succeed without them
    (RFC 9110, 13.2.1).
    """
    if operation.op is Op.DELETE and present_version == 0:
        return Outcome.NOT_FOUND
    if operation.if_version is not None and operation.if_version != present_version:
        return Outcome.CONDITION_FAILED
    return None


def _chain(state_hash: bytes, index: int, data: bytes, result: WriteResult, leaf_hashes: Sequence[bytes]) -> bytes:
    """The next state hash; `docs/LEDGER-FORMAT.md` gives the layout. Only what is fixed there goes in, so that
    versions of the program with more fields in their answers still agree.
    """
    return sha256(
        b"".join(
            (
                state_hash,
                index.to_bytes(_INDEX_BYTES),
                sha256(data).digest(),
                result.failed_position.to_bytes(_INDEX_BYTES, signed=True),
                result.current_version.to_bytes(_INDEX_BYTES),
                b"\x01" if result.replayed else b"\x00",
                result.outcome.encode(),
                b"\x00",
                *leaf_hashes,
            )
        )
    ).digest()
