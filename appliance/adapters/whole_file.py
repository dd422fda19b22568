"""Small files that are written whole: a reader finds the old one or the new one, also after a power cut."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from appliance.adapters.sqlite import StepHook, no_hook, sync_directory
from appliance.node.ports import DiskFull, StorageError, StorageFailed


def write_whole(path: Path, data: bytes, step: StepHook = no_hook) -> None:
    """Write a file beside `path`, sync it, and give it that name.

    Args:
        path: the file; `<path>.part` beside it is overwritten.
        data: what it is to hold.
        step: called before each step with its name; tests stop there.

    Raises:
        StorageError: it could not be written; what was there is still there.
    """
    part = path.with_name(path.name + ".part")
    try:
        step("write")
        with part.open("wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        step("rename")
        os.replace(part, path)
        step("sync_rename")
    except OSError as error:
        raise from_os_error(path, error) from error
    sync_directory(path.parent)


def from_os_error(path: Path, error: OSError) -> StorageError:
    """What a failed system call on a file means to the node."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"no room left for {path}")
    return StorageFailed(f"{path}: {error}")
