"""One measurement: wrk with our script, its result and what the nodes took meanwhile as values."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from benchmarks.clusters import Cluster
from benchmarks.rows import Row
from benchmarks.sampling import usages, watched

SCRIPT: Final = Path(__file__).with_name("lua") / "load.lua"
TIMEOUT_S: Final = 30  # of one request, for wrk
LONGEST_S: Final = 3600


class Wrk:
    """A wrk under way.

    Args:
        cluster: where to.
        row: what.
        seconds: for how long at most.
        count: ends after this many requests instead; 0 is without end.
    """

    def __init__(self, cluster: Cluster, row: Row, seconds: float, count: int = 0) -> None:
        command = ["wrk", "-t", "1", "-c", str(row.connections), "-d", f"{max(1, round(seconds))}s"]
        command += ["--timeout", f"{TIMEOUT_S}s", "-s", str(SCRIPT), cluster.urls[cluster.position(row.through)], "--"]
        command += [cluster.target, row.kind, str(row.keys), str(row.stride), str(row.value_bytes), str(row.batch)]
        command += [str(count), cluster.token]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.append(line)
            if line.startswith("DONE"):
                self.stop()  # its threads have ended, and it would sleep on

    def stop(self) -> None:
        """Let it end now and print what it has. Not to be called after `result`."""
        os.kill(self._process.pid, signal.SIGINT)  # Popen's own would reap it, and `result` reads what it has used

    def wait(self, seconds: float) -> bool:
        """Wait for its end this long; answers whether it has ended."""
        self._reader.join(seconds)
        return not self._reader.is_alive()

    def result(self) -> dict[str, Any]:
        """Wait for its end. Raises `RuntimeError` when it printed no result."""
        self._reader.join()
        _, _, spent = os.wait4(self._process.pid, 0)
        self._process.returncode = 0
        said = "".join(self._lines)
        result = next((line for line in self._lines if line.startswith("RESULT ")), None)
        if result is None:
            raise RuntimeError(f"wrk said: {said}")
        found: dict[str, Any] = json.loads(result.removeprefix("RESULT "))
        return {**found, "loader_cpu_s": spent.ru_utime + spent.ru_stime}


def measure(
    cluster: Cluster,
    row: Row,
    seconds: float,
    count: int = 0,
    meanwhile: Callable[[Wrk], None] | None = None,
) -> dict[str, Any]:
    """Send a row's load for some seconds, or until `count` requests were answered.

    Args:
        cluster: where to.
        row: what.
        seconds: for how long; without bound when there is a count or something to do meanwhile.
        count: requests.
        meanwhile: called once the load is under way; the load ends when it returns.

    Returns:
        `rate` (entries a second), `p50_ms`, `p99_ms`, `p999_ms`, `max_ms`, `requests`, `errors` (answers that were no
        2xx or 3xx, and failures of sockets), `loader_us` (CPU of wrk for one request), `loader_share` (of one core),
        `leader_stayed`, and for each node by role `cpu_s_per_100k` entries, `resident_mib` and `lag_ms` (the worst of
        its event loop).
    """
    leader = cluster.leader()
    before = usages(cluster)
    with watched(cluster) as lags:
        # with the last request it sends, wrk gives up on those that are under way
        asked = count + row.connections if count else 0
        wrk = Wrk(cluster, row, LONGEST_S if count or meanwhile else seconds, asked)
        try:
            if meanwhile is not None:
                meanwhile(wrk)
        finally:
            if meanwhile is not None:
                wrk.stop()
            found = wrk.result()
    after = usages(cluster)
    entries = found["requests"] * row.entries
    nodes = []
    for position, held in before.items():
        if position not in after or after[position].cpu_s < held.cpu_s:
            continue  # started anew meanwhile
        node: dict[str, Any] = {
            "role": cluster.role(position, leader),
            "cpu_s_per_100k": round((after[position].cpu_s - held.cpu_s) / max(1, entries) * 1e5, 2),
            "resident_mib": round(after[position].resident_mib, 1),
        }
        if position in lags.worst_ms:
            node["lag_ms"] = lags.worst_ms[position]
        nodes.append(node)
    return {
        "rate": entries / found["seconds"],
        "p50_ms": found["p50_ms"],
        "p99_ms": found["p99_ms"],
        "p999_ms": found["p999_ms"],
        "max_ms": found["max_ms"],
        "requests": found["requests"],
        "errors": found["status_errors"] + found["socket_errors"],
        "loader_us": round(found["loader_cpu_s"] / max(1, found["requests"]) * 1e6, 1),
        "loader_share": round(found["loader_cpu_s"] / found["seconds"], 3),
        "leader_stayed": cluster.leader() == leader,
        "nodes": sorted(nodes, key=lambda node: node["role"], reverse=True),  # leader first
    }
