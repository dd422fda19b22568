"""A reading connection of its own to a database that may be closed, and replaced by another file, under its readers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

from appliance.adapters.sqlite import Reader
from appliance.node.ports import FileAway


class SharedReader:
    """Lends a connection to one thread at a time. It is opened when it is first asked for, so that nothing is made
    where the file is missing, and must be closed before the file is: who closes a database last removes the WAL of
    that name, which may be another's by then.

    Args:
        path: the database.
        cache_bytes: bound of SQLite's page cache.
        vfs: name of the SQLite VFS to go through.
    """

    def __init__(self, path: Path, cache_bytes: int, vfs: str | None = None) -> None:
        self.path = path
        self._cache_bytes = cache_bytes
        self._vfs = vfs
        self._reader: Reader | None = None
        self._lock = Lock()
        self._away = False

    @contextmanager
    def use(self) -> Iterator[Reader]:
        """The connection, for this block. Raises `FileAway`, `StorageError`."""
        with self._lock:
            if self._away:
                raise FileAway(f"{self.path} is being closed")
            if self._reader is None:
                self._reader = Reader(self.path, cache_bytes=self._cache_bytes, vfs=self._vfs)
            yield self._reader

    @contextmanager
    def excluded(self) -> Iterator[None]:
        """Nobody reads while this block runs; waits for who does."""
        with self._lock:
            yield

    def close(self) -> None:
        """Close the connection; whoever asks for it is refused from now on."""
        with self._lock:
            self._away = True
            if self._reader is not None:
                self._reader.close()
                self._reader = None

    def reopen(self) -> None:
        """Another file stands in the place of the one that was closed."""
        with self._lock:
            self._away = False
