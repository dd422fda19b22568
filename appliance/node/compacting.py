"""Compaction because an operator asked for it: the ledger file is made durable, the log that it covers is dropped, and
the room of both files is given back. All of it in steps, between which the node does what it does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from appliance.node.api import CompactAnswer, CompactionFigures
from appliance.node.compaction import plan_asked
from appliance.node.log_writer import SWEEP_BYTES_MAX, SWEEP_PAUSE_S, SWEEP_ROWS_MAX, Job
from appliance.node.ports import DiskFull, Instruments, StorageError
from appliance.raft.core import RaftCore
from appliance.tables.errors import ApplianceError

if TYPE_CHECKING:
    from appliance.node.driver import Driver

_T = TypeVar("_T")

LOOK_S: Final = 0.05  # between two looks at what the threads have done, and whether the node still goes on
FULL_WAIT_S: Final = 5.0  # for a writer that waits for room: the reserve is given up, which may be all that it needs
STEP_BYTES: Final = 2**20  # given back in one transaction: two milliseconds
STEP_PAUSE_S: Final = 0.005  # for the appends between two steps
STEPS_PER_CHECKPOINT: Final = 4  # of the ledger file: a file system that frees much at once holds up all syncs


class Compacting:
    """The call of `NodeService` that compacts this node.

    Attributes:
        figures: how the one under way stands, or how the last one ended.

    Args:
        driver: the running node.
        instruments: metrics.
    """

    def __init__(self, driver: Driver, instruments: Instruments) -> None:
        self.figures = CompactionFigures()
        self._driver = driver
        self._began_s = 0.0
        self._running = instruments.gauge("scribe_compaction_running")
        self._entries_left = instruments.gauge("scribe_compaction_entries_left")
        self._bytes_left = instruments.gauge("scribe_compaction_bytes_left")
        self._freed = instruments.gauge("scribe_compaction_freed_bytes")
        self._seconds = instruments.gauge("scribe_compaction_last_seconds")
        self._outcomes = {
            outcome: instruments.counter("scribe_compactions_total", outcome=outcome) for outcome in ("ok", "failed")
        }

    async def compact(self) -> CompactAnswer:
        """Compact this node. See `NodeService.compact`."""
        core = self._refuse_now()
        self._began_s = self._driver.clock.monotonic_s()
        self._show(CompactionFigures(running=True))
        ended = CompactionFigures()
        outcome = "failed"
        try:
            answer = await self._compact(core)
            freed_bytes = answer.log_bytes_before + answer.ledger_bytes_before
            freed_bytes -= answer.log_bytes_after + answer.ledger_bytes_after
            ended = CompactionFigures(freed_bytes=max(0, freed_bytes), seconds=round(answer.seconds, 3))
            outcome = "ok"
        except (ApplianceError, StorageError) as error:
            self._driver.log.warning("node.compaction_failed", reason=str(error))
            if isinstance(error, ApplianceError):
                raise
            raise ApplianceError("unhealthy", f"The files of this node cannot be written: {error}") from error
        finally:
            self._show(ended)
            self._outcomes[outcome].inc()
        self._driver.log.info(
            "node.compacted",
            index=answer.snapshot_index,
            entries=answer.entries_dropped,
            freed_bytes=ended.freed_bytes,
            seconds=ended.seconds,
        )
        return answer

    def _refuse_now(self) -> RaftCore:
        """Answer the core when a compaction may begin. Raises `ApplianceError`."""
        driver = self._driver
        self._refuse_at_end()
        if self.figures.running:
            raise ApplianceError(
                "conflict",
                f"A compaction of this node is under way, begun {driver.clock.monotonic_s() - self._began_s:.0f} s "
                "ago. Wait for its end: scribe_compaction_running becomes 0.",
            )
        if driver.core is None or driver.installing:
            raise ApplianceError("conflict", "This node has no ledger of its own yet. Compact it when it is healthy.")
        if driver.rest.index() is not None:
            raise ApplianceError(
                "conflict",
                "Writes are paused, so that the data files rest and can be copied. Compact it after "
                "`appliance writes resume`.",
            )
        return driver.core

    def _refuse_at_end(self) -> None:
        if self._driver.stopping:
            raise ApplianceError("shutting_down", "This node is shutting down. Compact it when it is back.")
        if self._driver.failure:
            raise ApplianceError("unhealthy", f"This node has failed ({self._driver.failure}).")

    def _show(self, figures: CompactionFigures) -> None:
        self.figures = figures
        self._running.set(figures.running)
        self._entries_left.set(figures.entries_left)
        self._bytes_left.set(figures.bytes_left)
        if not figures.running and figures.seconds:
            self._freed.set(figures.freed_bytes)
            self._seconds.set(figures.seconds)

    # -- the steps

    async def _compact(self, core: RaftCore) -> CompactAnswer:
        driver = self._driver
        log_store, ledger_store = driver.log_store, driver.ledger_store
        log_before, ledger_before = log_store.size_bytes(), ledger_store.size_bytes()
        index_before = core.state.log.snapshot_index
        full = await self._settle()
        full = await self._until_full(self._drop(core)) or full
        full = await self._until_full(self._shorten_log()) or full
        full = full or await self._until_full(self._shorten_ledger())
        dropped = core.state.log.snapshot_index - index_before
        if full is not None:
            raise ApplianceError(
                "disk_full",
                f"The disk was full on the way: {full}. {dropped} entries of the log were dropped. Make room, and "
                "compact it again.",
            )
        return CompactAnswer(
            snapshot_index=core.state.log.snapshot_index,
            entries_dropped=dropped,
            log_bytes_before=log_before,
            log_bytes_after=log_store.size_bytes(),
            ledger_bytes_before=ledger_before,
            ledger_bytes_after=ledger_store.size_bytes(),
            seconds=driver.clock.monotonic_s() - self._began_s,
        )

    @staticmethod
    async def _until_full(step: Awaitable[None]) -> DiskFull | None:
        """Carry out a step; answers what ended it where the disk is full."""
        try:
            await step
        except DiskFull as error:
            return error
        return None

    async def _settle(self) -> DiskFull | None:
        """Make durable in the ledger file what is applied. Where the disk is full, what is durable already has to do:
        to drop what that covers is how there may be room again.
        """
        driver = self._driver
        flushing = asyncio.ensure_future(driver.keeper.flushed())
        try:
            while not flushing.done() and not driver.room.full:
                await self._wait(flushing)
        finally:
            flushing.cancel()
        if not flushing.done():
            return DiskFull("the ledger file waits for room")
        flushing.result()
        return await self._until_full(self._checkpoint())

    async def _checkpoint(self) -> None:
        if self._driver.rest.index() is None:
            await self._driver.keeper.checkpoint()

    async def _drop(self, core: RaftCore) -> None:
        """Drop what may go of the log, and remove it from the file. The log's writer would do that by itself, and goes
        on with it when this ends early. Raises `DiskFull`.
        """
        driver = self._driver
        held_index = driver.holds.index(core.state)
        meta = plan_asked(
            core.state, driver.settings, driver.keeper.durable_index, driver.network.connected(), held_index
        )
        if meta is not None:
            core.compact(meta.index)
            await self._on_writer(lambda: driver.writer.until_room(lambda: driver.log_store.compact(meta)))
            driver.log.info("raft.compacted", index=meta.index, term=meta.term)
        while left := driver.log_store.leftovers():
            self._show(CompactionFigures(running=True, entries_left=left))
            await self._on_writer(lambda: driver.log_store.sweep(SWEEP_ROWS_MAX, SWEEP_BYTES_MAX))
            await asyncio.sleep(SWEEP_PAUSE_S)

    async def _shorten_log(self) -> None:
        log_store = self._driver.log_store

        def step() -> int:
            log_store.give_back(STEP_BYTES)
            return log_store.free_bytes()

        await self._shorten(await self._on_writer(log_store.free_bytes), lambda: self._on_writer(step))

    async def _shorten_ledger(self) -> None:
        """Not while a copy for a follower holds an older state of it, nor once writes are paused."""
        driver = self._driver
        steps = 0

        async def step() -> int:
            nonlocal steps
            if driver.snapshots.is_sending() or driver.rest.index() is not None:
                return 0
            left = await driver.keeper.give_back(STEP_BYTES)
            steps += 1
            if steps % STEPS_PER_CHECKPOINT == 0:
                await driver.keeper.checkpoint()
            return left

        await self._shorten(await driver.keeper.give_back(0), step)
        await self._checkpoint()

    async def _shorten(self, free_bytes: int, step: Callable[[], Awaitable[int]]) -> None:
        """Take steps until there is no free room left in a file, or as much was given back as there was at first."""
        left = free_bytes
        for _ in range(-(-free_bytes // STEP_BYTES)):
            if not left:
                break
            self._show(CompactionFigures(running=True, bytes_left=left))
            self._refuse_at_end()
            left = await step()
            await asyncio.sleep(STEP_PAUSE_S)

    # -- waiting

    async def _wait(self, future: asyncio.Future[Any]) -> None:
        """Wait a moment, or until a future is done. Raises `ApplianceError` when the node does not go on."""
        await asyncio.wait([future], timeout=LOOK_S)
        self._refuse_at_end()

    async def _on_writer(self, work: Callable[[], _T]) -> _T:
        """Have something done in order with the writes of the log. Raises `DiskFull`, also when the writer itself waits
        for room: it does this when there is some. Whatever else fails ends the node.
        """
        outcome: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        results: list[_T] = []
        refusals: list[DiskFull] = []

        def run() -> None:
            try:
                results.append(work())
            except DiskFull as error:
                refusals.append(error)

        def settle() -> None:
            if outcome.done():
                return
            if refusals:
                outcome.set_exception(refusals[0])
            else:
                outcome.set_result(results[0])

        self._driver.writer.submit(Job(run, settle))
        clock, room = self._driver.clock, self._driver.room
        give_up_s = clock.monotonic_s() + FULL_WAIT_S
        try:
            while not outcome.done():
                await self._wait(outcome)
                if room.full and clock.monotonic_s() > give_up_s and not outcome.done():
                    raise DiskFull("the log waits for room")
            return outcome.result()
        finally:
            outcome.cancel()  # whatever comes of it later, nobody waits for it
