"""Group `stall`: latency of writes while checkpoints, compactions and a snapshot go on, against the quiet cluster."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from typing import Any, Final

from benchmarks.clusters import Ours, await_value, metric
from benchmarks.fill import fill
from benchmarks.groups.base import CLUSTERS_S, FILL_PER_S, WARM_UP_S, Group, tell
from benchmarks.load import Wrk, measure
from benchmarks.options import Options
from benchmarks.outcome import Outcome, Reading, outcome_of
from benchmarks.rows import Row

STORED: Final = 500_000
ROW: Final = Row("PUT c=64", "put", 64)
WAIT_S: Final = 180.0
LOOK_S: Final = 1.0  # the node renders its metrics for each look
ROUND_S: Final = 45.0  # for the estimate: two starts, a way behind the compaction line, a snapshot
QUIET: Final = {"SCRIBE_STORAGE__COMPACT_LOG_ENTRIES": str(2**31)}
BUSY: Final = {"SCRIBE_STORAGE__COMPACT_LOG_ENTRIES": "10000", "SCRIBE_STORAGE__KEEP_LOG_ENTRIES": "1000"}


class Stall(Group):
    """One cluster, quiet and busy in turns; between the turns its nodes start anew with another bound of the log.

    Quiet means that nothing runs but what always runs: writes of the ledger file, and its checkpoint every few seconds.
    Busy means that the log is compacted again and again, and that a follower, which was down until the log no longer
    held what it lacks, is started and brought up by a snapshot. The busy load lasts until the follower is back.
    """

    name = "stall"

    def rows(self, options: Options) -> list[str]:
        """One row."""
        return ["PUT c=64 under long work"]

    def seconds(self, options: Options) -> float:
        """The fill, and rounds."""
        return CLUSTERS_S + options.scaled(STORED) / FILL_PER_S + options.rounds * (2 * options.seconds + ROUND_S)

    def run(self, options: Options) -> Iterator[Outcome]:
        """Ratios are busy over quiet."""
        cluster = Ours("ours", options.directory / self.name / "ours", QUIET)
        rounds: dict[str, list[Reading]] = {"busy": [], "quiet": []}
        work: list[dict[str, Any]] = []
        with cluster.running():
            fill(cluster, options.scaled(STORED))
            cluster.settle()
            for _ in range(options.rounds):
                _start_anew(cluster, QUIET)
                measure(cluster, ROW, min(WARM_UP_S, options.seconds))
                rounds["quiet"].append(measure(cluster, ROW, options.seconds))
                _start_anew(cluster, BUSY)
                reading, done = _busy(cluster, options.seconds)
                rounds["busy"].append(reading)
                work.append(done)
                tell(f"  quiet p99 {rounds['quiet'][-1]['p99_ms']} ms, busy {reading['p99_ms']} ms, {done}")
        found = outcome_of(self.name, self.rows(options)[0], rounds)
        found.sides["busy"]["work"] = work
        for done in work:
            for name in ("checkpoints", "compactions", "snapshots"):
                if not done[name]:
                    found.failures.append(f"a busy round went by without {name}")
        yield found


def _start_anew(cluster: Ours, settings: dict[str, str]) -> None:
    """Stop all nodes, start them with other settings, and wait until nothing is left to do."""
    cluster.stop()
    cluster.settings = settings
    cluster.start()
    cluster.leader()
    cluster.settle()
    cluster.rest()


def _busy(cluster: Ours, seconds: float) -> tuple[Reading, dict[str, Any]]:
    """Measure while a follower is brought up by a snapshot and for at least `seconds`; also what went on."""
    leader, follower = cluster.leader(), cluster.position("follower")
    lacks = int(cluster.figures(follower)["raft"]["last_index"])
    cluster.stop(follower, number=signal.SIGKILL)

    def leave_behind(wrk: Wrk) -> None:
        await_value(lambda: _raft(cluster, leader)["snapshot_index"] > lacks, "a compaction", WAIT_S)

    behind = measure(cluster, ROW, 0, meanwhile=leave_behind)
    work = {"checkpoints": 0, "compactions": 0, "snapshots": 0, "snapshot_s": 0.0}

    def bring_up(wrk: Wrk) -> None:
        began_s = time.monotonic()
        before = _progress(cluster, leader)
        cluster.start(follower)
        while time.monotonic() - began_s < WAIT_S:
            ended = wrk.wait(LOOK_S)
            now = _progress(cluster, leader)
            for name in ("checkpoints", "compactions"):
                work[name] += now[name] > before[name]
            if now["snapshots"] > before["snapshots"]:
                work["snapshots"] += 1
                work["snapshot_s"] = round(time.monotonic() - began_s, 1)
            before = now
            if ended or (work["snapshots"] and time.monotonic() - began_s >= seconds):
                return

    reading = measure(cluster, ROW, 0, meanwhile=bring_up)
    reading["errors"] += behind["errors"]
    await_value(lambda: cluster.ask(follower, "/health")["lag"] == 0, "the follower to be back", WAIT_S)
    return reading, work


def _raft(cluster: Ours, position: int) -> Any:
    return cluster.figures(position)["raft"]


def _progress(cluster: Ours, leader: int) -> dict[str, float]:
    """Figures of the leader that move when long work is done."""
    text = cluster.exposition(leader)
    return {
        "checkpoints": metric(text, "scribe_raft_durable_index"),
        "compactions": metric(text, "scribe_raft_snapshot_index"),
        "snapshots": metric(text, "scribe_raft_snapshots_total", 'direction="sent",outcome="ok"'),
    }


stall: Final = Stall()
