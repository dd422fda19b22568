"""The server's own order, where it is told: a cheap check beside the search, of more than clients rely on.

The server says at which index of its log a write was decided, and which leaves of its tree it made. Both are places in
one order of all writes, on all keys, so they have to agree with real time, with each other, and with the versions of
each key.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise

from .history import Outcome, Record, operations

PROBLEMS_MAX = 10


def order_problems(records: Iterable[Record]) -> list[str]:
    """What contradicts itself, each as text; empty when all is well. Raises `Contradiction` like `operations`."""
    done = [record for record in operations(records) if record.outcome is not Outcome.UNKNOWN]
    leaves = [(record.leaf_indexes[0], record) for record in done if record.leaf_indexes]
    indexes = [(record.index, record) for record in done if record.index is not None]
    problems = _real_time("leaf", leaves) + _real_time("index", indexes)
    problems += _same_order(record for record in done if record.index is not None and record.leaf_indexes)
    problems += _keys(done)
    return problems[:PROBLEMS_MAX]


def _real_time(name: str, places: Sequence[tuple[int, Record]]) -> list[str]:
    """A write is behind all places that were known before it was called; no two writes share one."""
    by_return = sorted(places, key=lambda pair: pair[1].returned or 0)
    returns = [record.returned or 0 for _, record in by_return]
    highest = [by_return[0]] if by_return else []
    for pair in by_return[1:]:
        highest.append(max(highest[-1], pair, key=lambda one: one[0]))
    problems = []
    for place, record in places:
        before = bisect_left(returns, record.call)
        if before and not record.is_get and highest[before - 1][0] >= place:
            problems.append(f"{name} {place} comes after {highest[before - 1][0]}: {record}; {highest[before - 1][1]}")
    writes = sorted((pair for pair in places if not pair[1].is_get), key=lambda pair: pair[0])
    for (one, first), (two, second) in pairwise(writes):
        if one == two:
            problems.append(f"{name} {one} is there twice: {first}; {second}")
    return problems


def _same_order(records: Iterable[Record]) -> list[str]:
    """Leaves grow with indexes."""
    writes = sorted((record for record in records if not record.is_get), key=lambda record: record.index or 0)
    return [
        f"indexes and leaves disagree: {one}; {two}"
        for one, two in pairwise(writes)
        if one.leaf_indexes[-1] >= two.leaf_indexes[0]
    ]


def _keys(done: Iterable[Record]) -> list[str]:
    """On each key a version is one leaf, and later versions are later leaves."""
    known: defaultdict[str, dict[int, tuple[int, Record]]] = defaultdict(dict)
    problems = []
    for record in done:
        versions = (record.version,) if record.is_get else record.versions
        for part, version, leaf in zip(record.parts, versions, record.leaf_indexes, strict=False):
            if version is None:
                continue
            other = known[part.key].setdefault(version, (leaf, record))
            if other[0] != leaf:
                problems.append(
                    f"version {version} of {part.key!r} is leaf {leaf} and {other[0]}: {record}; {other[1]}"
                )
    for key, by_version in known.items():
        for (one, (before, first)), (two, (after, second)) in pairwise(sorted(by_version.items())):
            if before >= after:
                problems.append(f"{key!r}: version {one} is leaf {before}, and {two} leaf {after}: {first}; {second}")
    return problems
