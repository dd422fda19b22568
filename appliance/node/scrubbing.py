"""Scrubbing: what is stored is read back now and then, at a bounded rate, so that what rots is found before it is
needed. A finding is an alarm that names it; the values of leaves that have rotted are not told any more. The rest goes
on: which of the node's other bytes are right is not in doubt, and the others have them all.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from appliance.node.api import ScrubFigures
from appliance.node.check_ports import Rot, Scrubbed, ScrubSlice
from appliance.node.findings import Finding
from appliance.node.ports import FileAway, Instruments, Log
from appliance.tables.errors import ApplianceError

if TYPE_CHECKING:
    from appliance.node.driver import Driver

START_DELAY_S: Final = 60.0  # behind the start of the node, which has enough to read
AWAY_S: Final = 2.0  # before a pass is begun anew, when a snapshot has taken the place of what it read
PAUSE_S_MIN: Final = 0.05  # slices are taken together until they are worth such a pause
DETAILS_MAX: Final = 20  # findings of one pass that are named; all are counted
_US: Final = 1_000_000


class Scrubbing:
    """Passes over all that a node stores, one after the other.

    Args:
        driver: the running node.
        parts: what is scrubbed, in this order.
        rate: bytes a second that passes may read; 0 for none that begin by themselves.
        interval_s: from the end of one pass to the beginning of the next.
        instruments: metrics.
        log: told of passes.

    Attributes:
        figures: how it stands.
    """

    def __init__(
        self,
        driver: Driver,
        parts: Sequence[Scrubbed],
        *,
        rate: int,
        interval_s: float,
        instruments: Instruments,
        log: Log,
    ) -> None:
        self._driver = driver
        self._parts = parts
        self._own_rate = rate
        self._interval_s = interval_s
        self._log = log
        self._pool = ThreadPoolExecutor(1, "scrubber")
        self._asked = asyncio.Event()
        self._asked_rate = 0  # of the pass that somebody has asked for; 0 when nobody has
        self._waiters: list[asyncio.Future[ScrubFigures]] = []
        self._rotten: list[Rot] = []  # of this pass, `DETAILS_MAX` at most
        self._rotten_leaves: set[int] = set()
        self._debt_s = 0.0
        self.figures = ScrubFigures(rate=rate)
        names = ("progress", "findings", "last_completed_seconds", "last_duration_seconds", "rate_bytes")
        self._gauges = {name: instruments.gauge(f"scribe_scrub_{name}") for name in names}
        self._bytes = instruments.counter("scribe_scrub_bytes_total")
        self._gauges["rate_bytes"].set(rate)
        self._gauges["progress"].set(1)

    # -- asked for

    async def scrub(self, rate: int, *, wait: bool) -> ScrubFigures:
        """Begin a pass now; see `NodeService.scrub`."""
        if self._asked_rate:
            raise ApplianceError("conflict", "This node is being scrubbed already; GET /metrics shows how far it is.")
        self._asked_rate = rate
        self._asked.set()
        self._show(ScrubFigures(running=True, number=self.figures.number + 1, rate=rate), keep_last=True)
        if not wait:
            return self.figures
        future: asyncio.Future[ScrubFigures] = asyncio.get_running_loop().create_future()
        self._waiters.append(future)
        return await future

    # -- the passes

    async def run(self) -> None:
        """Scrub until cancelled."""
        loop = asyncio.get_running_loop()
        try:
            wait_s = START_DELAY_S
            while True:
                await self._due(wait_s)
                wait_s = self._interval_s if await self._pass() else AWAY_S
        finally:
            ended = ApplianceError("shutting_down", "This node is shutting down. Scrub it when it is back.")
            for future in self._waiters:
                if not future.done():
                    future.set_exception(ended)
            self._waiters.clear()
            await loop.run_in_executor(None, self._pool.shutdown)  # the slice that is under way is over then

    async def _due(self, wait_s: float) -> None:
        """Wait until a pass is to begin."""
        never = not self._own_rate and not self._asked_rate
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if never else wait_s):
                await self._asked.wait()

    async def _pass(self) -> bool:
        """One pass; False when it has to be begun anew, because somebody wants one from its beginning, or the files
        are others now.
        """
        driver, asked = self._driver, bool(self._asked_rate)
        rate = self._asked_rate or self._own_rate
        self._asked.clear()
        installed_index, began_s = driver.installed_index, driver.clock.monotonic_s()
        self._rotten.clear()
        self._rotten_leaves.clear()
        self._debt_s = 0.0
        number = self.figures.number + (0 if asked else 1)
        self._show(ScrubFigures(running=True, number=number, rate=rate), keep_last=True)
        sizes = [max(1, size) for size in (driver.ledger_store.size_bytes(), driver.log_store.size_bytes())]
        weights = [*sizes, *[1] * (len(self._parts) - len(sizes))]
        done = 0
        for part, weight in zip(self._parts, weights, strict=True):
            slices = part.scrub()
            while True:
                if self._asked.is_set() or driver.installing or driver.installed_index != installed_index:
                    return False
                try:
                    found = await self._next(slices)
                except FileAway:
                    return False
                if found is None:
                    break
                self._take(found, (done + weight * found.share) / sum(weights))
                await self._pace(found, rate)
            done += weight
        self._completed(driver.clock.monotonic_s() - began_s)
        return True

    async def _next(self, slices: Iterator[ScrubSlice]) -> ScrubSlice | None:
        return await asyncio.get_running_loop().run_in_executor(self._pool, next, slices, None)

    async def _pace(self, found: ScrubSlice, rate: int) -> None:
        """Keep to the rate; it is one of reading, so what the reading takes is on top."""
        self._debt_s += found.bytes_read / rate
        if self._debt_s >= PAUSE_S_MIN:
            pause_s, self._debt_s = self._debt_s, 0.0
            await asyncio.sleep(pause_s)

    def _take(self, found: ScrubSlice, share: float) -> None:
        self._bytes.inc(found.bytes_read)
        for rot in found.rotten:
            if rot.leaf_index is not None:
                self._rotten_leaves.add(rot.leaf_index)
            if len(self._rotten) < DETAILS_MAX:
                self._rotten.append(rot)
                self._driver.findings.report(Finding.STORAGE_ROTTEN, rot.detail)
        if self._rotten_leaves:
            self._driver.findings.rotten_leaves |= self._rotten_leaves
        figures = self.figures
        self._show(
            replace(
                figures,
                share=share,
                bytes_read=figures.bytes_read + found.bytes_read,
                findings=figures.findings + len(found.rotten),
                details=tuple(rot.detail for rot in self._rotten),
            )
        )

    def _completed(self, seconds: float) -> None:
        findings = self._driver.findings
        findings.rotten_leaves = frozenset(self._rotten_leaves)
        if not self._rotten:
            findings.withdraw(Finding.STORAGE_ROTTEN)
        done = replace(
            self.figures,
            running=False,
            share=1.0,
            completed_us=self._driver.clock.now_us(),
            seconds=seconds,
        )
        self._show(done)
        self._log.info("storage.scrubbed", seconds=round(seconds, 3), bytes=done.bytes_read, findings=done.findings)
        self._asked_rate = 0
        waiters, self._waiters = self._waiters, []
        for future in waiters:
            if not future.done():
                future.set_result(done)

    def _show(self, figures: ScrubFigures, *, keep_last: bool = False) -> None:
        if keep_last:
            last = self.figures
            figures = replace(figures, completed_us=last.completed_us, seconds=last.seconds)
        self.figures = figures
        self._gauges["progress"].set(figures.share if figures.running else 1)
        self._gauges["findings"].set(figures.findings)
        self._gauges["last_completed_seconds"].set(figures.completed_us / _US)
        self._gauges["last_duration_seconds"].set(figures.seconds)
