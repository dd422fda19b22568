"""The report, for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks import results
from benchmarks.outcome import Outcome

WIDTH: Final = 170
LOADER_FULL: Final = 0.8  # of the one core that wrk's thread can use


def line(outcome: Outcome) -> str:
    """One outcome in one line, for whoever watches the run."""
    values = ", ".join(f"{name} {value:g}" for name, value in {**outcome.ratios, **outcome.figures}.items())
    rates = ", ".join(f"{name} {side['rate']:,.0f}/s" for name, side in outcome.sides.items() if "rate" in side)
    failed = f" FAILED: {'; '.join(outcome.failures)}" if outcome.failures else ""
    return f"  {outcome.row}: {'; '.join(filter(None, (rates, values)))}{failed}"


def show(found: dict[str, Any], outcomes: Sequence[Outcome], earlier: Sequence[dict[str, Any]]) -> None:
    """Print machine, rows, targets, and what changed since the earlier results, which are given newest first."""
    console = Console(width=WIDTH)
    console.print(", ".join(f"{name} {value}" for name, value in found["machine"].items() if value != ""))
    console.print(f"commit {found['commit']}{', with changes that are not committed' if found['changed'] else ''}")
    loads = [outcome for outcome in outcomes if any("rate" in side for side in outcome.sides.values())]
    if loads:
        console.print(_loads(loads))
    if any("nodes" in side for outcome in outcomes for side in outcome.sides.values()):
        console.print(_nodes(outcomes))
    others = [outcome for outcome in outcomes if outcome.figures or (outcome.ratios and outcome not in loads)]
    if others:
        console.print(_figures(others))
    console.print(_targets(found))
    _show_changes(console, earlier, found)
    for outcome in loads:
        for name, side in outcome.sides.items():
            if side["loader_share"] >= LOADER_FULL:
                console.print(
                    f"{outcome.row}, {name}: wrk used {side['loader_share']:.0%} of its core; it is the bound"
                )
    for outcome in outcomes:
        for failure in outcome.failures:
            console.print(f"FAILED {outcome.row}: {failure}", style="bold red")


def _loads(outcomes: Sequence[Outcome]) -> Table:
    table = Table(
        "row", "side", "entries/s", "spread", "p50 ms", "p99 ms", "p99.9", "max", "not 200", "ratio", "p99 ratio"
    )
    table.add_column("loader us")
    table.add_column("of a core")
    for outcome in outcomes:
        for number, (name, side) in enumerate(outcome.sides.items()):
            ratios = outcome.ratios if number == 0 else {}
            table.add_row(
                ("FAILED " if outcome.failures else "") + outcome.row if number == 0 else "",
                name,
                f"{side['rate']:,.0f}",
                f"{side['rate_spread']:.0%}",
                f"{side['p50_ms']:.2f}",
                f"{side['p99_ms']:.2f}",
                f"{side['p999_ms']:.2f}",
                f"{side['max_ms']:.1f}",
                str(side["errors"]),
                f"{ratios['rate']:.2f}" if "rate" in ratios else "",
                f"{ratios['p99']:.2f}" if "p99" in ratios else "",
                f"{side['loader_us']:.1f}",
                f"{side['loader_share']:.0%}",
                end_section=number == len(outcome.sides) - 1,
            )
    return table


def _nodes(outcomes: Sequence[Outcome]) -> Table:
    table = Table("row", "side", "CPU s per 100,000 entries", "resident MiB", "worst loop lag ms", title="leader first")
    for outcome in outcomes:
        for name, side in outcome.sides.items():
            nodes = side.get("nodes")
            if not nodes:
                continue
            table.add_row(
                outcome.row,
                name,
                "  ".join(f"{node['cpu_s_per_100k']:.2f}" for node in nodes),
                "  ".join(f"{node['resident_mib']:.0f}" for node in nodes),
                "  ".join(f"{node['lag_ms']:.0f}" for node in nodes if "lag_ms" in node),
            )
    return table


def _figures(outcomes: Sequence[Outcome]) -> Table:
    table = Table("row", "figure", "value")
    for outcome in outcomes:
        values = {**{f"{name} ratio": value for name, value in outcome.ratios.items()}, **outcome.figures}
        for name, value in values.items():
            table.add_row(outcome.row, name, f"{value:,.3f}".rstrip("0").rstrip("."))
    return table


def _targets(found: dict[str, Any]) -> Table:
    table = Table("row", "target", "measured", "verdict", title="targets")
    for target in found["targets"]:
        asked = f"{'at least' if target['at_least'] else 'at most'} {target['bound']:g} {target['says']}"
        if target["value"] is None:
            table.add_row(target["row"], asked, "-", "not measured")
            continue
        verdict = (
            ("reached" if target["met"] else "not reached") if target["aim"] else "met" if target["met"] else "MISSED"
        )
        margin = f"{abs(target['margin']):.0%} {'beyond it' if target['met'] else 'short of it'}"
        table.add_row(target["row"], asked, f"{target['value']:g}", f"{verdict}, {margin}")
    return table


def _show_changes(console: Console, earlier: Sequence[dict[str, Any]], found: dict[str, Any]) -> None:
    """A table for each earlier run that rows are compared with, and the rows that have none."""
    alone = [row["row"] for row in found["rows"] if row["ratios"] and not row["failures"]]
    for then, changes in results.compare_each(earlier, found):
        table = Table("row", "figure", "then", "now", "change")
        for change in changes:
            table.add_row(change.row, change.figure, f"{change.then:.2f}", f"{change.now:.2f}", f"{change.change:+.0%}")
        console.print(f"ratios beside those of {results.path_of(then).stem}{_elsewhere(then, found)}")
        console.print(table)
        alone = [row for row in alone if row not in {change.row for change in changes}]
    if alone:
        console.print(f"no committed ratios beside those of: {', '.join(alone)}")


def _elsewhere(then: dict[str, Any], now: dict[str, Any]) -> str:
    """That the earlier run was on another machine: ratios move with the processor, too."""
    before, after = (f"{run['machine']['cpu']}, {run['machine']['cores']} cores" for run in (then, now))
    return "" if before == after else f", on another machine: {before}; now {after}"
