"""Results as JSON, and the comparison with what was committed before."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks import plot
from benchmarks.options import Options
from benchmarks.outcome import Outcome
from benchmarks.targets import judge

ROOT: Final = Path(__file__).parents[1]
DIRECTORY: Final = Path(__file__).with_name("results")
FORMAT: Final = 1


def collect(machine: dict[str, Any], options: Options, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Everything that a run found, as JSON values."""
    verdicts = judge({outcome.row: outcome for outcome in outcomes})
    return {
        "format": FORMAT,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": _git("rev-parse", "--short", "HEAD"),
        "changed": _git("status", "--porcelain", "--untracked-files=no", "--", "appliance", "benchmarks") != "",
        "machine": machine,
        "options": {
            "rounds": options.rounds,
            "seconds": options.seconds,
            "scale": options.scale,
            "etcd": options.with_etcd,
        },
        "rows": [asdict(outcome) for outcome in outcomes],
        "targets": [{**asdict(v.target), "value": v.value, "met": v.met, "margin": v.margin} for v in verdicts],
    }


def path_of(found: dict[str, Any]) -> Path:
    """Where a run's results belong: named by day, commit and groups, so that groups may be run one at a time."""
    groups = dict.fromkeys(row["group"] for row in found["rows"])
    return DIRECTORY / f"{'-'.join((found['time'][:10], found['commit'] or 'unknown', *groups))}.json"


def write(path: Path, found: dict[str, Any]) -> Path:
    """Write the results of a run; answers where."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return path


def write_all(found: dict[str, Any]) -> list[Path]:
    """Write a run's figures and drawings under `results/`; answers where."""
    path = write(path_of(found), found)
    drawings = {"ratios": plot.ratios_svg(found)}
    if any("samples" in side for row in found["rows"] for side in row["sides"].values()):
        drawings["memory"] = plot.memory_svg(found)
    paths = [path]
    for name, text in drawings.items():
        paths.append(path.with_name(f"{path.stem}-{name}.svg"))
        paths[-1].write_text(text + "\n", encoding="utf-8")
    return paths


def committed(root: Path = ROOT) -> list[dict[str, Any]]:
    """All results in the last commit of a clone, as they are there, newest first; empty when there are none.

    A commit may bring several results, and git may take one for an older one that was renamed. So it is asked what HEAD
    holds, not what commits did, and the order is that of the times that the results themselves name.

    Args:
        root: the clone.
    """
    held = DIRECTORY.relative_to(ROOT).as_posix()
    paths = _git("ls-tree", "-r", "--name-only", "HEAD", held, root=root).splitlines()
    texts = [_git("show", f"HEAD:{path}", root=root) for path in paths if path.endswith(".json")]
    found = [result for result in map(json.loads, texts) if result["format"] == FORMAT]
    return sorted(found, key=lambda result: str(result["time"]), reverse=True)


def _git(*arguments: str, root: Path = ROOT) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


@dataclass(frozen=True)
class Change:
    """A ratio then and now; `change` is the share by which it grew."""

    row: str
    figure: str
    then: float
    now: float
    change: float


def compare(then: dict[str, Any], now: dict[str, Any]) -> list[Change]:
    """Ratios that both runs have, of rows without failures; speeds are of a machine and a day, and not compared."""
    held = {row["row"]: row for row in then["rows"] if not row["failures"]}
    changes = []
    for row in now["rows"]:
        before = held.get(row["row"])
        if before is None or row["failures"]:
            continue
        for figure, value in row["ratios"].items():
            earlier = before["ratios"].get(figure)
            if earlier:
                changes.append(Change(row["row"], figure, earlier, value, round(value / earlier - 1, 3)))
    return changes


def compare_each(earlier: Sequence[dict[str, Any]], now: dict[str, Any]) -> list[tuple[dict[str, Any], list[Change]]]:
    """Each row beside the newest earlier run that it can be compared with, since groups are run and committed one at a
    time; answers the runs that were used, and their rows.

    Args:
        earlier: runs, newest first.
        now: the run to compare.
    """
    compared: set[str] = set()
    used = []
    for then in earlier:
        changes = [change for change in compare(then, now) if change.row not in compared]
        if changes:
            compared.update(change.row for change in changes)
            used.append((then, changes))
    return used
