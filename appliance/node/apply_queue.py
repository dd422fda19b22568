"""Committed entries on their way into the ledger in memory, and the answers that come of them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from appliance.raft.messages import Entry

if TYPE_CHECKING:
    from appliance.node.driver import Driver

SLICE_ENTRIES: Final = 256  # entries applied before the event loop gets a turn


class ApplyQueue:
    """Applies what is committed, a slice at a time, so that heartbeats are not held up by a long replay."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._queue: deque[Entry] = deque()
        self._more_wanted = False

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
        entries = [queue.popleft() for _ in range(min(len(queue), SLICE_ENTRIES))]
        started_us = 0 if driver.traces.is_empty() else driver.clock.now_us()
        results = driver.applier.apply_run(entries)
        core.applied(driver.applier.applied_index)
        now_s = driver.clock.monotonic_s()
        resolve = driver.writes.resolve
        for entry, result in zip(entries, results, strict=True):
            resolve(entry.index, entry.term, result, now_s)
        if started_us:
            for entry in entries:
                driver.traces.applied(entry, started_us)
        driver.applied_waiters.reach(driver.applier.applied_index)
        driver.keeper.hurry()
        if queue:
            self._more_wanted = True
            asyncio.get_running_loop().call_soon(self.run_more)
        if core.state.commit_index > core.state.handed_index:
            driver.pump_soon()  # the core holds back while too much is not applied

    def run_more(self) -> None:
        """Apply the next slice."""
        self._more_wanted = False
        try:
            self.run()
        except Exception as error:
            self._driver.fail(error)
