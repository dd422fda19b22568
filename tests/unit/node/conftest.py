"""What tests of a driver share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from driver_rig import WAIT_S, Peers, Rig


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    """A started node, whose disk answers at the latest when the test is over."""
    rig = Rig(tmp_path)
    await rig.driver.start()
    yield rig
    rig.log_store.open.set()
    await asyncio.wait_for(rig.driver.stop(), WAIT_S)


@pytest.fixture
async def peers(rig: Rig) -> AsyncIterator[Peers]:
    """Make the rig's node the leader of these."""
    peers = Peers(rig)
    await peers.elect()
    yield peers
    peers.listen()
