"""An SQLite VFS that knows what a power cut would leave, and that fails on demand.

Writes go through to the real file. Beside it, for each file, stands what was synced, and every write since. `cut`
makes a directory as it may look after the power came back: synced content, and of the rest any choice of sectors.
A write that a failed sync was to make durable never becomes so, as the Linux page cache has it: a later sync
succeeds and the data is gone all the same.

Not modelled: names. A file that was made or removed stays so.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path
from random import Random
from threading import RLock

import apsw

SECTOR_BYTES = 512  # what a disk writes whole or not at all
_numbers = count()

Watcher = Callable[[str, str], None]  # (operation, file name), before and after each: "xSync", "xSync done" ...


class _File:
    def __init__(self, content: bytes) -> None:
        self.synced = bytearray(content)
        self.unsynced: list[tuple[int, bytes | None]] = []  # (offset, data), or (size, None) for a truncation

    def after_cut(self, random: Random) -> bytes:
        share = random.choice((0.0, 0.5, 0.9, 1.0))
        content = bytearray(self.synced)
        for offset, data in self.unsynced:
            if data is None:
                if random.random() < share:
                    del content[offset:]
                continue
            at = 0
            while at < len(data):
                step = min(SECTOR_BYTES - (offset + at) % SECTOR_BYTES, len(data) - at)
                if random.random() < share:
                    _write(content, offset + at, data[at : at + step])
                at += step
        return bytes(content)

    def sync(self) -> None:
        for offset, data in self.unsynced:
            if data is None:
                del self.synced[offset:]
            else:
                _write(self.synced, offset, data)
        self.unsynced.clear()


def _write(content: bytearray, offset: int, data: bytes) -> None:
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


class FaultyDisk:
    """A registered VFS and what it knows; `name` goes to the stores.

    Attributes:
        watcher: called before and after each write, truncation and sync.
        faults: called before each; an SQLite result code other than 0 makes it fail.
    """

    def __init__(self) -> None:
        self.name = f"faulty-{next(_numbers)}"
        self.lock = RLock()
        self.files: dict[str, _File] = {}
        self.watcher: Watcher = lambda _operation, _name: None
        self.faults: Callable[[str, str], int] = lambda _operation, _name: 0
        self._vfs = _Vfs(self)

    def open(self, path: str) -> _File:
        with self.lock:
            if path not in self.files:
                self.files[path] = _File(Path(path).read_bytes())
            return self.files[path]

    def cut(self, directory: Path, random: Random) -> Path:
        """Make `directory` hold what the disk may hold if the power fails now."""
        directory.mkdir()
        with self.lock:
            for path, file in self.files.items():
                (directory / Path(path).name).write_bytes(file.after_cut(random))
        return directory

    def close(self) -> None:
        self._vfs.unregister()


class _Vfs(apsw.VFS):
    def __init__(self, disk: FaultyDisk) -> None:
        self._disk = disk
        super().__init__(disk.name, "")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        if name is None:
            return apsw.VFSFile("", name, flags)
        return _VfsFile(self._disk, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        with self._disk.lock:
            self._disk.files.pop(filename, None)
        super().xDelete(filename, syncdir)


class _VfsFile(apsw.VFSFile):
    def __init__(self, disk: FaultyDisk, name: str | apsw.URIFilename, flags: list[int]) -> None:
        super().__init__("", name, flags)
        self._disk = disk
        path = name if isinstance(name, str) else name.filename()
        self._name = Path(path).name
        self._file = disk.open(path)

    def _before(self, operation: str) -> None:
        self._disk.watcher(operation, self._name)
        code = self._disk.faults(operation, self._name)
        if code:
            if operation == "xSync":
                self._file.unsynced.clear()
            raise apsw.exception_for(code)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        self._before("xWrite")
        super().xWrite(data, offset)
        with self._disk.lock:
            self._file.unsynced.append((offset, bytes(data)))
        self._disk.watcher("xWrite done", self._name)

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        self._before("xTruncate")
        super().xTruncate(newsize)
        with self._disk.lock:
            self._file.unsynced.append((newsize, None))
        self._disk.watcher("xTruncate done", self._name)

    def xSync(self, flags: int) -> None:  # noqa: N802
        self._before("xSync")  # the real file needs no sync: `cut` stands for what a disk would hold
        with self._disk.lock:
            self._file.sync()
        self._disk.watcher("xSync done", self._name)
