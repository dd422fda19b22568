"""Figures of the simulator: ranges are added up, and the page says what the committed reports say."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from .batch import EXERCISED, ROOT, code_digest, run_range, write_report
from .reports.figures import PAGE, PLACE, NotToBeAdded, add_up, figures_now, reports, told, with_figures


def test_the_page_says_what_the_reports_say() -> None:
    place = PLACE.search(PAGE.read_text())
    assert place
    assert place[2] == figures_now(), "run `python -m tests.sim.reports --figures-only`"


def test_the_hash_is_of_what_a_seed_exercises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in EXERCISED:
        shutil.copytree(ROOT / folder, tmp_path / folder)
    monkeypatch.setattr("tests.sim.batch.ROOT", tmp_path)
    before = code_digest()
    for name in ("appliance/raft/core.py", "tests/sim/world.py", "tests/sim/batch.py"):
        with (tmp_path / name).open("a") as file:
            file.write("# more\n")
        after = code_digest()
        assert (after != before) == (name != "tests/sim/batch.py"), name
        before = after


def test_ranges_are_added_up(tmp_path: Path) -> None:
    for first in (2, 0):
        write_report(run_range(first, first + 2), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["simulator-seeds-0-1.json", "simulator-seeds-2-3.json"]
    parts, whole, at_once = reports(tmp_path), add_up(reports(tmp_path)), run_range(0, 4)
    assert (whole["first"], whole["end"], whole["seeds"]) == (0, 4, 4)
    assert whole["totals"] == at_once.totals
    assert (whole["events"], whole["events_min"]) == (at_once.events, at_once.events_min)
    assert whole["seconds"] == pytest.approx(sum(part["seconds"] for part in parts))
    text = told(whole, ["a.json", "b.json"])
    assert f"Seeds 0 to 3 at commit {parts[0]['commit'][:7]}: {at_once.events:,} events, **no violations**" in text
    assert "[reports/a.json](reports/a.json), [reports/b.json](reports/b.json)" in text


def report(first: int, end: int, code: str = "c") -> dict[str, Any]:
    return {"first": first, "end": end, "code_sha256": code}


@pytest.mark.parametrize(
    ("ranges", "why"),
    [
        ([], "no report"),
        ([report(0, 10), report(10, 20, "d")], "different code"),
        ([report(0, 10), report(11, 20)], "before seed 10, and the next begins at 11"),
        ([report(0, 10), report(9, 20)], "before seed 10, and the next begins at 9"),
    ],
    ids=["none", "code", "gap", "twice"],
)
def test_what_does_not_belong_together_is_not_added(ranges: list[dict[str, Any]], why: str) -> None:
    with pytest.raises(NotToBeAdded, match=why):
        add_up(ranges)


def test_a_violation_is_told() -> None:
    result = msgspec.to_builtins(run_range(0, 1))
    failure = {"seed": 0, "invariant": "x", "detail": "y"}
    whole = add_up(
        [{**result, "commit": "1234567890", "code_sha256": "", "machine": {"cpus": 2}, "failures": [failure]}]
    )
    assert "**1 violation**" in told(whole, [])


def test_figures_go_to_their_place_alone() -> None:
    page = PAGE.read_text()
    changed = with_figures(page, "figures\n")
    place = PLACE.search(changed)
    assert place
    assert place[2] == "figures\n"
    assert with_figures(changed, figures_now()) == page
