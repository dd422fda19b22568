"""`python -m tests.cluster.chaos [--kills 30] [--wipes 30] [--restarts 5] [--reshapes 1] [--histories DIR]`

Real processes under load: the leader is killed again and again, followers lose their disks in turn, all nodes are
restarted one by one, and the cluster grows from one to three to five nodes and shrinks to three, its leader removed on
the way. What clients were told is judged for linearizability round by round, with fresh keys in each; all keys are
read again at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.cluster.harness import Cluster, await_value, running_cluster
from tests.linearizability.checker import check
from tests.linearizability.history import Outcome, write_history
from tests.linearizability.order import order_problems
from tests.linearizability.recorder import Clients

BACK_S: Final = 60.0
QUIET_WRITES: Final = 30  # before and after each fault
ROOT: Final = Path(__file__).resolve().parents[2]


def incarnation(cluster: Cluster, through: int, node: int) -> tuple[str, str]:
    """Role and incarnation of a member, as another node has it; empty when it is none."""
    members = cluster.get(through, "/cluster/nodes").json()["nodes"]
    return next(((m["role"], m["incarnation"]) for m in members if m["node_id"] == node), ("", ""))


def kill_leader(cluster: Cluster) -> int:
    """SIGKILL; answers who it was."""
    node = cluster.leader()
    cluster.kill(node)
    return node


def wipe(cluster: Cluster, node: int) -> str:
    """SIGKILL a node and clear its data directory; answers its incarnation of before."""
    through = next(n for n in cluster.processes if n != node)
    before = incarnation(cluster, through, node)[1]
    cluster.kill(node)
    for path in (cluster.files.directory / f"node{node}" / "data").iterdir():
        path.unlink()
    return before


def await_back(cluster: Cluster, node: int, before: str) -> None:
    """Until a node that was wiped is a voter again, under another incarnation, and healthy."""

    def is_back() -> bool:
        role, now = incarnation(cluster, cluster.leader(), node)
        return role == "voter" and now != before

    await_value(is_back, f"node {node} to be a voter again", BACK_S)
    cluster.wait_healthy(node)


def await_voter(cluster: Cluster, through: int, node: int, other_than: str = "") -> None:
    """Until a node is a voter, under another incarnation than the one that is named, as another node has it."""

    def is_back() -> bool:
        role, now = incarnation(cluster, through, node)
        return role == "voter" and now != other_than

    await_value(is_back, f"node {node} to be a voter", BACK_S)


@dataclass(slots=True)
class Chaos:
    """A run over one cluster.

    Attributes:
        outages_s: from each SIGKILL of a leader to the first answer to a write that a leader of a later term committed.
        gaps_s: longest time without an acknowledged write in each rolling restart.
        violations: what the checker found, with the round's name.
        unknown: attempts whose outcome the client was not told, by kind of round.
    """

    cluster: Cluster
    seed: int
    directory: Path
    histories: Path | None = None
    outages_s: list[float] = field(default_factory=list)
    gaps_s: list[float] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    operations: int = 0
    acknowledged: int = 0
    gave_up: int = 0
    unknown: Counter[str] = field(default_factory=Counter)
    undecided: int = 0
    rounds: list[Clients] = field(default_factory=list)

    @contextmanager
    def round(self, name: str) -> Iterator[Clients]:
        """Load while the block does something; what was told is judged behind it."""
        cluster = self.cluster

        def urls() -> list[str]:
            return [cluster.url(node) for node in tuple(cluster.processes)]

        with Clients(urls, cluster.key, name=name, seed=self.seed) as clients:
            self.wait(clients)
            yield clients
            self.wait(clients)
        self.rounds.append(clients)
        self.judge(clients)

    def wait(self, clients: Clients, more: int = QUIET_WRITES) -> None:
        """Until so many more writes are acknowledged."""
        goal = clients.acknowledged() + more
        await_value(lambda: clients.acknowledged() >= goal, f"{more} more writes", BACK_S)

    def judge(self, clients: Clients) -> None:
        """Read all keys of a round and judge its whole history."""
        clients.read_all()
        verdict = check(clients.records)
        problems = order_problems(clients.records)
        self.undecided += verdict.answer == "undecided"
        if verdict.answer == "violated" or problems:
            path = self.directory / f"{clients.name}.jsonl"
            write_history(path, clients.records)
            self.violations.append(f"{clients.name}: {verdict}; {problems}; history: {path}")

    def kill(self, number: int) -> None:
        """Kill the leader, wait for a write under the next one, and start it again."""
        with self.round(f"kill{number}") as clients:
            node = self.cluster.leader()
            term = int(self.cluster.figures(node)["raft"]["term"])
            killed_ns = time.monotonic_ns()
            self.cluster.kill(node)
            answered_ns = await_value(lambda: _first_after(clients, term), "a write under the next leader", BACK_S)
            self.outages_s.append((answered_ns - killed_ns) / 1e9)
            self.cluster.start(node)
            self.cluster.wait_healthy(node)

    def wipe(self, number: int) -> None:
        """Wipe one follower after the other."""
        with self.round(f"wipe{number}") as clients:
            followers = self.cluster.followers()
            node = followers[number % len(followers)]
            before = wipe(self.cluster, node)
            self.wait(clients)
            self.cluster.start(node)
            await_back(self.cluster, node, before)

    def restart(self, number: int) -> None:
        """A rolling restart: each node is stopped in good order and started again."""
        with self.round(f"restart{number}") as clients:
            for node in sorted(self.cluster.processes):
                self.cluster.stop(node)
                self.cluster.start(node)
                self.cluster.wait_healthy(node)
        self.gaps_s.append(clients.longest_gap_s())

    def change(self, name: str, act: Callable[[], None]) -> None:
        """A change of the membership under load."""
        with self.round(name):
            act()

    def post(self, path: str, **body: Any) -> None:
        """Ask any other node for a change of a node."""
        node = random.choice([node for node in self.cluster.processes if node != body["node_id"]])
        answer = self.cluster.client.post(self.cluster.url(node, path), json=body, timeout=120.0)
        assert answer.status_code == 200, answer.text

    def add(self, node: int) -> None:
        """Start a node and make it a voter."""
        self.cluster.start(node)
        self.cluster.wait_answers(node)
        self.post("/cluster/nodes/add", node_id=node, address=self.cluster.url(node).removeprefix("http://"))

    def remove(self, node: int) -> None:
        """Remove a member and stop it."""
        self.post("/cluster/nodes/remove", node_id=node)
        self.cluster.stop(node)

    def finish(self) -> None:
        """Read what all rounds wrote once more, and add up."""
        for clients in self.rounds:
            clients.urls = lambda: [self.cluster.url(node) for node in self.cluster.processes]
            self.judge(clients)
            self.operations += len(clients.records)
            self.acknowledged += clients.acknowledged()
            self.gave_up += len(clients.gave_up)
            kind = clients.name.rstrip("0123456789")
            self.unknown[kind] += sum(r.outcome is Outcome.UNKNOWN for r in clients.records)
            if self.histories is not None:
                write_history(self.histories / f"{self.directory.name}-{clients.name}.jsonl", clients.records)
        self.cluster.agree()


def _first_after(clients: Clients, term: int) -> int | None:
    """When the first write that was committed in a later term was answered, monotonic nanoseconds."""
    return min((returned for returned, of in list(clients.terms) if of > term), default=None)


def _environment(options: argparse.Namespace) -> dict[str, str]:
    return {
        "SCRIBE_CONSENSUS__ELECTION_TIMEOUT": str(options.election_timeout),
        "SCRIBE_CONSENSUS__HEARTBEAT_TIMEOUT": str(options.heartbeat_timeout),
    }


def reshape(directory: Path, seed: int, options: argparse.Namespace) -> Chaos:
    """From one node to three to five, and back to three without the leader of then."""
    with running_cluster(directory, _environment(options), founders=1, nodes=5) as cluster:
        chaos = Chaos(cluster, seed, directory, options.histories)
        for node in (2, 3, 4, 5):
            chaos.change(f"add{node}", lambda node=node: chaos.add(node))
        chaos.change("remove-leader", lambda: chaos.remove(cluster.leader()))
        chaos.change("remove-follower", lambda: chaos.remove(cluster.followers()[0]))
        assert len(cluster.processes) == 3
        chaos.finish()
        return chaos


def harass(directory: Path, options: argparse.Namespace) -> Chaos:
    """Kills, wipes and rolling restarts in turn."""
    with running_cluster(directory, _environment(options)) as cluster:
        chaos = Chaos(cluster, options.seed, directory, options.histories)
        for number in range(max(options.kills, options.wipes, options.restarts)):
            if number < options.kills:
                chaos.kill(number)
            if number < options.wipes:
                chaos.wipe(number)
            if number < options.restarts:
                chaos.restart(number)
            print(f"round {number}: {len(chaos.violations)} violations", file=sys.stderr, flush=True)
        chaos.finish()
        return chaos


def report(runs: list[Chaos], options: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """What came of it."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    asked = ("kills", "wipes", "restarts", "reshapes", "seed", "election_timeout", "heartbeat_timeout")
    arguments = " ".join(f"--{name.replace('_', '-')} {getattr(options, name):g}" for name in asked)
    return {
        "commit": commit.stdout.strip(),
        "command": f"python -m tests.cluster.chaos {arguments}",
        "machine": {"platform": platform.platform(), "cpus": os.cpu_count(), "python": sys.version.split()[0]},
        "seconds": round(seconds, 1),
        "attempts": sum(run.operations for run in runs),
        "acknowledged_writes": sum(run.acknowledged for run in runs),
        "unknown_outcomes": dict(sorted(sum((run.unknown for run in runs), Counter()).items())),
        "operations_given_up": sum(run.gave_up for run in runs),
        "histories": sum(2 * len(run.rounds) for run in runs),
        "histories_undecided": sum(run.undecided for run in runs),
        "violations": [text for run in runs for text in run.violations],
        "leader_kill_to_next_write_s": {  # to the answer to the first write that a leader of a later term committed
            **summary([s for run in runs for s in run.outages_s]),
            "all": sorted(round(s, 3) for run in runs for s in run.outages_s),
        },
        "longest_gap_in_a_rolling_restart_s": summary([s for run in runs for s in run.gaps_s]),
    }


