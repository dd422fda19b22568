"""What the nodes take while they are under load: CPU, memory, and the worst lag of our event loops."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.error import URLError

from benchmarks.clusters import Cluster, Ours, metric

INTERVAL_S: Final = 2.5
MIB: Final = 2**20
_TICKS: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Usage:
    """One process: CPU seconds so far; resident memory now, what of it is no file's, and its highest, in MiB."""

    cpu_s: float
    resident_mib: float
    anonymous_mib: float
    peak_mib: float


def usage_of(pid: int) -> Usage:
    """Read it from /proc. Raises `OSError` when the process is gone."""
    stat = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    resident_mib, anonymous_mib, peak_mib = (
        round(int(status[name].split()[0]) / 1024, 1) for name in ("VmRSS", "RssAnon", "VmHWM")
    )
    return Usage((int(stat[11]) + int(stat[12])) / _TICKS, resident_mib, anonymous_mib, peak_mib)


def usages(cluster: Cluster) -> dict[int, Usage]:
    """Usage of each running node by position."""
    return {position: usage_of(process.pid) for position, process in cluster.processes.items()}


@dataclass
class Lags:
    """Worst loop lag seen of each node, by position, in milliseconds; empty for etcd, which has none to show."""

    worst_ms: dict[int, float] = field(default_factory=dict)

    def look(self, cluster: Cluster) -> None:
        """Ask each node once."""
        if not isinstance(cluster, Ours):
            return
        for position in tuple(cluster.processes):
            with contextlib.suppress(URLError, OSError):
                lag_ms = metric(cluster.exposition(position), "scribe_loop_lag_seconds") * 1000
                self.worst_ms[position] = round(max(self.worst_ms.get(position, 0.0), lag_ms), 1)


@contextlib.contextmanager
def watched(cluster: Cluster) -> Iterator[Lags]:
    """Look every few seconds while the block runs, and at its end. A node's figure looks back ten seconds."""
    lags = Lags()
    over = threading.Event()

    def work() -> None:
        while not over.wait(INTERVAL_S):
            lags.look(cluster)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield lags
    finally:
        over.set()
        thread.join()
        lags.look(cluster)
