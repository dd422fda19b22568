"""What a witness must not forget: for each log the tree head that it has cosigned last."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import apsw

from appliance.adapters.sqlite import Value, Writer, beside, storage_error, sync_directory, sync_file
from appliance.adapters.wal_scan import check_wal
from appliance.ledger.checkpoint import CheckpointMalformed, parse_checkpoint
from appliance.ledger.note import NoteMalformed, parse_note
from appliance.ledger.witnessing import TreeHead
from appliance.node.ports import DamagedFile, StorageFailed

WITNESS_FORMAT: Final = 1
WAL_PAGES_MAX: Final = 256
CACHE_BYTES: Final = 2**20

_SCHEMA: Final = (
    "CREATE TABLE heads (origin TEXT PRIMARY KEY, size INTEGER NOT NULL, root BLOB NOT NULL, note BLOB NOT NULL,"
    " since_s INTEGER NOT NULL) STRICT",
    "CREATE TABLE forks (origin TEXT PRIMARY KEY, note BLOB NOT NULL, since_s INTEGER NOT NULL) STRICT",
    f"PRAGMA user_version = {WITNESS_FORMAT}",
)


class LogRow(NamedTuple):
    """What a witness knows of a log.

    Attributes:
        origin: the log's.
        head: size and root that were cosigned last.
        note: the note in which the log signed it.
        since_s: Unix seconds, when that head was first cosigned.
        fork: another note that the log signed, of the same size as a head and with another root; empty when there was
            none. The first one is kept.
    """

    origin: str
    head: TreeHead
    note: bytes
    since_s: int
    fork: bytes


class WitnessStore:
    """The state of a witness on SQLite: WAL, synchronous=FULL, one transaction for a submission.

    Used by one thread at a time. Two processes that share a file keep out of each other's submissions.

    Raises:
        StorageError: as `appliance.adapters.sqlite.Writer`; also when the file has lost what was synced.
    """

    def __init__(self, path: Path) -> None:
        check_wal(path)
        self._path = path
        self._writer = Writer(
            path, synchronous="full", cache_bytes=CACHE_BYTES, wal_bytes_max=4 * WAL_PAGES_MAX * 4096, vfs=None
        )
        try:
            self._open()
        except BaseException:
            self._writer.close()
            raise

    def _open(self) -> None:
        if not self._writer.has_table("heads"):
            with self._writer.transaction() as db:
                for statement in _SCHEMA:
                    db.execute(statement)
            sync_directory(self._path.parent)
        found = self._query("PRAGMA user_version")[0][0]
        if found != WITNESS_FORMAT:
            raise StorageFailed(f"{self._path} is of format {found}, and this version knows {WITNESS_FORMAT}")
        # A process that was killed in its sync leaves a head that the next one reads, though it may be in the page
        # cache alone; and a head that is submitted again is cosigned again without a write.
        if not self._writer.checkpoint(truncate=True):
            sync_file(beside(self._path)[0])

    @contextmanager
    def submission(self) -> Iterator[None]:
        """One submission: what the block reads and keeps is decided on one state, and durable at its end. Nothing of
        it is kept when the block raises. Raises `StorageError`.
        """
        with self._writer.transaction():
            yield
        if self._writer.wal_pages > WAL_PAGES_MAX:
            self._writer.checkpoint_if_room()

    def head(self, origin: str) -> TreeHead:
        """What was cosigned last of a log; the empty tree when nothing was. Raises `StorageError`, when the stored head
        is not what its note says, too.
        """
        rows = self._query("SELECT size, root, note FROM heads WHERE origin = ?", origin)
        if not rows:
            return TreeHead()
        size, root, note = rows[0]
        try:
            said = parse_checkpoint(parse_note(note).text)
        except (NoteMalformed, CheckpointMalformed) as error:
            raise DamagedFile(str(self._path), f"the note of the last head of {origin!r:.100}: {error}") from error
        if (said.origin, said.size, said.root) != (origin, size, root):
            raise DamagedFile(str(self._path), f"the last head of {origin!r:.100} is not what its note says")
        return TreeHead(size, root)

    def keep(self, origin: str, head: TreeHead, note: bytes, now_s: int) -> None:
        """Let this be the head that was cosigned last; inside a `submission`."""
        self._query(
            "INSERT INTO heads VALUES (?, ?, ?, ?, ?) ON CONFLICT (origin) DO UPDATE SET size = excluded.size,"
            " root = excluded.root, note = excluded.note, since_s = excluded.since_s WHERE size != excluded.size",
            origin,
            *head,
            note,
            now_s,
        )

    def keep_fork(self, origin: str, note: bytes, now_s: int) -> None:
        """Keep the first evidence of a fork of a log; inside a `submission`."""
        self._query("INSERT OR IGNORE INTO forks VALUES (?, ?, ?)", origin, note, now_s)

    def rows(self) -> list[LogRow]:
        """What is known of each log, in the order of their origins. Raises `StorageError`."""
        found = self._query(
            "SELECT origin, size, root, heads.note, heads.since_s, coalesce(forks.note, x'') FROM heads"
            " LEFT JOIN forks USING (origin) ORDER BY origin"
        )
        return [LogRow(origin, TreeHead(size, root), *rest) for origin, size, root, *rest in found]

    def _query(self, statement: str, *bindings: Value) -> list[tuple[Any, ...]]:
        try:
            return self._writer.db.execute(statement, bindings).fetchall()
        except apsw.Error as error:
            raise storage_error(self._path, self._writer.db, error) from error

    def close(self) -> None:
        """Close the file."""
        self._writer.close()
