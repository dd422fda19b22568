"""`make bench`: ours and etcd's, alternating round by round, ratio of medians.

Needs Debian's `wrk`; without `etcd-server` it measures this cluster alone. Speeds are for comparing within one run
on one machine, not across machines.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import clusters, machine, report
from benchmarks.load import measure
from benchmarks.rows import ROWS

RESULTS = Path(__file__).with_name("results")
WARM_UP_S = 2.0


def main() -> int:
    """Run the rows that are asked for and write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="rounds, alternating between the clusters (3)")
    parser.add_argument("--seconds", type=float, default=5.0, help="seconds of one measurement (5)")
    parser.add_argument("--rows", default="", help="only rows whose name contains this")
    parser.add_argument("--no-etcd", action="store_true", help="measure this cluster alone")
    parser.add_argument("--write", action="store_true", help=f"write the figures under {RESULTS.name}/")
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        print("wrk is missing: `apt-get install wrk etcd-server` (Debian) brings it and the peer", file=sys.stderr)
        return 2
    with_etcd = shutil.which("etcd") is not None and not options.no_etcd
    if not with_etcd:
        print("etcd is missing or not wanted: measuring this cluster alone", file=sys.stderr)
    rows = tuple(row for row in ROWS if options.rows in row.name)
    about = machine.describe()
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as name, contextlib.ExitStack() as stack:
        peers = [stack.enter_context(clusters.ours(Path(name)))]
        if with_etcd:
            peers.append(stack.enter_context(clusters.etcd(Path(name))))
        for row in rows:
            rounds: dict[str, report.Rounds] = {peer.name: [] for peer in peers}
            for peer in peers:
                measure(peer, row, WARM_UP_S)
            for number in range(options.rounds):
                for peer in peers if number % 2 == 0 else reversed(peers):
                    rounds[peer.name].append(measure(peer, row, options.seconds))
            results[row.name] = {peer.name: report.summarise(rounds[peer.name]) for peer in peers}
            print(f"{row.name}: {results[row.name]}", file=sys.stderr, flush=True)
        usage = {peer.name: peer.usage() for peer in peers}
    report.show(about, results, rows)
    if options.write:
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{time.strftime('%Y-%m-%d-%H%M')}.json"
        found = {"commit": commit.stdout.strip(), "machine": about, "rows": results, "usage": usage}
        path.write_text(json.dumps(found, indent=1) + "\n")
        print(f"written: {path}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
