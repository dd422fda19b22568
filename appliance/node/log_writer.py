"""The one thread that writes `raft.db`: whatever waits when the last write is done becomes the next (group commit)."""

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
    ) -> None:
        self._store = store
        self._log = log
        self._on_saved = on_saved
        self._on_failed = on_failed
        self._on_full = on_full
        self._fsync_seconds = fsync_seconds
        self._batch_entries = batch_entries
        self._queue: deque[Saving | Job] = deque()
        self._wake = threading.Condition()
        self._stopping = False
        self._idle = True
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._work, name="log-writer", daemon=True)
        self._thread.start()

    def submit(self, item: Saving | Job) -> None:
        """Queue an item. A saving with nothing to write is answered at once when nothing is under way."""
        with self._wake:
            if isinstance(item, Saving) and item.is_empty() and self._idle and not self._queue:
                self._loop.call_soon(self._on_saved, [item])
                return
            self._queue.append(item)
            self._wake.notify()

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
                while not self._queue:
                    if self._stopping:
                        return
                    self._wake.wait()
                self._idle = False
                taken = list(self._queue)
                self._queue.clear()
            try:
                self._carry_out(taken)
            except Exception as error:  # the driver decides; this thread must not die in silence
                self._call(self._on_failed, error)
                return

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
        entries, hard_state = merge(group)
        if entries or hard_state is not None:
            started = time.perf_counter()
            self.until_room(lambda: self._store.append(entries, hard_state))
            seconds = time.perf_counter() - started
            self._fsync_seconds.observe(seconds)
            if seconds > SLOW_S:
                self._log.warning("storage.fsync_slow", seconds=round(seconds, 3), entries=len(entries))
            self._batch_entries.observe(len(entries))
        self._call(self._on_saved, group)

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


def merge(group: list[Saving]) -> tuple[list[Entry], HardState | None]:
    """One write with the effect of several: a later one replaces everything from its first entry's index on."""
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
