"""Reads `raft.db` back, a slice at a time, while it is written: what counts of the log, and what stands beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, cast

import msgspec

from appliance.adapters.scrubber import SLICE_BYTES
from appliance.adapters.shared_reader import SharedReader
from appliance.adapters.sqlite import Reader
from appliance.node.check_ports import Rot, ScrubSlice
from appliance.node.ports import FileAway, StorageError
from appliance.raft.messages import SnapshotMeta, entry_checksum

ENTRIES_PER_SLICE: Final = 128  # a millisecond of work; fewer where they are large, but one at least
_ROWS: Final = "SELECT idx, term, kind, data, checksum FROM entries WHERE idx >= ? AND idx <= ? ORDER BY idx"
_LAST: Final = "SELECT max(idx) FROM entries"
_META: Final = "SELECT name, value, checksum FROM meta"
_SNAPSHOT: Final = "SELECT value FROM meta WHERE name = 'snapshot'"

_EntryRow = tuple[int, int, int, bytes, int]
MetaChecksum = Callable[[str, bytes], int]


def scrub_log(file: SharedReader, meta_checksum: MetaChecksum) -> Iterator[ScrubSlice]:
    """One pass over a log, up to where it ends at the beginning. What a compaction drops, or another leader replaces,
    meanwhile is not missed.

    Args:
        file: a connection to it.
        meta_checksum: the checksum of a row of the table `meta`, of its name and value.
    """
    rotten: list[Rot] = []
    first = last = 0
    try:
        with file.use() as reader:
            reader.db.release_memory()  # what an earlier pass has read is to be read again
            with reader.one_state():
                rotten += _wrong_rows(reader, meta_checksum)
                first = _snapshot_index(reader) + 1
                row = reader.row(_LAST)
                last = cast(int | None, row[0] if row else None) or 0
    except FileAway:
        raise
    except StorageError as error:
        rotten.append(Rot(f"raft.db cannot be read: {error}"))
    yield ScrubSlice(0, 0.0, tuple(rotten))
    begin = first
    while begin <= last:
        end = min(begin + ENTRIES_PER_SLICE - 1, last)
        begin, found = _entries(file, begin, end, (begin - first) / (last - first + 1))
        yield found


def _entries(file: SharedReader, begin: int, end: int, share: float) -> tuple[int, ScrubSlice]:
    """Check entries up to an end, or the first of them where they are large; answers where to go on."""
    rotten: list[Rot] = []
    try:
        with file.use() as reader:
            before = reader.bytes_read()
            behind = _check_entries(reader, begin, end, rotten)
            bytes_read = reader.bytes_read() - before
    except FileAway:
        raise
    except StorageError as error:  # a page, or the file's structure
        if begin == end:
            return end + 1, ScrubSlice(0, share, (Rot(f"log entry {begin} cannot be read: {error}"),))
        found = [_entries(file, index, index, share)[1] for index in range(begin, end + 1)]
        return end + 1, ScrubSlice(0, share, tuple(rot for one in found for rot in one.rotten))
    return behind, ScrubSlice(bytes_read, share, tuple(rotten))


def _check_entries(reader: Reader, begin: int, end: int, rotten: list[Rot]) -> int:
    with reader.one_state():
        expected = max(begin, _snapshot_index(reader) + 1)
        left = SLICE_BYTES
        for row in reader.rows_lazily(_ROWS, (expected, end)):
            index, term, kind, data, checksum = cast(_EntryRow, row)
            rotten += (Rot(f"log entry {n} is missing") for n in range(expected, index))
            expected = index + 1
            if not isinstance(data, bytes) or entry_checksum(term, index, kind, data) != checksum:
                rotten.append(Rot(f"log entry {index} does not match its checksum"))
            left -= len(data)
            if left <= 0:
                return expected
        row_last = reader.row(_LAST)
        last = cast(int | None, row_last[0] if row_last else None) or 0
        rotten += (Rot(f"log entry {n} is missing") for n in range(expected, min(end, last) + 1))
    return end + 1


def _wrong_rows(reader: Reader, meta_checksum: MetaChecksum) -> Iterator[Rot]:
    for name, value, checksum in cast(list[tuple[str, bytes, int]], reader.rows(_META)):
        if meta_checksum(name, value) != checksum:
            yield Rot(f"{name} in raft.db does not match its checksum")


def _snapshot_index(reader: Reader) -> int:
    """Up to where entries count no longer."""
    row = reader.row(_SNAPSHOT)
    if row is None:
        return 0
    try:
        return msgspec.msgpack.decode(cast(bytes, row[0]), type=SnapshotMeta).index
    except msgspec.MsgspecError:
        return 0  # the row does not match its checksum, which is told
