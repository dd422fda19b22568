"""`python -m tests.sim --seed N [--trace]` replays one seed; `--seeds A:B [--jobs J] [--report PATH]` runs a range.
With `--bug NAME` the code has one of the deliberate bugs of `tests/sim/bugs.py`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import replace

from .batch import run_range, write_report
from .bugs import BUGS, switched_on
from .outcome import Outcome, run
from .plan import KINDS, Plan, draw
from .shrink import replay_command, shrink, without
from .transcript import story

STORY_LINES_MAX = 120


def main(words: Sequence[str] | None = None) -> int:
    """Carry out a command line; answers its exit code: 1 when an invariant was violated."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--seed", type=int, help="run one seed")
    what.add_argument("--seeds", help="run a range, A:B without B")
    what.add_argument("--list-bugs", action="store_true", help="name the deliberate bugs")
    parser.add_argument("--bug", choices=BUGS, metavar="NAME", help="switch a deliberate bug on")
    parser.add_argument("--trace", action="store_true", help="print the transcript")
    parser.add_argument("--faults", help="numbers of the planned faults to keep, comma-separated, or 'none'")
    parser.add_argument("--without", default="", help=f"kinds to leave out: {', '.join(KINDS)}")
    parser.add_argument("--clients", type=int, help="how many clients")
    parser.add_argument("--events", type=int, default=0, help="stop after so many events")
    parser.add_argument("--no-shrink", action="store_true", help="do not look for a shorter transcript of a failure")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--report", type=Path, help="write a JSON report of the range: a file, or a directory for it")
    arguments = parser.parse_args(words)
    if arguments.list_bugs:
        for bug in BUGS.values():
            print(f"{bug.name}\n    {bug.says}")
        return 0
    if arguments.seed is None:
        return _range(arguments)
    with switched_on(arguments.bug):
        return _one(arguments)


def _range(arguments: argparse.Namespace) -> int:
    first, _, end = arguments.seeds.partition(":")
    result = run_range(int(first), int(end), arguments.jobs, progress=sys.stderr, bug=arguments.bug)
    for line in result.lines():
        print(line)
    if arguments.report:
        write_report(result, arguments.report)
    if not result.failures:
        return 0
    with switched_on(arguments.bug):
        _explain(run(draw(result.failures[0].seed)), arguments)
    return 1


def _one(arguments: argparse.Namespace) -> int:
    plan = _restricted(draw(arguments.seed), arguments)
    outcome = run(plan, traced=arguments.trace)
    for line in outcome.lines:
        print(line)
    print(f"seed {plan.seed}: {outcome.events} events, {outcome.operations} operations, {outcome.faults} faults")
    for kind, count in outcome.totals.items():
        print(f"  {count:8} {kind}")
    if not outcome.invariant:
        print("no violation")
        return 0
    _explain(outcome, arguments)
    return 1


def _restricted(plan: Plan, arguments: argparse.Namespace) -> Plan:
    if arguments.faults:
        numbers = {int(n) for n in arguments.faults.split(",") if n != "none"}
        plan = replace(plan, faults=tuple(f for f in plan.faults if f.number in numbers))
    for kind in filter(None, arguments.without.split(",")):
        plan = without(plan, kind)
    if arguments.clients:
        plan = replace(plan, clients=arguments.clients)
    return replace(plan, events_max=arguments.events)


def _explain(failed: Outcome, arguments: argparse.Namespace) -> None:
    """Print a failure: its invariant, what tells the story of the shortest run found, and how to see all of it."""
    print(f"VIOLATED in seed {failed.plan.seed} after {failed.events} events: {failed.invariant}: {failed.detail}")
    if arguments.no_shrink or arguments.trace:
        return
    shortest = shrink(failed)
    for line in story(shortest.lines, STORY_LINES_MAX):
        print(line)
    print(f"shortest run found: {shortest.events} events, faults {[f.kind for f in shortest.plan.faults]}")
    print("replay: " + replay_command(draw(failed.plan.seed), shortest.plan, arguments.bug or ""))


if __name__ == "__main__":
    sys.exit(main())
