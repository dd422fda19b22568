"""Reads an SQLite WAL before SQLite does, and tells a torn end from damage.

SQLite stops at the first frame whose checksum does not match and drops it and everything behind it without a word:
right for the transaction that a crash tore, wrong for a flipped byte in the middle. Under synchronous=FULL a
transaction is synced before the next one is written, so only the last one may be torn. Frames of the current salt
behind a bad one that belong to a later transaction therefore prove damage.

What it cannot tell from a torn end: damage within the last transaction, a WAL cut short, and a destroyed frame header
that ended the last transaction but one. A peer that was promised more than the log then holds is what notices these.

Source of the layout: https://www.sqlite.org/fileformat2.html#the_write_ahead_log
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final, NamedTuple

from appliance.adapters.sqlite import beside
from appliance.node.ports import DamagedFile

_HEADER: Final = struct.Struct(">8I")  # magic, format, page size, sequence, salt 1, salt 2, checksum 1, checksum 2
_FRAME_HEADER: Final = struct.Struct(">6I")  # page number, commit size, salt 1, salt 2, checksum 1, checksum 2
_MAGIC: Final = 0x377F0682  # the lowest bit set: checksums over big-endian words
_MASK: Final = 0xFFFFFFFF
SECTOR_BYTES: Final = 512  # the least that a disk writes whole or not at all


class WalScan(NamedTuple):
    """What a WAL holds.

    Attributes:
        frame_count: good frames of the current salt, from the start.
        committed_count: those up to the last commit among them; what SQLite will use.
        damage: why it cannot be only the last transaction that is torn, or an empty string.
    """

    frame_count: int
    committed_count: int
    damage: str


def scan_wal(path: Path) -> WalScan:
    """Scan the WAL that stands beside the database `path`; one that is missing or empty is good."""
    try:
        data = beside(path)[0].read_bytes()
    except FileNotFoundError:
        return WalScan(0, 0, "")
    if len(data) < _HEADER.size or not any(data):
        return WalScan(0, 0, "")  # made, but its first sync never came
    magic, _format, page_bytes, _sequence, salt1, salt2, sum1, sum2 = _HEADER.unpack_from(data)
    order = ">" if magic & 1 else "<"
    if magic & ~1 != _MAGIC or _checksum(order, data[:24], (0, 0)) != (sum1, sum2):
        # SQLite syncs a new header before it writes the first frame under it, and a header lies in one sector.
        lost = len(data) > _HEADER.size
        return WalScan(0, 0, "its header is damaged, so that all its transactions would be lost" if lost else "")
    return _scan_frames(data, order, page_bytes, (salt1, salt2), (sum1, sum2))


def check_wal(path: Path) -> WalScan:
    """Scan the WAL beside a database whose every commit is synced. Raises `DamagedFile`."""
    scan = scan_wal(path)
    if scan.damage:
        raise DamagedFile(str(beside(path)[0]), scan.damage)
    return scan


def _scan_frames(data: bytes, order: str, page_bytes: int, salt: tuple[int, int], seed: tuple[int, int]) -> WalScan:
    step = _FRAME_HEADER.size + page_bytes
    good = committed = 0
    first_bad: int | None = None
    bad_transaction_ended = False
    for number, at in enumerate(range(_HEADER.size, len(data) - step + 1, step), start=1):
        _page, commit, salt1, salt2, sum1, sum2 = _FRAME_HEADER.unpack_from(data, at)
        own = (salt1, salt2) == salt
        matches = False
        if own or first_bad is None:
            after_header = _checksum(order, data[at : at + 8], seed)
            matches = _checksum(order, data[at + _FRAME_HEADER.size : at + step], after_header) == (sum1, sum2)
        if own and matches:
            if bad_transaction_ended:
                detail = (
                    f"frame {first_bad} is bad, and frame {number} belongs to a later transaction, which would be lost"
                )
                return WalScan(good, committed, detail)
            if first_bad is None:
                good = number
                committed = number if commit else committed
        else:
            first_bad = first_bad or number
        if first_bad is not None and commit and (matches or (own and _written_at_once(at))):
            bad_transaction_ended = True
        if own or matches:
            seed = (sum1, sum2)  # each frame continues its predecessor's stored checksum, good or bad
    return WalScan(good, committed, "")


def _written_at_once(at: int) -> bool:
    """Whether commit size and salt of the frame at this offset share a sector. If they do not, a torn write may have
    left the commit size of an older frame beside the new salt.
    """
    return (at + 4) // SECTOR_BYTES == (at + 15) // SECTOR_BYTES


def _checksum(order: str, data: bytes, seed: tuple[int, int]) -> tuple[int, int]:
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    s1, s2 = seed
    for first, second in zip(words[::2], words[1::2], strict=True):
        s1 = (s1 + first + s2) & _MASK
        s2 = (s2 + second + s1) & _MASK
    return s1, s2
