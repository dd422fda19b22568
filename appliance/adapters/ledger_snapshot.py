"""Snapshots as files: copying `ledger.db` while it is written, and putting a copy in its place."""

from __future__ import annotations

import os
import time
from pathlib import Path
from threading import Event, Lock
from typing import Final

import apsw

from appliance.adapters.freeing import hold, let_go
from appliance.adapters.ledger_verify import read_summary
from appliance.adapters.pace import Pace
from appliance.adapters.sqlite import (
    PAGE_BYTES,
    Reader,
    StepHook,
    beside,
    no_hook,
    storage_error,
    sync_directory,
    sync_file,
)
from appliance.ledger.state import Summary
from appliance.node.ports import StorageFailed

PAGES_PER_STEP: Final = 512  # 2 MB between two syncs, and between two looks at whether the copy shall stop
CACHE_BYTES: Final = 4 * 2**20


class Copier:
    """Makes consistent copies of a database by one read transaction on a connection of its own.

    Pages are copied as they are (sqlite3_backup); since the transaction pins one state, writers neither wait for the
    copy nor make it start again.

    Args:
        path: the database.
        cluster_id: that it must belong to.
        vfs: name of the SQLite VFS to read it through.
        bytes_per_s: pace; 0 sets none.
    """

    def __init__(self, path: Path, cluster_id: str, vfs: str | None, bytes_per_s: int) -> None:
        self._path = path
        self._cluster_id = cluster_id
        self._vfs = vfs
        self._bytes_per_s = bytes_per_s
        self._running = Lock()
        self._stopping = Event()

    def copy(self, target: Path) -> tuple[Summary, bytes]:
        """Copy to `target`, which appears only when it is complete and synced. Raises `StorageError`."""
        with self._running:
            part = target.with_name(target.name + ".part")
            reader = Reader(self._path, cache_bytes=CACHE_BYTES, vfs=self._vfs)
            try:
                part.unlink(missing_ok=True)
                with reader.one_state():
                    held = read_summary(reader, self._cluster_id)
                    self._copy_pages(reader, part)
                sync_file(part)
                os.replace(part, target)
                sync_directory(target.parent)
                return held
            except OSError as error:
                raise StorageFailed(f"{target} could not be written: {error}") from error
            finally:
                reader.close()
                part.unlink(missing_ok=True)

    def _copy_pages(self, reader: Reader, part: Path) -> None:
        """Each step is synced: to sync hundreds of megabytes at once would hold up the log's small syncs as long."""
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._copy_steps(reader, part, descriptor)
        finally:
            os.close(descriptor)  # behind the connection: to close a file ends the process's locks on it

    def _copy_steps(self, reader: Reader, part: Path, descriptor: int) -> None:
        target = apsw.Connection(os.fspath(part))
        pace = Pace(self._bytes_per_s, time.monotonic())
        try:
            target.pragma("synchronous", 0)  # SQLite itself shall not sync: what is cut off is dropped
            with target.backup("main", reader.db, "main") as backup:
                while not backup.done:
                    if self._stopping.is_set():
                        raise StorageFailed(f"the copy of {self._path} was stopped")
                    backup.step(PAGES_PER_STEP)
                    os.fdatasync(descriptor)
                    if not backup.done:
                        self._stopping.wait(pace.wait_s(PAGES_PER_STEP * PAGE_BYTES, time.monotonic()))
            target.pragma("journal_mode", "delete")  # so that whoever opens the copy makes nothing beside it
        except apsw.Error as error:
            raise storage_error(part, target, error) from error
        finally:
            target.close(force=True)

    def stop(self) -> None:
        """Stop a running copy, wait for its end, and refuse further ones."""
        self._stopping.set()
        with self._running:
            pass


def install_file(received: Path, path: Path, step: StepHook = no_hook) -> None:
    """Put a received file in the place of the database `path`, which nobody has open.

    The old WAL goes before the new file comes: SQLite would replay it into the new file. Between the two the old
    database may be incomplete, which the install marker in `raft.db` covers: start-up must look at the marker first
    and call this again while `received` exists. When it does not, the rename has happened. The old file, which may be
    of gigabytes, is freed in steps that go on behind this.

    Raises:
        StorageFailed: a step failed; doing all of them again is safe.
    """
    step("sync_received")
    sync_file(received)
    old: int | None = None
    try:
        old = hold(path)
        step("remove_wal")
        for side_file in beside(path):
            side_file.unlink(missing_ok=True)
        step("sync_removal")
        sync_directory(path.parent)
        step("rename")
        os.replace(received, path)
        step("sync_rename")
        sync_directory(path.parent)
        step("installed")
    except OSError as error:
        if old is not None:
            os.close(old)
        raise StorageFailed(f"{received} could not be put in the place of {path}: {error}") from error
    let_go(old)
