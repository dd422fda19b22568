"""Group `restart`: from the start of a process to healthy, with a log to replay, after SIGKILL."""

from __future__ import annotations

import signal
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

from benchmarks.clusters import NODES, Cluster, Etcd, Ours, await_value
from benchmarks.groups.base import CLUSTERS_S, PUTS_PER_S, Group, tell
from benchmarks.load import measure
from benchmarks.options import Options, short
from benchmarks.outcome import Outcome, Reading, failures_of
from benchmarks.rows import Row
from benchmarks.sampling import Lags

LEVELS: Final = (100_000, 1_000_000)
WAIT_S: Final = 300.0
ESTIMATE_S: Final = 40.0  # of one restart
SETTINGS: Final = {"SCRIBE_STORAGE__COMPACT_LOG_ENTRIES": str(2**31)}  # never
CASES: Final = {"one node": 1, "three nodes": NODES}


class Restart(Group):
    """Single PUTs, each an entry of the log, which is never compacted in this cluster. Ours loses `ledger.db` with the
    kill, as if nothing of it had been on the disk, and replays every entry; etcd starts as it does after SIGKILL.
    """

    name = "restart"

    def _name(self, case: str, level: int) -> str:
        return f"restart of {case} with {short(level)} entries"

    def rows(self, options: Options) -> list[str]:
        """Each case at each level."""
        return [self._name(case, level) for level in options.levels(LEVELS) for case in CASES]

    def seconds(self, options: Options) -> float:
        """The writes up to the highest level, and the restarts."""
        wanted = self.chosen(options)
        highest = max(level for level in options.levels(LEVELS) if any(self._name(c, level) in wanted for c in CASES))
        each_s = CLUSTERS_S + highest / PUTS_PER_S + len(wanted) * options.rounds * ESTIMATE_S
        return options.sides * each_s

    def run(self, options: Options) -> Iterator[Outcome]:
        """One cluster after the other; what both have found is put together at the end."""
        clusters: list[Cluster] = [Ours("ours", options.directory / self.name / "ours", SETTINGS)]
        if options.with_etcd:
            clusters.append(Etcd("etcd", options.directory / self.name / "etcd"))
        found = {name: Outcome(self.name, name) for name in self.chosen(options)}
        for cluster in clusters:
            with cluster.running():
                self._measure(cluster, options, found)
        for outcome in found.values():
            outcome.figures["seconds"] = outcome.sides["ours"]["seconds"]
            if "etcd" in outcome.sides:
                outcome.figures["etcd seconds"] = outcome.sides["etcd"]["seconds"]
            yield outcome

    def _measure(self, cluster: Cluster, options: Options, found: dict[str, Outcome]) -> None:
        for level in options.levels(LEVELS):
            cases = {self._name(case, level): count for case, count in CASES.items()}
            if not any(name in found for name in cases):
                continue
            lacking = level - cluster.writes_done()
            tell(f"  {cluster.name}: {lacking:,} PUTs")
            reading = measure(cluster, Row("entries", "put", 64), 0, count=lacking)
            failures = failures_of(cluster.name, [reading])
            for name, count in cases.items():
                if name not in found:
                    continue
                rounds = [restart(cluster, count) for _ in range(options.rounds)]
                found[name].sides[cluster.name] = _side(cluster.writes_done(), reading, rounds)
                found[name].failures += failures
                tell(f"  {cluster.name}, {name}: {[r['seconds'] for r in rounds]} s")


def _side(entries: int, reading: Reading, rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "entries": entries,
        "seconds": statistics.median(r["seconds"] for r in rounds),
        "rounds_s": [r["seconds"] for r in rounds],
        "kept_s": [r["kept_s"] for r in rounds if "kept_s" in r],
        "lag_ms": max((r["lag_ms"] for r in rounds if "lag_ms" in r), default=None),
        "nodes": reading["nodes"],
    }


def restart(cluster: Cluster, count: int) -> dict[str, Any]:
    """Kill `count` nodes (a follower, or all), start them, and wait until all is applied and all are healthy.

    Returns:
        `seconds`; of ours `kept_s` too, the same with a `ledger.db` that lacked nothing, and the worst lag of a loop
        (`lag_ms`) that the nodes have seen when they are back.

    Raises:
        RuntimeError: one of our nodes came back with another tree.
    """
    if isinstance(cluster, Ours):
        kept_s = _restarted_s(cluster, count, lose_ledger=False)
        seconds = _restarted_s(cluster, count, lose_ledger=True)
        lags = Lags()
        lags.look(cluster)
        return {"kept_s": kept_s, "seconds": seconds, "lag_ms": max(lags.worst_ms.values())}
    return {"seconds": _restarted_s(cluster, count, lose_ledger=False)}


def _restarted_s(cluster: Cluster, count: int, *, lose_ledger: bool) -> float:
    leader = cluster.leader()
    if isinstance(cluster, Ours):
        cluster.settle()
    else:
        cluster.rest()
    applied, tree = _applied(cluster, leader), _tree(cluster, leader)
    positions = list(cluster.processes) if count == NODES else [cluster.position("follower")]
    cluster.stop(*positions, number=signal.SIGKILL)
    if lose_ledger:
        for position in positions:
            for path in cluster.data[position].glob("ledger.db*"):
                path.unlink()
    began_s = time.monotonic()
    cluster.start(*positions)
    for position in positions:
        await_value(
            lambda position=position: _is_back(cluster, position, applied),  # type: ignore[misc]
            f"node {position} of {cluster.name} to be back",
            WAIT_S,
        )
    seconds = round(time.monotonic() - began_s, 2)
    for position in positions:
        size, root = _tree(cluster, position)
        if (size, root) != tree:
            raise RuntimeError(f"node {position} came back with a tree of {size} leaves, root {root}, not {tree}")
    return seconds


def _is_back(cluster: Cluster, position: int, applied: int) -> bool:
    healthy = cluster.ask(position, "/health", timeout_s=2.0)  # a 503 is an HTTPError
    if isinstance(cluster, Etcd) and healthy["health"] != "true":
        return False
    return _applied(cluster, position) >= applied


def _applied(cluster: Cluster, position: int) -> int:
    if isinstance(cluster, Ours):
        return int(cluster.figures(position)["raft"]["applied_index"])
    return int(cluster.ask(position, "/v3/maintenance/status", b"{}")["raftAppliedIndex"])


def _tree(cluster: Cluster, position: int) -> tuple[int, str]:
    """Size and root of our tree; of etcd nothing that could be compared."""
    if not isinstance(cluster, Ours):
        return 0, ""
    merkle = cluster.figures(position)["merkle"]
    return int(merkle["tree_size"]), str(merkle["root_hash"])


restart_group: Final = Restart()
