"""Fixtures for the tests of the client port."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from http_rig import Port, Rig, furnished, opened, running


@pytest.fixture(scope="module")
async def shared(anyio_backend: str) -> AsyncIterator[Rig]:
    """One client port for a whole module of tests that leave nothing behind but keys."""
    async with running() as rig:
        yield rig


@pytest.fixture(scope="module")
async def port(anyio_backend: str) -> AsyncIterator[Port]:
    """An open port for a whole module."""
    async with opened() as port:
        yield port


@pytest.fixture
async def rig(port: Port) -> AsyncIterator[Rig]:
    """A client port with an application and a ledger of one's own."""
    async with furnished(port) as rig:
        yield rig
