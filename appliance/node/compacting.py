"""Compaction because an operator asked for it: the ledger file is made durable, the log that it covers is dropped in
slices between other writes, and the room is given back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Literal, TypeVar

from appliance.node.api import CompactAnswer
from appliance.node.compaction import configuration_at
from appliance.node.log_writer import Job
from appliance.node.ports import DiskFull, Instruments
from appliance.raft.core import RaftCore
from appliance.raft.messages import SnapshotMeta
from appliance.tables.errors import ApplianceError

if TYPE_CHECKING:
    from appliance.node.driver import Driver

_T = TypeVar("_T")

KEEP_ENTRIES: Final = 1_000  # so that a follower that lags a little needs no snapshot from whoever leads next
SLICE_ROWS: Final = 2_000  # of the log, dropped in one transaction: some milliseconds
SLICE_PAUSE_S: Final = 0.02  # for the appends between two slices
LOOK_S: Final = 0.5  # whether the node still goes on
REWRITE_BYTES_MAX: Final = 16 * 2**20  # a log file with more in use than this keeps its size: appends wait meanwhile


class Compacting:
    """The call of `NodeService` that compacts this node.

    Args:
        driver: the running node.
        instruments: metrics.
    """

    def __init__(self, driver: Driver, instruments: Instruments) -> None:
        self._driver = driver
        self._since_s: float | None = None
        self._running = instruments.gauge("scribe_compaction_running")
        self._left = instruments.gauge("scribe_compaction_entries_left")
        self._freed = instruments.gauge("scribe_compaction_freed_bytes")
        self._seconds = instruments.gauge("scribe_compaction_last_seconds")
        self._outcomes = {
            outcome: instruments.counter("scribe_compactions_total", outcome=outcome) for outcome in ("ok", "failed")
        }

    async def compact(self) -> CompactAnswer:
        """Compact this node. See `NodeService.compact`."""
        now_s = self._driver.clock.monotonic_s()
        if self._since_s is not None:
            raise ApplianceError(
                "conflict",
                f"A compaction of this node is under way, begun {now_s - self._since_s:.0f} s ago. Wait for its end: "
                "scribe_compaction_running becomes 0.",
            )
        self._since_s = now_s
        self._running.set(1)
        outcome = "failed"
        try:
            answer = await self._compact(now_s)
            outcome = "ok"
        except DiskFull as error:
            raise ApplianceError(
                "disk_full", f"The ledger file cannot be made durable, so nothing was dropped: {error}"
            ) from error
        finally:
            self._since_s = None
            self._running.set(0)
            self._left.set(0)
            self._outcomes[outcome].inc()
        self._freed.set(max(0, _bytes(answer, "before") - _bytes(answer, "after")))
        self._seconds.set(answer.seconds)
        self._driver.log.info(
            "node.compacted",
            index=answer.snapshot_index,
            entries=answer.entries_dropped,
            freed_bytes=_bytes(answer, "before") - _bytes(answer, "after"),
            seconds=round(answer.seconds, 3),
        )
        return answer

    async def _compact(self, started_s: float) -> CompactAnswer:
        driver = self._driver
        core = driver.core
        if core is None or driver.installing or driver.failure:
            raise ApplianceError("conflict", "This node is not ready to be compacted. See its /health.")
        log_before, ledger_before = driver.log_store.size_bytes(), driver.ledger_store.size_bytes()
        first_before = core.state.log.snapshot_index
        if not driver.keeper.is_resting():
            await driver.keeper.flushed()
        durable_index = await driver.keeper.checkpoint()
        meta = self._droppable(core, durable_index)
        if meta is not None:
            core.compact(meta.index)
            await self._on_writer(lambda: driver.log_store.compact(meta))
        await self._drop_slices()
        await self._on_writer(lambda: driver.log_store.give_back(REWRITE_BYTES_MAX))
        return CompactAnswer(
            snapshot_index=core.state.log.snapshot_index,
            entries_dropped=core.state.log.snapshot_index - first_before,
            log_bytes_before=log_before,
            log_bytes_after=driver.log_store.size_bytes(),
            ledger_bytes_before=ledger_before,
            ledger_bytes_after=driver.ledger_store.size_bytes(),
            seconds=driver.clock.monotonic_s() - started_s,
        )

    def _droppable(self, core: RaftCore, durable_index: int) -> SnapshotMeta | None:
        """Up to where the log may go: what the ledger file, this node's disk and all nodes that can be reached hold."""
        driver, state = self._driver, core.state
        connected = driver.network.connected()
        held = [p.match_index for n, p in state.progress.items() if n in connected]
        sending = [driver.snapshots.oldest_index()] if driver.snapshots.is_sending() else []
        covered = min(durable_index, state.log.stable_index, state.applied_index) - KEEP_ENTRIES
        index = min(covered, *held, *sending) if held or sending else covered
        if index <= state.log.snapshot_index:
            return None
        term = state.log.term_at(index)
        assert term is not None
        return SnapshotMeta(index, term, configuration_at(state, index))

    async def _drop_slices(self) -> None:
        left = 1
        while left:
            left = await self._on_writer(lambda: self._driver.log_store.drop_leftovers(SLICE_ROWS))
            self._left.set(left)
            await asyncio.sleep(SLICE_PAUSE_S if left else 0)

    async def _on_writer(self, work: Callable[[], _T]) -> _T:
        """Have something done in order with the writes of the log."""
        done: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        results: list[_T] = []
        writer = self._driver.writer

        def run() -> None:
            writer.until_room(lambda: results.append(work()))

        def settle() -> None:
            if not done.done():
                done.set_result(results[0])

        writer.submit(Job(run, settle))
        while not done.done():
            await asyncio.wait({done}, timeout=LOOK_S)
            if self._driver.failure or self._driver.stopping:
                raise ApplianceError("shutting_down", "This node is being stopped. Compact it when it is back.")
        return done.result()


def _bytes(answer: CompactAnswer, when: Literal["before", "after"]) -> int:
    if when == "before":
        return answer.log_bytes_before + answer.ledger_bytes_before
    return answer.log_bytes_after + answer.ledger_bytes_after
