"""A machine on a store in memory, fed as the driver feeds it: the changes are stored before the next entry."""

from __future__ import annotations

from hashlib import sha256

from appliance.ledger.commands import (
    IDEMPOTENCY_TTL_US,
    SALT_BYTES,
    Op,
    Operation,
    Outcome,
    WriteRequest,
    WriteResult,
    encode_pause,
    encode_write,
)
from appliance.ledger.machine import LedgerMachine
from appliance.ledger.memory import MemoryLedger
from appliance.ledger.state import Changes

START_US = 1_795_462_000_000_000
HOUR_US = 3_600_000_000
TTL_US = IDEMPOTENCY_TTL_US


def put(key: str, value: bytes = b"v", if_version: int | None = None) -> Operation:
    return Operation(Op.PUT, key, value, if_version)


def delete(key: str, if_version: int | None = None) -> Operation:
    return Operation(Op.DELETE, key, b"", if_version)


def salts_for(seed: str, count: int) -> bytes:
    return b"".join(sha256(f"{seed}/{i}".encode()).digest()[:SALT_BYTES] for i in range(count))


def result_of(changes: Changes) -> WriteResult:
    assert changes.result is not None
    return changes.result


def outcomes(changes: Changes) -> list[Outcome]:
    return [refusal.outcome for refusal in changes.refusals]


class Rig:
    """`write` appends one entry and applies it; `at_us` is the clock of the leader."""

    def __init__(self, answers_max: int = 1000) -> None:
        self.store = MemoryLedger()
        self.answers_max = answers_max
        self.machine = LedgerMachine(self.store, self.store.load()[0], answers_max)
        self.at_us = START_US
        self.log: list[bytes] = []

    def write(
        self,
        *operations: Operation,
        actor: str = "alice",
        name: str | None = None,
        request_hash: bytes = b"",
        leader_answers_max: int = 0,
    ) -> Changes:
        index = len(self.log) + 1
        request = WriteRequest(operations, actor, f"r{index}", len(operations) > 1, name, request_hash)
        data = encode_write(request, self.at_us, salts_for(str(index), len(operations)), leader_answers_max)
        return self.apply(data)

    def pause(self, until_us: int, actor: str = "alice") -> Changes:
        return self.apply(encode_pause(self.at_us, until_us, actor, f"p{len(self.log) + 1}"))

    def apply(self, data: bytes, term: int = 1) -> Changes:
        self.log.append(data)
        changes = self.machine.apply(len(self.log), term, data)
        self.store.add([changes], self.machine.summary(), b"")
        return changes

    def pass_over(self, term: int = 1) -> Changes:
        self.log.append(b"")
        changes = self.machine.advance(len(self.log), term)
        self.store.add([changes], self.machine.summary(), b"")
        return changes

    def restart(self) -> None:
        """Go on from what the store holds, as after a crash or a snapshot."""
        self.store = MemoryLedger.from_bytes(self.store.to_bytes())
        self.machine = LedgerMachine(self.store, self.store.load()[0], self.answers_max)
