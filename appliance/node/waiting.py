"""Who waits for what: proposals bound to (index, term), reads for an applied index, anyone for a leader."""

from __future__ import annotations

import asyncio
import heapq
from typing import Final

from msgspec import Struct

from appliance.ledger.commands import WriteResult
from appliance.node.ports import Histogram
from appliance.tables.errors import ApplianceError

PRUNE_AT_MIN: Final = 1024
QUESTIONS_MAX: Final = 1024  # read indexes asked for and not answered


class _Write(Struct):
    """One proposal that waits."""

    index: int
    term: int
    started_s: float
    future: asyncio.Future[WriteResult]


class WaitingWrites:
    """Proposals that wait for their commit. A waiting write is bound to (index, term): committed there it is
    answered; another entry committed there means that it never will be; time over means that nobody knows yet.
    """

    def __init__(self, timeout_s: float, commit_seconds: Histogram) -> None:
        self._timeout_s = timeout_s
        self._commit_seconds = commit_seconds
        self._waiting: dict[tuple[int, int], _Write] = {}  # in the order of time
        self._terms: dict[int, list[int]] = {}  # a place in the log may be proposed in more than one term

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, index: int, term: int, now_s: float) -> asyncio.Future[WriteResult]:
        """Wait for the entry at (index, term)."""
        write = _Write(index, term, now_s, asyncio.get_running_loop().create_future())
        self._waiting[index, term] = write
        self._terms.setdefault(index, []).append(term)
        return write.future

    def resolve(self, index: int, term: int, result: WriteResult | None, now_s: float) -> None:
        """The entry at `index` was applied; it is of `term` and `result` is its answer (None for no write)."""
        for proposed_term in self._terms.pop(index, ()):
            write = self._waiting.pop((index, proposed_term))
            if write.future.done():
                continue
            if proposed_term == term and result is not None:
                self._commit_seconds.observe(now_s - write.started_s)
                write.future.set_result(result)
            else:
                detail = "Another leader's entry took its place in the log; it did not take effect. Send it again."
                write.future.set_exception(ApplianceError("not_committed", detail))

    def skip_to(self, index: int) -> None:
        """A snapshot took the place of the entries up to `index`: what became of writes among them is not known."""
        for write in [w for w in self._waiting.values() if w.index <= index]:
            self._give_up(write, "a snapshot replaced the log before the answer was known")

    def expire(self, now_s: float) -> None:
        """Answer those whose time is over; they stay in the log and may still be committed."""
        while self._waiting:
            write = next(iter(self._waiting.values()))
            if write.started_s + self._timeout_s > now_s:
                break
            self._give_up(write, f"it was not committed within {self._timeout_s:g} s, and may still be")

    def fail_all(self, reason: str) -> None:
        """This node stops: nobody can say here what becomes of the waiting writes."""
        for write in list(self._waiting.values()):
            self._give_up(write, reason)

    def _give_up(self, write: _Write, reason: str) -> None:
        del self._waiting[write.index, write.term]
        terms = self._terms[write.index]
        terms.remove(write.term)
        if not terms:
            del self._terms[write.index]
        if not write.future.done():
            detail = (
                f"The write was handed to the cluster, but {reason}. "
                "Read the key to see, or send it again with the same Idempotency-Key."
            )
            write.future.set_exception(ApplianceError("outcome_unknown", detail))


class WaitingIndexes:
    """Coroutines that wait until an index is applied."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, asyncio.Future[None]]] = []
        self._count = 0
        self._prune_at = PRUNE_AT_MIN

    def add(self, index: int) -> asyncio.Future[None]:
        """Wait for `index`."""
        if len(self._heap) >= self._prune_at:  # those whose time was over would stay until their index is reached
            self._heap = [waiting for waiting in self._heap if not waiting[2].done()]
            heapq.heapify(self._heap)
            self._prune_at = 2 * len(self._heap) + PRUNE_AT_MIN
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._count += 1
        heapq.heappush(self._heap, (index, self._count, future))
        return future

    def reach(self, index: int) -> None:
        """`index` is applied."""
        while self._heap and self._heap[0][0] <= index:
            future = heapq.heappop(self._heap)[2]
            if not future.done():
                future.set_result(None)


class ReadBatches:
    """Reads that ask for a read index together: those that arrive in one turn of the loop share one question."""

    def __init__(self) -> None:
        self._contexts: dict[int, asyncio.Future[int]] = {}
        self._open: asyncio.Future[int] | None = None
        self._next_context = 0

    def join(self) -> tuple[int, asyncio.Future[int], bool]:
        """Join the open batch: its context, its future, and whether the caller opened it (and must ask)."""
        if self._open is not None:
            return self._next_context, self._open, False
        self._next_context += 1
        while len(self._contexts) >= QUESTIONS_MAX:  # their answers were lost, and whoever opened them has left
            self.failed(next(iter(self._contexts)))
        self._open = asyncio.get_running_loop().create_future()
        self._contexts[self._next_context] = self._open
        return self._next_context, self._open, True

    def close_open(self) -> None:
        """The open batch is being asked for: later reads need another."""
        self._open = None

    def ready(self, context: int, index: int) -> None:
        """The batch may be served from `index` on."""
        future = self._contexts.pop(context, None)
        if future is not None and not future.done():
            future.set_result(index)

    def failed(self, context: int) -> None:
        """The batch cannot be confirmed; whoever waits may ask again."""
        future = self._contexts.pop(context, None)
        if future is not None and not future.done():
            future.set_exception(ReadRefused())
            future.exception()  # read here, so that a batch whose readers all left is no stray exception

    def forget(self, context: int) -> None:
        """Nobody waits any more."""
        self._contexts.pop(context, None)


class ReadRefused(Exception):
    """A read index could not be had from this leader; another try may help."""
