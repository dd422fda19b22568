"""The simulator in CI: some hundreds of seeds, what they exercise, and determinism."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from .batch import RangeResult, run_range
from .exercised import KINDS, PROGRESS_CHANGES, ROLE_CHANGES
from .outcome import run
from .plan import EVENTS_MIN, FAULT_KINDS, FAULTS_MIN, MEMBER_KINDS, OPERATIONS_MIN, RESYNC_KINDS, UNFIT_KINDS, draw

ROOT = Path(__file__).resolve().parents[2]
CHUNK_SEEDS = 40
CHUNKS = 8
OUTCOMES_OF_FAULTS = (
    "disks cleared",
    "disks given up",
    "disks rolled back",
    "disks set back in place",
    "disks found full",
    "nodes stopped by their disk",
    "snapshots installed",
)


@cache
def chunk(first: int) -> RangeResult:
    return run_range(first, first + CHUNK_SEEDS)


@pytest.mark.parametrize("first", range(0, CHUNKS * CHUNK_SEEDS, CHUNK_SEEDS), ids=lambda n: f"from-{n}")
def test_seeds_hold_every_invariant(first: int) -> None:
    result = chunk(first)
    assert not result.failures, "\n".join(f"python -m tests.sim --seed {f.seed}: {f}" for f in result.failures)
    assert result.events_min >= EVENTS_MIN
    assert result.operations_min >= OPERATIONS_MIN
    assert result.faults_min >= FAULTS_MIN


def test_the_seeds_exercise_every_transition() -> None:
    totals = Counter[str]()
    for first in range(0, CHUNKS * CHUNK_SEEDS, CHUNK_SEEDS):
        totals.update(chunk(first).totals)
    assert not (ROLE_CHANGES | PROGRESS_CHANGES) - totals.keys()
    received = {what.rpartition(" ")[2] for what in totals if what.startswith("gets: ")}
    assert received == set(KINDS)
    assert {
        kind for kind in FAULT_KINDS + MEMBER_KINDS + RESYNC_KINDS + UNFIT_KINDS if not totals[f"fault {kind}"]
    } == set()
    assert totals["told that they were removed"]
    assert {what for what in OUTCOMES_OF_FAULTS if not totals[what]} == set()


def test_a_seed_is_the_same_every_time() -> None:
    assert run(draw(7), traced=True).digest() == run(draw(7), traced=True).digest()


@pytest.mark.parametrize("hash_seed", ["1", "4711"])
def test_a_seed_does_not_depend_on_the_hash_seed(hash_seed: str) -> None:
    program = (
        "from tests.sim.outcome import run; from tests.sim.plan import draw; print(run(draw(7), traced=True).digest())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == run(draw(7), traced=True).digest()
