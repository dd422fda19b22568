"""Copies on their way and received files: what is removed, and how."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from driver_rig import WAIT_S, Rig, until

from appliance.node.snapshots import FREED_AT_ONCE_BYTES
from appliance.raft.messages import Configuration, SnapshotMeta

pytestmark = pytest.mark.anyio


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path)
    await rig.driver.start()
    yield rig
    await asyncio.wait_for(rig.driver.stop(), WAIT_S)


async def test_a_refused_file_loses_its_name_at_once_and_its_room_soon(rig: Rig) -> None:
    path = rig.driver.settings.incoming_path
    path.write_bytes(bytes(2 * FREED_AT_ONCE_BYTES + 1))
    with path.open("rb") as held:
        with pytest.raises(OSError, match="snapshot refused"):
            await rig.driver.snapshots.check(SnapshotMeta(7, 1, Configuration()), path)
        assert not path.exists()
        await until(lambda: os.fstat(held.fileno()).st_size == 0, "the room to be given back")
