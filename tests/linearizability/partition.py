"""Cutting a history into parts that can be judged one by one.

Two cuts are made, in this order.

**Quiet batches.** An acknowledged batch B becomes one operation for each of its keys, if every other operation X that
touches one of B's keys is

- decided, and over before B was called or called after B was over; or
- unknown, and touches a single key, or was called after B was over.

*The cut history is linearizable exactly if the whole is.* From the whole to the cut: put B's pieces where B stood. From
the cut to the whole: take an order of the cut history as points in time, t(X) within X's interval (without an end for
unknown X). Move all of B's pieces to the end of B's interval, t(B) = B.return, each quiet batch likewise, and look at
any key k of B. Operations on other keys alone do not notice. Decided operations on k lie wholly before or behind B's
interval, so they keep their side of B's piece; unknown ones that touch further keys were called behind it, and stay
behind it. Unknown ones that touch k alone may have had a point between the piece's old place and its new one. Those
are moved too: each to the later of its own call and the point of what stands before it in the order on k. If it stood
before B's piece, that is no later than B.return: it was called before B was over, since the order keeps real time,
and so was what stands before it. If it stood behind, nothing decided stands between B's piece and B.return, so it
still comes before what follows it. On each key the order is what it was; since what an operation answers depends on
the order on its keys alone, all answers stand. B's pieces are at one point with nothing on their keys between them,
so they are B, taking effect at once.

A batch that overlaps with something on its keys stays whole, and so does every batch whose effect is unknown (in
pieces it could take effect by half) and every batch that was refused by a condition (one of its parts refused it,
and what the others saw may be part of why).

**Components.** Keys that a batch still touches together are joined, and each connected component of keys is judged by
itself. *That is sound because linearizability is local* (Herlihy and Wing 1990, theorem 1): a component is one object
(its keys never meet those of another in one operation), and a history is linearizable exactly if its part on each
object is. Time is no reason to separate two components that are joined, and none to join two that are not.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from .history import Outcome, Record


def components(operations: Sequence[Record]) -> list[list[Record]]:
    """The parts of a history, each in the order of calls; smaller ones first."""
    pieces = cut_quiet_batches(operations)
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        parent.setdefault(key, key)
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    for piece in pieces:
        first, *others = (part.key for part in piece.parts)
        for other in others:
            parent[root(other)] = root(first)
    found: defaultdict[str, list[Record]] = defaultdict(list)
    for piece in sorted(pieces, key=lambda record: record.call):
        found[root(piece.parts[0].key)].append(piece)
    return sorted(found.values(), key=len)


def cut_quiet_batches(operations: Sequence[Record]) -> list[Record]:
    """The history with each quiet batch replaced by its pieces."""
    on_key: defaultdict[str, _OnKey] = defaultdict(_OnKey)
    for record in operations:
        for key in record.keys:
            on_key[key].add(record)
    for known in on_key.values():
        known.sort()
    result = []
    for record in operations:
        keys = record.keys
        quiet = len(keys) > 1 and record.outcome is Outcome.OK and all(on_key[key].quiet(record) for key in keys)
        if quiet:
            result.extend(_pieces(record))
        else:
            result.append(record)
    return result


class _OnKey:
    """What touches one key: intervals of decided operations, and calls of unknown ones that touch further keys."""

    def __init__(self) -> None:
        self._calls: list[int] = []
        self._returns: list[int] = []
        self._wide_unknown: int | None = None

    def add(self, record: Record) -> None:
        if record.outcome is not Outcome.UNKNOWN:
            assert record.returned is not None
            self._calls.append(record.call)
            self._returns.append(record.returned)
        elif len(record.keys) > 1 and (self._wide_unknown is None or record.call < self._wide_unknown):
            self._wide_unknown = record.call

    def sort(self) -> None:
        self._calls.sort()
        self._returns.sort()

    def quiet(self, batch: Record) -> bool:
        """Whether all others are over before the batch's call or called after its return, as the module says."""
        assert batch.returned is not None
        if self._wide_unknown is not None and self._wide_unknown <= batch.returned:
            return False
        over = bisect_left(self._returns, batch.call)  # return < call
        begun = bisect_left(self._calls, batch.returned + 1)  # call <= return
        return begun - over == 1  # what has begun by the batch's end and is not over at its beginning: the batch itself


def _pieces(batch: Record) -> list[Record]:
    pieces = []
    for key in dict.fromkeys(part.key for part in batch.parts):
        places = [place for place, part in enumerate(batch.parts) if part.key == key]
        parts = tuple(batch.parts[place] for place in places)
        versions = tuple(batch.versions[place] for place in places)
        pieces.append(replace(batch, parts=parts, versions=versions, idempotency_key=None, leaf_indexes=()))
    return pieces
