"""What all tests of links between nodes share: both kinds of event loop, and a world to make nodes in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from peer_harness import World, world

LOOPS = [
    pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
    pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
]


@pytest.fixture(params=LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


@pytest.fixture
async def nodes(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as made:
        yield made
