"""Group `memory`: resident memory of every node along a million writes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Final

from benchmarks.clusters import Cluster, Etcd, Ours
from benchmarks.groups.base import CLUSTERS_S, PUTS_PER_S, Group, tell
from benchmarks.load import Wrk, measure
from benchmarks.options import Options, short
from benchmarks.outcome import Outcome, failures_of, ratio
from benchmarks.rows import Row
from benchmarks.sampling import MIB, usages

WRITES: Final = 1_000_000
SAMPLE_S: Final = 2.0
CACHES_MIB: Final = (256, 32)  # the default bound, and a small one


class Memory(Group):
    """PUTs of 128 bytes over 100,000 keys at 64 connections until the count is reached, on each side by itself."""

    name = "memory"

    def _compared(self, options: Options) -> str:
        return f"resident after {short(options.scaled(WRITES))} PUTs"

    def _bounded(self, cache_mib: int) -> str:
        return f"resident with a cache of {cache_mib} MiB"

    def rows(self, options: Options) -> list[str]:
        """Ours beside etcd's, and one for each bound of the cache."""
        return [self._compared(options), *map(self._bounded, CACHES_MIB)]

    def seconds(self, options: Options) -> float:
        """One run a side; the run with the default bound serves two rows."""
        wanted = self.chosen(options)
        runs = len(set(wanted) - {self._compared(options)})
        if self._compared(options) in wanted:
            runs += options.with_etcd + (self._bounded(CACHES_MIB[0]) not in wanted)
        return runs * (CLUSTERS_S + options.scaled(WRITES) / PUTS_PER_S)

    def run(self, options: Options) -> Iterator[Outcome]:
        """One cluster after the other, so that none has the other's memory beside it."""
        wanted = self.chosen(options)
        compared = self._compared(options)
        for cache_mib in CACHES_MIB:
            is_default = cache_mib == CACHES_MIB[0]
            if self._bounded(cache_mib) not in wanted and not (is_default and compared in wanted):
                continue
            settings = {} if is_default else {"SCRIBE_STORAGE__MAX_CACHE_SIZE": str(cache_mib * MIB)}
            home = options.directory / self.name / f"cache{cache_mib}"
            mine, failures = _observe(Ours("ours", home, settings), options)
            if self._bounded(cache_mib) in wanted:
                figures = {"growth": growth(mine["samples"]), "MiB": mine["worst_mib"]}
                yield Outcome(self.name, self._bounded(cache_mib), {"ours": mine}, {}, figures, failures)
            if is_default and compared in wanted:
                found = Outcome(self.name, compared, {"ours": mine}, failures=list(failures))
                found.figures = {"ours MiB": mine["worst_mib"]}
                if options.with_etcd:
                    theirs, failures = _observe(Etcd("etcd", options.directory / self.name / "etcd"), options)
                    found.sides["etcd"] = theirs
                    found.failures += failures
                    found.figures["etcd MiB"] = theirs["worst_mib"]
                    found.ratios = {
                        "resident": ratio(mine["worst_mib"], theirs["worst_mib"]),
                        "resident without files": ratio(mine["worst_anonymous_mib"], theirs["worst_anonymous_mib"]),
                    }
                yield found


def growth(samples: list[dict[str, Any]]) -> float:
    """Memory of the largest node at the end over that at half of the writes; zero with too few samples."""
    if len(samples) < 2:
        return 0.0
    half = samples[-1]["writes"] / 2
    middle = min(samples, key=lambda sample: abs(sample["writes"] - half))
    return ratio(max(samples[-1]["resident_mib"]), max(middle["resident_mib"]))


def _observe(cluster: Cluster, options: Options) -> tuple[dict[str, Any], list[str]]:
    """Run one cluster through the writes; answers what was seen, and why it does not count."""
    writes = options.scaled(WRITES)
    samples: list[dict[str, Any]] = []

    def sample() -> None:
        found = usages(cluster)
        resident_mib = [round(found[position].resident_mib, 1) for position in sorted(found)]
        samples.append({"writes": cluster.writes_done(), "resident_mib": resident_mib})

    def watch(wrk: Wrk) -> None:
        while not wrk.wait(SAMPLE_S):
            sample()

    tell(f"  {cluster.name}: {writes:,} PUTs")
    with cluster.running():
        sample()
        reading = measure(cluster, Row("memory", "put", 64), 0, count=writes, meanwhile=watch)
        sample()
        leader = cluster.leader()
        last = usages(cluster)
    side = {
        "writes": reading["requests"],
        "nodes": reading["nodes"],
        "memory": [{"role": cluster.role(position, leader), **asdict(usage)} for position, usage in last.items()],
        "worst_mib": max(usage.resident_mib for usage in last.values()),
        "worst_anonymous_mib": max(usage.anonymous_mib for usage in last.values()),
        "samples": samples,
    }
    return side, failures_of(cluster.name, [reading])


memory: Final = Memory()
