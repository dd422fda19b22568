"""A run's ratios beside the newest committed ones of each row, wherever these stand."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks import report, results

INTEL, AMD = {"cpu": "Intel Xeon", "cores": 2}, {"cpu": "AMD EPYC", "cores": 2}


def row(name: str, failures: tuple[str, ...] = (), **ratios: float) -> dict[str, Any]:
    counted = {"ratios": ratios, "failures": list(failures), "figures": {"seconds": 3.0}}
    return {"group": name, "row": name, "sides": {}} | counted


def run(commit: str, *rows: dict[str, Any], day: int = 1, machine: dict[str, Any] = AMD) -> dict[str, Any]:
    return {
        "format": results.FORMAT,
        "time": f"2030-01-{day:02}T03:04:05Z",
        "commit": commit,
        "changed": False,
        "machine": machine,
        "rows": list(rows),
        "targets": [],
    }


class Clone:
    """A clone with results in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.held = root / "benchmarks" / "results"
        self.git("init")

    def git(self, *arguments: str) -> str:
        names = ("-c", "user.name=n", "-c", "user.email=n@example.org", "-c", "diff.renames=true")
        command = ["git", "-C", str(self.root), *names, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def write(self, name: str, found: dict[str, Any]) -> None:
        results.write(self.held / f"{name}.json", found)

    def commit(self) -> None:
        self.git("add", ".")
        self.git("commit", "-m", "results")

    def found(self) -> list[str]:
        return [result["commit"] for result in results.committed(self.root)]


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


def test_the_results_that_were_committed_last_are_found(clone: Clone) -> None:
    assert clone.found() == []
    for day, name in ((2, "bb"), (1, "aa"), (3, "cc")):
        clone.write(name, run(name, day=day))
        clone.commit()
    (clone.held / "aa.svg").write_text("<svg/>")
    clone.git("rm", "benchmarks/results/cc.json")
    clone.commit()
    assert clone.found() == ["bb", "aa"]


def test_results_that_are_not_committed_or_were_changed_since_do_not_count(clone: Clone) -> None:
    clone.write("aa", run("aa"))
    clone.commit()
    clone.write("aa", run("changed since", day=2))
    clone.write("bb", run("never added", day=3))
    clone.write("cc", run("added alone", day=4))
    clone.git("add", "benchmarks/results/cc.json")
    assert clone.found() == ["aa"]


def test_results_that_git_sees_as_older_ones_renamed_are_found(clone: Clone) -> None:
    rows = [row(f"proof at {count} entries") for count in range(20)]
    clone.write("2030-01-01-aa-proofs", run("aa", *rows))
    clone.commit()
    clone.git("rm", "benchmarks/results/2030-01-01-aa-proofs.json")
    clone.write("2030-01-02-bb-proofs", run("bb", *rows, day=2))
    clone.commit()
    assert "rename" in clone.git("show", "--summary")
    assert clone.found() == ["bb"]


def test_results_of_one_commit_are_ordered_by_the_times_that_they_name(clone: Clone) -> None:
    for day, name in ((2, "cc"), (3, "aa"), (1, "bb")):
        clone.write(name, run(name, day=day))
    clone.commit()
    assert clone.found() == ["aa", "cc", "bb"]


def test_results_in_another_format_are_left_out(clone: Clone) -> None:
    clone.write("aa", run("aa") | {"format": results.FORMAT + 1})
    clone.write("bb", run("bb"))
    clone.commit()
    assert clone.found() == ["bb"]


def test_runs_are_compared_by_the_ratios_that_both_have() -> None:
    then = run("aa", row("a", rate=2.0, p99=0.5), row("b", rate=1.0), row("failed", ("no 200",), rate=1.0))
    now = run("bb", row("a", rate=1.5, p50=1.0), row("b", ("no 200",), rate=9.0), row("failed", rate=1.0))
    assert results.compare(then, now) == [results.Change("a", "rate", 2.0, 1.5, -0.25)]


def used(earlier: list[dict[str, Any]], now: dict[str, Any]) -> dict[str, list[str]]:
    return {then["commit"]: [change.row for change in changes] for then, changes in results.compare_each(earlier, now)}


def test_every_row_is_compared_with_the_newest_run_that_has_it() -> None:
    earlier = [
        run("newest", row("speed", rate=3.0)),
        run("without a ratio of it", row("speed", rate=2.0)),
        run("older", row("speed", rate=2.0), row("size", rate=2.0), row("stall", p99=1.0)),
        run("oldest", row("size", rate=1.0), row("disk", store=1.0)),
    ]
    now = run("now", row("speed", rate=1.0), row("size", rate=1.0), row("stall", p99=1.0), row("disk", store=1.0))
    assert used(earlier, now) == {"newest": ["speed"], "older": ["size", "stall"], "oldest": ["disk"]}


@pytest.mark.parametrize(
    "newer",
    [
        pytest.param(row("speed", ("ours: the leader changed",), rate=9.0), id="failed"),
        pytest.param(row("speed"), id="measured without etcd"),
    ],
)
def test_a_newer_row_without_a_ratio_that_counts_hides_no_older_one(newer: dict[str, Any]) -> None:
    earlier = [run("newer", newer), run("older", row("speed", rate=1.0))]
    assert used(earlier, run("now", row("speed", rate=2.0))) == {"older": ["speed"]}


def shown(earlier: list[dict[str, Any]], now: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> list[str]:
    report.show(now, [], earlier)
    return capsys.readouterr().out.splitlines()


def test_the_report_says_from_which_run_and_machine_earlier_ratios_are(capsys: pytest.CaptureFixture[str]) -> None:
    earlier = [run("aa", row("speed", rate=2.0), day=2), run("bb", row("disk", store=1.0), machine=INTEL)]
    now = run("now", row("speed", rate=1.5), row("disk", store=1.5), row("size", rate=1.0), row("restart"))
    lines = shown(earlier, now, capsys)
    headings = [line for line in lines if line.startswith("ratios beside")]
    assert headings == [
        "ratios beside those of 2030-01-02-aa-speed",
        "ratios beside those of 2030-01-01-bb-disk, on another machine: Intel Xeon, 2 cores; now AMD EPYC, 2 cores",
    ]
    of_bb = lines.index(headings[1])
    (speed,), (disk,) = ([at for at, line in enumerate(lines) if f" {name} " in line] for name in ("speed", "disk"))
    assert lines.index(headings[0]) < speed < of_bb < disk
    assert [word for word in ("2.00", "1.50", "-25%") if word not in lines[speed]] == []
    assert lines[-1] == "no committed ratios beside those of: size"


def test_without_committed_results_the_report_says_that_nothing_is_compared(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown([], run("now", row("speed", rate=1.5), row("failed", ("no 200",), rate=1.0)), capsys)
    assert lines[-1] == "no committed ratios beside those of: speed"
