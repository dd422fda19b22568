"""How this program opens and writes SQLite files, and what a failure of SQLite means to the node.

One `Writer` is the only connection that writes a file. It never repeats a commit, a sync or a checkpoint that
failed: after anything but a full disk it refuses all further writes, because the kernel may have dropped the pages
that it could not write and would report success the second time.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Literal, cast
from urllib.parse import quote

import apsw

from appliance.node.ports import DamagedFile, DiskFull, StorageError, StorageFailed

Value = None | int | float | bytes | str
Row = Sequence[Value]

PAGE_BYTES: Final = 4096
BUSY_TIMEOUT_MS: Final = 5_000  # another process holds a lock for moments only; longer is a failure
STATEMENTS_KEPT: Final = 2 * 128  # prepared ones: an insert for each number of rows, and the others
ROWS_PER_STATEMENT_MAX: Final = 128  # a step gives up the GIL, so one step should carry many rows
_NEVER, _AT_COMMIT, _INCREMENTAL = 0, 1, 2  # values of PRAGMA auto_vacuum: when free pages leave the file


def connect(path: Path, *, vfs: str | None = None, read_only: bool = False, cache_bytes: int) -> apsw.Connection:
    """Open a WAL database. Pragmas are set one at a time and read back: a statement list stops at the first row.

    Args:
        path: the file; made when it is missing, unless `read_only`.
        vfs: name of the SQLite VFS to go through; tests inject faults with it.
        read_only: refuse writes on this connection (it still shares the WAL's index with the writer).
        cache_bytes: bound of SQLite's page cache for this connection.

    Raises:
        StorageError: the file cannot be opened, or is no database.
    """
    flags = apsw.SQLITE_OPEN_READWRITE | (0 if read_only else apsw.SQLITE_OPEN_CREATE)
    try:
        db = apsw.Connection(os.fspath(path), flags=flags, vfs=vfs, statementcachesize=STATEMENTS_KEPT)
    except apsw.Error as error:
        raise storage_error(path, None, error) from error
    try:
        db.set_busy_timeout(BUSY_TIMEOUT_MS)
        if not read_only:
            _set(db, "page_size", PAGE_BYTES, PAGE_BYTES)  # the file system's own, so that a page is one block
            _keep_free_pages(db)  # before the file has a first page
        _set(db, "journal_mode", "wal", "wal")  # readers never wait for the writer, a commit is one sequential write
        _set(db, "cache_size", -(cache_bytes // 1024), -(cache_bytes // 1024))  # negative: KiB instead of pages
        _set(db, "mmap_size", 0, 0)  # a read error must be an error code, not SIGBUS
        _set(db, "temp_store", 2, 2)  # memory: nothing may land outside the data directory
        _set(db, "trusted_schema", 0, 0)  # a received file's schema must not call functions
        _set(db, "cell_size_check", 1, 1)  # notice a damaged page when it is read
        if read_only:
            _set(db, "query_only", 1, 1)
    except apsw.Error as error:
        mapped = storage_error(path, db, error)
        db.close(force=True)
        raise mapped from error
    return db


def _keep_free_pages(db: apsw.Connection) -> None:
    """Let `Writer.give_back` decide when free pages leave the file, and no commit. A file that was made without such a
    way stays as it is; one that a kill or a full disk left on the way says so at commits again.
    """
    if db.pragma("auto_vacuum") != _INCREMENTAL:
        with suppress(apsw.FullError):
            db.pragma("auto_vacuum", _INCREMENTAL)


def _connect_immutable(path: Path) -> apsw.Connection:
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    try:
        db = apsw.Connection(f"file:{quote(os.fspath(path))}?immutable=1", flags=flags)
        _set(db, "trusted_schema", 0, 0)
        _set(db, "cell_size_check", 1, 1)
    except apsw.Error as error:
        raise storage_error(path, None, error) from error
    return db


def _set(db: apsw.Connection, name: str, value: int | str, expected: int | str) -> None:
    db.pragma(name, value)
    found = db.pragma(name)
    if found != expected:
        raise apsw.MisuseError(f"PRAGMA {name} is {found!r} after it was set to {value!r}")


def storage_error(path: Path, db: apsw.Connection | None, error: apsw.Error) -> StorageError:
    """Tell what an SQLite error means: no room, damage, or a failure after which nothing is known."""
    result = getattr(error, "result", apsw.SQLITE_ERROR)
    extended = getattr(error, "extendedresult", result)
    if result == apsw.SQLITE_FULL:
        return DiskFull(f"no room left for {path}")
    if result in (apsw.SQLITE_CORRUPT, apsw.SQLITE_NOTADB):
        return DamagedFile(str(path), str(error))
    no_room = db is not None and result == apsw.SQLITE_IOERR and db.system_errno in (errno.ENOSPC, errno.EDQUOT)
    if no_room and extended not in (apsw.SQLITE_IOERR_FSYNC, apsw.SQLITE_IOERR_DIR_FSYNC):
        return DiskFull(f"no room left for {path}")
    return StorageFailed(f"{path}: {type(error).__name__}: {error}")


class Writer:
    """The one connection that writes a file.

    Attributes:
        path: the file.
        db: the connection; only inside `transaction` may it write.
        failure: why writes are refused, or None.
        wal_pages: pages in the WAL after the last commit.
    """

    def __init__(
        self,
        path: Path,
        *,
        synchronous: Literal["full", "normal"],
        cache_bytes: int,
        wal_bytes_max: int,
        vfs: str | None,
    ) -> None:
        self.path = path
        self.failure: StorageError | None = None
        self.wal_pages = 0
        self.db = connect(path, vfs=vfs, cache_bytes=cache_bytes)
        try:
            level = {"normal": 1, "full": 2}[synchronous]  # full: sync the WAL at each commit; normal: at checkpoints
            _set(self.db, "synchronous", level, level)
            _set(self.db, "journal_size_limit", wal_bytes_max, wal_bytes_max)  # shrink the WAL after a burst
            self.db.set_wal_hook(self._on_commit)  # replaces the automatic checkpoint, whose errors SQLite hides
        except apsw.Error as error:
            mapped = storage_error(path, self.db, error)
            self.db.close(force=True)
            raise mapped from error

    def _on_commit(self, _db: apsw.Connection, _name: str, pages: int) -> int:
        self.wal_pages = pages
        return apsw.SQLITE_OK

    def has_table(self, name: str) -> bool:
        """Tell whether the file has this table. Raises `StorageError`."""
        try:
            return self.db.table_exists("main", name)
        except apsw.Error as error:
            raise storage_error(self.path, self.db, error) from error

    @contextmanager
    def transaction(self) -> Iterator[apsw.Connection]:
        """One transaction: committed at the end of the block, rolled back when it raises.

        Raises:
            DiskFull: rolled back for want of room; the writer goes on working.
            StorageError: anything else; the writer refuses all further writes.
        """
        if self.failure is not None:
            raise StorageFailed(f"{self.path} takes no more writes since: {self.failure}") from self.failure
        try:
            self.db.execute("BEGIN IMMEDIATE")
            yield self.db
            self.db.execute("COMMIT")
        except apsw.Error as error:
            raise self._failed(error) from error
        except BaseException:
            self._roll_back()
            raise

    def _failed(self, error: apsw.Error) -> StorageError:
        mapped = storage_error(self.path, self.db, error)
        rolled_back = self._roll_back()
        if not (isinstance(mapped, DiskFull) and rolled_back):
            self.failure = mapped
        return mapped

    def _roll_back(self) -> bool:
        try:
            if self.db.in_transaction:
                self.db.execute("ROLLBACK")
        except apsw.Error as error:
            self.failure = storage_error(self.path, self.db, error)
            return False
        return True

    def execute_alone(self, statement: str, bindings: Sequence[Value]) -> None:
        """One statement that is a transaction by itself: one step of SQLite, so the GIL is given up once. Raises as
        `transaction`.
        """
        if self.failure is not None:
            raise StorageFailed(f"{self.path} takes no more writes since: {self.failure}") from self.failure
        try:
            self.db.execute(statement, bindings)
        except apsw.Error as error:
            raise self._failed(error) from error

    def checkpoint(self, *, truncate: bool) -> bool:
        """Move what is in the WAL into the file and sync the file; True when all of it was moved.

        A passive checkpoint comes first, because it waits for nobody and alone decides the answer. Truncating the
        WAL afterwards is a courtesy (nothing to replay, nothing beside the file) that a reader may prevent.

        Raises:
            StorageError: as `transaction`.
        """
        if self.failure is not None:
            raise StorageFailed(f"{self.path} takes no more writes since: {self.failure}") from self.failure
        try:
            pages, moved = self.db.wal_checkpoint("main", apsw.SQLITE_CHECKPOINT_PASSIVE)
            if pages == moved and truncate:
                self._truncate_wal()
        except apsw.BusyError:
            return False
        except apsw.Error as error:
            raise self._failed(error) from error
        return pages == moved

    def _truncate_wal(self) -> None:
        self.db.set_busy_timeout(0)
        try:
            self.db.wal_checkpoint("main", apsw.SQLITE_CHECKPOINT_TRUNCATE)
            self.wal_pages = 0
        except apsw.BusyError:
            pass
        finally:
            self.db.set_busy_timeout(BUSY_TIMEOUT_MS)

    def checkpoint_if_room(self) -> None:
        """A passive checkpoint that keeps the WAL small; a full disk only leaves it as long as it is.

        Raises:
            StorageError: anything but a full disk.
        """
        with suppress(DiskFull):
            self.checkpoint(truncate=False)

    def free_bytes(self) -> int:
        """Bytes of the file that hold nothing and could be given back. Raises as `transaction`."""
        try:
            if self.db.pragma("auto_vacuum") == _NEVER:
                return 0
            return PAGE_BYTES * cast(int, self.db.pragma("freelist_count"))
        except apsw.Error as error:
            raise self._failed(error) from error

    def give_back(self, pages_max: int) -> None:
        """In one transaction: move what stands at the end of the file into free pages before it, so that the file is
        at most so many pages shorter from the next checkpoint on; nothing where it was made without such a way.

        A commit does that in one step of SQLite while the file is said to shrink at commits; `incremental_vacuum`
        would give up the GIL once for each page. Raises as `transaction`.
        """
        if self.failure is not None:
            raise StorageFailed(f"{self.path} takes no more writes since: {self.failure}") from self.failure
        if self.free_bytes() == 0:
            return
        self.db.autovacuum_pages(lambda _name, _pages, free, _page_bytes: min(free, pages_max))
        try:
            self.db.pragma("auto_vacuum", _AT_COMMIT)
        except apsw.Error as error:
            raise self._failed(error) from error
        finally:
            self._shrink_no_more()

    def _shrink_no_more(self) -> None:
        """Keep free pages at commits again; as long as the file cannot be made to say so, none are given at any."""
        self.db.autovacuum_pages(lambda _name, _pages, _free, _page_bytes: 0)
        try:
            self.db.pragma("auto_vacuum", _INCREMENTAL)
            self.db.autovacuum_pages(None)
        except apsw.Error as error:
            self._failed(error)

    def make_shrinkable(self, used_bytes_max: int) -> None:
        """Rewrite a file that an earlier version made, so that `give_back` can shorten it; nothing when more than this
        is in use, since all of it is held in memory meanwhile, or when there is no room for it. Raises as
        `transaction`.
        """
        if self.failure is not None:
            raise StorageFailed(f"{self.path} takes no more writes since: {self.failure}") from self.failure
        try:
            pages, free = (cast(int, self.db.pragma(name)) for name in ("page_count", "freelist_count"))
            if self.db.pragma("auto_vacuum") == _NEVER and (pages - free) * PAGE_BYTES <= used_bytes_max:
                self.db.pragma("auto_vacuum", _INCREMENTAL)
                self.db.execute("VACUUM")
        except apsw.Error as error:
            mapped = self._failed(error)
            if not isinstance(mapped, DiskFull):
                raise mapped from error

    def close(self) -> None:
        """Close the connection; the last one of a file moves the WAL into it, unless writes had failed."""
        if self.failure is not None:
            self.db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        self.db.close(force=True)


class BulkInsert:
    """Inserts many rows with few steps of SQLite.

    Statements carry 1, 2, 4 ... `ROWS_PER_STATEMENT_MAX` rows, so that at most eight are prepared and kept in the
    connection's statement cache, and the GIL is given up once for many rows.
    """

    def __init__(self, head: str, columns: int) -> None:
        row = "(" + ",".join("?" * columns) + ")"
        self._exact = [f"{head} VALUES {','.join([row] * count)}" for count in range(ROWS_PER_STATEMENT_MAX + 1)]
        self._statements: list[tuple[int, str]] = []
        count = ROWS_PER_STATEMENT_MAX
        while count:
            self._statements.append((count * columns, f"{head} VALUES {','.join([row] * count)}"))
            count //= 2

    def exactly(self, rows: int) -> str:
        """The statement that inserts this many rows, at most `ROWS_PER_STATEMENT_MAX`."""
        return self._exact[rows]

    def __call__(self, db: apsw.Connection, values: Sequence[Value]) -> None:
        """Insert rows in their order; their values stand one behind the other."""
        at, left = 0, len(values)
        for count, statement in self._statements:
            while left >= count:
                db.execute(statement, values[at : at + count])
                at, left = at + count, left - count


class Reader:
    """A connection for reads that can be used by one thread at a time; `lock` is for who shares it.

    Args:
        immutable: the file is at rest: nothing is made beside it, and a WAL there is not looked at.
    """

    def __init__(self, path: Path, *, cache_bytes: int, vfs: str | None = None, immutable: bool = False) -> None:
        self.path = path
        self.lock = threading.Lock()
        self.db = (
            _connect_immutable(path) if immutable else connect(path, vfs=vfs, read_only=True, cache_bytes=cache_bytes)
        )

    def rows(self, statement: str, bindings: Row = ()) -> list[tuple[Value, ...]]:
        """All rows of a query. Raises `StorageError`."""
        try:
            return self.db.execute(statement, bindings).fetchall()
        except apsw.Error as error:
            raise storage_error(self.path, self.db, error) from error

    def rows_lazily(self, statement: str, bindings: Row = ()) -> Iterator[tuple[Value, ...]]:
        """The rows of a query one after the other, all of one state of the file. Raises `StorageError`."""
        try:
            cursor = self.db.execute(statement, bindings)
            try:
                yield from cursor
            finally:
                cursor.close()
        except apsw.Error as error:
            raise storage_error(self.path, self.db, error) from error

    @contextmanager
    def one_state(self) -> Iterator[None]:
        """Let all queries of the block read the state that the first one finds. Raises `StorageError`."""
        self.rows("BEGIN")
        try:
            yield
        finally:
            if self.db.in_transaction:  # some errors end it
                self.rows("ROLLBACK")

    def row(self, statement: str, bindings: Row = ()) -> tuple[Value, ...] | None:
        """The first row of a query, or None. Raises `StorageError`."""
        try:
            return self.db.execute(statement, bindings).fetchone()
        except apsw.Error as error:
            raise storage_error(self.path, self.db, error) from error

    def bytes_read(self) -> int:
        """Bytes that this connection has read from the file since it was opened, its own cache left aside."""
        return self.db.status(apsw.SQLITE_DBSTATUS_CACHE_MISS)[0] * PAGE_BYTES

    def close(self) -> None:
        """Close the connection."""
        self.db.close(force=True)


def sync_file(path: Path) -> None:
    """Make a file's content durable. Raises `StorageFailed`."""
    _sync(path, os.O_RDONLY)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable. Raises `StorageFailed`."""
    _sync(path, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    try:
        descriptor = os.open(path, flags)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise StorageFailed(f"{path} could not be synced: {error}") from error


def beside(path: Path) -> tuple[Path, Path]:
    """The WAL and the shared-memory file of a database."""
    return path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")


def file_bytes(path: Path) -> int:
    """Bytes of a database and its WAL on disk; 0 where there is no file."""
    total = 0
    for one in (path, beside(path)[0]):
        try:
            total += one.stat().st_size
        except FileNotFoundError:
            continue
    return total


StepHook = Callable[[str], None]  # called with the name of the step about to be taken; tests stop there


def no_hook(_step: str) -> None:
    """The step hook of a real node."""
