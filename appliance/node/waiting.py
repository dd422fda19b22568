"""Who waits for what: proposals bound to (index, term), reads for a read index and for an applied index.

Who waits gives a function that is called once, on the event loop, and raises nothing: an answer then goes out in the
turn in which it is known. `settle` makes such a function of a future.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

from msgspec import Struct

from appliance.ledger.commands import WriteResult
from appliance.node.ports import Histogram
from appliance.raft.messages import Role
from appliance.raft.state import RaftState
from appliance.tables.errors import ApplianceError

PRUNE_AT_MIN: Final = 1024
QUESTIONS_MAX: Final = 1024  # read indexes asked for and not answered

T = TypeVar("T")
WriteWaiter = Callable[[WriteResult | ApplianceError], None]
ReadWaiter = Callable[[int | None], None]  # None: the index cannot be had from this leader; another try may help


def settle(future: asyncio.Future[T]) -> Callable[[T | ApplianceError], None]:
    """A function that answers a future; nothing when whoever awaited it has left."""
    return partial(_settle, future)


def _settle(future: asyncio.Future[T], outcome: T | ApplianceError) -> None:
    if future.done():
        return
    if isinstance(outcome, ApplianceError):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


class _Write(Struct):
    """One proposal that waits; `waiter` is None when it has been answered."""

    index: int
    term: int
    started_s: float
    waiter: WriteWaiter | None


class WaitingWrites:
    """Proposals that wait for their commit. A waiting write is bound to (index, term): committed there it is
    answered; another entry committed there means that it never will be; time over means that nobody knows yet.
    """

    def __init__(self, timeout_s: float, commit_seconds: Histogram) -> None:
        self._timeout_s = timeout_s
        self._commit_seconds = commit_seconds
        self._by_index: dict[int, list[_Write]] = {}  # a place in the log may be proposed in more than one term
        self._by_time: deque[_Write] = deque()  # those that are answered leave when they come to the front
        self._emptied: asyncio.Future[None] | None = None  # while somebody awaits that nobody waits

    def __len__(self) -> int:
        return sum(map(len, self._by_index.values()))

    def is_empty(self) -> bool:
        """Whether nobody waits."""
        return not self._by_index

    async def emptied(self) -> None:
        """Wait until nobody waits."""
        while self._by_index:
            if self._emptied is None:
                self._emptied = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._emptied)

    def _tell_if_empty(self) -> None:
        if self._emptied is not None and not self._by_index:
            self._emptied.set_result(None)
            self._emptied = None

    def add(self, index: int, term: int, now_s: float, waiter: WriteWaiter) -> None:
        """Wait for the entry at (index, term)."""
        write = _Write(index, term, now_s, waiter)
        self._by_time.append(write)
        same = self._by_index.get(index)
        if same is None:
            self._by_index[index] = [write]
        else:
            same.append(write)

    def resolve(self, index: int, term: int, result: WriteResult | None, now_s: float) -> None:
        """The entry at `index` was applied; it is of `term` and `result` is its answer (None for no write)."""
        for write in self._by_index.pop(index, ()):
            if write.term == term and result is not None:
                self._commit_seconds.observe(now_s - write.started_s)
                _answer(write, result)
            else:
                detail = "Another leader's entry took its place in the log; it did not take effect. Send it again."
                _answer(write, ApplianceError("not_committed", detail))
        self._tell_if_empty()

    def skip_to(self, index: int) -> None:
        """A snapshot took the place of the entries up to `index`: what became of writes among them is not known."""
        for covered in [at for at in self._by_index if at <= index]:
            for write in self._by_index.pop(covered):
                _answer(write, _unknown("a snapshot replaced the log before the answer was known"))
        self._tell_if_empty()

    def expire(self, now_s: float) -> None:
        """Answer those whose time is over; they stay in the log and may still be committed."""
        order = self._by_time
        while order and (order[0].waiter is None or order[0].started_s + self._timeout_s <= now_s):
            write = order.popleft()
            if write.waiter is not None:
                same = self._by_index[write.index]
                same.remove(write)
                if not same:
                    del self._by_index[write.index]
                _answer(write, _unknown(f"it was not committed within {self._timeout_s:g} s, and may still be"))
        self._tell_if_empty()

    def fail_all(self, reason: str) -> None:
        """This node stops: nobody can say here what becomes of the waiting writes."""
        self._by_index.clear()
        while self._by_time:
            write = self._by_time.popleft()
            if write.waiter is not None:
                _answer(write, _unknown(reason))
        self._tell_if_empty()


def _answer(write: _Write, outcome: WriteResult | ApplianceError) -> None:
    waiter, write.waiter = write.waiter, None
    assert waiter is not None
    waiter(outcome)


def _unknown(reason: str) -> ApplianceError:
    return ApplianceError(
        "outcome_unknown",
        f"The write was handed to the cluster, but {reason}. "
        "Read the key to see, or send it again with the same Idempotency-Key.",
    )


class Adrift:
    """Writes whose time was over before they were committed. Nobody waits for them, but they are still in the log, and
    take room there: where a majority cannot store anything, each time-out would make room for as many again. They are
    past when everything that stood in the log then is committed, when another term has begun, or when this node leads
    no more: whoever leads may have them dropped from the log, so that its end is not reached again for long.

    Attributes:
        count: of writes.
        size_bytes: of their data.
    """

    def __init__(self) -> None:
        self.count = 0
        self.size_bytes = 0
        self._last_index = 0
        self._term = 0

    def add(self, size_bytes: int, state: RaftState) -> None:
        """The time of one more is over."""
        self.look(state)
        self.count += 1
        self.size_bytes += size_bytes
        self._last_index, self._term = state.log.last_index, state.term

    def look(self, state: RaftState) -> None:
        """See whether they are past."""
        if state.role is not Role.LEADER or state.term != self._term or state.commit_index >= self._last_index:
            self.count = self.size_bytes = 0


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


class _Question(Struct):
    """A read index that was asked for, and who waits for it."""

    asked_s: float
    waiters: list[ReadWaiter]


class ReadBatches:
    """Reads that ask for a read index together: those that arrive in one turn of the loop share one question.

    Args:
        timeout_s: a question that is not answered by then was lost on the way.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._questions: dict[int, _Question] = {}  # by context, in the order of time
        self._open: list[ReadWaiter] | None = None
        self._next_context = 0

    def join(self, waiter: ReadWaiter, now_s: float) -> tuple[int, bool]:
        """Join the open question: its context, and whether the caller opened it (and must ask)."""
        if self._open is not None:
            self._open.append(waiter)
            return self._next_context, False
        self._next_context += 1
        while len(self._questions) >= QUESTIONS_MAX:
            self.failed(next(iter(self._questions)))
        self._open = [waiter]
        self._questions[self._next_context] = _Question(now_s, self._open)
        return self._next_context, True

    def close_open(self) -> None:
        """The open question is being asked: later reads need another."""
        self._open = None

    def ready(self, context: int, index: int) -> None:
        """The reads may be served from `index` on."""
        question = self._questions.pop(context, None)
        if question is not None:
            for waiter in question.waiters:
                waiter(index)

    def failed(self, context: int) -> None:
        """The question cannot be answered; whoever waits may ask again."""
        question = self._questions.pop(context, None)
        if question is not None:
            for waiter in question.waiters:
                waiter(None)

    def expire(self, now_s: float) -> list[int]:
        """Fail the questions that were lost on the way; answers their contexts."""
        lost = []
        for context, question in self._questions.items():
            if question.asked_s + self._timeout_s > now_s:
                break
            lost.append(context)
        for context in lost:
            self.failed(context)
        return lost
