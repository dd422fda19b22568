"""Copies on their way and received files: what is removed, and how."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest
from driver_rig import WAIT_S, Rig, until

from appliance.adapters.freeing import FREED_AT_ONCE_BYTES
from appliance.raft.messages import Configuration, SnapshotMeta
from tests.unit.adapters.checking import checkers

pytestmark = pytest.mark.anyio


async def test_a_refused_file_loses_its_name_at_once_and_its_room_soon(rig: Rig) -> None:
    path = rig.driver.settings.incoming_path
    path.write_bytes(bytes(2 * FREED_AT_ONCE_BYTES + 1))
    with path.open("rb") as held:
        with pytest.raises(OSError, match="snapshot refused"):
            await rig.driver.snapshots.check(SnapshotMeta(7, 1, Configuration()), path)
        assert not path.exists()
        await until(lambda: os.fstat(held.fileno()).st_size == 0, "the room to be given back")


async def test_a_check_that_is_killed_refuses_the_file_and_the_node_goes_on(rig: Rig) -> None:
    path = rig.driver.settings.incoming_path
    os.mkfifo(path)  # nobody writes to it, so the check does not end
    checking = asyncio.ensure_future(rig.driver.snapshots.check(SnapshotMeta(7, 1, Configuration()), path))
    await until(lambda: bool(checkers(path)), "the check to run")
    os.kill(checkers(path)[0], signal.SIGKILL)
    with pytest.raises(OSError, match=r"snapshot refused: .* the process ended with -9"):
        await asyncio.wait_for(checking, WAIT_S)
    assert not path.exists()
    assert "snapshot.refused" in rig.log.events
    rig.append(2, 3, commit=4)
    await until(lambda: rig.driver.applier.applied_index == 4, "the log to go on")
    assert not rig.fatal
