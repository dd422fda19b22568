"""Room on the disk: some is held in reserve, so that a full disk is met early and with something left to act on.

When a write finds no room the reserve is given up, this node takes no writes of clients and hands over leadership,
and what waits is tried again until there is room: nothing of it was promised. Reads go on. Damaged data that were set
aside are given up for what takes their place.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

from appliance.node.directory_ports import Reserve
from appliance.node.ports import DiskFull, Log

LOOK_INTERVAL_S: Final = 2.0  # longer than the writers' pause between two tries
FREE_BYTES_MIN: Final = 16 * 1024 * 1024  # beside the reserve, before writes are taken again


class Room:
    """Whether there is room.

    Args:
        reserve: the reserved room of the data directory.
        directory: the data directory.
        log: told when the disk is full and when there is room again.
        on_change: called on the event loop when that has changed.
        free_bytes_min: free bytes, beside the reserve, from which on there is room again.

    Attributes:
        full: whether there is none.
        kept: how many directories take room that hold damaged data; an operator removes them.
    """

    def __init__(
        self,
        reserve: Reserve,
        directory: Path,
        log: Log,
        on_change: Callable[[], None],
        *,
        free_bytes_min: int = FREE_BYTES_MIN,
    ) -> None:
        self._reserve = reserve
        self._directory = directory
        self._log = log
        self._on_change = on_change
        self._free_bytes_min = free_bytes_min
        self.full = False
        self.kept = reserve.kept()
        self._reports = 0  # since the last look

    def report_full(self, error: DiskFull) -> None:
        """A write found no room; called again for each time that it is tried in vain."""
        self._reports += 1
        if self.kept:
            self._reserve.drop_kept()
            self.kept = 0
        self._be_full(error)

    def make_room(self) -> None:
        """A leader sends a snapshot, so that others have what this node needs: give up as much of what is kept as
        stands in its way.
        """
        if self.kept:
            self._reserve.make_room()
            self.kept = self._reserve.kept()

    def _be_full(self, error: DiskFull) -> None:
        if self.full:
            return
        self.full = True
        self._reserve.release_reserve()
        self._log.error("storage.disk_full", free_bytes=shutil.disk_usage(self._directory).free, error=error)
        self._on_change()

    async def watch(self) -> None:
        """Hold the reserve, and look for room while there is none; until cancelled."""
        await self._look()
        while True:
            await asyncio.sleep(LOOK_INTERVAL_S)
            self.kept = await asyncio.to_thread(self._reserve.kept)
            if self.full:
                await self._look()

    async def _look(self) -> None:
        try:
            await asyncio.to_thread(self._reserve.hold_reserve)
        except DiskFull as error:
            self._reports += 1
            self._be_full(error)
            return
        free_bytes = (await asyncio.to_thread(shutil.disk_usage, self._directory)).free
        reports, self._reports = self._reports, 0
        if not self.full:
            return
        if reports or free_bytes < self._free_bytes_min:
            self._reserve.release_reserve()
            return
        self.full = False
        self._log.info("storage.room_again", free_bytes=free_bytes)
        self._on_change()
