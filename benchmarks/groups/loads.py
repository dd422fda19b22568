"""Groups `speed` and `size`: rows of load against ours and etcd's, round by round."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Final

from benchmarks.fill import fill
from benchmarks.groups.base import CLUSTERS_S, FILL_PER_S, Group, alternate, alternation_s, both
from benchmarks.options import Options
from benchmarks.outcome import Outcome
from benchmarks.rows import KEYS, READS, SIZE, SPEED, Row


class Loads(Group):
    """Rows of one table; all keys are there before the first row when one of the rows reads.

    Args:
        name: of the group.
        table: its rows.
    """

    def __init__(self, name: str, table: tuple[Row, ...]) -> None:
        self.name = name
        self._table = table

    def rows(self, options: Options) -> list[str]:
        """Names of the table."""
        return [row.name for row in self._table]

    def _wanted(self, options: Options) -> list[Row]:
        names = self.chosen(options)
        return [row for row in self._table if row.name in names]

    def _fills(self, rows: list[Row]) -> bool:
        return any(row.kind in READS for row in rows)

    def seconds(self, options: Options) -> float:
        """Alternations, and the fill."""
        rows = self._wanted(options)
        fill_s = KEYS / FILL_PER_S * options.sides if self._fills(rows) else 0.0
        return CLUSTERS_S + fill_s + len(rows) * alternation_s(options, options.sides)

    def run(self, options: Options) -> Iterator[Outcome]:
        """One pair of clusters for all rows."""
        rows = self._wanted(options)
        with ExitStack() as stack:
            clusters = both(options, self.name, stack)
            if self._fills(rows):
                for cluster in clusters:
                    fill(cluster, KEYS)
            for row in rows:
                yield alternate(self.name, row.name, [(cluster, row) for cluster in clusters], options)


speed: Final = Loads("speed", SPEED)
size: Final = Loads("size", SIZE)
