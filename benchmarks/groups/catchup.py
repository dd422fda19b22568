"""Group `catchup`: a new node joins a cluster that holds some gigabytes, while writes go on at a steady rate."""

from __future__ import annotations

import http.client
import json
import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final
from urllib.parse import urlsplit

from benchmarks.clusters import NODES, Ours, await_value, metric
from benchmarks.fill import fill, key_at
from benchmarks.footprint import followed
from benchmarks.groups.base import CLUSTERS_S, Group, tell
from benchmarks.options import Options
from benchmarks.outcome import Outcome, ratio
from benchmarks.sampling import watched

LEDGER_BYTES: Final = 2 * 2**30
VALUE_BYTES: Final = 4096
WRITES_PER_S: Final = 500
CONNECTIONS: Final = 8
WAIT_S: Final = 1200.0
QUIET_S: Final = 20.0
FILL_BYTES_PER_S: Final = 20 * 2**20  # for the estimate
NEW: Final = NODES  # position of the node that joins
BATCH: Final = 100
SENT_OK: Final = 'direction="sent",outcome="ok"'
SETTINGS: Final = {"SCRIBE_STORAGE__COMPACT_LOG_ENTRIES": "1000", "SCRIBE_STORAGE__KEEP_LOG_ENTRIES": "100"}


class Catchup(Group):
    """Three nodes are filled, their log is compacted so that a snapshot is needed, and a fourth is added: learner,
    snapshot, the rest of the log, voter. Latencies count from when a write was due, so a stall is not left out.
    Memory is that of the leader and of the new node while it catches up, with the process that checks what it receives.
    """

    name = "catchup"

    def rows(self, options: Options) -> list[str]:
        """One row."""
        return [f"a new node with {options.scaled(LEDGER_BYTES) / 2**30:.2g} GiB stored"]

    def seconds(self, options: Options) -> float:
        """The fill, a quiet time, and the snapshot at its throttled rate."""
        size_bytes = options.scaled(LEDGER_BYTES)
        return CLUSTERS_S + size_bytes / FILL_BYTES_PER_S + QUIET_S + 4 * size_bytes / (64 * 2**20)

    def run(self, options: Options) -> Iterator[Outcome]:
        """Once: what takes long is not repeated."""
        found = Outcome(self.name, self.rows(options)[0])
        cluster = Ours("ours", options.directory / self.name / "ours", SETTINGS, spares=1)
        with cluster.running():
            keys = _fill(cluster, options.scaled(LEDGER_BYTES))
            leader = cluster.leader()
            term = int(cluster.figures(leader)["raft"]["term"])
            tell(f"  {keys:,} keys, ledger of {_ledger_bytes(cluster, leader) / 2**30:.2f} GiB")
            quiet = Paced(cluster, leader).measure_for(QUIET_S)
            with watched(cluster) as lags, Paced(cluster, leader).going_on() as during:
                began_s = time.monotonic()
                cluster.start(NEW)
                await_value(lambda: cluster.ask(NEW, "/health/live"), "the new node to answer")
                pids = {"leader": cluster.processes[leader].pid, "learner": cluster.processes[NEW].pid}
                with followed(pids) as memory:
                    await_value(lambda: _add(cluster, leader), "the new node to be a learner", WAIT_S, step_s=0.2)
                    await_value(lambda: _is_voter(cluster, leader), "the new node to be a voter", WAIT_S, step_s=0.2)
                seconds = time.monotonic() - began_s
            busy = during.reading()
            sent = int(metric(cluster.exposition(leader), "scribe_raft_snapshots_total", SENT_OK))
            found.sides["ours"] = {
                "keys": keys,
                "ledger_bytes": _ledger_bytes(cluster, leader),
                "quiet": quiet,
                "during": busy,
                "lag_ms": dict(lags.worst_ms),
                "memory_looks": memory.looks,
                "snapshots_sent": sent,
            }
            found.figures = {
                "seconds": round(seconds, 1),
                **memory.figures(),
                "quiet p99 ms": quiet["p99_ms"],
                "during p99 ms": busy["p99_ms"],
                "during max ms": busy["max_ms"],
            }
            found.ratios = {"p99": ratio(busy["p99_ms"], quiet["p99_ms"])}
            if busy["errors"] or quiet["errors"]:
                found.failures.append(f"{busy['errors'] + quiet['errors']} writes were not acknowledged")
            if sent != 1:
                found.failures.append(f"the new node was sent {sent} snapshots, and one is what it needs")
            if int(cluster.figures(leader)["raft"]["term"]) != term:
                found.failures.append("there was an election meanwhile")
            tell(f"  {found.figures}")
        yield found


