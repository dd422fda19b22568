"""Fixtures for the tests of the client port."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from http_rig import Rig, running


@pytest.fixture(scope="module")
async def shared(anyio_backend: str) -> AsyncIterator[Rig]:
    """One client port for a whole module of tests that leave nothing behind but keys."""
    async with running() as rig:
        yield rig


@pytest.fixture
async def rig(anyio_backend: str) -> AsyncIterator[Rig]:
    """A client port of one's own."""
    async with running() as rig:
        yield rig
