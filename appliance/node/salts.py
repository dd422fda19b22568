"""Salts of values, drawn from the system in bulk: a system call for each write would cost more than its hashing."""

from __future__ import annotations

import secrets
from typing import Final

from appliance.ledger.commands import SALT_BYTES

POOL_SALTS: Final = 256


class SaltPool:
    """Random salts; each is given once."""

    def __init__(self) -> None:
        self._pool = b""
        self._next = 0

    def take(self, count: int) -> bytes:
        """`count` salts of `SALT_BYTES` each, concatenated."""
        size = SALT_BYTES * count
        if self._next + size > len(self._pool):
            self._pool = secrets.token_bytes(max(size, SALT_BYTES * POOL_SALTS))
            self._next = 0
        taken = self._pool[self._next : self._next + size]
        self._next += size
        return taken
