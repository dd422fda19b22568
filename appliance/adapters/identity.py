"""The data directory: one process at a time, who it belongs to, what is set aside in it, the room it holds in reserve.

The identity file names the file `raft.db` that it was written for, by inode and time of birth (not by device, whose
number changes at reboot). A restored archive, a copy or a cleared directory has another file there, so the node sees
that its votes and acknowledgements may be forgotten. What cannot be seen is a file system whose blocks were rolled
back in place.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import struct
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from appliance.adapters.formats import refuse_newer
from appliance.adapters.setting_aside import drop, kept, set_aside, size_bytes
from appliance.adapters.sqlite import StepHook, no_hook, sync_directory
from appliance.adapters.standing import StandingFile
from appliance.adapters.whole_file import from_os_error, write_whole
from appliance.node.ports import (
    LEDGER_NAME,
    LOG_NAME,
    DiskFull,
    Identity,
    IdentityCheck,
    IdentityStatus,
    StorageError,
    StorageFailed,
)

AUDIT_DIRECTORY: Final = "audit"
IDENTITY_FILE: Final = "identity.json"
LOCK_FILE: Final = "lock"
RESERVE_FILE: Final = "reserve.bin"
IDENTITY_FORMAT: Final = 1
RESERVE_BYTES: Final = 16 * 2**20

_AT_FDCWD: Final = -100
_STATX_BTIME: Final = 0x800
_STATX_BYTES: Final = 256
_STATX_BTIME_AT: Final = 80  # struct statx: seconds (8 bytes), then nanoseconds (4 bytes)


class DataDirInUse(StorageError):
    """Another process holds the data directory."""


class _Format(Struct, frozen=True):
    """What the identity file of every version, past and future, begins with."""

    format: int


class _IdentityFile(Struct, frozen=True, forbid_unknown_fields=True):
    """The identity file; integers that may pass 2**53 are text."""

    format: int
    cluster_id: str
    node_id: int
    incarnation: str
    raft_inode: str
    raft_birth_ns: str


class DataDirectory:
    """A data directory that this process alone uses, from construction to `close`.

    Args:
        path: made when it is missing.
        reserve_bytes: size of the file that `hold_reserve` makes.
        step: called before each step of writing the identity and of setting aside with its name; tests stop there.

    Attributes:
        standing: what the node knows of itself beside its `raft.db`.

    Raises:
        DataDirInUse: another process uses it; names its process id.
        NewerFormat: a later version has written in it.
        StorageFailed: it cannot be made or locked.
    """

    def __init__(self, path: Path, *, reserve_bytes: int = RESERVE_BYTES, step: StepHook = no_hook) -> None:
        self.path = path
        self._reserve_bytes = reserve_bytes
        self._step = step
        self._lock_descriptor = _lock(path)
        try:
            self.standing = StandingFile(path)
        except BaseException:
            self.close()
            raise

    def check(self) -> IdentityCheck:
        """Look whose directory it is, before `raft.db` is opened.

        Raises:
            NewerFormat: a later version has written it.
            StorageFailed: it cannot be looked at.
        """
        try:
            data = (self.path / IDENTITY_FILE).read_bytes()
        except FileNotFoundError:
            return self._check_without_identity()
        except OSError as error:
            raise StorageFailed(f"{self.path / IDENTITY_FILE} cannot be read: {error}") from error
        try:
            found = msgspec.json.decode(data, type=_Format).format
            refuse_newer(self.path / IDENTITY_FILE, found, IDENTITY_FORMAT)
            file = msgspec.json.decode(data, type=_IdentityFile)
            identity = Identity(file.cluster_id, file.node_id, int(file.incarnation))
            if found != IDENTITY_FORMAT:
                raise ValueError(f"its format is {found}, and this program knows {IDENTITY_FORMAT}")
        except ValueError as error:
            return self._replaced(None, f"{IDENTITY_FILE} cannot be understood: {error}.")
        reason = self._difference(file)
        return self._replaced(identity, reason) if reason else IdentityCheck(IdentityStatus.OK, identity)

    def _check_without_identity(self) -> IdentityCheck:
        found = [name for name in (LOG_NAME, LEDGER_NAME) if (self.path / name).exists()]
        if not found and not self.standing.has_held:
            return IdentityCheck(IdentityStatus.FRESH)
        there = f", but {found[0]} is there" if found else ""
        return self._replaced(None, f"{IDENTITY_FILE} is missing{there}.")

    def _replaced(self, identity: Identity | None, reason: str) -> IdentityCheck:
        return IdentityCheck(IdentityStatus.REPLACED, identity, reason, lost=not (self.path / LOG_NAME).exists())

    def _difference(self, file: _IdentityFile) -> str:
        try:
            inode, birth_ns = _file_mark(self.path / LOG_NAME)
        except FileNotFoundError:
            return f"{LOG_NAME} is missing."
        except OSError as error:
            raise StorageFailed(f"{self.path / LOG_NAME} cannot be looked at: {error}") from error
        if str(inode) != file.raft_inode:
            return f"{LOG_NAME} is another file than the one this identity was written for (its inode differs)."
        if birth_ns and file.raft_birth_ns != "0" and str(birth_ns) != file.raft_birth_ns:
            return f"{LOG_NAME} is another file than the one this identity was written for (it was made later)."
        return ""

    def write(self, identity: Identity) -> None:
        """Write the identity of the `raft.db` that is here now: a reader finds the old one or the new one, whole.

        Raises:
            StorageError: it could not be written.
        """
        path = self.path / IDENTITY_FILE
        try:
            inode, birth_ns = _file_mark(self.path / LOG_NAME)
        except OSError as error:
            raise from_os_error(path, error) from error
        file = _IdentityFile(
            IDENTITY_FORMAT,
            identity.cluster_id,
            identity.node_id,
            str(identity.incarnation),
            str(inode),
            str(birth_ns),
        )
        write_whole(path, msgspec.json.format(msgspec.json.encode(file)) + b"\n", self._step)

    def set_aside(self, reason: str, *, ledger_only: bool) -> Path | None:
        """Move what is damaged out of the way: `ledger.db` alone, which the log brings again, or all data; answers
        where they are kept, None when nothing is there. What is derived from the ledger goes with it. Raises
        `StorageError`.
        """
        if not ledger_only:
            self.standing.note_loss()
        names = (LEDGER_NAME, AUDIT_DIRECTORY) if ledger_only else (LOG_NAME, LEDGER_NAME, AUDIT_DIRECTORY)
        return set_aside(self.path, names, reason, datetime.now(UTC), self._step)

    def kept(self) -> int:
        """How many directories are there that were set aside. Raises `StorageError`."""
        return len(kept(self.path))

    def make_room(self) -> None:
        """A leader sends a snapshot: of what is kept the oldest goes, as long as there is less room than the largest
        takes. Raises `StorageError`.
        """
        directories = [(path, size_bytes(path)) for path in kept(self.path)]
        wanted_bytes = max((size for _, size in directories), default=0) + self._reserve_bytes
        free_bytes = shutil.disk_usage(self.path).free
        for path, size in directories:
            if free_bytes >= wanted_bytes:
                return
            drop(path)
            free_bytes += size  # it comes back in steps

    def drop_kept(self) -> None:
        """A write finds no room: nothing is kept any longer. Raises `StorageError`."""
        for directory in kept(self.path):
            drop(directory)

    def hold_reserve(self) -> None:
        """Take the reserved room, if it is not held. To be tried again after a full disk: when it succeeds, there
        is room.

        Raises:
            DiskFull: there is not enough room.
            StorageFailed: it failed for another reason.
        """
        path = self.path / RESERVE_FILE
        try:
            room = os.statvfs(self.path)
            if not path.exists() and room.f_bavail * room.f_frsize < self._reserve_bytes:
                raise DiskFull(f"no room for the {self._reserve_bytes} bytes of {path}")
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, self._reserve_bytes)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise from_os_error(path, error) from error

    def release_reserve(self) -> bool:
        """Give the reserved room to the file system; False when it was not held. Raises `StorageFailed`."""
        try:
            (self.path / RESERVE_FILE).unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise StorageFailed(f"{self.path / RESERVE_FILE} cannot be removed: {error}") from error
        sync_directory(self.path)
        return True

    def close(self) -> None:
        """Give the directory free."""
        os.close(self._lock_descriptor)


def _lock(directory: Path) -> int:
    """Lock the directory for this process and write its id into the lock file; answers the descriptor."""
    path = directory / LOCK_FILE
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StorageFailed(f"{path} cannot be opened: {error}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except BlockingIOError as error:
        holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise DataDirInUse(
            f"{directory} is in use by process {holder}. Stop that process, or give this node another data_dir."
        ) from error
    except OSError as error:
        os.close(descriptor)
        raise StorageFailed(f"{path} cannot be locked: {error}") from error
    return descriptor


def _file_mark(path: Path) -> tuple[int, int]:
    """Inode and time of birth in Unix nanoseconds (0 where the system does not tell) of a file. Raises `OSError`.

    An inode number alone may be given again at once to a file that is made after another was removed.
    """
    return path.stat().st_ino, _birth_ns(path)


def _birth_ns(path: Path) -> int:
    """Python has no name for a file's birth on Linux before 3.15, so the system call is made by hand (statx(2))."""
    statx = getattr(ctypes.CDLL(None, use_errno=True), "statx", None)
    if statx is None:
        return 0
    answer = ctypes.create_string_buffer(_STATX_BYTES)
    if statx(_AT_FDCWD, os.fsencode(path), 0, _STATX_BTIME, answer) != 0:
        return 0
    (mask,) = struct.unpack_from("=I", answer)
    seconds, nanoseconds = struct.unpack_from("=qI", answer, _STATX_BTIME_AT)
    return int(seconds * 1_000_000_000 + nanoseconds) if mask & _STATX_BTIME else 0