def summary(seconds: list[float]) -> dict[str, float]:
    """Count, smallest, median and largest."""
    if not seconds:
        return {}
    figures = {"min": min(seconds), "median": statistics.median(seconds), "worst": max(seconds)}
    return {"count": len(seconds), **{name: round(value, 3) for name, value in figures.items()}}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--wipes", type=int, default=30)
    parser.add_argument("--restarts", type=int, default=5, help="rolling restarts of all nodes")
    parser.add_argument("--reshapes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--election-timeout", type=float, default=1.0, help="seconds; by default as by default")
    parser.add_argument("--heartbeat-timeout", type=float, default=0.1, help="seconds")
    parser.add_argument("--report", type=Path)
    parser.add_argument("--histories", type=Path, help="keep every history there, as JSON lines")
    options = parser.parse_args()
    if options.histories is not None:
        options.histories.mkdir(parents=True, exist_ok=True)
    started_s = time.monotonic()
    directory = Path(tempfile.mkdtemp(prefix="chaos-"))
    runs = [reshape(directory / f"reshape{n}", options.seed + n, options) for n in range(options.reshapes)]
    if options.kills or options.wipes or options.restarts:
        runs.append(harass(directory / "harass", options))
    found = report(runs, options, time.monotonic() - started_s)
    text = json.dumps(found, indent=2)
    print(text)
    if options.report:
        options.report.write_text(text + "\n")
    proven = not (found["violations"] or found["histories_undecided"] or found["operations_given_up"])
    return 0 if proven else 1


if __name__ == "__main__":
    sys.exit(main())
