"""One log gives one state at every index, whatever the process's hash seed."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from ledger_rig import HOUR_US, Rig, delete, put

from appliance.ledger.commands import Operation

ENTRY_COUNT = 400
APPLIES = """
import json, sys
from appliance.ledger.machine import LedgerMachine
from appliance.ledger.memory import MemoryLedger
store = MemoryLedger()
machine = LedgerMachine(store, store.load()[0], 20)
trail = []
for index, text in enumerate(json.load(sys.stdin), start=1):
    data = bytes.fromhex(text)
    changes = machine.apply(index, 1, data) if data else machine.advance(index, 1)
    store.add([changes], machine.summary(), b"")
    trail.append([machine.state_hash.hex(), machine.root().hex()])
print(json.dumps([trail, store.to_bytes().hex()]))
"""


def random_operation(chance: random.Random) -> Operation:
    key = f"key/{chance.randrange(30)}/{'é' * chance.randrange(3)}"
    if_version = chance.choice([None, None, None, 0, 1, 2])
    return delete(key, if_version) if chance.random() < 0.25 else put(key, chance.randbytes(5), if_version)


def grow_log() -> tuple[Rig, list[list[str]]]:
    """A log with something of everything in it, and the state hash and root behind each entry."""
    chance = random.Random(20_261_123)
    rig, trail = Rig(answers_max=20), []
    for _ in range(ENTRY_COUNT):
        rig.at_us += chance.choice([0, 1, 1000, HOUR_US])
        if chance.random() < 0.05:
            rig.pass_over()
        elif chance.random() < 0.1:
            rig.pause(chance.choice([0, rig.at_us + HOUR_US]))
        else:
            operations = [random_operation(chance) for _ in range(chance.choice([1, 1, 1, 2, 5]))]
            name = chance.choice([None, f"n{chance.randrange(40)}"])
            actor, request_hash = chance.choice(["alice", "bob"]), chance.choice([b"h", b"h", b"g"])
            rig.write(*operations, actor=actor, name=name, request_hash=request_hash)
        trail.append([rig.machine.state_hash.hex(), rig.machine.root().hex()])
    return rig, trail


@pytest.mark.parametrize("hash_seed", ["0", "1", "4242"])
def test_the_same_log_gives_the_same_state_at_every_index(hash_seed: str) -> None:
    rig, trail = grow_log()
    outcomes = {row.outcome.value for row in rig.store.refusals}
    assert outcomes == {
        "batch_refused",
        "condition_failed",
        "duplicate",
        "idempotency_full",
        "idempotency_mismatch",
        "not_found",
        "ok",  # a pause, or its end
        "writes_paused",
    }, "the log must meet every branch"
    run = subprocess.run(
        [sys.executable, "-c", APPLIES],
        input=json.dumps([data.hex() for data in rig.log]),
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    there_trail, there_store = json.loads(run.stdout)
    assert there_trail == trail
    assert bytes.fromhex(there_store) == rig.store.to_bytes()
