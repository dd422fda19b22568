"""Medians, spreads, ratios and verdicts of the benchmarks."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import results
from benchmarks.groups.disk import disk_bytes
from benchmarks.groups.memory import growth
from benchmarks.outcome import Outcome, outcome_of, ratio, spread, summarise
from benchmarks.targets import Target, judge
from tests.unit.benchmarks.readings import reading


def test_a_summary_has_medians_and_of_the_worst_the_worst() -> None:
    found = summarise([reading(100, 5), reading(300, 9, errors=2), reading(200, 7)])
    assert (found["rate"], found["p99_ms"], found["p50_ms"]) == (200, 7, 3.5)
    assert (found["max_ms"], found["errors"], found["requests"]) == (27, 2, 30)
    assert found["rate_spread"] == 1.0
    assert found["rates"] == [100, 300, 200]
    assert found["nodes"] == [{"role": "leader", "cpu_s_per_100k": 2.0, "resident_mib": 20.0, "lag_ms": 9}]


def test_a_node_that_started_anew_in_one_round_is_summarised_over_the_others() -> None:
    follower = {"role": "follower", "cpu_s_per_100k": 7.0, "resident_mib": 50.0}
    whole = [*reading(100)["nodes"], follower]
    found = summarise([reading(100, nodes=whole), reading(900)])
    assert [node["role"] for node in found["nodes"]] == ["leader", "follower"]
    assert found["nodes"][1] == follower


@pytest.mark.parametrize(
    ("over", "under", "quotient"), [(3.0, 2.0, 1.5), (1.0, 3.0, 0.333), (0.0, 2.0, 0.0), (1.0, 0.0, float("inf"))]
)
def test_a_ratio(over: float, under: float, quotient: float) -> None:
    assert ratio(over, under) == quotient


@pytest.mark.parametrize(("values", "share"), [([5.0], 0.0), ([90.0, 100.0, 120.0], 0.3), ([0.0, 0.0], 0.0)])
def test_a_spread(values: list[float], share: float) -> None:
    assert spread(values) == share


def test_an_outcome_has_ratios_of_medians_the_first_side_over_the_second() -> None:
    found = outcome_of("speed", "PUT", {"ours": [reading(300, 5)] * 3, "etcd": [reading(200, 10)] * 3})
    assert found.ratios == {"rate": 1.5, "p50": 0.5, "p99": 0.5, "p999": 0.5}
    assert found.failures == []
    assert outcome_of("speed", "PUT", {"ours": [reading(300)]}).ratios == {}


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ({"errors": 3}, "ours: 3 answers were no 200"),
        ({"requests": 0}, "ours: a round without a single answer"),
        ({"leader_stayed": False}, "ours: the leader changed"),
    ],
)
def test_a_round_that_does_not_count_fails_the_row(bad: dict[str, Any], why: str) -> None:
    assert outcome_of("speed", "PUT", {"ours": [reading(300), reading(300, **bad)]}).failures == [why]


@pytest.mark.parametrize(
    ("bound", "at_least", "value", "met", "margin"),
    [
        (1.5, True, 1.8, True, 0.2),
        (1.5, True, 1.5, True, 0.0),
        (1.5, True, 1.2, False, -0.2),
        (15.0, False, 12.0, True, 0.2),
        (15.0, False, 30.0, False, -1.0),
    ],
)
def test_a_target_is_met_or_missed_by_a_share_of_its_bound(
    bound: float, at_least: bool, value: float, met: bool, margin: float
) -> None:
    target = Target("row", "figure", bound, at_least, "")
    (as_figure,) = judge({"row": Outcome("g", "row", figures={"figure": value})}, (target,))
    (as_ratio,) = judge({"row": Outcome("g", "row", ratios={"figure": value})}, (target,))
    assert (as_figure.value, as_figure.met, as_figure.margin) == (value, met, margin)
    assert as_ratio == as_figure


def test_what_was_not_measured_or_failed_meets_no_target() -> None:
    target = Target("row", "figure", 1.0, True, "")
    failed = Outcome("g", "row", ratios={"figure": 2.0}, failures=["ours: 1 answers were no 200"])
    for outcomes in ({}, {"row": failed}, {"row": Outcome("g", "row")}):
        (verdict,) = judge(outcomes, (target,))
        assert (verdict.value, verdict.met, verdict.margin) == (None, False, None)


def test_results_are_named_by_date_commit_and_groups(tmp_path: Path) -> None:
    rows = [{"group": "speed"}, {"group": "disk"}, {"group": "disk"}]
    found = {"time": "2030-01-02T03:04:05Z", "commit": "abc1234", "rows": rows}
    assert results.path_of(found) == results.DIRECTORY / "2030-01-02-abc1234-speed-disk.json"
    assert json.loads(results.write(tmp_path / "new" / "r.json", found).read_text()) == found


def test_growth_is_of_the_largest_node_from_half_of_the_writes_on() -> None:
    samples = [
        {"writes": writes, "resident_mib": list(mib)}
        for writes, mib in ((0, (50, 60, 50)), (480, (90, 100, 80)), (700, (99, 99, 99)), (1000, (120, 110, 100)))
    ]
    assert growth(samples) == 1.2
    assert growth(samples[:1]) == 0.0


def test_disk_bytes_are_blocks_of_files_and_directories(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for path in (tmp_path / "one", tmp_path / "deep" / "two"):
        path.write_bytes(b"x" * 8192)
    one = (tmp_path / "one").stat().st_blocks * 512
    assert one >= 8192
    assert disk_bytes(tmp_path) == 2 * one
    assert disk_bytes(tmp_path / "one", tmp_path / "deep") == 2 * one
