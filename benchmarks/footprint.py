"""Memory of nodes over a time, with all that they start: what it was before, and the most that it was."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

INTERVAL_S: Final = 0.1


@dataclass(frozen=True)
class Footprint:
    """A process and its descendants, in MiB: what is resident, in which pages that several of them map count for each,
    and what of it is no file's.
    """

    resident_mib: float
    anonymous_mib: float

    def over(self, other: Footprint) -> Footprint:
        """The larger of each."""
        return Footprint(max(self.resident_mib, other.resident_mib), max(self.anonymous_mib, other.anonymous_mib))


def footprint_of(pid: int) -> Footprint:
    """Read it from /proc. Raises `OSError` when the process is gone; descendants that have gone count nothing."""
    resident_kib, anonymous_kib = _memory_kib(pid)
    waiting = _children(pid)
    while waiting:
        child = waiting.pop()
        with contextlib.suppress(OSError, KeyError):  # a process that has ended has no memory
            more = _memory_kib(child)
            resident_kib, anonymous_kib = resident_kib + more[0], anonymous_kib + more[1]
            waiting += _children(child)
    return Footprint(round(resident_kib / 1024, 1), round(anonymous_kib / 1024, 1))


def _memory_kib(pid: int) -> tuple[int, int]:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    return int(status["VmRSS"].split()[0]), int(status["RssAnon"].split()[0])


def _children(pid: int) -> list[int]:
    """Children of any of its threads (proc(5))."""
    found: list[int] = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            found += map(int, (thread / "children").read_text().split())
    return found


@dataclass
class Footprints:
    """What was seen of some processes, by the names that they were given.

    Attributes:
        before: at the beginning.
        peak: the most of each figure, at any of the looks.
        looks: how many there were.
    """

    before: dict[str, Footprint] = field(default_factory=dict)
    peak: dict[str, Footprint] = field(default_factory=dict)
    looks: int = 0

    def figures(self) -> dict[str, float]:
        """As a row shows them."""
        shown = {}
        for name, before in self.before.items():
            peak = self.peak[name]
            shown[f"{name} MiB before"], shown[f"{name} MiB peak"] = before.resident_mib, peak.resident_mib
            shown[f"{name} anonymous MiB before"] = before.anonymous_mib
            shown[f"{name} anonymous MiB peak"] = peak.anonymous_mib
        return shown


@contextlib.contextmanager
def followed(pids: Mapping[str, int]) -> Iterator[Footprints]:
    """Look at these processes at the beginning of the block, and ten times a second until its end."""
    found = Footprints({name: footprint_of(pid) for name, pid in pids.items()})
    found.peak = dict(found.before)
    over = threading.Event()

    def look() -> None:
        for name, pid in pids.items():
            with contextlib.suppress(OSError, KeyError):
                found.peak[name] = found.peak[name].over(footprint_of(pid))
        found.looks += 1

    def work() -> None:
        while not over.wait(INTERVAL_S):
            look()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()
        look()
