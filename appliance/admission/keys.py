"""API keys: who a presented key belongs to, and with which role. Only hashes of keys are ever held."""

from __future__ import annotations

import hmac
from hashlib import sha256
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from appliance.tables.roles import Role

API_KEYS_FORMAT: Final = 1
API_KEYS_MAX: Final = 10_000
NAME_BYTES_MAX: Final = 256  # a key's name is the actor of a leaf, which holds no more


class ApiKey(Struct, frozen=True):
    """A known API key: its name, which the ledger records as the actor, and its role."""

    name: str
    role: Role


class BadKeysFileError(ValueError):
    """The file of API keys cannot be used; the message says what is wrong and where."""


class _Row(Struct, frozen=True, forbid_unknown_fields=True):
    name: Annotated[str, Meta(min_length=1)]
    role: Role
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    keys: Annotated[list[_Row], Meta(max_length=API_KEYS_MAX)]


class _Held(Struct, frozen=True):
    digest: bytes
    key: ApiKey


class KeyRegistry:
    """The known API keys.

    A key is found by its SHA-256, so the time of a look-up tells nothing of the key text; the last comparison is in
    constant time all the same.
    """

    def __init__(self, held: dict[bytes, _Held]) -> None:
        self._by_digest = held

    @classmethod
    def parse(cls, data: bytes) -> KeyRegistry:
        """Read the JSON file of API keys: `{"format":1,"keys":[{"name","role","sha256"}]}`.

        Raises `BadKeysFileError` for anything but that, for a name used twice and for a key listed twice.
        """
        try:
            file = msgspec.json.decode(data, type=_File)
        except msgspec.MsgspecError as error:
            raise BadKeysFileError(f"The file of API keys cannot be read: {error}") from error
        if file.format != API_KEYS_FORMAT:
            raise BadKeysFileError(f"The file of API keys has format {file.format}; this version reads 1")
        by_digest: dict[bytes, _Held] = {}
        names: set[str] = set()
        for row in file.keys:
            _check_name(row.name)
            digest = bytes.fromhex(row.sha256)
            if row.name in names:
                raise BadKeysFileError(f"The name {row.name!r} stands twice in the file of API keys")
            if digest in by_digest:
                raise BadKeysFileError(f"{row.name!r} has the same API key as {by_digest[digest].key.name!r}")
            names.add(row.name)
            by_digest[digest] = _Held(digest, ApiKey(row.name, row.role))
        return cls(by_digest)

    def __len__(self) -> int:
        return len(self._by_digest)

    def find(self, presented: bytes) -> ApiKey | None:
        """The key that `presented` (the text of a key, as bytes) is, or None."""
        digest = sha256(presented).digest()
        found = self._by_digest.get(digest)
        if found is None or not hmac.compare_digest(found.digest, digest):
            return None
        return found.key


def _check_name(name: str) -> None:
    if len(name.encode()) > NAME_BYTES_MAX:
        raise BadKeysFileError(f"The name {name[:32]!r}... is longer than {NAME_BYTES_MAX} bytes")
    if not name.isprintable():
        raise BadKeysFileError(f"The name {name!r} has characters that cannot be printed")
