"""Histories of one real state machine behind random delays: valid ones, and what single changes make of them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from appliance.ledger import commands
from appliance.ledger.commands import SALT_BYTES, Op, Operation, WriteRequest, WriteResult, encode_write
from appliance.ledger.machine import LedgerMachine
from appliance.ledger.memory import MemoryLedger

from .history import UNDECIDED, Outcome, Part, Record

KINDS = ("put", "get", "cas", "delete", "batch")
WEIGHTS = (30, 35, 15, 8, 12)
ANSWERS_MAX = 100_000
LATE = 50  # how many times longer a lost write may be under way


class Shape(NamedTuple):
    """What a history looks like.

    Attributes:
        operations: how many.
        clients: how many, each with one operation at a time.
        keys: how many.
        unknown: share of writes without an answer; two thirds of them take effect, some of them much later.
        refused: share of writes that are refused.
        values: how many different values there are; 0 for a new one each time.
        vague: share of acknowledged writes that tell no versions.
        slow: share of operations that take a hundred times as long.
        again: share of lost writes that are tried again, with an idempotency key.
    """

    operations: int
    clients: int
    keys: int
    unknown: float = 0.03
    refused: float = 0.01
    values: int = 0
    vague: float = 0.0
    slow: float = 0.0
    again: float = 0.0


class _Attempt(NamedTuple):
    point: int
    number: int
    call: int
    returned: int
    client: int
    parts: tuple[Part, ...]
    outcome: Outcome  # OK stands for whatever the machine says
    effect: bool
    idempotency_key: str | None


class Register:
    """The ledger's state machine over a ledger in memory."""

    def __init__(self) -> None:
        self._ledger = MemoryLedger()
        summary, _ = self._ledger.load()
        self._machine = LedgerMachine(self._ledger, summary, ANSWERS_MAX)

    def get(self, key: str) -> tuple[int, str] | None:
        """Version and value of a key that is present."""
        head = self._ledger.head(key)
        if head is None or head.deleted:
            return None
        leaf = self._ledger.leaf(head.leaf_index)
        assert leaf is not None
        assert leaf.value is not None
        return head.version, leaf.value.decode()

    def write(self, parts: Sequence[Part], idempotency_key: str | None) -> WriteResult:
        """Apply a write as the next entry of the log."""
        operations = tuple(Operation(Op(p.op), p.key, (p.value or "").encode(), p.if_version) for p in parts)
        name = idempotency_key
        request = WriteRequest(operations, "test", "r", len(parts) > 1, name, name.encode() if name else b"")
        index = self._machine.applied_index + 1
        data = encode_write(request, index, bytes(SALT_BYTES * len(parts)), ANSWERS_MAX)
        changes = self._machine.apply(index, 1, data)
        self._ledger.add([changes], self._machine.summary(), b"")
        assert changes.result is not None
        return changes.result


def valid_history(chance: random.Random, shape: Shape) -> list[Record]:
    """A history that is linearizable, because each operation takes effect at one point behind its call and, if it is
    answered, before its return.
    """
    register = Register()
    return [_carry_out(register, attempt, chance, shape) for attempt in sorted(_attempts(chance, shape))]


def _attempts(chance: random.Random, shape: Shape) -> list[_Attempt]:
    attempts: list[_Attempt] = []
    free_at = [chance.randrange(10) for _ in range(shape.clients)]
    repeated: dict[int, _Attempt] = {}
    while len(attempts) < shape.operations:
        number = len(attempts)
        client = min(range(shape.clients), key=free_at.__getitem__)
        call = free_at[client] + chance.randrange(1, 10)
        took = chance.randrange(1, 40) * (100 if chance.random() < shape.slow else 1)
        before = repeated.pop(client, None)
        parts = before.parts if before else _parts(chance, shape, number)
        name = before.idempotency_key if before else None
        point, outcome, effect = call + chance.randrange(took + 1), Outcome.OK, True
        if parts[0].op != "get" and chance.random() < shape.unknown:
            outcome, effect = Outcome.UNKNOWN, chance.random() < 0.67
            point = call + chance.randrange(took * chance.choice((1, LATE)))
        elif parts[0].op != "get" and chance.random() < shape.refused:
            outcome, effect = Outcome.REFUSED, False
        if outcome in UNDECIDED and chance.random() < shape.again:
            name = name or f"again{number}"
        attempt = _Attempt(point, number, call, call + took, client, parts, outcome, effect, name)
        if outcome in UNDECIDED and name is not None:
            repeated[client] = attempt
        attempts.append(attempt)
        free_at[client] = call + took
    return attempts


