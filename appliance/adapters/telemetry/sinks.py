"""Where log lines go: a file with rotation, and standard output that never makes the node wait."""

from __future__ import annotations

import contextlib
import os
import select
import time
from datetime import UTC, datetime
from pathlib import Path

_PIPE_BUF = 4096  # POSIX: a pipe that polls writable takes this much without blocking
STDOUT_BACKLOG_BYTES_MAX = 1024 * 1024


class StdoutSink:
    """Standard output, or any other descriptor, written only as far as it takes bytes without blocking.

    What it does not take waits in a bounded backlog and goes out with later lines; when that is full the line is
    refused with `BlockingIOError`. A stalled reader therefore costs log lines, never heartbeats.
    """

    def __init__(self, fd: int = 1) -> None:
        self._fd = fd
        self._backlog = bytearray()
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)

    def write(self, line: bytes) -> None:
        """Take a line; `BlockingIOError` when the backlog is full, `OSError` when the reader is gone."""
        if len(self._backlog) + len(line) > STDOUT_BACKLOG_BYTES_MAX:
            self.drain()
            if len(self._backlog) + len(line) > STDOUT_BACKLOG_BYTES_MAX:
                raise BlockingIOError("the reader of standard output does not keep up")
        self._backlog += line
        self.drain()

    def drain(self) -> None:
        """Write as much of the backlog as goes without waiting."""
        while self._backlog:
            if not self._poll.poll(0):
                return
            try:
                written = os.write(self._fd, self._backlog[:_PIPE_BUF])
            except BlockingIOError:
                return
            except OSError:
                self._backlog.clear()
                raise
            del self._backlog[:written]

    def close(self) -> None:
        """Write what goes; the descriptor stays open."""
        with contextlib.suppress(OSError):
            self.drain()


class FileSink:
    """`<directory>/<stem>.log`, rotated by renaming it to `<stem>.<UTC stamp>.log` and creating it anew.

    Each line is one `write` to a descriptor in append mode, so that what was logged before a SIGKILL is in the file.

    Args:
        directory: made when it is missing.
        stem: name of the file without `.log`.
        size_bytes_max: size at which it is rotated.
        keep_files: rotated files kept; older ones are removed.
    """

    def __init__(self, directory: Path, stem: str, size_bytes_max: int, keep_files: int) -> None:
        self.path = directory / f"{stem}.log"
        self._directory = directory
        self._stem = stem
        self._size_bytes_max = size_bytes_max
        self._keep_files = keep_files
        self._fd = -1
        self._size_bytes = 0
        self._torn = False

    def write(self, line: bytes) -> None:
        """Append a line, rotating first when it would pass the size. Raises `OSError`."""
        if self._fd < 0:
            self._open()
        elif self._size_bytes and self._size_bytes + len(line) > self._size_bytes_max:
            self._rotate()
        if self._torn:
            line = b"\n" + line
        written = os.write(self._fd, line)
        self._size_bytes += written
        self._torn = written < len(line)
        if self._torn:
            raise OSError("the log file took only a part of a line")

    def reopen(self) -> None:
        """Write to a file of the configured name from now on; whoever renamed the old one keeps it."""
        self.close()
        self._open()

    def close(self) -> None:
        """Close the file; the next line opens it again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        self._size_bytes = os.fstat(self._fd).st_size
        self._torn = False

    def _rotate(self) -> None:
        self.close()
        stamp_ns = time.time_ns()
        while True:
            stamp = datetime.fromtimestamp(stamp_ns / 1e9, UTC).strftime("%Y%m%dT%H%M%S.%f")
            target = self._directory / f"{self._stem}.{stamp}.log"
            if not target.exists():
                break
            stamp_ns += 1000
        with contextlib.suppress(FileNotFoundError):  # logrotate may have taken it away just now
            self.path.rename(target)
        self._open()
        for old in self.rotated()[: -self._keep_files]:
            old.unlink(missing_ok=True)

    def rotated(self) -> list[Path]:
        """The rotated files, oldest first."""
        return sorted(self._directory.glob(f"{self._stem}.*T*.log"))
