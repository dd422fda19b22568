"""`make bench`: ours and etcd's on this machine, in turns, with medians, spreads and ratios of medians.

Needs Debian's `wrk`; without `etcd-server` it measures this cluster alone. Speeds are for comparing within one run on
one machine; only ratios are compared across runs. Ends with 1 when an answer was no 200 or a row could not be measured.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import machine, report, results
from benchmarks.groups.base import Group, tell
from benchmarks.groups.catchup import catchup
from benchmarks.groups.disk import disk
from benchmarks.groups.loads import size, speed
from benchmarks.groups.memory import memory
from benchmarks.groups.proofs import proofs
from benchmarks.groups.restart import restart_group
from benchmarks.groups.stall import stall
from benchmarks.groups.stored import stored
from benchmarks.options import Options
from benchmarks.outcome import Outcome

GROUPS: dict[str, Group] = {
    group.name: group for group in (speed, size, stored, memory, restart_group, disk, stall, catchup, proofs)
}


def main() -> int:
    """The command."""
    arguments = arguments_of(sys.argv[1:])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # an exception, so that the nodes end too
    return bench(arguments)


def bench(arguments: argparse.Namespace) -> int:
    """Run the groups that are asked for, write the results, print the report; answers the exit code."""
    if shutil.which("wrk") is None:
        tell("wrk is missing: `apt-get install wrk etcd-server` (Debian) brings it and the other side")
        return 2
    with_etcd = shutil.which("etcd") is not None and not arguments.no_etcd
    if arguments.no_etcd:
        tell("etcd is not wanted: measuring this cluster alone")
    elif not with_etcd:
        tell("etcd is missing: measuring this cluster alone (`apt-get install etcd-server` brings the other side)")
    with tempfile.TemporaryDirectory(prefix="bench-", dir=arguments.directory) as name:
        options = Options(
            directory=Path(name),
            rounds=arguments.rounds,
            seconds=arguments.seconds,
            rows=tuple(part for part in arguments.rows.split(",") if part),
            with_etcd=with_etcd,
            scale=arguments.scale,
        )
        groups = [group for group in arguments.groups if group.chosen(options)]
        if not groups:
            tell(f"no row is named like {arguments.rows!r}; there are:")
            for group in arguments.groups:
                tell(f"  {group.name}: {', '.join(group.rows(options))}")
            return 2
        about = machine.describe(options.directory)
        tell(f"about {sum(group.seconds(options) for group in groups) / 60:.0f} minutes")
        outcomes = _run(groups, options)
    found = results.collect(about, options, outcomes)
    for path in arguments.json:  # before the report, so that nothing in it can lose what took hours to measure
        results.write(path, found)
    if arguments.write:
        tell(f"written: {', '.join(map(str, results.write_all(found)))}")
    report.show(found, outcomes, results.committed())
    return 1 if any(outcome.failures for outcome in outcomes) else 0


def _run(groups: list[Group], options: Options) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for group in groups:
        tell(f"{group.name}: about {group.seconds(options):.0f} s")
        try:
            for outcome in group.run(options):
                tell(report.line(outcome))
                outcomes.append(outcome)
        except (OSError, RuntimeError) as error:  # the other groups go on; a TimeoutError is an OSError
            outcomes.append(Outcome(group.name, f"group {group.name}", failures=[f"not finished: {error}"]))
            tell(report.line(outcomes[-1]))
    return outcomes


def arguments_of(words: Sequence[str]) -> argparse.Namespace:
    """The command line, read."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--groups", type=_groups, default=list(GROUPS.values()), help=f"of {', '.join(GROUPS)} (all)")
    parser.add_argument("--rows", default="", help="only rows whose name holds one of these parts, comma-separated")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, alternating between the sides (3)")
    parser.add_argument("--seconds", type=float, default=5.0, help="whole seconds of one measurement (5)")
    parser.add_argument("--scale", type=float, default=1.0, help="factor on stored keys and counted writes (1)")
    parser.add_argument("--no-etcd", action="store_true", help="measure this cluster alone")
    parser.add_argument("--directory", help="where the clusters keep their files (the system's temporary directory)")
    parser.add_argument(
        "--write", action="store_true", help=f"write figures and drawings under {results.DIRECTORY.name}/"
    )
    parser.add_argument("--json", type=Path, action="append", default=[], help="write the figures to this file")
    return parser.parse_args(words)


def _groups(text: str) -> list[Group]:
    unknown = [name for name in text.split(",") if name not in GROUPS]
    if unknown:
        raise argparse.ArgumentTypeError(f"no group {', '.join(unknown)}; there are {', '.join(GROUPS)}")
    return [GROUPS[name] for name in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