def _parts(chance: random.Random, shape: Shape, number: int) -> tuple[Part, ...]:
    kind = chance.choices(KINDS, WEIGHTS)[0]
    key = f"k{chance.randrange(shape.keys)}"
    value = f"v{chance.randrange(shape.values) if shape.values else number}"
    if kind == "get":
        return (Part("get", key),)
    if kind == "delete":
        return (Part("delete", key, None, chance.choice((None, None, 1))),)
    condition = chance.randrange(4) if kind == "cas" else None
    parts = [Part("put", key, value, condition)]
    for place in range(chance.choice((1, 1, 2)) if kind == "batch" else 0):
        other = f"k{chance.randrange(shape.keys)}"
        value = f"v{chance.randrange(shape.values)}" if shape.values else f"v{number}.{place}"
        condition = chance.choice((None, None, None, chance.randrange(3)))
        parts.append(Part("delete", other) if chance.random() < 0.2 else Part("put", other, value, condition))
    return tuple(parts)


def _carry_out(register: Register, attempt: _Attempt, chance: random.Random, shape: Shape) -> Record:
    known = attempt.outcome is not Outcome.UNKNOWN
    asked = Record(
        attempt.client,
        attempt.call,
        attempt.returned if known else None,
        attempt.parts,
        attempt.outcome if attempt.outcome in UNDECIDED else Outcome.NOT_FOUND,
        idempotency_key=attempt.idempotency_key,
    )
    if asked.is_get:
        found = register.get(attempt.parts[0].key)
        return asked if found is None else replace(asked, outcome=Outcome.OK, version=found[0], value=found[1])
    if not attempt.effect:
        return asked
    result = register.write(attempt.parts, attempt.idempotency_key)
    return answered(asked, result, vague=chance.random() < shape.vague) if known else asked


def answered(asked: Record, result: WriteResult, *, vague: bool = False) -> Record:
    """A write's record with the machine's answer; `vague` leaves out what need not be told."""
    if result.outcome is commands.Outcome.OK:
        versions = tuple(None if vague else one.version for one in result.results)
        leaves = () if vague else tuple(one.leaf_index for one in result.results)
        return replace(asked, outcome=Outcome.OK, versions=versions, index=result.raft_index, leaf_indexes=leaves)
    if result.outcome is commands.Outcome.NOT_FOUND:
        return replace(asked, outcome=Outcome.NOT_FOUND)
    assert result.outcome is commands.Outcome.CONDITION_FAILED
    if vague:
        return replace(asked, outcome=Outcome.CONDITION_FAILED)
    return replace(
        asked,
        outcome=Outcome.CONDITION_FAILED,
        current_version=result.current_version,
        failed_position=result.failed_position if len(asked.parts) > 1 else None,
    )


# -- changes


def change(chance: random.Random, history: Sequence[Record]) -> list[Record]:
    """The history with one thing changed; it may still be valid."""
    changed = list(history)
    place = chance.randrange(len(changed))
    record = changed[place]
    ways = [_another_time]
    if record.outcome not in UNDECIDED:
        ways += [_refused, _lost, _not_found]
    if record.outcome is Outcome.OK:
        ways += [_another_version, _another_version, _another_version]
    if record.is_get and record.outcome is Outcome.OK:
        ways += [_another_value]
    changed[place] = chance.choice(ways)(chance, record)
    return changed


def _another_time(chance: random.Random, record: Record) -> Record:
    call = max(0, record.call + chance.randrange(-60, 60))
    took = chance.randrange(1, 40)
    return replace(record, call=call, returned=None if record.returned is None else call + took)


def _refused(_: random.Random, record: Record) -> Record:
    return _bare(record, Outcome.REFUSED, record.returned)


def _lost(_: random.Random, record: Record) -> Record:
    return _bare(record, Outcome.UNKNOWN, None)


def _not_found(_: random.Random, record: Record) -> Record:
    return _bare(record, Outcome.NOT_FOUND, record.returned)


def _bare(record: Record, outcome: Outcome, returned: int | None) -> Record:
    return Record(record.client, record.call, returned, record.parts, outcome, idempotency_key=record.idempotency_key)


def _another_version(chance: random.Random, record: Record) -> Record:
    by = chance.choice((-1, 1))
    if record.is_get:
        assert record.version is not None
        return replace(record, version=max(1, record.version + by))
    place = chance.randrange(len(record.versions))
    versions = list(record.versions)
    versions[place] = max(1, (versions[place] or 0) + by)
    return replace(record, versions=tuple(versions))


def _another_value(chance: random.Random, record: Record) -> Record:
    return replace(record, value=f"v{chance.randrange(3)}")
