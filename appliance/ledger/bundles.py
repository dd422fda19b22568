"""Entry bundles, after c2sp.org/tlog-tiles: entries one after another, each behind its length in two bytes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from appliance.ledger.merkle import HASH_BYTES, leaf_hash
from appliance.ledger.tile_paths import TILE_WIDTH, BundleId

ENTRY_BYTES_MAX: Final = 2**16 - 1

_LENGTH_BYTES: Final = 2  # big-endian


class BundleError(ValueError):
    """Bytes that are no entry bundle, or entries that no bundle can have."""


class EntryWrong(BundleError):
    """An entry is not the one whose hash is in the tree."""


def encode_bundle(entries: Iterable[bytes]) -> bytes:
    """Put entries together. Raises `BundleError` when one has more than `ENTRY_BYTES_MAX`."""
    parts: list[bytes] = []
    for entry in entries:
        if len(entry) > ENTRY_BYTES_MAX:
            raise BundleError(f"an entry of {len(entry)} bytes fits no bundle; {ENTRY_BYTES_MAX} are the most")
        parts += (len(entry).to_bytes(_LENGTH_BYTES), entry)
    return b"".join(parts)


def decode_bundle(data: bytes, width: int) -> list[bytes]:
    """Take a bundle of so many entries apart. Raises `BundleError` when it is truncated or something is behind it."""
    entries: list[bytes] = []
    at = 0
    while at < len(data):
        begin = at + _LENGTH_BYTES
        at = begin + int.from_bytes(data[at:begin])
        if at > len(data):
            raise BundleError(f"the bundle ends inside of entry {len(entries)}")
        entries.append(data[begin:at])
    if len(entries) != width:
        raise BundleError(f"the bundle has {len(entries)} entries instead of {width}")
    return entries


def check_bundle(bundle: BundleId, data: bytes, tile_data: bytes) -> list[bytes]:
    """Take a bundle apart and see that its entries are those of the tile of level 0 with the same index and width.

    Raises:
        BundleError: it is no bundle of that width.
        EntryWrong: an entry has another hash than the tile; names the first by its leaf index.
    """
    assert len(tile_data) == bundle.width * HASH_BYTES
    entries = decode_bundle(data, bundle.width)
    for position, entry in enumerate(entries):
        if leaf_hash(entry) != tile_data[position * HASH_BYTES : (position + 1) * HASH_BYTES]:
            raise EntryWrong(f"entry {bundle.index * TILE_WIDTH + position} is not the one that is in the tree")
    return entries
