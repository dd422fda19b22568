"""`python -m tests.sim --seed N [--trace]` replays one seed; `--seeds A:B [--jobs J] [--report FILE]` runs a range."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from msgspec.structs import replace

from .batch import run_range, write_report
from .outcome import Outcome, run
from .plan import KINDS, Plan, draw
from .shrink import replay_command, shrink, without

TAIL_LINES_MAX = 120


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--seed", type=int, help="run one seed")
    what.add_argument("--seeds", help="run a range, A:B without B")
    parser.add_argument("--trace", action="store_true", help="print the transcript")
    parser.add_argument("--faults", help="numbers of the planned faults to keep, comma-separated, or 'none'")
    parser.add_argument("--without", default="", help=f"kinds to leave out: {', '.join(KINDS)}")
    parser.add_argument("--clients", type=int, help="how many clients")
    parser.add_argument("--events", type=int, default=0, help="stop after so many events")
    parser.add_argument("--no-shrink", action="store_true", help="do not look for a shorter transcript of a failure")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--report", type=Path, help="write a JSON report of the range")
    arguments = parser.parse_args()
    if arguments.seed is not None:
        return _one(arguments)
    first, _, end = arguments.seeds.partition(":")
    result = run_range(int(first), int(end), arguments.jobs, progress=sys.stderr)
    for line in result.lines():
        print(line)
    if arguments.report:
        write_report(result, arguments.report)
    if not result.failures:
        return 0
    _explain(run(draw(result.failures[0].seed)), arguments.no_shrink)
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
    _explain(outcome, arguments.no_shrink or arguments.trace)
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


def _explain(failed: Outcome, as_it_is: bool) -> None:
    """Print a failure: its invariant, the shortest transcript that was found and how to see it again."""
    print(f"VIOLATED in seed {failed.plan.seed} after {failed.events} events: {failed.invariant}: {failed.detail}")
    if as_it_is:
        return
    shortest = shrink(failed)
    for line in shortest.lines[-TAIL_LINES_MAX:]:
        print(line)
    if len(shortest.lines) > TAIL_LINES_MAX:
        print(f"(the last {TAIL_LINES_MAX} of {len(shortest.lines)} lines)")
    print(f"shortest run found: {shortest.events} events, faults {[f.kind for f in shortest.plan.faults]}")
    print("replay: " + replay_command(draw(failed.plan.seed), shortest.plan))


if __name__ == "__main__":
    sys.exit(main())
