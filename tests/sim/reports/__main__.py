"""`python -m tests.sim.reports`: write docs/reports/simulator-bugs.md, and the figures in docs/SIMULATOR.md.

The figures are those of the reports of ranges in docs/reports, which `python -m tests.sim --seeds A:B --jobs 2 --report
docs/reports` writes; ranges on the same code that follow each other are added up. Nothing here depends on time or
chance: the same code and the same reports give the same pages.
"""

from __future__ import annotations

import argparse
import os
import sys

from tests.sim.batch import code_digest

from .figures import DIRECTORY, PAGE, NotToBeAdded, figures_now, reports, with_figures
from .given_away import page


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim.reports", description=__doc__)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--figures-only", action="store_true", help="leave the deliberate bugs as they are")
    arguments = parser.parse_args()
    if not arguments.figures_only:
        (DIRECTORY / "simulator-bugs.md").write_text(page(arguments.jobs))
    try:
        PAGE.write_text(with_figures(PAGE.read_text(), figures_now()))
    except NotToBeAdded as problem:
        print(f"the figures stay as they are: {problem}", file=sys.stderr)
        return 1
    if reports()[0]["code_sha256"] != code_digest():
        print("the ranges ran on other code than this; run them again for figures of this code", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
