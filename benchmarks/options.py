"""What a run is asked to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


def short(count: int) -> str:
    """A count as rows are named by it: 5M, 100k, 1234."""
    for size, letter in ((1_000_000, "M"), (1_000, "k")):
        if count % size == 0 and count >= size:
            return f"{count // size}{letter}"
    return str(count)


@dataclass(frozen=True)
class Options:
    """How a run measures.

    Attributes:
        directory: where clusters keep what they write.
        rounds: rounds of each row, alternating between the sides.
        seconds: length of one measurement.
        rows: parts of the names of the rows that are wanted; empty means all.
        with_etcd: whether etcd is measured beside ours.
        scale: factor on stored keys and on counts of writes, to try the long groups in short.
    """

    directory: Path
    rounds: int = 3
    seconds: float = 5.0
    rows: tuple[str, ...] = ()
    with_etcd: bool = True
    scale: float = 1.0

    def chosen(self, names: Sequence[str]) -> list[str]:
        """The names that are wanted. A part that is a whole name means that one alone."""
        if not self.rows:
            return list(names)
        return [
            name for name in names if any(part == name or (part not in names and part in name) for part in self.rows)
        ]

    def scaled(self, count: int) -> int:
        """A count under the scale, at least 1,000 or the count itself."""
        return max(min(count, 1000), round(count * self.scale))

    def levels(self, counts: Sequence[int]) -> list[int]:
        """Counts under the scale, each once."""
        return list(dict.fromkeys(map(self.scaled, counts)))

    @property
    def sides(self) -> int:
        """Sides of a row that compares with etcd."""
        return 2 if self.with_etcd else 1