def _fill(cluster: Ours, size_bytes: int) -> int:
    keys = size_bytes // (VALUE_BYTES + 300)
    cluster.batch_max = BATCH  # so that there are entries enough for the log to be compacted
    fill(cluster, keys, value_bytes=VALUE_BYTES)
    cluster.settle()
    return keys


def _ledger_bytes(cluster: Ours, position: int) -> int:
    return int(metric(cluster.exposition(position), "scribe_storage_bytes", 'part="ledger"'))


def _add(cluster: Ours, leader: int) -> bool:
    address = urlsplit(cluster.urls[NEW]).netloc
    body = json.dumps({"node_id": NEW + 1, "address": address}).encode()
    return bool(cluster.ask(leader, "/cluster/nodes/add?wait=false", body)["status"] == "ok")


def _is_voter(cluster: Ours, leader: int) -> bool:
    members = cluster.ask(leader, "/cluster/nodes")["nodes"]
    return any(m["node_id"] == NEW + 1 and m["role"] == "voter" for m in members)


class Paced:
    """Writes at a steady rate over fresh keys, from several connections; a write is late from when it was due.

    Args:
        cluster: where to.
        position: node that is asked.
    """

    def __init__(self, cluster: Ours, position: int) -> None:
        self._address = urlsplit(cluster.urls[position]).netloc
        self._token = cluster.token
        self._end = threading.Event()
        self._late_s: list[float] = []
        self._errors = 0

    def measure_for(self, seconds: float) -> dict[str, Any]:
        """Write for so long."""
        with self.going_on():
            time.sleep(seconds)
        return self.reading()

    def going_on(self) -> Paced:
        """For a `with` block, in which it writes."""
        return self

    def __enter__(self) -> Paced:
        self._pool = ThreadPoolExecutor(CONNECTIONS)
        self._began_s = time.monotonic()
        self._done = [self._pool.submit(self._write, share) for share in range(CONNECTIONS)]
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._seconds = time.monotonic() - self._began_s
        self._pool.shutdown()
        for done in self._done:
            done.result()

    def _write(self, share: int) -> None:
        connection = http.client.HTTPConnection(self._address, timeout=60.0)
        headers = {"X-API-Key": self._token}
        value = b"p" * VALUE_BYTES
        number = share
        try:
            while True:
                due_s = self._began_s + number / WRITES_PER_S
                if self._end.wait(max(0.0, due_s - time.monotonic())):
                    return
                connection.request("PUT", f"/kv/paced/{key_at(number)}", value, headers)
                answer = connection.getresponse()
                answer.read()
                self._late_s.append(time.monotonic() - due_s)
                self._errors += answer.status != 200
                number += CONNECTIONS
        finally:
            connection.close()

    def reading(self) -> dict[str, Any]:
        """What was seen."""
        cuts = statistics.quantiles(self._late_s, n=100)
        return {
            "rate": round(len(self._late_s) / self._seconds, 1),
            "p50_ms": round(cuts[49] * 1000, 2),
            "p99_ms": round(cuts[98] * 1000, 2),
            "max_ms": round(max(self._late_s) * 1000, 1),
            "errors": self._errors,
            "writes": len(self._late_s),
        }


catchup: Final = Catchup()
