"""Compaction that an operator asks for, where it cannot go on: it ends, and says why."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from driver_rig import WAIT_S, Rig, put, until

from appliance.node.api import CompactionFigures
from appliance.node.ports import DiskFull
from appliance.raft.messages import SnapshotMeta
from appliance.tables.errors import ApplianceError

pytestmark = pytest.mark.anyio

ENTRIES = 3000  # more than one slice of what is removed, behind the thousand that stay


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    """A node that drops nothing of its log by itself."""
    rig = Rig(tmp_path, compact_log_entries=10**6)
    await rig.driver.start()
    yield rig
    await asyncio.wait_for(rig.driver.stop(), WAIT_S)


async def fill(rig: Rig) -> None:
    last = ENTRIES + 1
    rig.take([put(n) for n in range(2, last + 1)], commit=last)
    core = rig.driver.core
    assert core is not None
    await until(lambda: core.state.log.stable_index == last and rig.driver.applier.applied_index == last, "all of it")


async def refused(rig: Rig) -> str:
    """The compaction ends with an error, soon, and is no longer shown as running; answers what is said."""
    with pytest.raises(ApplianceError) as caught:
        await asyncio.wait_for(rig.service.compact(), WAIT_S)
    assert caught.value.code == "disk_full"
    assert rig.service.figures().compaction == CompactionFigures()
    return caught.value.detail


async def test_a_disk_that_is_full_while_entries_are_removed_ends_it(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await fill(rig)

    def full(rows_max: int, bytes_max: int) -> None:
        raise DiskFull("no room left for raft.db")

    with monkeypatch.context() as patched:
        patched.setattr(rig.log_store, "sweep", full)
        said = await refused(rig)
        assert "no room left for raft.db" in said
        assert re.search(r"[1-9]\d* entries of the log were dropped", said)
        assert rig.log_store.leftovers()
    done = await asyncio.wait_for(rig.service.compact(), WAIT_S)
    assert rig.log_store.leftovers() == 0
    assert done.entries_dropped == 0, "the first one had moved the line already"


async def test_a_log_whose_writer_waits_for_room_ends_it_too(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.node.compacting.FULL_WAIT_S", 0.1)
    monkeypatch.setattr("appliance.node.log_writer.FULL_RETRY_S", 0.02)
    await fill(rig)
    full, dropped = True, threading.Event()
    compact = rig.log_store.compact

    def compact_if_room(meta: SnapshotMeta) -> None:
        if full:
            raise DiskFull("no room left for raft.db")
        compact(meta)
        dropped.set()

    monkeypatch.setattr(rig.log_store, "compact", compact_if_room)
    assert "the log waits for room" in await refused(rig)
    full = False
    await until(dropped.is_set, "the writer to go on when there is room")
