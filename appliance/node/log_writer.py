"""The writes of `raft.db`: on a thread, where whatever waits when the last one is done becomes the next (group commit),
or, where an answer waits for a quick disk, at once.

A thread costs two hand-overs of the interpreter and of the processor, 40 us each where this was measured, while its
sync takes 150. A leader does other work in that time; a follower, whose answer waits, has none. So what promises
something is written on the event loop itself as long as the disk is quick and does nothing large, and nothing else: no
checkpoint, and when such writes get slow the thread has all of them for a while.

What a compaction leaves in the file is removed by the thread, a slice at a time and with pauses, between the writes.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from appliance.node.ports import DiskFull, Histogram, Log, LogStore
from appliance.raft.messages import AnyMessage, Entry, HardState

FULL_RETRY_S: Final = 0.5
QUICK_S: Final = 0.005  # when writes on the event loop take longer in the mean, the thread has the following ones ...
SLOW_FOR_S: Final = 10.0  # ... for so long
MEAN_OF: Final = 8  # about so many writes make up that mean: one that comes late says nothing about the disk
SWEEP_ROWS_MAX: Final = 1000  # of what a compaction left, in one transaction: a millisecond ...
SWEEP_BYTES_MAX: Final = 8 * 2**20  # ... also where entries are large
SWEEP_PAUSE_S: Final = 0.02  # before the next such transaction
SLOW_S: Final = 0.25  # a disk this slow is the first suspect when elections come (pains of etcd's users)


@dataclass(slots=True)
class Saving:
    """What one `Ready` wants durable, and the messages that promise it."""

    persist_id: int
    entries: tuple[Entry, ...]
    hard_state: HardState | None
    messages: tuple[AnyMessage, ...]

    def is_empty(self) -> bool:
        """Whether there is nothing to write, only an order to keep."""
        return not self.entries and self.hard_state is None


@dataclass(slots=True)
class Job:
    """Something else that has to happen in order with the writes (an install, a compaction)."""

    run: Callable[[], None]
    done: Callable[[], None]


class LogWriter:
    """Carries out savings and jobs in the order in which they were submitted.

    Args:
        store: the log store; this thread is the only one that changes it.
        on_saved: called on the event loop with the savings that are durable now, in order.
        on_failed: called on the event loop once, with the error; nothing is carried out after it.
        on_full: called on the event loop when there is no room on the disk; what waits is tried again until there is.
        log: told of slow writes; its methods may be called from any thread.
        fsync_seconds: histogram of the time that one durable write takes.
        batch_entries: histogram of entries in one durable write.
        quick_s: a disk is quick as long as a write takes no longer in the mean; 0 leaves all writes to the thread.
        disk_busy: whether something large is being synced beside the log, so that a write may take long.
    """

    def __init__(
        self,
        store: LogStore,
        on_saved: Callable[[list[Saving]], None],
        on_failed: Callable[[Exception], None],
        *,
        on_full: Callable[[DiskFull], None],
        log: Log,
        fsync_seconds: Histogram,
        batch_entries: Histogram,
        quick_s: float = QUICK_S,
        disk_busy: Callable[[], bool] = bool,
    ) -> None:
        self._store = store
        self._log = log
        self._on_saved = on_saved
        self._on_failed = on_failed
        self._on_full = on_full
        self._fsync_seconds = fsync_seconds
        self._batch_entries = batch_entries
        self._quick_s = quick_s
        self._disk_busy = disk_busy
        self._slow_until_s = 0.0 if quick_s else float("inf")
        self._mean_s = 0.0  # of the last writes on the event loop
        self._queue: deque[Saving | Job] = deque()
        self._wake = threading.Condition()
        self._stopping = False
        self._failed = False  # a write failed on the event loop: nothing is carried out any more
        self._idle = True
        self._at_once = False  # the event loop writes, over the thread's connection
        self._held_up = False  # the thread waits for that
        self._sweep_s = 0.0  # monotonic time from which on a slice may be removed
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._work, name="log-writer", daemon=True)
        self._thread.start()

    def submit(self, item: Saving | Job) -> None:
        """Carry out an item, or queue it. A saving that is written at once is answered before this returns."""
        with self._wake:
            if self._failed:
                return
            at_once = self._idle and not self._queue and isinstance(item, Saving) and self._may_write_at_once(item)
            if not at_once:
                self._queue.append(item)
                self._wake.notify()
                return
            self._at_once = True
        assert isinstance(item, Saving)
        self._write_at_once(item)

    def _may_write_at_once(self, item: Saving) -> bool:
        if item.is_empty():
            return True
        return bool(item.messages) and time.monotonic() >= self._slow_until_s and not self._disk_busy()

    def _write_at_once(self, item: Saving) -> None:
        """Write on the event loop; the thread is idle, and is given nothing before this is over."""
        started_s = time.monotonic()
        try:
            try:
                self._append([item])
            finally:
                self._end_at_once()
        except DiskFull:
            with self._wake:
                self._queue.append(item)  # the thread tries until there is room
                self._wake.notify()
            return
        except Exception as error:
            self._failed = True
            self._on_failed(error)
            return
        self._judge_disk(started_s, time.monotonic())
        self._on_saved([item])
        if self._store.tidy_due():
            self.submit(Job(self._store.tidy, _nothing))

    def _end_at_once(self) -> None:
        with self._wake:
            self._at_once = False
            if self._held_up:
                self._wake.notify()

    def _judge_disk(self, started_s: float, ended_s: float) -> None:
        """Decide after a write on the event loop who has the next ones. The thread's own writes say nothing: they
        last longer by the time that they wait for the interpreter.
        """
        self._mean_s += (ended_s - started_s - self._mean_s) / MEAN_OF
        if self._mean_s > self._quick_s:
            self._mean_s = self._quick_s  # so that after the pause one write decides
            self._slow_until_s = ended_s + SLOW_FOR_S

    def stop(self) -> None:
        """Finish what was submitted, then end the thread."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._wake:
                self._idle = not self._queue
                while not self._queue and self._sweep_in_s() != 0.0:
                    if self._stopping:
                        return
                    self._wake.wait(self._sweep_in_s())
                self._held_up = True
                while self._at_once:
                    self._wake.wait()
                self._held_up = self._idle = False
                taken = list(self._queue)
                self._queue.clear()
            try:
                self._carry_out(taken)
                if self._sweep_in_s() == 0.0:
                    self._sweep()
            except Exception as error:  # the driver decides; this thread must not die in silence
                self._call(self._on_failed, error)
                return

    def _sweep_in_s(self) -> float | None:
        """Seconds until a slice of what a compaction left may be removed; None when there is nothing, or no time."""
        if self._stopping or not self._store.leftovers():
            return None
        return max(0.0, self._sweep_s - time.monotonic())

    def _sweep(self) -> None:
        pause_s = SWEEP_PAUSE_S
        try:
            self._store.sweep(SWEEP_ROWS_MAX, SWEEP_BYTES_MAX)
        except DiskFull:  # an append that meets it says so
            pause_s = FULL_RETRY_S
        self._store.tidy()
        self._sweep_s = time.monotonic() + pause_s

    def _carry_out(self, items: list[Saving | Job]) -> None:
        group: list[Saving] = []
        for item in items:
            if isinstance(item, Saving):
                group.append(item)
                continue
            self._save(group)
            group = []
            item.run()
            self._call(item.done)
        self._save(group)

    def _save(self, group: list[Saving]) -> None:
        if not group:
            return
        self.until_room(lambda: self._append(group))
        self._call(self._on_saved, group)
        self._store.tidy()

    def _append(self, group: list[Saving]) -> None:
        entries, hard_state = merge(group)
        if not entries and hard_state is None:
            return
        started = time.perf_counter()
        self._store.append(entries, hard_state)
        seconds = time.perf_counter() - started
        self._fsync_seconds.observe(seconds)
        self._batch_entries.observe(len(entries))
        if seconds > SLOW_S:
            self._log.warning("storage.fsync_slow", seconds=round(seconds, 3), entries=len(entries))

    def until_room(self, write: Callable[[], None]) -> None:
        """Carry out a write, again and again while the disk is full; for this thread and the jobs on it.

        Raises:
            DiskFull: it still is, and the node stops.
        """
        while True:
            try:
                write()
                return
            except DiskFull as error:
                self._call(self._on_full, error)
                with self._wake:
                    if self._stopping:
                        raise
                    self._wake.wait(FULL_RETRY_S)

    def _call(self, function: Callable[..., None], *args: object) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:
            self._stopping = True  # the loop is closed: the process is on its way out


def _nothing() -> None:
    """A job after which nobody waits."""


def merge(group: list[Saving]) -> tuple[list[Entry], HardState | None]:
    """One write with the effect of several: a later one replaces everything from its first entry's index on."""
    if len(group) == 1:
        return list(group[0].entries), group[0].hard_state
    entries: list[Entry] = []
    hard_state: HardState | None = None
    for saving in group:
        if saving.entries:
            first = saving.entries[0].index
            if entries and first <= entries[0].index:
                entries = list(saving.entries)
            else:
                while entries and entries[-1].index >= first:
                    entries.pop()
                entries.extend(saving.entries)
        hard_state = saving.hard_state or hard_state
    return entries, hard_state
