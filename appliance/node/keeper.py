"""Keeps `ledger.db` following: bulk writes, checkpoints, and the compaction of the log behind them."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from appliance.ledger.state import Summary
from appliance.node.ports import DiskFull, Histogram, LedgerStore, Log, StorageFailed

CHECKPOINT_INTERVAL_S: Final = 5.0
FULL_RETRY_S: Final = 0.5
SLOW_S: Final = 2.0
PENDING_BYTES_SOON: Final = 8 * 1024 * 1024  # flush before the interval is over


class LedgerKeeper:
    """Moves applied changes to disk, off the event loop, on one thread of its own.

    Args:
        store: the ledger store.
        flush_interval_s: how long changes may wait in memory.
        stable_index: answers the index up to which the log is durable; the ledger file never passes it.
        rest_index: answers the index up to which the ledger file may be written while writes are paused, else None;
            once it is synced that far, the file is not touched until the pause ends.
        on_durable: called on the event loop with an applied index that has become durable.
        on_failed: called on the event loop, once, when the store fails.
        on_full: called on the event loop when there is no room on the disk; what waits is tried again.
        flush_seconds: histogram of the time of one flush.
        log: told of slow flushes; its methods may be called from any thread.
    """

    def __init__(
        self,
        store: LedgerStore,
        *,
        flush_interval_s: float,
        stable_index: Callable[[], int],
        rest_index: Callable[[], int | None],
        on_durable: Callable[[int], None],
        on_failed: Callable[[Exception], None],
        on_full: Callable[[DiskFull], None],
        flush_seconds: Histogram,
        log: Log,
    ) -> None:
        self._store = store
        self._log = log
        self._flush_interval_s = flush_interval_s
        self._stable_index = stable_index
        self._rest_index = rest_index
        self._on_durable = on_durable
        self._on_failed = on_failed
        self._on_full = on_full
        self._flush_seconds = flush_seconds
        self._pool = ThreadPoolExecutor(1, "ledger-keeper")
        self._lock = threading.Lock()  # an install on the log writer's thread excludes all work here
        self._wanted = asyncio.Event()
        self._turns: list[asyncio.Future[int]] = []
        self._end: Exception | None = None
        self._flushed_index = 0
        self._checkpointed_s = 0.0
        self._dirty = True  # what was found in the file may not have been synced yet
        self._checkpointing = False
        self.durable_index = 0

    async def run(self) -> None:
        """Flush and checkpoint until cancelled; a failure ends it."""
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._flush_interval_s):  # `wait_for` of 3.11 may lose a cancellation
                        await self._wanted.wait()
                self._wanted.clear()
                await self._turn()
        except asyncio.CancelledError:
            self._end_turns(StorageFailed("the ledger file is being closed"))
            raise
        except Exception as error:
            self._end_turns(error)
            self._on_failed(error)

    def _end_turns(self, reason: Exception) -> None:
        self._end = reason
        for future in self._turns:
            if not future.done():
                future.set_exception(StorageFailed(str(reason)))
        self._turns.clear()

    async def _turn(self) -> None:
        waiting, self._turns = self._turns, []
        rest_index = self._rest_index()
        try:
            if rest_index is None or self.durable_index < rest_index:
                await self._write(rest_index)
        except DiskFull as error:
            self._turns = waiting + self._turns
            self._on_full(error)
            await asyncio.sleep(FULL_RETRY_S)
            return
        except BaseException:
            self._turns = waiting + self._turns
            raise
        for future in waiting:
            if not future.done():
                future.set_result(self._flushed_index)

    async def _write(self, rest_index: int | None) -> None:
        """Flush, and checkpoint when it is time to, or when the file is about to rest."""
        index_max = self._stable_index() if rest_index is None else min(self._stable_index(), rest_index)
        loop = asyncio.get_running_loop()
        self._flushed_index = await loop.run_in_executor(self._pool, self._flush, index_max)
        is_due = self._dirty and time.monotonic() - self._checkpointed_s >= CHECKPOINT_INTERVAL_S
        if is_due or (rest_index is not None and self._flushed_index >= rest_index):
            self._dirty = await self.checkpoint() < self._flushed_index  # a reader may hold frames back

    def _flush(self, index_max: int) -> int:
        if self._store.pending_bytes() == 0:
            return self._store.flush(index_max)
        self._dirty = True
        started = time.perf_counter()
        with self._lock:
            flushed = self._store.flush(index_max)
        seconds = time.perf_counter() - started
        self._flush_seconds.observe(seconds)
        if seconds > SLOW_S:
            self._log.warning("storage.flush_slow", seconds=round(seconds, 3))
        return flushed

    def hurry(self) -> None:
        """Flush soon if much is waiting."""
        if self._store.pending_bytes() > PENDING_BYTES_SOON:
            self._wanted.set()

    async def flushed(self) -> int:
        """Wait for the next flush; answers the applied index that the file holds then.

        Raises:
            StorageError: there is none, because the store failed or is being closed.
        """
        if self._end is not None:
            raise StorageFailed(str(self._end)) from self._end
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._turns.append(future)
        self._wanted.set()
        return await future

    def is_resting(self) -> bool:
        """Whether writes are paused and the file holds all that it may hold meanwhile."""
        rest_index = self._rest_index()
        return rest_index is not None and self._flushed_index >= rest_index

    async def finish(self) -> None:
        """Flush and checkpoint a last time, when `run` has ended. Raises `DiskFull` and other `StorageError`."""
        rest_index = self._rest_index()
        index_max = self._stable_index() if rest_index is None else min(self._stable_index(), rest_index)
        await asyncio.get_running_loop().run_in_executor(self._pool, self._flush, index_max)
        await self.checkpoint()

    async def checkpoint(self) -> int:
        """Make what was flushed durable; answers the applied index that is durable now."""
        loop = asyncio.get_running_loop()
        self._checkpointing = True
        try:
            durable = await loop.run_in_executor(self._pool, self._checkpoint)
        finally:
            self._checkpointing = False
        self._checkpointed_s = time.monotonic()
        self._dirty = False
        if durable > self.durable_index:
            self.durable_index = durable
            self._on_durable(durable)
        return durable

    def is_checkpointing(self) -> bool:
        """Whether the ledger file is being synced, which may keep the disk busy for long."""
        return self._checkpointing

    def _checkpoint(self) -> int:
        with self._lock:
            return self._store.checkpoint()

    async def copy_to(self, path: Path) -> tuple[Summary, bytes]:
        """Copy the ledger file, on a thread of the loop's pool: it takes long and must not delay flushes."""
        return await asyncio.to_thread(self._store.copy_to, path)

    def discard(self, path: Path) -> None:
        """Remove a copy or a received file, if it is there, without holding up the disk."""
        self._store.discard(path)

    async def give_back(self, bytes_max: int) -> int:
        """Give unused room of the ledger file back, so many bytes at most, between flushes; answers what is left of it.

        Raises:
            StorageError: as `LedgerStore.flush`.
        """
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._give_back, bytes_max)

    def _give_back(self, bytes_max: int) -> int:
        with self._lock:
            if self._store.free_bytes():
                self._dirty = True
                self._store.give_back(bytes_max)
            return self._store.free_bytes()

    def replace(self, path: Path) -> tuple[Summary, bytes]:
        """Put a received ledger file in place; called on the log writer's thread."""
        with self._lock:
            return self._store.replace(path)

    def close(self) -> None:
        """End the thread; what was not flushed is in the log."""
        self._pool.shutdown(wait=True)
