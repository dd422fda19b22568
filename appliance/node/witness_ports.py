"""What the rounds with witnesses need from the world."""

from __future__ import annotations

from typing import Protocol

from appliance.ledger.cosignature import CosignatureVerifier
from appliance.ledger.witnessing import Answer


class WitnessUnreachable(Exception):
    """A witness gave no answer that could be read; the message says why."""


class Witness(Protocol):
    """One witness of the log. Who calls bounds the time that it takes."""

    @property
    def verifier(self) -> CosignatureVerifier:
        """Its key."""
        ...

    async def submit(self, body: bytes) -> Answer:
        """Submit an add-checkpoint request (`appliance.ledger.witnessing`). Raises `WitnessUnreachable`."""
        ...

    async def close(self) -> None:
        """Close its connections."""
        ...
