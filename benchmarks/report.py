"""Medians, spreads and ratios, for people and as JSON."""

from __future__ import annotations

import statistics
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.rows import Row

Rounds = list[dict[str, Any]]


def summarise(rounds: Rounds) -> dict[str, float]:
    """Median and spread (largest less smallest, as a share of the median) of one side of one row."""
    rates = [r["rate"] for r in rounds]
    median = statistics.median(rates)
    return {
        "rate": round(median, 1),
        "spread": round((max(rates) - min(rates)) / median, 3) if median else 0.0,
        "p50_ms": statistics.median(r["p50_ms"] for r in rounds),
        "p99_ms": statistics.median(r["p99_ms"] for r in rounds),
        "max_ms": max(r["max_ms"] for r in rounds),
        "errors": sum(r["errors"] for r in rounds),
    }


def show(machine: dict[str, Any], results: dict[str, dict[str, Any]], rows: tuple[Row, ...]) -> None:
    """Print the report."""
    console = Console(width=150)
    console.print(", ".join(f"{name} {value}" for name, value in machine.items() if value != ""))
    table = Table(
        "row", "ours/s", "spread", "p50 ms", "p99 ms", "errors", "etcd/s", "spread", "p50 ms", "p99 ms", "ratio"
    )
    for row in rows:
        if row.name not in results:
            continue
        ours, etcd = results[row.name]["ours"], results[row.name].get("etcd")
        cells = [row.name, *_cells(ours), str(int(ours["errors"]))]
        cells += [*_cells(etcd), f"{ours['rate'] / etcd['rate']:.2f}"] if etcd else ["-"] * 5
        table.add_row(*cells)
    console.print(table)


def _cells(side: dict[str, Any]) -> list[str]:
    return [f"{side['rate']:,.0f}", f"{side['spread']:.0%}", f"{side['p50_ms']:.2f}", f"{side['p99_ms']:.2f}"]
