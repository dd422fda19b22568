"""`python -m tests.sim.reports FILE`: for each deliberate bug the seed that gives it away, and a short transcript."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.sim.batch import code_digest
from tests.sim.outcome import run
from tests.sim.plan import draw
from tests.sim.shrink import replay_command, shrink
from tests.sim.test_sim import BUGS, first_failure

LINES_MAX = 25
WIDTH_MAX = 200


def main() -> int:
    path = Path(sys.argv[1])
    lines = ["# Deliberate bugs, and the seeds that give them away", ""]
    lines += [f"`python -m tests.sim.reports {path}`; code_sha256 {code_digest()}", ""]
    for name, inject, _, seeds in BUGS:
        with pytest.MonkeyPatch.context() as patch:
            inject(patch)
            failed = first_failure(seeds)
            assert failed is not None, name
            shortest = shrink(failed)
            lines += [f"## {name}", ""]
            lines += [
                f"Seed {failed.plan.seed}, after {failed.events} events: {shortest.invariant}: "
                f"{shortest.detail.splitlines()[-1]}.",
                f"Shortest run found: {shortest.events} events, faults {[f.kind for f in shortest.plan.faults]}.",
                f"With the bug switched on: `{replay_command(draw(failed.plan.seed), shortest.plan)}`",
                "",
                "```",
                *(line[:WIDTH_MAX] for line in run(shortest.plan, traced=True).lines[-LINES_MAX:]),
                "```",
                "",
            ]
        print(f"{name}: seed {failed.plan.seed}, {shortest.events} events", flush=True)
    path.write_text("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
