"""What the rows are to show, in one table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from benchmarks.outcome import Outcome


@dataclass(frozen=True)
class Target:
    """A bound on one figure of one row.

    Attributes:
        row: name of the row.
        figure: name of the ratio or figure in its outcome.
        bound: the bound.
        at_least: whether the figure is to be this or more; else this or less.
        says: what it means, for people.
        aim: what is hoped for beyond what is required.
    """

    row: str
    figure: str
    bound: float
    at_least: bool
    says: str
    aim: bool = False


@dataclass(frozen=True)
class Verdict:
    """A target beside what was measured.

    Attributes:
        target: the target.
        value: the figure; None when the row was not measured or failed.
        met: whether it was met; False without a value.
        margin: how far the figure lies on the good (positive) or bad side of the bound, as a share of the bound.
    """

    target: Target
    value: float | None
    met: bool
    margin: float | None


TARGETS: Final = (
    *(
        Target(f"PUT c={c}", "rate", bound, True, "times etcd's rate")
        for c, bound in ((1, 1.3), (16, 1.3), (64, 1.5), (256, 1.3))
    ),
    Target("PUT c=64", "rate", 2.0, True, "times etcd's rate", aim=True),
    *(Target(f"PUT c={c}", "p99", 1.0, False, "times etcd's p99") for c in (1, 16, 64, 256)),
    Target("GET linearizable c=64", "rate", 2.0, True, "times etcd's rate"),
    Target("batch of 100 c=16", "rate", 1.0, True, "times etcd's entries a second"),
    Target("PUT c=64 at 5M stored", "rate", 0.9, True, "times the rate at 10k stored"),
    Target("resident after 1M PUTs", "resident", 1.0, False, "times etcd's resident memory"),
    Target("resident with a cache of 32 MiB", "growth", 1.1, False, "times the memory at half of the writes"),
    Target("resident with a cache of 256 MiB", "growth", 1.1, False, "times the memory at half of the writes"),
    Target("restart of one node with 1M entries", "seconds", 15.0, False, "s to healthy, all applied"),
    Target("restart of three nodes with 1M entries", "seconds", 15.0, False, "s to healthy, all applied"),
    Target("append to the tree", "us_per_entry_median", 5.0, False, "us of the tree for each entry"),
    Target("PUT c=64 under long work", "p99", 3.0, False, "times the quiet p99"),
)


def judge(outcomes: Mapping[str, Outcome], targets: tuple[Target, ...] = TARGETS) -> list[Verdict]:
    """Hold the outcomes (by row) against the targets; a failed row has no value."""
    verdicts = []
    for target in targets:
        outcome = outcomes.get(target.row)
        value = outcome.value(target.figure) if outcome is not None and not outcome.failures else None
        if value is None:
            verdicts.append(Verdict(target, None, False, None))
            continue
        over = (value - target.bound) / target.bound
        margin = round(over if target.at_least else -over, 3)
        verdicts.append(Verdict(target, value, margin >= 0, margin))
    return verdicts
