"""Damaged data are not deleted: they are moved into a directory of their own and kept there.

    damaged-20261123T204343Z/    raft.db, ledger.db and what stands beside them, audit/, reason.txt

A directory stays until an operator removes it, until there are more than `KEPT_MAX`, or until its room is needed for
what takes its place: a snapshot that a leader sends, or a write that finds none.
"""

from __future__ import annotations

import os
import shutil
from datetime import datetime
from pathlib import Path
from typing import Final

from appliance.adapters.freeing import discard
from appliance.adapters.sqlite import StepHook, beside, no_hook, sync_directory
from appliance.adapters.whole_file import from_os_error, write_whole

KEPT_PREFIX: Final = "damaged-"
KEPT_MAX: Final = 3  # at least 2
REASON_FILE: Final = "reason.txt"
SAME_SECOND_MAX: Final = 100


def set_aside(
    directory: Path, names: tuple[str, ...], reason: str, now: datetime, step: StepHook = no_hook
) -> Path | None:
    """Move databases (with what SQLite keeps beside them) and directories out of the way; answers where they are now,
    None when there are none.

    They go in the order of `names`, and the first one is gone for good before the next one goes: who is cut off in
    between finds it missing, and goes on from there. A database goes before its WAL, because without that it would be
    taken for an older state of itself. Of the directories kept before, the oldest make room.

    Args:
        directory: the data directory.
        names: what to move.
        reason: for the operator, beside the files.
        now: UTC, for the name.
        step: called before each step with its name; tests stop there.

    Raises:
        StorageError: it could not be done, or not to the end.
    """
    files = [(directory / name, *beside(directory / name)) for name in names]
    if not any(path.exists() for group in files for path in group):
        return None
    for older in kept(directory)[: 1 - KEPT_MAX]:
        drop(older)
    target = directory
    try:
        target = _make(directory, now)
        write_whole(target / REASON_FILE, f"{now:%Y-%m-%dT%H:%M:%SZ} {reason}\n".encode())
        sync_directory(directory)
        for group in files:
            for path in group:
                step(path.name)
                if path.exists():
                    os.rename(path, target / path.name)
            sync_directory(directory)
    except OSError as error:
        raise from_os_error(target, error) from error
    sync_directory(target)
    return target


def kept(directory: Path) -> list[Path]:
    """What was set aside and is still there, the oldest first. Raises `StorageError`."""
    try:
        return sorted(path for path in directory.glob(KEPT_PREFIX + "*") if path.is_dir() and not path.is_symlink())
    except OSError as error:
        raise from_os_error(directory, error) from error


def drop(path: Path) -> None:
    """Remove a directory that was kept; the room of large files comes back in steps behind this. Raises
    `StorageError`.
    """
    try:
        for file in path.iterdir():
            if file.is_dir() and not file.is_symlink():
                shutil.rmtree(file)
            else:
                discard(file)
        path.rmdir()
    except OSError as error:
        raise from_os_error(path, error) from error


def size_bytes(path: Path) -> int:
    """Bytes of the files in a directory that was kept, and below it. Raises `StorageError`."""
    try:
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    except OSError as error:
        raise from_os_error(path, error) from error


def _make(directory: Path, now: datetime) -> Path:
    base = f"{KEPT_PREFIX}{now:%Y%m%dT%H%M%SZ}"
    for number in range(1, SAME_SECOND_MAX):
        path = directory / (base if number == 1 else f"{base}-{number}")
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            continue
        return path
    raise FileExistsError(f"{directory / base} and others of the same second are there already")
