"""Committed entries on their way into the ledger in memory, and the answers that come of them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from appliance.node.ports import StorageError
from appliance.raft.messages import Entry

if TYPE_CHECKING:
    from appliance.node.driver import Driver

SLICE_ENTRIES: Final = 512  # applied before the event loop gets a turn: 5 ms where an entry took 10 us ...
SLICE_BYTES: Final = 128 * 1024  # ... and fewer where they are batches or hold large values, but one at least
PENDING_BYTES_MAX: Final = 64 * 1024 * 1024  # applied and not yet in the ledger file; beyond it entries wait


class ApplyQueue:
    """Applies what is committed, a slice at a time, so that heartbeats are not held up by a long replay, and no faster
    than the ledger file follows.
    """

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._queue: deque[Entry] = deque()
        self._more_wanted = False
        self._waiting: asyncio.Task[None] | None = None  # for the ledger file

    def extend(self, entries: Iterable[Entry]) -> None:
        """Queue committed entries behind those that wait."""
        self._queue.extend(entries)

    def clear(self) -> None:
        """A snapshot takes the place of what waits."""
        self._queue.clear()

    def run(self) -> None:
        """Apply a slice of what waits, and answer who waited for it; the rest is applied in turns of its own."""
        driver, queue = self._driver, self._queue
        core = driver.core
        if core is None or driver.installing or self._more_wanted or driver.failure:
            return
        if driver.ledger_store.pending_bytes() > PENDING_BYTES_MAX:
            self._more_wanted = True
            self._waiting = asyncio.create_task(self._wait_for_file())
            return
        entries = self._next_slice()
        started_us = 0 if driver.traces.is_empty() else driver.clock.now_us()
        if entries:
            driver.ledger_store.expect(core.state.commit_index - entries[-1].index)
        results = driver.applier.apply_run(entries)
        core.applied(driver.applier.applied_index)
        if not driver.writes.is_empty():
            now_s = driver.clock.monotonic_s()
            resolve = driver.writes.resolve
            for entry, result in zip(entries, results, strict=True):
                resolve(entry.index, entry.term, result, now_s)
        if started_us:
            for entry in entries:
                driver.traces.applied(entry, started_us)
        driver.applied_waiters.reach(driver.applier.applied_index)
        driver.published_waiters.reach(driver.applier.machine.published.tree_size)
        driver.keeper.hurry()
        if queue:
            self._more_wanted = True
            asyncio.get_running_loop().call_soon(self.run_more)
        if core.state.commit_index > core.state.handed_index:
            driver.pump_soon()  # the core holds back while too much is not applied

    def _next_slice(self) -> list[Entry]:
        queue, entries, bytes_left = self._queue, [], SLICE_BYTES
        for _ in range(min(len(queue), SLICE_ENTRIES)):
            entry = queue.popleft()
            entries.append(entry)
            bytes_left -= len(entry.data)
            if bytes_left <= 0:
                break
        return entries

    def run_more(self) -> None:
        """Apply the next slice."""
        self._more_wanted = False
        try:
            self.run()
        except Exception as error:
            self._driver.fail(error)

    async def _wait_for_file(self) -> None:
        """Go on once little enough waits to be written. When nothing can be written yet, the next look is an interval
        later, so that waiting for the log or for room on the disk costs nothing.
        """
        driver = self._driver
        store = driver.ledger_store
        try:
            while (pending_bytes := store.pending_bytes()) > PENDING_BYTES_MAX:
                await driver.keeper.flushed()
                if store.pending_bytes() >= pending_bytes:
                    await asyncio.sleep(driver.settings.flush_interval_s)
        except StorageError:
            return  # the ledger file is closed, or failed, which its keeper reports
        self.run_more()
