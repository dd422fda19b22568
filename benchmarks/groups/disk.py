"""Group `disk`: bytes on the disk for each entry."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from benchmarks.clusters import Cluster, Etcd, Ours
from benchmarks.groups.base import CLUSTERS_S, PUTS_PER_S, Group
from benchmarks.load import measure
from benchmarks.options import Options, short
from benchmarks.outcome import Outcome, failures_of, ratio
from benchmarks.rows import Row

WRITES: Final = 200_000
SETTLE_S: Final = 10.0  # twice the interval of checkpoints


class Disk(Group):
    """PUTs of 128 bytes over 100,000 keys; read once everything is checkpointed and nobody writes."""

    name = "disk"

    def rows(self, options: Options) -> list[str]:
        """One row."""
        return [f"disk after {short(options.scaled(WRITES))} PUTs"]

    def seconds(self, options: Options) -> float:
        """The writes, and the wait."""
        return options.sides * (CLUSTERS_S + SETTLE_S + options.scaled(WRITES) / PUTS_PER_S)

    def run(self, options: Options) -> Iterator[Outcome]:
        """One cluster after the other."""
        found = Outcome(self.name, self.rows(options)[0])
        clusters: list[Cluster] = [Ours("ours", options.directory / self.name / "ours")]
        if options.with_etcd:
            clusters.append(Etcd("etcd", options.directory / self.name / "etcd"))
        for cluster in clusters:
            with cluster.running():
                reading = measure(cluster, Row("disk", "put", 64), 0, count=options.scaled(WRITES))
                found.failures += failures_of(cluster.name, [reading])
                if isinstance(cluster, Ours):
                    cluster.settle()
                time.sleep(SETTLE_S)
                entries = cluster.writes_done()
                side = _ours(cluster, entries) if isinstance(cluster, Ours) else _etcd(cluster, entries)
            found.sides[cluster.name] = {"entries": entries, "nodes": reading["nodes"], **side}
            found.figures |= {f"{cluster.name} {name}": value for name, value in side.items()}
        if "etcd" in found.sides:
            found.ratios["store"] = ratio(
                found.sides["ours"]["ledger_bytes_per_entry"], found.sides["etcd"]["store_bytes_per_entry"]
            )
        yield found


def disk_bytes(*paths: Path) -> int:
    """Blocks that files and the files under directories take; what is allocated ahead counts."""
    total = 0
    for path in paths:
        files = [path] if path.is_file() else [Path(d) / f for d, _, names in os.walk(path) for f in names]
        total += sum(file.stat().st_blocks * 512 for file in files)
    return total


def _ours(cluster: Ours, entries: int) -> dict[str, Any]:
    leader = cluster.leader()
    home, raft = cluster.data[leader], cluster.figures(leader)["raft"]
    ledger, log = disk_bytes(*home.glob("ledger.db*")), disk_bytes(*home.glob("raft.db*"))
    held = int(raft["last_index"]) - int(raft["snapshot_index"])
    return {
        "ledger_bytes_per_entry": round(ledger / entries, 1),
        "log_bytes_per_held_entry": round(log / max(1, held), 1),
        "log_entries_held": held,
        "log_mib": round(log / 2**20, 1),
        "reserve_mib": round(disk_bytes(home / "reserve.bin") / 2**20, 1),
        "total_bytes_per_entry": round((ledger + log) / entries, 1),
    }


def _etcd(cluster: Cluster, entries: int) -> dict[str, Any]:
    member = cluster.data[cluster.leader()] / "member"
    store, log = disk_bytes(member / "snap"), disk_bytes(member / "wal")
    return {
        "store_bytes_per_entry": round(store / entries, 1),
        "log_mib": round(log / 2**20, 1),
        "total_bytes_per_entry": round((store + log) / entries, 1),
    }


disk: Final = Disk()
