"""Three nodes of ours or of etcd's, as plain processes on loopback; both keep everything durably."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.error import URLError
from urllib.request import Request, urlopen

from appliance.cli.init import initialise_local
from appliance.cli.init_files import read_env_file

NODES: Final = 3
START_S: Final = 60.0
STOP_S: Final = 20.0
SETTLE_S: Final = 300.0
STEP_S: Final = 0.05
ETCD_QUOTA_BYTES: Final = 8 * 2**30  # its default of 2 GiB would end the long rows with an alarm
T = TypeVar("T")


def await_value(read: Callable[[], T | None], what: str, timeout_s: float = START_S, step_s: float = STEP_S) -> T:
    """Wait until `read` answers something other than None or False; a node that does not answer is waited for too.

    Raises:
        TimeoutError: it did not come in time.
    """
    deadline_s = time.monotonic() + timeout_s
    while True:
        with contextlib.suppress(URLError, OSError, KeyError, ValueError):
            value = read()
            if value is not None and value is not False:
                return value
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"waited {timeout_s:g} s in vain for {what}")
        time.sleep(step_s)


class Cluster(ABC):
    """Three nodes under measurement.

    Attributes:
        name: what the report calls it.
        target: `ours` or `etcd`, for the load's requests.
        urls: client URL of each node.
        token: API key that goes with each request; `none` for etcd.
        directory: everything that the nodes keep.
        data: the data directory of each node.
        processes: running nodes by position.
    """

    target: str
    token = "none"

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.directory = directory
        self.directory.mkdir(parents=True, exist_ok=True)
        self.urls: list[str] = []
        self.data: list[Path] = []
        self.processes: dict[int, subprocess.Popen[bytes]] = {}

    # -- processes

    @abstractmethod
    def command(self, position: int) -> list[str]:
        """What starts a node."""

    def environment(self) -> Mapping[str, str]:
        """What the nodes' environment has beside this one's."""
        return {}

    def start(self, *positions: int) -> None:
        """Start nodes, all when none is named; does not wait for them."""
        for position in positions or range(NODES):
            with (self.directory / f"node{position}.out").open("ab") as out:
                self.processes[position] = subprocess.Popen(
                    self.command(position),
                    env={**os.environ, **self.environment()},
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                )

    def stop(self, *positions: int, number: signal.Signals = signal.SIGTERM) -> None:
        """Signal nodes, all that run when none is named, and wait for their ends."""
        ending = [self.processes.pop(p) for p in positions or tuple(self.processes)]
        for process in ending:
            process.send_signal(number)
        for process in ending:
            try:
                process.wait(timeout=STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    @contextlib.contextmanager
    def running(self) -> Iterator[Cluster]:
        """Start all nodes, wait for a leader, and stop them at the end."""
        try:
            self.start()
            self.leader()
            yield self
        finally:
            self.stop()

    # -- questions

    def ask(self, position: int, path: str, body: bytes | None = None, timeout_s: float = 10.0) -> Any:
        """One small JSON request to a node. Raises `OSError` when it does not answer with a 200."""
        request = Request(self.urls[position] + path, data=body, headers={"X-API-Key": self.token})
        with urlopen(request, timeout=timeout_s) as answer:
            return json.loads(answer.read())

    @abstractmethod
    def leads(self, position: int) -> bool:
        """Whether a node says that it leads and can serve."""

    @abstractmethod
    def rested(self) -> bool:
        """Whether no node has work left over from what it was sent."""

    def rest(self) -> None:
        """Wait for that, so that it does not go on while another cluster is measured."""
        await_value(self.rested, f"{self.name} to rest", timeout_s=SETTLE_S)

    @abstractmethod
    def writes_done(self) -> int:
        """Writes that the leader has applied so far (requests of etcd's, operations of ours)."""

    @abstractmethod
    def key_count(self) -> int:
        """Keys present."""

    @abstractmethod
    def batch(self, pairs: list[tuple[str, str]]) -> tuple[str, bytes]:
        """Path and body of a request that puts pairs at once."""

    @property
    @abstractmethod
    def batch_max(self) -> int:
        """Most pairs in one such request."""

    def leader(self) -> int:
        """Position of the node that leads; waits for one. Raises `RuntimeError` when no node runs any more."""
        return await_value(self._find_leader, f"a leader of {self.name}")[0]

    def _find_leader(self) -> tuple[int] | None:
        if all(process.poll() is not None for process in self.processes.values()):
            said = (self.directory / "node0.out").read_text()[-500:].strip()
            raise RuntimeError(f"no node of {self.name} runs; the first said: {said}")
        for position in self.processes:
            with contextlib.suppress(URLError, OSError, KeyError):
                if self.leads(position):
                    return (position,)
        return None

    def position(self, through: str) -> int:
        """Position of the leader, or of a follower."""
        leader = self.leader()
        return leader if through == "leader" else next(p for p in self.processes if p != leader)

    def role(self, position: int, leader: int) -> str:
        """What a node is called in the results."""
        return "leader" if position == leader else "follower"


class Ours(Cluster):
    """Our three nodes, with the configuration that `up --local` writes.

    Args:
        name: what the report calls it.
        directory: where its state goes.
        settings: keys that differ from that configuration, as `SCRIBE_...` variables.
        spares: nodes beside the founders, that can be started and added.
    """

    target = "ours"
    batch_max = 1000

    def __init__(
        self, name: str, directory: Path, settings: Mapping[str, str] | None = None, *, spares: int = 0
    ) -> None:
        super().__init__(name, directory)
        nodes = NODES + spares
        files = initialise_local(directory / ".scribe", base_port=free_base_port(nodes), nodes=nodes, founders=NODES)
        self.urls = list(files.urls)
        self.settings = dict(settings or {})
        self._configs = files.configs
        self.data = [files.directory / f"node{n}" / "data" for n in range(1, nodes + 1)]
        credentials = read_env_file(files.credentials)
        self.token = credentials["APPLIANCE_API_KEY"]
        self.verifier_key = credentials["APPLIANCE_VERIFIER_KEY"]

    def command(self, position: int) -> list[str]:
        """`scribe-node` with the configuration of the node."""
        return [str(Path(sys.executable).with_name("scribe-node")), "--config", str(self._configs[position])]

    def environment(self) -> Mapping[str, str]:
        """The settings that differ."""
        return self.settings

    def leads(self, position: int) -> bool:
        """By /health, which is a 503 while the node cannot serve."""
        return bool(self.ask(position, "/health")["role"] == "leader")

    def figures(self, position: int) -> Any:
        """GET /metrics of a node."""
        return self.ask(position, "/metrics")

    def exposition(self, position: int) -> str:
        """GET /metrics/prometheus of a node."""
        request = Request(f"{self.urls[position]}/metrics/prometheus", headers={"X-API-Key": self.token})
        with urlopen(request, timeout=10) as answer:
            return str(answer.read().decode())

    def writes_done(self) -> int:
        """Leaves of the tree."""
        return int(self.figures(self.leader())["merkle"]["tree_size"])

    def key_count(self) -> int:
        """As the leader counts."""
        return int(self.figures(self.leader())["storage"]["keys"])

    def batch(self, pairs: list[tuple[str, str]]) -> tuple[str, bytes]:
        """POST /batch."""
        operations = [{"op": "put", "key": key, "value": value} for key, value in pairs]
        return "/batch", json.dumps({"operations": operations}).encode()

    def rested(self) -> bool:
        """By what is applied and what waits for the ledger file."""
        figures = [self.figures(position) for position in self.processes]
        last = max(int(seen["raft"]["last_index"]) for seen in figures)
        return all(
            int(seen["raft"]["applied_index"]) == last and int(seen["storage"]["pending_bytes"]) == 0
            for seen in figures
        )

    def settled(self) -> bool:
        """Whether every node has everything applied, in the ledger file, and durable there."""
        commit = max(int(self.figures(p)["raft"]["last_index"]) for p in self.processes)
        return all(metric(self.exposition(p), "scribe_raft_durable_index") >= commit for p in self.processes)

    def settle(self) -> None:
        """Wait for that."""
        await_value(self.settled, f"{self.name} to settle", timeout_s=SETTLE_S, step_s=0.5)


class Etcd(Cluster):
    """Three nodes of etcd with its defaults, written to and read from by its JSON gateway."""

    target = "etcd"
    batch_max = 100  # its default limit is 128

    def __init__(self, name: str, directory: Path) -> None:
        super().__init__(name, directory)
        base = free_base_port()
        self.urls = [f"http://127.0.0.1:{base + position}" for position in range(NODES)]
        self._peers = [f"http://127.0.0.1:{base + position + 1000}" for position in range(NODES)]
        self.data = [directory / f"etcd{position}" for position in range(NODES)]

    def command(self, position: int) -> list[str]:
        """`etcd` with three static members."""
        members = ",".join(f"e{n}={url}" for n, url in enumerate(self._peers))
        options = {
            "name": f"e{position}",
            "data-dir": str(self.data[position]),
            "listen-client-urls": self.urls[position],
            "advertise-client-urls": self.urls[position],
            "listen-peer-urls": self._peers[position],
            "initial-advertise-peer-urls": self._peers[position],
            "initial-cluster": members,
            "initial-cluster-state": "new",
            "quota-backend-bytes": str(ETCD_QUOTA_BYTES),
        }
        return ["etcd", *(f"--{name}={value}" for name, value in options.items())]

    def leads(self, position: int) -> bool:
        """By its status."""
        status = self.ask(position, "/v3/maintenance/status", b"{}")
        return bool(status["leader"] == status["header"]["member_id"])

    def rested(self) -> bool:
        """By what is applied."""
        seen = [self.ask(position, "/v3/maintenance/status", b"{}") for position in self.processes]
        return all(int(s["raftAppliedIndex"]) == max(int(s["raftIndex"]) for s in seen) for s in seen)

    def writes_done(self) -> int:
        """Its revision, less the one that an empty store has."""
        return int(self.ask(self.leader(), "/v3/maintenance/status", b"{}")["header"]["revision"]) - 1

    def key_count(self) -> int:
        """A range over everything that counts only."""
        everything = base64.b64encode(b"\0").decode()
        body = json.dumps({"key": everything, "range_end": everything, "count_only": True}).encode()
        return int(self.ask(self.leader(), "/v3/kv/range", body).get("count", 0))

    def batch(self, pairs: list[tuple[str, str]]) -> tuple[str, bytes]:
        """A transaction without conditions."""
        puts = [
            {
                "request_put": {
                    "key": base64.b64encode(key.encode()).decode(),
                    "value": base64.b64encode(value.encode()).decode(),
                }
            }
            for key, value in pairs
        ]
        return "/v3/kv/txn", json.dumps({"success": puts}).encode()


def metric(text: str, name: str, labels: str = "") -> float:
    """Sum of a metric's samples in an exposition whose labels hold the text `labels`."""
    found = re.findall(rf"^{re.escape(name)}(?:\{{([^}}]*)\}})? (\S+)", text, re.MULTILINE)
    return sum(float(value) for held, value in found if labels in held)


def free_base_port(nodes: int = NODES) -> int:
    """A port with the next ones free, and those a thousand above; below the range that the kernel gives out."""
    for base in random.sample(range(20_000, 31_000), 200):
        with contextlib.ExitStack() as stack:
            try:
                for port in range(base, base + nodes):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port + 1000))
            except OSError:
                continue
            return base
    raise RuntimeError("no free ports")
