"""Frees the room of large files a little at a time: a file system that frees much at once holds up all syncs."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

FREED_AT_ONCE_BYTES: Final = 4 * 2**20
FREE_PAUSE_S: Final = 0.002
READERS_S: Final = 120.0  # longer than an audit query may take
LOOK_S: Final = 0.5


def discard(path: Path) -> None:
    """Remove a file that nobody else reads, if there is one: its name at once, its room soon. Raises `OSError`."""
    held = hold(path)
    path.unlink(missing_ok=True)
    if held is not None:
        _start(_shorten, held)


def hold(path: Path) -> int | None:
    """Keep the room of a file whose name is about to go to another; to be given to `let_go`. None when there is no such
    file. Raises `OSError`.
    """
    try:
        return os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return None


def let_go(held: int | None) -> None:
    """Give the room of a file without a name back, once no other process reads it any more; until then they find in it
    what they found before.
    """
    if held is not None:
        _start(_shorten_when_alone, held)


def _start(work: Callable[[int], None], descriptor: int) -> None:
    threading.Thread(target=work, args=(descriptor,), name="file-freeing", daemon=True).start()


def _shorten_when_alone(descriptor: int) -> None:
    """Without a name nobody can open it any more. When others keep it open for too long, whoever closes it last frees
    it at once.
    """
    deadline_s = time.monotonic() + READERS_S
    while not _is_alone(descriptor):
        if time.monotonic() >= deadline_s:
            os.close(descriptor)
            return
        time.sleep(LOOK_S)
    _shorten(descriptor)


def _is_alone(descriptor: int) -> bool:
    """Whether no other descriptor of any process is open on the file: only then the kernel grants a lease to write."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return False
    return True


def _shorten(descriptor: int) -> None:
    try:
        left = os.fstat(descriptor).st_size
        while left > 0:
            left = max(0, left - FREED_AT_ONCE_BYTES)
            os.ftruncate(descriptor, left)
            time.sleep(FREE_PAUSE_S)
    finally:
        os.close(descriptor)
