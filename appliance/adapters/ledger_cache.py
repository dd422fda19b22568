"""The memory in front of `ledger.db`: changes that are not yet in the file, and a bounded cache of what is.

Everything here belongs to the event loop's thread alone; nothing is locked.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, insort
from collections import OrderedDict, deque
from heapq import nsmallest
from typing import Final

from appliance.adapters.ledger_rows import Batch
from appliance.ledger.state import Changes, Head, NewLeaf, StoredAnswer

_HEAD_BYTES: Final = 360  # a head, its integers, its key's object and its place in the dictionary
_LEAF_BYTES: Final = 520


class LedgerCache:
    """Heads (by key) and leaves with their values (by leaf index), least recently used out first.

    Args:
        bytes_max: bound on the estimated memory.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._items: OrderedDict[str | int, Head | NewLeaf] = OrderedDict()
        self.size_bytes = 0

    def head(self, key: str) -> Head | None:
        """A cached head."""
        head = self._items.get(key)
        if head is not None:
            self._items.move_to_end(key)
        return head  # type: ignore[return-value]  # text keys lead to heads

    def leaf(self, leaf_index: int) -> NewLeaf | None:
        """A cached leaf."""
        leaf = self._items.get(leaf_index)
        if leaf is not None:
            self._items.move_to_end(leaf_index)
        return leaf  # type: ignore[return-value]  # integer keys lead to leaves

    def put(self, key: str | int, item: Head | NewLeaf) -> None:
        """Keep an item; what was kept under its key before is gone, even when the item itself is too large."""
        items = self._items
        old = items.pop(key, None)
        if old is not None:
            self.size_bytes -= _size_bytes(key, old)
        items[key] = item
        self.size_bytes += _size_bytes(key, item)
        while self.size_bytes > self._bytes_max:
            out_key, out = items.popitem(last=False)
            self.size_bytes -= _size_bytes(out_key, out)


def _size_bytes(key: str | int, item: Head | NewLeaf) -> int:
    if isinstance(item, NewLeaf):
        return _LEAF_BYTES + len(item.leaf) + (0 if item.value is None else len(item.value))
    return _HEAD_BYTES + len(key)  # type: ignore[arg-type]  # heads stand under text keys


class Overlay:
    """Changes in front of the file. A batch leaves only after its transaction was committed, so that a read which
    misses it here finds it in the file.
    """

    def __init__(self) -> None:
        self.heads: dict[str, Head] = {}
        self.leaves: dict[int, NewLeaf] = {}
        self.answers: dict[tuple[str, str], StoredAnswer] = {}
        self._batches: deque[Batch] = deque()

    def take(self, changes: Changes) -> None:
        """Lay an entry's changes over everything before them."""
        for leaf in changes.leaves:
            self.leaves[leaf.leaf_index] = leaf
        for key, head in changes.heads:
            self.heads[key] = head
        answer = changes.answer
        if answer is not None:
            self.answers[answer.actor, answer.idempotency_key] = answer

    def add(self, batch: Batch) -> None:
        """Note which of the changes taken before will be in the file together."""
        self._batches.append(batch)

    def retire(self, file_index: int, cache: LedgerCache, rows_max: int) -> None:
        """Move batches that the file holds (up to applied index `file_index`) to the cache, about `rows_max` rows."""
        batches = self._batches
        while batches and rows_max > 0 and batches[0].summary.applied_index <= file_index:
            batch = batches.popleft()
            rows_max -= batch.row_count + 1
            for change in batch.changes:
                self._retire_change_leaves(change.leaves, cache)
                for key, head in change.heads:
                    if self.heads.get(key) is head:
                        del self.heads[key]
                        cache.put(key, head)
                answer = change.answer
                if answer is not None and self.answers.get((answer.actor, answer.idempotency_key)) is answer:
                    del self.answers[answer.actor, answer.idempotency_key]

    def _retire_change_leaves(self, leaves: tuple[NewLeaf, ...], cache: LedgerCache) -> None:
        for leaf in leaves:
            del self.leaves[leaf.leaf_index]
            cache.put(leaf.leaf_index, leaf)

    def scan(self, prefix: str, after: str, limit: int) -> list[tuple[str, Head]]:
        """The first present keys with this prefix behind `after`, in order, at most `limit`."""
        found = (
            (key, head)
            for key, head in self.heads.items()
            if key > after and not head.deleted and key.startswith(prefix)
        )
        return nsmallest(limit, found, key=lambda item: item[0])


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
