"""Keys in order, in memory: what a scan walks over, and what is written to the file page by page."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from typing import Final

BLOCK_KEYS_MAX: Final = 1_024  # an insertion moves at most so many references


class SortedKeys:
    """A set of keys that is kept sorted, in blocks, so that neither adding nor taking ever moves many.

    The order is that of code points, which is the order of UTF-8 bytes.
    """

    def __init__(self) -> None:
        self._blocks: list[list[str]] = []
        self._firsts: list[str] = []  # what each block began with when it was made; none of its keys lies before

    def add(self, key: str) -> None:
        """Add a key that is not there."""
        if not self._blocks:
            self._blocks.append([key])
            self._firsts.append("")
            return
        at = bisect_right(self._firsts, key) - 1
        block = self._blocks[at]
        insort(block, key)
        if len(block) > BLOCK_KEYS_MAX:
            middle = len(block) // 2
            self._blocks.insert(at + 1, block[middle:])
            self._firsts.insert(at + 1, block[middle])
            del block[middle:]

    def take(self, after: str, count: int) -> list[str]:
        """Remove and answer the first keys behind `after` that stand in one block: some, at most `count`, or none if
        nothing lies behind. The empty string lies before all keys.
        """
        at = max(bisect_right(self._firsts, after) - 1, 0)
        while at < len(self._blocks):
            block = self._blocks[at]
            begin = bisect_right(block, after)
            taken = block[begin : begin + count]
            if taken:
                del block[begin : begin + count]
                if not block and at > 0:
                    del self._blocks[at], self._firsts[at]
                return taken
            at += 1
        return []

    def walk(self, begin: str) -> Iterator[str]:
        """The keys from `begin` on, in order; nothing may be added or taken meanwhile."""
        at = max(bisect_right(self._firsts, begin) - 1, 0)
        for block in self._blocks[at : at + 1]:
            yield from block[bisect_left(block, begin) :]
        for block in self._blocks[at + 1 :]:
            yield from block
