"""A violation as text: as few answers as it takes to contradict each other.

1. The shortest prefix of time without an order. A prefix of a linearizable history is linearizable (what is not over
yet counts as unknown), so there is a first answer that cannot be explained: the one that cannot be placed. 2. What is
told in that prefix is made weaker, piece by piece, as long as there is still no order: a read is left out, an
acknowledged write becomes an unknown one. Weaker histories have all the orders of stronger ones, so what remains is
contradiction enough. Of a long prefix the writes before the last `RECENT_MAX` answers may stay as they are; the text
says how many.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from .history import Outcome, Record
from .search import Result, Search, State

RECENT_MAX: Final = 40
LISTED_MAX: Final = 12


def explain(component: Sequence[Record], found: Result, everything: Sequence[Record], steps_max: int) -> str:
    """Say why a component has no order.

    Args:
        component: its operations.
        found: the search that failed.
        everything: the whole history, where values of refused writes are looked for.
        steps_max: bound of each further search.
    """
    shrinking = _Shrinking(component, steps_max)
    told, unknown, culprit = shrinking.prefix(found)
    kept, background = shrinking.shrink(told, unknown, culprit)
    result = shrinking.search([*kept, *background, *unknown_of(told, kept, background), *unknown])
    lines = ["no order of operations explains these answers together, whatever else happened:"]
    lines += [f"    {record}" for record in sorted(kept, key=lambda record: record.call)]
    lines.append(f"cannot be placed: {culprit}")
    lines += _possible(result, culprit)
    lines += _others(unknown, everything, culprit)
    if background:
        lines.append(f"(beside {len(background)} writes, answered earlier, that made their versions as they were told)")
    return "\n".join(lines)


def weaker(record: Record) -> Record | None:
    """The same attempt without its answer; None for what changes nothing."""
    if record.is_get or record.outcome is not Outcome.OK:
        return None
    return replace(record, returned=None, outcome=Outcome.UNKNOWN, versions=())


def unknown_of(told: Sequence[Record], *kept: Sequence[Record]) -> list[Record]:
    """What was told and is not kept, without its answers."""
    held = {id(record) for some in kept for record in some}
    return [weak for record in told if id(record) not in held and (weak := weaker(record)) is not None]


class _Shrinking:
    """Searches on weaker histories."""

    def __init__(self, component: Sequence[Record], steps_max: int) -> None:
        self._component = component
        self._steps_max = steps_max

    def search(self, operations: Sequence[Record]) -> Result:
        return Search(operations, min(self._steps_max, 4 * len(operations) + 10_000)).run()

    def contradicts(self, operations: Sequence[Record]) -> bool:
        """Whether there is no order for sure."""
        result = self.search(operations)
        return result.complete and result.order is None

    def prefix(self, found: Result) -> tuple[list[Record], list[Record], Record]:
        """The shortest prefix without an order: what was told in it, what is unknown, and its last answer."""
        assert found.blocked is not None
        decided = [record for record in self._component if record.outcome is not Outcome.UNKNOWN]
        decided.sort(key=lambda record: record.returned or 0)
        start = decided.index(found.blocked)
        place = _first(start, len(decided) - 1, lambda end: self.contradicts(self._until(decided, end)[2]))
        told, unknown, _ = self._until(decided, place)
        return told, unknown, decided[place]

    def _until(self, decided: Sequence[Record], end: int) -> tuple[list[Record], list[Record], list[Record]]:
        """Told, unknown, and both, when the answer at `end` has just come."""
        over = decided[end].returned or 0
        told = list(decided[: end + 1])
        pending = [weak for record in decided[end + 1 :] if record.call <= over and (weak := weaker(record))]
        pending += [r for r in self._component if r.outcome is Outcome.UNKNOWN and r.call <= over]
        return told, pending, [*told, *pending]

    def shrink(
        self, told: Sequence[Record], unknown: Sequence[Record], culprit: Record
    ) -> tuple[list[Record], list[Record]]:
        """The answers that contradict each other, and those of earlier writes that are not looked at one by one."""

        def enough(kept: Sequence[Record], background: Sequence[Record]) -> bool:
            return self.contradicts([*kept, *background, *unknown_of(told, kept, background), *unknown])

        recent = list(told[-RECENT_MAX:])
        background = [r for r in told[:-RECENT_MAX] if not r.is_get and r.outcome is Outcome.OK]
        while len(recent) < len(told) and not enough(recent, background):
            recent = list(told[-2 * len(recent) :])
            background = [r for r in told[: -len(recent)] if not r.is_get and r.outcome is Outcome.OK]
        size = max(1, len(recent) // 4)
        while size:
            for place in range(0, len(recent), size):
                chunk = {id(record) for record in recent[place : place + size]} - {id(culprit)}
                fewer = [record for record in recent if id(record) not in chunk]
                if len(fewer) < len(recent) and enough(fewer, background):
                    recent = fewer
            size //= 2
        if background and enough(recent, ()):
            background = []
        return recent, background


def _first(start: int, end: int, holds: Callable[[int], bool]) -> int:
    """The first place from `start` on at which something holds that goes on to hold, and that holds at `end`."""
    step, low = 1, start - 1
    high = start
    while high < end and not holds(high):
        low, high, step = high, min(end, high + step), 2 * step
    while high - low > 1:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle
    return high


def _possible(result: Result, culprit: Record) -> list[str]:
    if result.blocked is None:
        return []
    before = "it" if result.blocked is culprit else f"{result.blocked}"
    return [f"possible before {before}: " + " or ".join(map(_state, result.states))]


def _state(state: dict[str, State]) -> str:
    return ", ".join(
        f"{key!r} "
        + ("never written" if not version else f"at version {version}, {'deleted' if value is None else repr(value)}")
        for key, (version, value) in state.items()
    )


def _others(unknown: Sequence[Record], everything: Sequence[Record], culprit: Record) -> list[str]:
    lines = []
    near = [record for record in unknown if not record.keys.isdisjoint(culprit.keys)]
    if near:
        lines.append("outcome not known by then:")
        lines += [f"    {record}" for record in near[-LISTED_MAX:]]
    if len(near) > LISTED_MAX:
        lines.append(f"    and {len(near) - LISTED_MAX} before them")
    refused = [
        record
        for record in everything
        if record.outcome is Outcome.REFUSED
        and culprit.value is not None
        and any(part.value == culprit.value and part.key in culprit.keys for part in record.parts)
    ]
    lines += [f"its value was refused: {record}" for record in refused[:LISTED_MAX]]
    return lines
