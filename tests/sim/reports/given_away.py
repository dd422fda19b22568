"""For each deliberate bug: the seed that gives it away, the shortest run that was found, and how it came about."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import chain
from typing import Final

from tests.sim.batch import code_digest
from tests.sim.bugs import BUGS, switched_on
from tests.sim.outcome import Outcome, run
from tests.sim.plan import draw
from tests.sim.shrink import replay_command, shrink
from tests.sim.transcript import STORY_LINES_MAX, story

FAILURES_MAX: Final = 3  # seeds that fail, of which the one that fails soonest is made shorter
SHORT_EVENTS: Final = 1500  # one that fails within so many is good enough
HEAD: Final = """\
# Deliberate bugs, and the seeds that give them away

Made by `python -m tests.sim.reports`; code_sha256 {digest}. The code proper violates nothing: each command
switches its bug on, and prints the whole run. A transcript here has at most {lines} lines: who crashed, came back, lost
its disk, campaigned, voted and led, how the membership changed, what clients did with the key in question, and all of
the end.
A node whose disk was lost, or set back, is `3'`; a learner is `3?`; `7@2` is entry 7 of term 2.
"""


def find(name: str) -> Outcome:
    """The first seeds that fail, until one is short."""
    failures: list[Outcome] = []
    for seed in BUGS[name].seeds:
        outcome = run(draw(seed))
        if not outcome.invariant:
            continue
        failures.append(outcome)
        if len(failures) == FAILURES_MAX or outcome.events <= SHORT_EVENTS:
            break
    assert failures, f"no seed gives {name} away: name others in tests/sim/bugs.py"
    return min(failures, key=lambda outcome: outcome.events)


def section(name: str) -> list[str]:
    """The lines of one bug; deterministic."""
    with switched_on(name):
        failed = find(name)
        assert failed.invariant in BUGS[name].invariants, f"{name}: {failed.invariant}: {failed.detail}"
        shortest = shrink(failed)
    seed = failed.plan.seed
    kinds = ", ".join(fault.kind for fault in shortest.plan.faults) or "none"
    return [
        f"## {name}",
        "",
        f"{BUGS[name].says}",
        "",
        f"- found by seed {seed}, after {failed.events} events",
        f"- violated: {shortest.invariant}",
        f"- shortest run found: {shortest.events} events, clients: {shortest.plan.clients}, faults: {kinds}",
        f"- `{replay_command(draw(seed), shortest.plan, name)}`",
        "",
        "```",
        *story(shortest.lines),
        "```",
        "",
    ]


def page(jobs: int) -> str:
    """The whole page."""
    head = HEAD.format(digest=code_digest(), lines=STORY_LINES_MAX)
    return head + "\n" + "\n".join(chain.from_iterable(_sections(jobs)))


def _sections(jobs: int) -> Iterator[list[str]]:
    with ProcessPoolExecutor(jobs) as pool:
        for name, lines in zip(BUGS, pool.map(section, BUGS), strict=True):
            print(f"{name}: {lines[4].removeprefix('- ')}", flush=True)
            yield lines
