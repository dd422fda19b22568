"""The verdict on a history.

verdict = check(read_history(path))
assert verdict.valid, verdict
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from .explain import explain
from .history import Contradiction, Record, operations
from .partition import components
from .search import Search

STEPS_MAX: Final = 500_000  # for each component; a valid history takes about one step for each operation


class Answer(StrEnum):
    """What can be said of a history."""

    LINEARIZABLE = "linearizable"
    VIOLATED = "violated"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found.

    Attributes:
        answer: never wrong; `UNDECIDED` when a search was given up at its limit.
        explanation: of a violation, or of what was given up; else empty.
        operations: that had to be explained.
        components: parts that were judged one by one.
        steps: that all searches took together.
    """

    answer: Answer
    explanation: str
    operations: int
    components: int
    steps: int

    @property
    def valid(self) -> bool:
        """Whether the history is linearizable for sure."""
        return self.answer is Answer.LINEARIZABLE

    def __str__(self) -> str:
        figures = f"{self.operations} operations in {self.components} components, {self.steps} steps"
        return f"{self.answer}: {figures}" + (f"\n{self.explanation}" if self.explanation else "")


def check(records: Iterable[Record], steps_max: int = STEPS_MAX) -> Verdict:
    """Judge a history. All components are looked at until one is violated."""
    everything = list(records)
    try:
        asked = operations(everything)
    except Contradiction as found:
        text = f"attempts of one idempotency key were answered differently:\n{found}"
        return Verdict(Answer.VIOLATED, text, len(everything), 0, 0)
    parts = components(asked)
    steps = 0
    given_up = []
    for part in parts:
        result = Search(part, steps_max).run()
        steps += result.steps
        if not result.complete:
            given_up.append(f"{len(part)} operations on {_some(part)}: given up after {result.steps} steps")
        elif result.order is None:
            text = explain(part, result, everything, steps_max)
            return Verdict(Answer.VIOLATED, text, len(asked), len(parts), steps)
    answer = Answer.UNDECIDED if given_up else Answer.LINEARIZABLE
    return Verdict(answer, "\n".join(given_up), len(asked), len(parts), steps)


def _some(part: list[Record]) -> str:
    keys = sorted({key for record in part for key in record.keys})
    return ", ".join(map(repr, keys[:5])) + (f" and {len(keys) - 5} more keys" if len(keys) > 5 else "")
