"""What ranges of seeds come to: reports of ranges on the same code are added up, and told in docs/SIMULATOR.md."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from tests.sim.batch import REPORT_NAME, ROOT
from tests.sim.exercised import KINDS, PROGRESS_CHANGES, ROLE_CHANGES

DIRECTORY: Final = ROOT / "docs" / "reports"
PAGE: Final = ROOT / "docs" / "SIMULATOR.md"
PLACE: Final = re.compile(
    r"(<!-- made by `python -m tests\.sim\.reports`: -->\n)(.*?)(<!-- :as far as here -->\n)", re.DOTALL
)


class NotToBeAdded(Exception):
    """The reports do not belong together; the text says why."""


def reports(directory: Path = DIRECTORY) -> list[dict[str, Any]]:
    """The reports of ranges in a directory, by their first seed."""
    found = [json.loads(path.read_text()) for path in directory.glob(f"{REPORT_NAME}-*.json")]
    return sorted(found, key=lambda report: report["first"])


def add_up(ranges: list[dict[str, Any]]) -> dict[str, Any]:
    """One report of all ranges.

    Raises:
        NotToBeAdded: there are none, they ran on different code, or leave seeds out or have them twice.
    """
    if not ranges:
        raise NotToBeAdded("there is no report of a range")
    if len({report["code_sha256"] for report in ranges}) > 1:
        raise NotToBeAdded("the ranges ran on different code: remove the old ones")
    for before, after in pairwise(ranges):
        if before["end"] != after["first"]:
            raise NotToBeAdded(f"a range ends before seed {before['end']}, and the next begins at {after['first']}")
    totals = Counter[str]()
    for report in ranges:
        totals.update(report["totals"])
    whole = {key: ranges[0][key] for key in ("code_sha256", "first", "machine", "jobs")}
    whole["commits"] = sorted({report["commit"][:7] for report in ranges})
    whole["end"] = ranges[-1]["end"]
    whole["totals"] = dict(sorted(totals.items()))
    whole["failures"] = [failure for report in ranges for failure in report["failures"]]
    for name in ("seconds", "seeds", "events"):
        whole[name] = sum(report[name] for report in ranges)
    for name in ("events_min", "operations_min", "faults_min"):
        whole[name] = min(report[name] for report in ranges)
    return whole


def told(whole: dict[str, Any], files: Iterable[str]) -> str:
    """The figures as a paragraph and a table of Markdown."""
    totals: dict[str, int] = whole["totals"]
    violations = len(whole["failures"]) or "no"
    links = ", ".join(f"[reports/{name}](reports/{name})" for name in files)
    lines = [
        f"Seeds {whole['first']:,} to {whole['end'] - 1:,} at commit {', '.join(whole['commits'])}: "
        f"{whole['events']:,} events, **{violations} violation{'' if violations == 1 else 's'}**, "
        f"{whole['seconds'] / 60:.0f} minutes in "
        f"{whole['jobs']} processes on {whole['machine']['cpus']} cores. A seed has at least "
        f"{whole['events_min']:,} events, {whole['operations_min']:,} client operations and {whole['faults_min']} "
        f"faults. Everything else that was counted, machine and hash of the code: {links}.",
        "",
        "| what was exercised | how often |",
        "|---|---|",
        *(f"| {what} | {count:,} |" for what, count in _exercised(totals) if count),  # older reports lack some
    ]
    return "\n".join(lines) + "\n"


def _exercised(totals: dict[str, int]) -> list[tuple[str, int]]:
    def of(*beginnings: str) -> int:
        return sum(count for what, count in totals.items() if what.startswith(beginnings))

    return [
        ("elections won", of("elections won")),
        ("changes of the membership proposed, and refused", of("changes proposed", "changes refused")),
        ("learners that were promoted", of("became: learner > follower")),
        ("leaders that were removed", of("became: leader > outside")),
        ("disks cleared", of("disks cleared")),
        ("disks given up, because an operator had the node get its data again", of("disks given up")),
        ("disks rolled back, to a copy or in place", of("disks rolled back", "disks set back in place")),
        ("disks found full, and nodes stopped by a failed fsync", of("disks found full", "nodes stopped by")),
        ("snapshots installed", of("snapshots installed")),
        ("restarts", of("restarts")),
        ("faults", of("fault ")),
        ("histories judged linearizable", of("histories linearizable")),
        ("histories given up at the search's limit", of("histories undecided")),
        (f"of {len(ROLE_CHANGES)} changes of a node's role (`tests/sim/exercised.py`)", _seen(totals, ROLE_CHANGES)),
        (f"of {len(PROGRESS_CHANGES)} changes of a follower's progress", _seen(totals, PROGRESS_CHANGES)),
        (f"of {len(KINDS)} kinds of messages", _kinds_seen(totals)),
    ]


def _seen(totals: dict[str, int], wanted: Iterable[str]) -> int:
    return len(totals.keys() & set(wanted))


def _kinds_seen(totals: dict[str, int]) -> int:
    return len({what.rpartition(" ")[2] for what in totals if what.startswith("gets: ")})


def with_figures(page: str, figures: str) -> str:
    """The page with the figures in their place."""
    changed, count = PLACE.subn(lambda found: found[1] + figures + found[3], page)
    assert count == 1, "docs/SIMULATOR.md has no place for the figures"
    return changed


def figures_now() -> str:
    """What the committed reports come to."""
    names = [f"{REPORT_NAME}-{report['first']}-{report['end'] - 1}.json" for report in reports()]
    return told(add_up(reports()), names)
