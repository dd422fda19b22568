"""Group `stored`: the same load on a cluster that holds ever more keys, in turns with one that stays small."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Final

from benchmarks.clusters import Ours
from benchmarks.fill import fill
from benchmarks.groups.base import CLUSTERS_S, FILL_PER_S, Group, alternate, alternation_s
from benchmarks.options import Options, short
from benchmarks.outcome import Outcome
from benchmarks.rows import KEYS, Row

LEVELS: Final = (10_000, 100_000, 1_000_000, 5_000_000)


class Stored(Group):
    """PUT at 64 connections. The keys written are at most 100,000, spread evenly over those that are stored, so that
    no level grows by being measured; once more, as a harsher case, all stored keys are written to at random.
    """

    name = "stored"

    def _table(self, options: Options) -> dict[str, tuple[int, Row]]:
        """Level and load of each row."""
        table = {}
        for level in options.levels(LEVELS):
            keys = min(level, KEYS)
            name = f"PUT c=64 at {short(level)} stored"
            table[name] = (level, Row(name, "put", 64, keys=keys, stride=level // keys))
            if level > KEYS:
                name += " all over"
                table[name] = (level, Row(name, "put", 64, keys=level))
        return table

    def rows(self, options: Options) -> list[str]:
        """One at each level, and two where there are more keys than are written."""
        return list(self._table(options))

    def seconds(self, options: Options) -> float:
        """Fills up to the highest level wanted, and alternations."""
        wanted = self.chosen(options)
        highest = max(self._table(options)[name][0] for name in wanted)
        return CLUSTERS_S + highest / FILL_PER_S + len(wanted) * alternation_s(options, 2)

    def run(self, options: Options) -> Iterator[Outcome]:
        """Both clusters are ours: what grew over what stayed small."""
        wanted = self.chosen(options)
        table = self._table(options)
        smallest = options.scaled(LEVELS[0])
        small_row = Row("small", "put", 64, keys=min(smallest, KEYS))
        held = 0
        with ExitStack() as stack:
            grown = Ours("grown", options.directory / self.name / "grown")
            small = Ours("small", options.directory / self.name / "small")
            for cluster in (grown, small):
                stack.enter_context(cluster.running())
            fill(small, smallest)
            for name in wanted:
                level, row = table[name]
                fill(grown, level, begin=held)
                held = level
                grown.settle()
                yield alternate(self.name, name, [(grown, row), (small, small_row)], options)


stored: Final = Stored()
