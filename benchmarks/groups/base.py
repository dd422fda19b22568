"""What groups share: their shape, alternation between sides, and rough speeds for the estimate of a run's length."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Final

from benchmarks.clusters import Cluster, Etcd, Ours
from benchmarks.load import measure
from benchmarks.options import Options
from benchmarks.outcome import Outcome, Reading, outcome_of
from benchmarks.rows import Row

WARM_UP_S: Final = 2.0
OVERHEAD_S: Final = 0.7  # of one measurement: start of wrk, questions to the nodes
CLUSTERS_S: Final = 10.0  # to start and stop both clusters
PUTS_PER_S: Final = 5_000  # for estimates alone: the slower side on a small machine
FILL_PER_S: Final = 25_000


class Group(ABC):
    """A group of rows that share their clusters."""

    name: str

    @abstractmethod
    def rows(self, options: Options) -> list[str]:
        """Names of all its rows."""

    @abstractmethod
    def seconds(self, options: Options) -> float:
        """Rough length of what is wanted of it."""

    @abstractmethod
    def run(self, options: Options) -> Iterator[Outcome]:
        """Measure what is wanted of it, row by row."""

    def chosen(self, options: Options) -> list[str]:
        """Names of the rows that are wanted."""
        return options.chosen(self.rows(options))


def tell(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


def both(options: Options, group: str, stack: ExitStack) -> list[Cluster]:
    """Ours and, where it is wanted, etcd's, running until the stack is left."""
    clusters: list[Cluster] = [Ours("ours", options.directory / group / "ours")]
    if options.with_etcd:
        clusters.append(Etcd("etcd", options.directory / group / "etcd"))
    for cluster in clusters:
        stack.enter_context(cluster.running())
    return clusters


def alternate(group: str, name: str, sides: Sequence[tuple[Cluster, Row]], options: Options) -> Outcome:
    """Warm each side up, then measure them in turns; every second round goes the other way. A side finishes what it was
    sent before the other one begins.
    """
    rounds: dict[str, list[Reading]] = {cluster.name: [] for cluster, _ in sides}
    for cluster, row in sides:
        measure(cluster, row, min(WARM_UP_S, options.seconds))
        cluster.rest()
    for number in range(options.rounds):
        for cluster, row in sides if number % 2 == 0 else reversed(sides):
            rounds[cluster.name].append(measure(cluster, row, options.seconds))
            cluster.rest()
    return outcome_of(group, name, rounds)


def alternation_s(options: Options, sides: int) -> float:
    """Rough length of one row's alternation."""
    return sides * (WARM_UP_S + options.rounds * options.seconds + (options.rounds + 1) * OVERHEAD_S)
