"""What a group hands back for one row, and the arithmetic over rounds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Reading = dict[str, Any]


@dataclass
class Outcome:
    """One row's result.

    Attributes:
        group: the group that measured it.
        row: its name.
        sides: what was measured of each side; of loads, what `summarise` answers. The first is ours.
        ratios: the first side's figure over the second's, by figure; these may be compared across runs.
        figures: figures that stand alone (seconds, bytes); they belong to this machine and this run.
        failures: why the row does not count; empty when it does.
    """

    group: str
    row: str
    sides: dict[str, dict[str, Any]] = field(default_factory=dict)
    ratios: dict[str, float] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def value(self, name: str) -> float | None:
        """A ratio or figure by its name."""
        return self.ratios.get(name, self.figures.get(name))


def ratio(over: float, under: float) -> float:
    """A quotient with three digits; infinite over zero."""
    return round(over / under, 3) if under else float("inf")


def spread(values: Sequence[float]) -> float:
    """Largest less smallest, as a share of the median."""
    middle = statistics.median(values)
    return round((max(values) - min(values)) / middle, 3) if middle else 0.0


def summarise(rounds: Sequence[Reading]) -> dict[str, Any]:
    """Medians over the rounds of one side; of maxima, lags and errors the worst or the sum.

    Args:
        rounds: what `measure` answered, at least one.
    """
    medians = {
        name: round(statistics.median(r[name] for r in rounds), 3)
        for name in ("rate", "p50_ms", "p99_ms", "p999_ms", "loader_us", "loader_share")
    }
    return {
        **medians,
        "rate_spread": spread([r["rate"] for r in rounds]),
        "p99_spread": spread([r["p99_ms"] for r in rounds]),
        "max_ms": max(r["max_ms"] for r in rounds),
        "requests": sum(r["requests"] for r in rounds),
        "errors": sum(r["errors"] for r in rounds),
        "rates": [round(r["rate"], 1) for r in rounds],
        "nodes": _nodes([r["nodes"] for r in rounds]),
    }


def _nodes(rounds: Sequence[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Nodes in the order of `measure` (leader first), over the rounds that saw all of them."""
    count = max(len(nodes) for nodes in rounds)
    whole = [nodes for nodes in rounds if len(nodes) == count]
    merged = []
    for nodes in zip(*whole, strict=True):
        node = {
            "role": nodes[0]["role"],
            "cpu_s_per_100k": round(statistics.median(n["cpu_s_per_100k"] for n in nodes), 2),
            "resident_mib": nodes[-1]["resident_mib"],
        }
        lags_ms = [n["lag_ms"] for n in nodes if "lag_ms" in n]
        merged.append({**node, "lag_ms": max(lags_ms)} if lags_ms else node)
    return merged


def failures_of(side: str, rounds: Sequence[Reading]) -> list[str]:
    """Why rounds do not count: an answer that was none, or another leader on the way."""
    errors = sum(r["errors"] for r in rounds)
    failures = [f"{side}: {errors} answers were no 200"] if errors else []
    if not all(r["requests"] for r in rounds):
        failures.append(f"{side}: a round without a single answer")
    if not all(r["leader_stayed"] for r in rounds):
        failures.append(f"{side}: the leader changed")
    return failures


def outcome_of(group: str, row: str, rounds: dict[str, list[Reading]]) -> Outcome:
    """The outcome of a load on one or two sides; ratios are of medians, the first side over the second."""
    sides = {name: summarise(readings) for name, readings in rounds.items()}
    found = Outcome(group, row, sides)
    for name, readings in rounds.items():
        found.failures += failures_of(name, readings)
    if len(sides) == 2:
        first, second = sides.values()
        found.ratios = {
            "rate": ratio(first["rate"], second["rate"]),
            "p50": ratio(first["p50_ms"], second["p50_ms"]),
            "p99": ratio(first["p99_ms"], second["p99_ms"]),
            "p999": ratio(first["p999_ms"], second["p999_ms"]),
        }
    return found
