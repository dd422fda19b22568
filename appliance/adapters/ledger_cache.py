"""Bounded caches of what `ledger.db` holds. They belong to the event loop's thread alone; nothing is locked.

What came first leaves first. Keeping the order of use would cost each access more than reading a key again from the
file costs once in a while. The dictionaries are ordered ones, because a plain one whose front was removed is searched
for its new front from the old one on, over all the holes, each time.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, insort
from collections import OrderedDict
from typing import Final

from appliance.ledger.state import Head, NewLeaf

HEAD_BYTES: Final = 360  # a head, its integers and its place in the dictionary, measured; its key's text comes on top
LEAF_BYTES: Final = 410  # the same for a leaf; its JSON and its value come on top
BYTES_PER_CHARACTER_MAX: Final = 6  # of a text beyond ASCII: wide characters, and UTF-8 beside them once it was written
EVICTED_PER_CALL_MAX: Final = 512  # well under a millisecond of the loop's time
SLACK_DIVISOR: Final = 64  # evicting goes this share below the bound, so that it is not done all the time


class HeadCache:
    """Heads of keys as they stand in the file.

    Attributes:
        size_bytes: about the memory they take.
    """

    def __init__(self) -> None:
        self._heads: OrderedDict[str, Head] = OrderedDict()
        self.size_bytes = 0
        self.get = self._heads.get  # the head of a key, or None

    def put(self, key: str, head: Head) -> None:
        """Keep a head."""
        if key not in self._heads:
            self.size_bytes += head_bytes(key)
        self._heads[key] = head

    def pop(self, key: str) -> Head | None:
        """Let go of a key that no longer stands so in the file; answers what was kept."""
        head = self._heads.pop(key, None)
        if head is not None:
            self.size_bytes -= head_bytes(key)
        return head

    def shrink(self, bytes_max: int) -> None:
        """Let the oldest go when there is more than this, some with each call."""
        if self.size_bytes <= bytes_max:
            return
        bytes_max -= bytes_max // SLACK_DIVISOR
        popitem, left = self._heads.popitem, EVICTED_PER_CALL_MAX
        while self.size_bytes > bytes_max and left > 0:
            key, _ = popitem(last=False)
            self.size_bytes -= head_bytes(key)
            left -= 1


class LeafCache:
    """Leaves with salt and value that were read from the file. What is written is not kept here: most of it is
    overwritten before anybody reads it.

    Attributes:
        size_bytes: about the memory they take.
    """

    def __init__(self) -> None:
        self._leaves: OrderedDict[int, NewLeaf] = OrderedDict()
        self.size_bytes = 0
        self.get = self._leaves.get  # a leaf by its index, or None

    def put(self, leaf: NewLeaf) -> None:
        """Keep a leaf that is not there."""
        self._leaves[leaf.leaf_index] = leaf
        self.size_bytes += leaf_bytes(leaf)

    def pop(self, leaf_index: int) -> None:
        """Let go of a leaf, if it is there: another took its place as its key's latest."""
        leaf = self._leaves.pop(leaf_index, None)
        if leaf is not None:
            self.size_bytes -= leaf_bytes(leaf)

    def shrink(self, bytes_max: int) -> None:
        """Let the oldest go when there is more than this, some with each call."""
        if self.size_bytes <= bytes_max:
            return
        bytes_max -= bytes_max // SLACK_DIVISOR
        popitem, left = self._leaves.popitem, EVICTED_PER_CALL_MAX
        while self.size_bytes > bytes_max and left > 0:
            self.size_bytes -= leaf_bytes(popitem(last=False)[1])
            left -= 1


def head_bytes(key: str) -> int:
    """About the memory that a head and its key take: the same for equal keys, which `getsizeof` is not."""
    return HEAD_BYTES + (len(key) if key.isascii() else BYTES_PER_CHARACTER_MAX * len(key))


def leaf_bytes(leaf: NewLeaf) -> int:
    """About the memory that a leaf takes."""
    value = leaf.value
    return LEAF_BYTES + len(leaf.leaf) + (0 if value is None else len(value))


class AnswerStamps:
    """Stamps of all stored answers in order, 8 bytes each, so that counting the expired ones asks no file.

    Stamps of a log never go back, so a new one nearly always goes to the end.
    """

    def __init__(self, stamps_us: array[int]) -> None:
        self._stamps_us = stamps_us

    def add(self, stamp_us: int) -> None:
        """An answer was stored."""
        if not self._stamps_us or stamp_us >= self._stamps_us[-1]:
            self._stamps_us.append(stamp_us)
        else:
            insort(self._stamps_us, stamp_us)

    def forget_before(self, stamp_us: int) -> None:
        """The answers with an earlier stamp were dropped."""
        del self._stamps_us[: bisect_left(self._stamps_us, stamp_us)]

    def count_before(self, stamp_us: int) -> int:
        """How many stored answers have an earlier stamp."""
        return bisect_left(self._stamps_us, stamp_us)
