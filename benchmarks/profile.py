"""`make profile`: where the leader's time goes, stage by stage, under load; by py-spy's samples of its stacks.

Only samples of threads that ran count; waiting is not sampled. Time inside a C extension counts for the Python function
that called it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from benchmarks.clusters import Ours
from benchmarks.fill import fill
from benchmarks.groups.base import WARM_UP_S
from benchmarks.load import measure
from benchmarks.machine import describe
from benchmarks.rows import KEYS, SIZE, SPEED, Row
from benchmarks.stages import STAGES, Stack, by_stage, hottest, parse

RATE_HZ: Final = 100
HOTTEST: Final = 15
MAIN: Final = "MainThread"
ROWS: Final = {row.name: row for row in (*SPEED, *SIZE)}
MAY_NOT: Final = (
    "py-spy may not look into another process here. Run it as root, or allow it until the next boot with "
    "`sudo sysctl kernel.yama.ptrace_scope=0`; a container needs `--cap-add SYS_PTRACE`."
)


class NoProfileError(Exception):
    """py-spy could not sample; the message says what to do."""


def main() -> int:
    """Run the load, sample the leader, print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description=__doc__)
    parser.add_argument("--row", default="PUT c=64", choices=ROWS, help="the load (PUT c=64)")
    parser.add_argument("--seconds", type=int, default=15, help="how long to sample (15)")
    parser.add_argument("--rate", type=int, default=RATE_HZ, help=f"samples a second ({RATE_HZ})")
    parser.add_argument(
        "--node", default="leader", choices=("leader", "follower"), help="which node to sample (leader)"
    )
    parser.add_argument("--stored", type=int, default=KEYS, help=f"keys stored before, which are drawn from ({KEYS})")
    parser.add_argument("--raw", type=Path, help="keep py-spy's raw stacks in this file (for a flame graph)")
    options = parser.parse_args()
    spy = Path(sys.executable).with_name("py-spy")
    for program, advice in ((str(spy), "make install-dev"), ("wrk", "apt-get install wrk")):
        if shutil.which(program) is None:
            print(f"{program} is missing: `{advice}` brings it", file=sys.stderr)
            return 2
    with tempfile.TemporaryDirectory(prefix="profile-") as name:
        raw = options.raw or Path(name) / "stacks"
        machine = describe(Path(name))
        cluster = Ours("ours", Path(name))
        with cluster.running():
            fill(cluster, options.stored)
            cluster.settle()
            row = replace(ROWS[options.row], keys=min(KEYS, options.stored), stride=max(1, options.stored // KEYS))
            measure(cluster, row, WARM_UP_S)
            try:
                spent_s, rate = _sample(cluster, row, options, [str(spy)], raw)
            except NoProfileError as error:
                print(error, file=sys.stderr)
                return 3
        show(parse(raw.read_text()), spent_s, options.seconds)
        print(f"{options.row}: {rate:,.0f} entries/s while sampled; load before {machine['load_before']}")
        print(f"The event loop's thread was on a core {spent_s[MAIN] / options.seconds:.0%} of the time.")
    return 0


def _sample(
    cluster: Ours, row: Row, options: argparse.Namespace, spy: Sequence[str], raw: Path
) -> tuple[dict[str, float], float]:
    """CPU seconds by thread id while py-spy samples a node under load, and the rate of the load."""
    pid = cluster.processes[cluster.position(options.node)].pid
    spent_s: dict[str, float] = {}

    def work(_: object) -> None:
        before = _thread_cpu_s(pid)
        command = [*spy, "record", "--pid", str(pid), "--duration", str(options.seconds), "--rate", str(options.rate)]
        command += ["--format", "raw", "--threads", "--function", "--output", str(raw)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        said = done.stdout + done.stderr
        if "ermission" in said or "not permitted" in said:
            raise NoProfileError(MAY_NOT)
        if done.returncode != 0 or not raw.exists():
            raise NoProfileError(f"py-spy said: {said.strip()}")
        after = _thread_cpu_s(pid)
        spent_s.update({tid: used - before.get(tid, 0.0) for tid, used in after.items()})

    reading = measure(cluster, row, 0, meanwhile=work)
    spent_s[MAIN] = spent_s[str(pid)]
    return spent_s, reading["rate"]


def _thread_cpu_s(pid: int) -> dict[str, float]:
    ticks = os.sysconf("SC_CLK_TCK")
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        fields = (task / "stat").read_text().rsplit(")", 1)[1].split()
        found[task.name] = (int(fields[11]) + int(fields[12])) / ticks
    return found


def show(stacks: Sequence[Stack], spent_s: Mapping[str, float], seconds: float) -> None:
    """Print stages by thread, and the hottest functions.

    Args:
        stacks: what was sampled.
        spent_s: CPU seconds by the kernel's thread id.
        seconds: how long it was sampled.
    """
    console = Console(width=150)
    counts = by_stage(stacks)
    ids = {stack.thread: stack.thread_id for stack in stacks}
    threads = sorted(counts, key=lambda thread: (thread != MAIN, -counts[thread].total()))
    table = Table("stage", *threads, title="share of each thread's busy samples")
    for stage in STAGES:
        shares = [counts[thread][stage] / counts[thread].total() for thread in threads]
        if any(shares):
            table.add_row(stage, *(f"{share:.1%}" if share else "" for share in shares))
    table.add_section()
    table.add_row("busy samples", *(str(counts[thread].total()) for thread in threads))
    table.add_row("CPU of a core", *(f"{spent_s.get(ids[thread], 0.0) / seconds:.0%}" for thread in threads))
    console.print(table)
    total = sum(counts[thread].total() for thread in threads)
    table = Table("function", "stage", "thread", "of all busy samples", title="hottest functions, own time")
    for thread, frame, stage, count in hottest(stacks, HOTTEST):
        table.add_row(str(frame), stage, thread, f"{count / total:.1%}")
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
