"""The core's view of the replicated log: a window of recent entries in memory over what the driver stored.

Terms of all entries are known without reading them: runs of one term are kept as (first index, term).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import islice
from typing import Final, Protocol

from appliance.raft.messages import Entry

WINDOW_BYTES_MAX: Final = 64 * 1024 * 1024  # entries held in memory for followers that lag a little
ENTRY_OVERHEAD_BYTES: Final = 100  # what an entry takes in memory beside its data
TRIM_ENTRIES: Final = 2048  # let go of at a time: to free a hundred thousand takes tens of milliseconds


class InvariantViolation(Exception):
    """A promise of the protocol is broken, by a bug or by damaged storage; the node must stop."""


class LogReader(Protocol):
    """Reads entries that are durable already."""

    def read(self, first: int, last: int, bytes_max: int) -> list[Entry]:
        """Entries first..last inclusive, at least one, stopping before `bytes_max` is exceeded."""
        ...


class RaftLog:
    """The log from `snapshot_index` (exclusive) to `last_index` (inclusive).

    Args:
        reader: reads durable entries that are not in memory.
        snapshot_index: index that stands before the first entry; its term is `snapshot_term`.
        snapshot_term: see above.
        last_index: index of the last durable entry.
        term_starts: (first index, term) of each run of entries of one term.
    """

    def __init__(
        self,
        reader: LogReader,
        *,
        snapshot_index: int = 0,
        snapshot_term: int = 0,
        last_index: int = 0,
        term_starts: Sequence[tuple[int, int]] = (),
        window_bytes_max: int = WINDOW_BYTES_MAX,
    ) -> None:
        self._reader = reader
        self.snapshot_index = snapshot_index
        self.snapshot_term = snapshot_term
        self.last_index = last_index
        self.stable_index = last_index
        self._starts = [index for index, _ in term_starts]
        self._terms = [term for _, term in term_starts]
        self._window: list[Entry] = []
        self._window_first = last_index + 1
        self._window_bytes = 0
        self._window_bytes_max = window_bytes_max
        self._trimming = False  # on the way from the bound to half of it

    @property
    def first_index(self) -> int:
        """Index of the first entry that is not compacted away."""
        return self.snapshot_index + 1

    @property
    def last_term(self) -> int:
        """Term of the last entry, or of the snapshot."""
        return self._terms[-1] if self._terms else self.snapshot_term

    def term_at(self, index: int) -> int | None:
        """Term of the entry at `index`; None when it is compacted away or beyond the end."""
        if index == self.snapshot_index:
            return self.snapshot_term
        if not self.snapshot_index < index <= self.last_index:
            return None
        return self._terms[bisect_right(self._starts, index) - 1]

    def append(self, entries: Sequence[Entry]) -> None:
        """Add entries behind the last one."""
        for entry in entries:
            if entry.index != self.last_index + 1:
                raise InvariantViolation(f"entry {entry.index} does not follow {self.last_index}")
            if entry.term != self.last_term or not self._terms:
                self._starts.append(entry.index)
                self._terms.append(entry.term)
            self._window.append(entry)
            self._window_bytes += len(entry.data) + ENTRY_OVERHEAD_BYTES
            self.last_index = entry.index

    def truncate_from(self, index: int) -> None:
        """Drop the entries from `index` on."""
        if index <= self.snapshot_index:
            raise InvariantViolation(f"cannot drop entry {index}: everything to {self.snapshot_index} is compacted")
        keep = max(index - self._window_first, 0)
        self._window_bytes -= sum(len(e.data) + ENTRY_OVERHEAD_BYTES for e in self._window[keep:])
        del self._window[keep:]
        self._window_first = min(self._window_first, index)
        while self._starts and self._starts[-1] >= index:
            self._starts.pop()
            self._terms.pop()
        self.last_index = index - 1
        self.stable_index = min(self.stable_index, self.last_index)

    def slice(self, first: int, last: int, bytes_max: int, entries_max: int) -> list[Entry]:
        """Entries first..last inclusive, at least one, bounded by data bytes and number."""
        last = min(last, first + entries_max - 1, self.last_index)
        if first > last:
            return []
        if first < self._window_first:
            return self._reader.read(first, min(last, self._window_first - 1), bytes_max)
        start = first - self._window_first
        taken: list[Entry] = []
        total = 0
        for entry in self._window[start : last - self._window_first + 1]:
            total += len(entry.data)
            if taken and total > bytes_max:
                break
            taken.append(entry)
        return taken

    def trim(self, applied_index: int) -> None:
        """Let go of the oldest entries in memory: of those that are compacted away, and, once the bound is passed, of
        those that are durable and applied, down to half of the bound. At most `TRIM_ENTRIES` at a time.
        """
        if self._window_bytes > self._window_bytes_max:
            self._trimming = True
        elif not self._trimming and self._window_first > self.snapshot_index:
            return
        limit = min(applied_index, self.stable_index) if self._trimming else 0
        count = 0
        size = self._window_bytes
        for entry in islice(self._window, TRIM_ENTRIES):
            wanted = entry.index > limit or size <= self._window_bytes_max // 2
            if wanted and entry.index > self.snapshot_index:
                break
            size -= len(entry.data) + ENTRY_OVERHEAD_BYTES
            count += 1
        self._drop_oldest(count)
        self._trimming = self._trimming and size > self._window_bytes_max // 2

    def compact(self, index: int) -> None:
        """Let `index` stand before the first entry; entries up to it may be gone from storage from now on. Those in
        memory go with the next calls of `trim`.
        """
        if index <= self.snapshot_index:
            return
        term = self.term_at(index)
        if term is None or index > self.stable_index:
            raise InvariantViolation(f"cannot compact to {index}: durable up to {self.stable_index}")
        self.snapshot_index, self.snapshot_term = index, term
        run = bisect_right(self._starts, index + 1) - 1
        if run > 0:
            del self._starts[:run]
            del self._terms[:run]
        if index == self.last_index:
            self._starts, self._terms = [], []
        elif self._starts[0] <= index:
            self._starts[0] = index + 1

    def reset(self, index: int, term: int) -> None:
        """Forget all entries; a snapshot up to (index, term) takes their place."""
        self.snapshot_index, self.snapshot_term = index, term
        self.last_index = self.stable_index = index
        self._starts, self._terms = [], []
        self._window, self._window_first, self._window_bytes = [], index + 1, 0

    def _drop_oldest(self, count: int) -> None:
        if count:
            self._window_bytes -= sum(len(e.data) + ENTRY_OVERHEAD_BYTES for e in self._window[:count])
            del self._window[:count]
            self._window_first += count

    def up_to_date(self, last_index: int, last_term: int) -> bool:
        """Whether a log that ends with (last_index, last_term) is at least as complete as this one (section 3.6.1)."""
        return (last_term, last_index) >= (self.last_term, self.last_index)

    def last_index_of_term_up_to(self, index: int, term: int) -> tuple[int, int]:
        """The last place at or before `index` whose term is at most `term`: where two logs may agree at best."""
        index = min(index, self.last_index)
        while index > self.snapshot_index:
            run = bisect_right(self._starts, index) - 1
            if self._terms[run] <= term:
                return index, self._terms[run]
            index = self._starts[run] - 1
        return self.snapshot_index, self.snapshot_term
