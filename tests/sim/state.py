"""What the nodes of the simulator apply entries to, and the plain model that it is compared with."""

from __future__ import annotations

import copy
from typing import NamedTuple

from appliance.ledger.commands import MUST_BE_ABSENT, Op, Outcome, WriteResult, decode_command
from appliance.ledger.machine import LedgerMachine
from appliance.ledger.memory import MemoryLedger
from appliance.raft.messages import Configuration, Entry, EntryKind
from appliance.raft.state import decode_configuration

ANSWERS_MAX = 100_000


class Value(NamedTuple):
    """A key as a reader sees it: index of the entry that wrote it last, version and value (None: not there)."""

    raft_index: int
    version: int
    value: bytes | None


NEVER_WRITTEN = Value(0, 0, None)


class LedgerState:
    """The real machine over the real ledger in memory."""

    def __init__(self, ledger: MemoryLedger, configuration: Configuration) -> None:
        summary, _ = ledger.load()
        self.ledger = ledger
        self.machine = LedgerMachine(ledger, summary, ANSWERS_MAX)
        self.applied_term = summary.applied_term
        self.configuration = configuration

    @property
    def applied_index(self) -> int:
        return self.machine.applied_index

    @property
    def last_timestamp_us(self) -> int:
        return self.machine.last_timestamp_us

    def apply(self, entry: Entry) -> WriteResult | None:
        if entry.kind == EntryKind.CONFIGURATION:
            self.configuration = decode_configuration(entry.data)
        if entry.kind == EntryKind.NORMAL:
            changes = self.machine.apply(entry.index, entry.term, entry.data)
        else:
            changes = self.machine.advance(entry.index, entry.term)
        self.ledger.add([changes], self.machine.summary(), b"")
        self.applied_term = entry.term
        return changes.result

    def digest(self) -> tuple[bytes, bytes]:
        """State hash and Merkle root."""
        return self.machine.state_hash, self.machine.root()

    def read(self, key: str) -> Value:
        head = self.ledger.head(key)
        if head is None:
            return NEVER_WRITTEN
        leaf = self.ledger.leaf(head.leaf_index)
        assert leaf is not None
        return Value(leaf.raft_index, head.version, None if head.deleted else leaf.value)

    def copy(self) -> LedgerState:
        """A state of its own with the same content, as a file's copy or what a crash leaves behind."""
        ledger = copy.copy(self.ledger)
        ledger.leaves = list(ledger.leaves)
        ledger.heads = dict(ledger.heads)
        ledger.refusals = list(ledger.refusals)
        ledger.answers = dict(ledger.answers)
        return LedgerState(ledger, self.configuration)


class Model:
    """The plainest statement of what a sequence of writes comes to: no leaves, no hashes, no expiry."""

    def __init__(self) -> None:
        self.values: dict[str, Value] = {}
        self.history: dict[tuple[str, int], Value] = {}  # (key, raft index) -> what was written there
        self.first_answers: dict[str, tuple[Outcome, int]] = {}

    def apply(self, entry: Entry) -> tuple[Outcome, int] | None:
        """Outcome, and index of the entry that decided it (an earlier one for a repeated idempotency key)."""
        if entry.kind != EntryKind.NORMAL:
            return None
        command = decode_command(entry.data)
        name = command.idempotency_key
        if name is not None and name in self.first_answers:
            return self.first_answers[name]
        outcome = Outcome.OK
        after: dict[str, Value] = {}
        for op, key, value, if_version in ((o.op, o.key, o.value, o.if_version) for o in command.operations):
            now = after.get(key) or self.values.get(key, NEVER_WRITTEN)
            present = MUST_BE_ABSENT if now.value is None else now.version
            if op is Op.DELETE and now.value is None:
                outcome = Outcome.NOT_FOUND
                break
            if if_version not in (None, present):
                outcome = Outcome.CONDITION_FAILED
                break
            after[key] = Value(entry.index, now.version + 1, value if op is Op.PUT else None)
        if outcome is Outcome.OK:
            self.values.update(after)
            for key, written in after.items():
                self.history[key, entry.index] = written
        if name is not None:
            self.first_answers[name] = (outcome, entry.index)
        return outcome, entry.index
