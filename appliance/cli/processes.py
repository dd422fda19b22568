"""Processes named so that a number that was used again is not mistaken for them: pid, birth, command line.

A process is signalled only while all three still hold; on Linux through a pidfd, so that it cannot be replaced between
the look and the signal.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from msgspec import Struct

_PROC: Final = Path("/proc")
_START_TIME_FIELD: Final = 22  # proc(5): in clock ticks after boot
POLL_S: Final = 0.05
IDENTIFY_S_MAX: Final = 1.0


class ProcessId(Struct, frozen=True):
    """A process.

    Attributes:
        pid: its number.
        birth: when it began, in a form that no other process of this machine shares with its number.
        marker: a text that its command line holds.
    """

    pid: int
    birth: str
    marker: str


def identify(pid: int, marker: str) -> ProcessId | None:
    """Name a running process; None when there is none, or its command line lacks the marker."""
    birth = _birth(pid)
    if birth is None or marker not in _command_line(pid):
        return None
    return ProcessId(pid, birth, marker)


def identify_started(popen: subprocess.Popen[bytes], marker: str) -> ProcessId:
    """Name a child just started. The kernel lets Popen go on before the new command line can be read, so this waits."""
    until_s = time.monotonic() + IDENTIFY_S_MAX
    while popen.poll() is None and time.monotonic() < until_s:
        found = identify(popen.pid, marker)
        if found is not None:
            return found
        time.sleep(0.001)
    return ProcessId(popen.pid, "", marker)  # it has ended already; a name that nobody answers to


def is_alive(process: ProcessId) -> bool:
    """Whether this very process still runs (a zombie does not)."""
    return identify(process.pid, process.marker) == process


def send_signal(process: ProcessId, number: signal.Signals) -> bool:
    """Signal this very process; False when it is gone. A stranger with its pid is left alone."""
    if not hasattr(os, "pidfd_open"):
        if not is_alive(process):
            return False
        return _kill(process.pid, number)
    try:
        handle = os.pidfd_open(process.pid)
    except OSError:
        return False
    try:
        if not is_alive(process):
            return False
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return True


def wait_gone(process: ProcessId, timeout_s: float) -> bool:
    """Wait until a process has ended; False when it still runs after `timeout_s`."""
    until_s = time.monotonic() + timeout_s
    while is_alive(process):
        if time.monotonic() >= until_s:
            return False
        time.sleep(POLL_S)
    return True


def _kill(pid: int, number: signal.Signals) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def _birth(pid: int) -> str | None:
    if sys.platform != "linux":
        return _ps(pid, "lstart=") or None
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
        boot = (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()  # the name in parentheses may hold anything; field 3 comes behind it
    if fields[0] in ("Z", "X"):
        return None
    return f"{boot}:{fields[_START_TIME_FIELD - 3]}"


def _command_line(pid: int) -> str:
    if sys.platform != "linux":
        return _ps(pid, "command=")
    try:
        raw = (_PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return ""
    return raw.replace(b"\0", b" ").decode("utf-8", "replace")


def _ps(pid: int, column: str) -> str:
    done = subprocess.run(["ps", "-o", column, "-p", str(pid)], capture_output=True, text=True, check=False)
    return done.stdout.strip()
