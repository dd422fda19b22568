"""Running a range of seeds, in several processes if wanted, and adding up what happened."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TextIO

import msgspec
from msgspec import Struct

from .bugs import switch_on, switched_on
from .outcome import Outcome, run
from .plan import draw

ROOT = Path(__file__).resolve().parents[2]
REPORT_NAME = "simulator-seeds"
EXERCISED = ("appliance/raft", "appliance/ledger", "tests/sim", "tests/linearizability")
LOOKS_ON = frozenset({"__main__.py", "batch.py", "bugs.py", "reports.py", "shrink.py", "transcript.py"})


class Failure(Struct):
    """A seed that violated an invariant."""

    seed: int
    invariant: str
    detail: str


class RangeResult(Struct):
    """A range of seeds added up. `events_min` and its like are the smallest of any seed."""

    first: int
    end: int
    seconds: float = 0.0
    jobs: int = 1
    seeds: int = 0
    events: int = 0
    events_min: int = 0
    operations_min: int = 0
    faults_min: int = 0
    totals: dict[str, int] = {}
    failures: list[Failure] = []

    def lines(self) -> Iterator[str]:
        """The result for people."""
        for kind, count in sorted(self.totals.items()):
            yield f"{count:10} {kind}"
        yield (
            f"{self.seeds} seeds ({self.first}:{self.end}), {self.events} events in {self.seconds:.0f} s; a seed has at"
            f" least {self.events_min} events, {self.operations_min} client operations, {self.faults_min} faults"
        )
        for failure in self.failures:
            yield f"seed {failure.seed} VIOLATED {failure.invariant}: {failure.detail}"
        yield f"{len(self.failures)} violations"


def run_seed(seed: int) -> Outcome:
    """Run one seed; a function of its own so that processes can be given it."""
    return run(draw(seed))


def run_range(
    first: int, end: int, jobs: int = 1, progress: TextIO | None = None, bug: str | None = None
) -> RangeResult:
    """Run the seeds from `first` up to, not including, `end`, with a deliberate bug if one is named."""
    result = RangeResult(first, end, jobs=jobs)
    totals: Counter[str] = Counter()
    started = time.monotonic()
    for outcome in _outcomes(range(first, end), jobs, bug):
        totals.update(outcome.totals)
        _add(result, outcome)
        result.seconds = time.monotonic() - started
        if progress is not None and (result.seeds % 20 == 0 or result.seeds == end - first):
            rate = result.seeds / result.seconds
            line = f"{result.seeds}/{end - first} seeds, {rate:.1f} a second, {len(result.failures)} violations"
            print(line, end="\r" if progress.isatty() else "\n", file=progress, flush=True)
    if progress is not None and progress.isatty():
        print(file=progress)
    result.totals = dict(sorted(totals.items()))
    return result


def _outcomes(seeds: range, jobs: int, bug: str | None) -> Iterator[Outcome]:
    if jobs == 1:
        with switched_on(bug):
            yield from map(run_seed, seeds)
        return
    with ProcessPoolExecutor(jobs, initializer=switch_on, initargs=(bug,)) as pool:
        yield from pool.map(run_seed, seeds, chunksize=5)


def _add(result: RangeResult, outcome: Outcome) -> None:
    first = result.seeds == 0
    result.seeds += 1
    result.events += outcome.events
    if outcome.invariant:
        result.failures.append(Failure(outcome.plan.seed, outcome.invariant, outcome.detail))
        return
    result.events_min = outcome.events if first else min(result.events_min, outcome.events)
    result.operations_min = outcome.operations if first else min(result.operations_min, outcome.operations)
    result.faults_min = outcome.faults if first else min(result.faults_min, outcome.faults)


def code_digest() -> str:
    """Hash of the code that a seed exercises, not of what only runs seeds and looks on. Ranges that ran on the same
    digest may be added up.
    """
    digest = hashlib.sha256()
    for folder in EXERCISED:
        for path in sorted((ROOT / folder).glob("*.py")):
            if not path.name.startswith("test_") and path.name not in LOOKS_ON:
                digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def write_report(result: RangeResult, path: Path) -> None:
    """Write a range's result with what it ran on, as JSON; into a directory under the name of the range."""
    if path.is_dir():
        path /= f"{REPORT_NAME}-{result.first}-{result.end - 1}.json"
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    report = {
        "commit": commit.stdout.strip(),
        "code_sha256": code_digest(),
        "machine": {"platform": platform.platform(), "cpus": os.cpu_count(), "python": sys.version.split()[0]},
        **msgspec.to_builtins(result),
    }
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
