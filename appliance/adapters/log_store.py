"""`raft.db`: the replicated log, the hard state and the install marker. The only file that is synced before a promise.

Compaction only moves the line below which entries do not count; the rows under it are deleted by `sweep`, a slice in
each transaction, so that no append ever waits for a large delete. Their pages are used again by new entries; the file
therefore keeps the size of the longest log it held, which compaction bounds, until `give_back` shortens it, some pages
in each transaction.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Literal, TypeVar, cast

import msgspec
from msgspec import Struct

from appliance.adapters.formats import refuse_newer
from appliance.adapters.log_scrubber import scrub_log
from appliance.adapters.scrubber import SCRUB_CACHE_BYTES
from appliance.adapters.shared_reader import SharedReader
from appliance.adapters.sqlite import (
    PAGE_BYTES,
    ROWS_PER_STATEMENT_MAX,
    BulkInsert,
    Reader,
    Value,
    Writer,
    beside,
    file_bytes,
    sync_directory,
    sync_file,
)
from appliance.adapters.wal_scan import check_wal
from appliance.node.check_ports import ScrubSlice
from appliance.node.ports import DamagedEntry, DamagedFile, DiskFull, EntriesUnavailable, StoredLog
from appliance.raft.messages import (
    Configuration,
    Entry,
    EntryKind,
    HardState,
    SnapshotMeta,
    entry_checksum,
)
from appliance.raft.state import decode_configuration

LOG_FORMAT: Final = 1
WAL_PAGES_MAX: Final = 1_000  # 4 MB: a checkpoint of so much is over in milliseconds, 16,000 pages cost 12-50 %
REWRITE_BYTES_MAX: Final = 64 * 2**20  # an older version's file with more in use is left as it is until another start
CACHE_BYTES: Final = 8 * 2**20

_SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS entries (idx INTEGER PRIMARY KEY, term INTEGER NOT NULL, kind INTEGER NOT NULL,"
    " checksum INTEGER NOT NULL, data BLOB NOT NULL) STRICT",
    "CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value BLOB NOT NULL, checksum INTEGER NOT NULL)"
    " STRICT, WITHOUT ROWID",
)
_SWEEP: Final = (  # the first rows up to an index, so many and of so many bytes at most, but one at least
    "DELETE FROM entries WHERE idx <= (SELECT max(idx) FROM (SELECT idx, sum(size) OVER (ORDER BY idx) - size AS before"
    " FROM (SELECT idx, length(data) AS size FROM entries WHERE idx <= ? ORDER BY idx LIMIT ?)) WHERE before < ?)"
)
_ENDS: Final = "SELECT (SELECT min(idx) FROM entries), (SELECT max(idx) FROM entries WHERE idx <= ?)"
_CONFIGURATION: Final = int(EntryKind.CONFIGURATION)
_NOTHING: Final = SnapshotMeta(0, 0, Configuration())
_EntryRow = tuple[int, int, int, bytes, int]  # term, index, kind, data, checksum
_T = TypeVar("_T")


class _Install(Struct, frozen=True):
    """The marker of an install that has begun."""

    meta: SnapshotMeta
    file_name: str


class SqliteLogStore:
    """`LogStore` on SQLite (WAL, synchronous=FULL, one transaction and one sync for each call).

    Everything but `read` is called on one thread; `read` has a connection and a lock of its own.

    Raises:
        DamagedFile: when opened: the WAL has lost transactions that were synced, or the file is no such database.
        NewerFormat: when opened: a later version has written it.
        StorageError: as `Writer.transaction`.
    """

    def __init__(self, path: Path, *, vfs: str | None = None) -> None:
        check_wal(path)
        self._path = path
        self._insert = BulkInsert("INSERT INTO entries", columns=5)
        self._snapshot = _NOTHING
        self._last_index = 0
        self._leftovers = range(0)  # indexes of the rows under the line that may still be there
        self._writer = Writer(
            path, synchronous="full", cache_bytes=CACHE_BYTES, wal_bytes_max=4 * WAL_PAGES_MAX * 4096, vfs=vfs
        )
        try:
            self._make_schema()
            self._reader = Reader(path, cache_bytes=CACHE_BYTES, vfs=vfs)
            self._scrubbed = SharedReader(path, SCRUB_CACHE_BYTES, vfs)
        except BaseException:
            self._writer.close()
            raise
        try:
            self._check_format()
            self._sync_what_was_found()
        except BaseException:
            self.close()
            raise

    def _make_schema(self) -> None:
        if not self._writer.has_table("meta"):
            with self._writer.transaction() as db:
                for statement in _SCHEMA:
                    db.execute(statement)
                self._put("format", msgspec.msgpack.encode(LOG_FORMAT))
            sync_directory(self._path.parent)

    def _sync_what_was_found(self) -> None:
        """Make durable what `load` will report: a process that was killed in its sync, or whose sync failed, leaves a
        transaction in the WAL that the next one reads, though it may be in the page cache alone. A checkpoint writes
        it anew; without room for that, a sync of the WAL has to do.
        """
        try:
            if self._writer.checkpoint(truncate=True):
                return
        except DiskFull:
            pass
        sync_file(beside(self._path)[0])

    def _check_format(self) -> None:
        found = self._get("format", int)
        refuse_newer(self._path, found or 0, LOG_FORMAT)
        if found != LOG_FORMAT:
            raise DamagedFile(str(self._path), f"its format is {found}, and this program knows {LOG_FORMAT}")

    def load(self) -> StoredLog:
        """Read what is stored and check all of it: the pages, every entry's checksum, and that none is missing.

        Raises:
            DamagedEntry: names the first entry that is damaged or missing.
            DamagedFile: a page, the hard state or the snapshot line is damaged.
        """
        problems = self._reader.rows("PRAGMA quick_check(1)")
        if problems != [("ok",)]:
            raise DamagedFile(str(self._path), str(problems[0][0]))
        self._snapshot = self._get("snapshot", SnapshotMeta) or _NOTHING
        term_starts: list[tuple[int, int]] = []
        configurations: list[tuple[int, Configuration]] = []
        index, term = self._snapshot.index, -1
        with self._reader.lock:
            for found_term, found_index, kind, data, checksum in self._rows("idx > ?", (index,)):
                index += 1
                if found_index != index or entry_checksum(found_term, index, kind, data) != checksum:
                    raise self._damage(found_index, index)
                if found_term != term:
                    if found_term < max(term, self._snapshot.term):
                        raise DamagedEntry(str(self._path), index, f"its term {found_term} comes after a later term")
                    term = found_term
                    term_starts.append((index, term))
                if kind == _CONFIGURATION:
                    configurations.append((index, decode_configuration(data)))
        self._last_index = index
        self._leftovers = self._find_leftovers()
        self._writer.make_shrinkable(REWRITE_BYTES_MAX)
        hard_state = self._get("hard_state", HardState) or HardState()
        return StoredLog(hard_state, self._snapshot, index, tuple(term_starts), tuple(configurations))

    def append(self, entries: Sequence[Entry], hard_state: HardState | None) -> None:
        """In one transaction: drop everything from the first entry's index on, add the entries, set the hard state."""
        if entries:
            first, last = entries[0].index, entries[-1].index
            assert self._snapshot.index < first <= self._last_index + 1, "an append must touch the log"
            assert last - first + 1 == len(entries), "the entries of an append must follow one another"
        values: list[Value] = []
        for entry in entries:
            values += (entry.index, entry.term, int(entry.kind), entry.checksum, entry.data)
        adds_only = 0 < len(entries) <= ROWS_PER_STATEMENT_MAX and first == self._last_index + 1
        if adds_only and hard_state is None:
            self._writer.execute_alone(self._insert.exactly(len(entries)), values)
        else:
            with self._writer.transaction() as db:
                if entries and first <= self._last_index:
                    db.execute("DELETE FROM entries WHERE idx >= ?", (first,))
                self._insert(db, values)
                if hard_state is not None:
                    self._put("hard_state", msgspec.msgpack.encode(hard_state))
        if entries:
            self._last_index = last

    def tidy(self) -> None:
        """Keep the WAL small; what was appended is durable in it already."""
        if self.tidy_due():
            self._writer.checkpoint_if_room()

    def tidy_due(self) -> bool:
        """Whether `tidy` would do something, which may take milliseconds."""
        return self._writer.wal_pages >= WAL_PAGES_MAX

    def read(self, first: int, last: int, bytes_max: int) -> list[Entry]:
        """Entries first..last inclusive, at least one, stopping before `bytes_max` of data is exceeded.

        Raises:
            EntriesUnavailable: `first` is not in the log, or no longer.
            DamagedEntry: an entry does not match its checksum, or is missing between others.
        """
        assert first <= last
        entries: list[Entry] = []
        size_bytes = 0
        with self._reader.lock:
            if first > self._snapshot.index:
                expected = first
                for term, index, kind, data, checksum in self._rows("idx BETWEEN ? AND ?", (first, last)):
                    if index != expected or entry_checksum(term, index, kind, data) != checksum:
                        raise self._damage(index, expected)
                    size_bytes += len(data)
                    if entries and size_bytes > bytes_max:
                        break
                    entries.append(Entry(term, index, kind, data, checksum))
                    expected += 1
        if not entries:
            raise EntriesUnavailable(f"entry {first} is not in {self._path}")
        return entries

    def _rows(self, where: Literal["idx > ?", "idx BETWEEN ? AND ?"], bounds: tuple[int, ...]) -> Iterator[_EntryRow]:
        statement = f"SELECT term, idx, kind, data, checksum FROM entries WHERE {where} ORDER BY idx"  # noqa: S608
        return cast(Iterator[_EntryRow], self._reader.rows_lazily(statement, bounds))

    def _damage(self, index: int, expected_index: int) -> Exception:
        """What is wrong with a row in the place of an entry."""
        if index == expected_index:
            return DamagedEntry(str(self._path), index, "it does not match its checksum")
        if expected_index <= self._snapshot.index:  # compacted after the caller had looked
            return EntriesUnavailable(f"entry {expected_index} is no longer in {self._path}")
        return DamagedEntry(str(self._path), expected_index, "it is missing, though a later entry is there")

    def compact(self, meta: SnapshotMeta) -> None:
        """Move the line: entries up to and including `meta.index` count no longer. One small transaction."""
        assert self._snapshot.index <= meta.index <= self._last_index, "compaction never passes the log"
        with self._writer.transaction():
            self._put("snapshot", msgspec.msgpack.encode(meta))
        self._leftovers = range(self._leftovers.start if self._leftovers else self._snapshot.index + 1, meta.index + 1)
        self._snapshot = meta

    def leftovers(self) -> int:
        """Entries that count no longer and still take room; may be called on any thread."""
        return len(self._leftovers)

    def sweep(self, rows_max: int, bytes_max: int) -> None:
        """In one transaction: remove some of the `leftovers`, so many at most; of entries together larger than
        `bytes_max` no more than reach it.
        """
        if self._leftovers:
            self._writer.execute_alone(_SWEEP, (self._leftovers[-1], rows_max, max(1, bytes_max)))
            self._leftovers = self._find_leftovers()

    def _find_leftovers(self) -> range:
        """Indexes of the first and the last row under the line, and what lies between."""
        with self._reader.lock:
            row = self._reader.row(_ENDS, (self._snapshot.index,))
        first, last = cast(tuple[int | None, int | None], row)
        return range(0) if first is None or last is None else range(first, last + 1)

    def free_bytes(self) -> int:
        """Bytes that `give_back` could give back."""
        return self._writer.free_bytes()

    def give_back(self, bytes_max: int) -> None:
        """Make the file shorter, by so much at most, in one transaction and a checkpoint. The WAL stays as long as it
        is: to append where there is room already makes a sync quicker.
        """
        self._writer.give_back(bytes_max // PAGE_BYTES)
        self._writer.checkpoint_if_room()

    def begin_install(self, meta: SnapshotMeta, file_name: str) -> None:
        """Remember that this received snapshot file is about to replace `ledger.db`."""
        with self._writer.transaction():
            self._put("install", msgspec.msgpack.encode(_Install(meta, file_name)))

    def pending_install(self) -> tuple[SnapshotMeta, str] | None:
        """The install that `begin_install` remembered and `finish_install` has not ended."""
        install = self._get("install", _Install)
        return None if install is None else (install.meta, install.file_name)

    def cancel_install(self) -> None:
        """Forget the marker: the file is lost, and the log counts as before."""
        with self._writer.transaction() as db:
            db.execute("DELETE FROM meta WHERE name = 'install'")

    def finish_install(self, meta: SnapshotMeta) -> None:
        """In one transaction: drop the whole log, let `meta` stand before the first entry, forget the marker."""
        with self._writer.transaction() as db:
            db.execute("DELETE FROM entries WHERE idx > ?", (meta.index,))
            self._put("snapshot", msgspec.msgpack.encode(meta))
            db.execute("DELETE FROM meta WHERE name = 'install'")
        self._snapshot = meta
        self._last_index = meta.index
        self._leftovers = self._find_leftovers()
        self.tidy()

    def size_bytes(self) -> int:
        """Bytes on disk, the WAL included."""
        return file_bytes(self._path)

    def scrub(self) -> Iterator[ScrubSlice]:
        """Read everything that counts back and check it, a slice with each step, on worker threads and over a
        connection of their own.
        """
        return scrub_log(self._scrubbed, _meta_checksum)

    def close(self) -> None:
        """Close the file."""
        self._scrubbed.close()
        with self._reader.lock:
            self._reader.close()
        self._writer.close()

    def _put(self, name: str, value: bytes) -> None:
        self._writer.db.execute(
            "INSERT OR REPLACE INTO meta VALUES (?, ?, ?)", (name, value, _meta_checksum(name, value))
        )

    def _get(self, name: str, kind: type[_T]) -> _T | None:
        with self._reader.lock:
            row = self._reader.row("SELECT value, checksum FROM meta WHERE name = ?", (name,))
        if row is None:
            return None
        value, checksum = cast(tuple[bytes, int], row)
        if checksum != _meta_checksum(name, value):
            raise DamagedFile(str(self._path), f"its {name} does not match its checksum")
        return msgspec.msgpack.decode(value, type=kind)


def _meta_checksum(name: str, value: bytes) -> int:
    return zlib.crc32(value, zlib.crc32(name.encode()))
