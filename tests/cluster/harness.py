"""Real node processes on loopback, in a directory of their own, with the configuration that `up --local` writes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx

from appliance.cli.init import LocalCluster, initialise_local
from tests.ports import free_base_port

START_S = 30.0
STEP_S = 0.05
NODES = 3
CLIENT_S = 15.0  # no answer may take longer
PASSING = frozenset({"no_leader", "no_quorum", "not_committed", "shutting_down", "overloaded"})  # surely not done
PROGRAM = (str(Path(sys.executable).with_name("scribe-node")),)
T = TypeVar("T")


def await_value(read: Callable[[], T | None], what: str, timeout_s: float = START_S) -> T:
    """Wait until `read` answers something other than None or False."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        value = read()
        if value is not None and value is not False:
            return value
        assert time.monotonic() < deadline_s, f"waited {timeout_s:g} s in vain for {what}"
        time.sleep(STEP_S)  # what is awaited happens in other processes: there is nothing to be woken by


class Cluster:
    """Three nodes, or as many as `founders` says, and others up to `nodes` that can be added.

    Args:
        directory: state directory.
        environment: settings as `SCRIBE_...` variables, for all nodes.
    """

    def __init__(
        self,
        directory: Path,
        environment: Mapping[str, str] | None = None,
        *,
        founders: int = NODES,
        nodes: int | None = None,
    ) -> None:
        self.founders = founders
        nodes = nodes or founders
        self.files: LocalCluster = initialise_local(
            directory / ".scribe", base_port=free_base_port(nodes), nodes=nodes, founders=founders
        )
        self.environment = dict(environment or {})
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        lines = self.files.credentials.read_text().splitlines()
        self.credentials = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
        self.key = self.credentials["APPLIANCE_API_KEY"]
        self._clients: list[httpx.Client] = []
        self._own = threading.local()

    @property
    def client(self) -> httpx.Client:
        """Of this thread. Threads that share one may lose answers: its pool closes, as one too many, a connection that
        another thread has just been given (six of 35,000 requests of 40 threads).
        """
        if not hasattr(self._own, "client"):
            self._own.client = httpx.Client(headers={"X-API-Key": self.key}, timeout=CLIENT_S)
            self._clients.append(self._own.client)
        client: httpx.Client = self._own.client
        return client

    def url(self, node: int, path: str = "") -> str:
        return self.files.urls[node - 1] + path

    def start(self, *nodes: int) -> None:
        for node in nodes or range(1, self.founders + 1):
            assert node not in self.processes
            self.processes[node] = subprocess.Popen(
                [*PROGRAM, "--config", str(self.files.configs[node - 1])],
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=(self.files.directory / f"node{node}.out").open("ab"),
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def data(self, node: int) -> Path:
        """A node's data directory."""
        return self.files.directory / f"node{node}" / "data"

    def output(self, node: int) -> str:
        return (self.files.directory / f"node{node}.out").read_text()[-3000:]

    def log(self, node: int) -> str:
        """What a node has logged, in all its lives."""
        return "".join(path.read_text() for path in (self.files.directory / f"node{node}" / "log").glob("*.log"))

    def kill(self, node: int, number: signal.Signals = signal.SIGKILL) -> int:
        """Signal a node and wait for its end; answers its exit code."""
        process = self.processes.pop(node)
        process.send_signal(number)
        try:
            return process.wait(timeout=START_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"node {node} did not end on {number.name} within {START_S:g} s") from None

    def stop(self, *nodes: int) -> None:
        """SIGTERM; every node must end with 0."""
        for node in nodes or tuple(self.processes):
            code = self.kill(node, signal.SIGTERM)
            assert code == 0, f"node {node} ended with {code}:\n{self.output(node)}"

    def close(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()
        for client in self._clients:
            client.close()

    # -- what nodes say

    def get(self, node: int, path: str, **options: Any) -> httpx.Response:
        return self.client.get(self.url(node, path), **options)

    def put(self, node: int, key: str, value: bytes, **options: Any) -> httpx.Response:
        return self.client.put(self.url(node, f"/kv/{key}"), content=value, **options)

    def write(self, node: int, key: str, value: bytes) -> httpx.Response:
        """Put a value through a node, repeated until it is acknowledged; it is one write all the same."""
        return self._written("PUT", self.url(node, f"/kv/{key}"), content=value)

    def write_batch(self, node: int, operations: Sequence[Mapping[str, Any]]) -> httpx.Response:
        """A batch through a node, repeated as `write` does."""
        return self._written("POST", self.url(node, "/batch"), json={"operations": operations})

    def _written(self, method: str, url: str, **content: Any) -> httpx.Response:
        headers = {"Idempotency-Key": uuid.uuid4().hex}

        def attempt() -> httpx.Response | None:
            try:
                answer = self.client.request(method, url, headers=headers, **content)
            except (httpx.NetworkError, httpx.RemoteProtocolError):  # not a time-out: a node answers in time
                return None
            if answer.status_code == 200:
                return answer
            assert answer.json()["code"] in PASSING | {"outcome_unknown"}, answer.text
            return None

        return await_value(attempt, f"{url} to be written")

    def health(self, node: int) -> dict[str, Any] | None:
        try:
            response = self.get(node, "/health", timeout=2.0)
        except httpx.TransportError:
            return None
        return response.json() if response.status_code == 200 else None

    def alarms(self, node: int) -> list[str]:
        """What a node raises alarm about, healthy or not: its health may be a 503 while leadership moves."""
        return list(self.get(node, "/health").json()["alarms"])

    def is_running(self, node: int) -> bool:
        process = self.processes.get(node)
        return process is not None and process.poll() is None

    def wait_healthy(self, *nodes: int, timeout_s: float = START_S) -> None:
        for node in nodes or tuple(self.processes):
            assert self.is_running(node), f"node {node} has ended:\n{self.output(node)}"
            await_value(lambda node=node: self.health(node), f"node {node} to be healthy", timeout_s)

    def leader(self, timeout_s: float = START_S) -> int:
        """The node that leads and is healthy."""

        def find() -> int | None:
            for node in self.processes:
                health = self.health(node)
                if health is not None and health["role"] == "leader":
                    return node
            return None

        return await_value(find, "a leader", timeout_s)

    def roles(self) -> tuple[int, list[int]]:
        """The node that leads and the other running ones, from one look."""
        leader = self.leader()
        return leader, [n for n in self.processes if n != leader]

    def followers(self) -> list[int]:
        return self.roles()[1]

    def wait_answers(self, *nodes: int) -> None:
        """Until these nodes answer, healthy or not: one that is no member yet is not."""

        def answers(node: int) -> bool:
            assert self.is_running(node), f"node {node} has ended:\n{self.output(node)}"
            try:
                return bool(self.get(node, "/health", timeout=2.0).status_code)
            except httpx.TransportError:
                return False

        for node in nodes:
            await_value(lambda node=node: answers(node), f"node {node} to answer")

    def voters(self, node: int) -> set[int]:
        """Who votes, as a node sees it."""
        members = self.get(node, "/cluster/nodes").json()["nodes"]
        return {member["node_id"] for member in members if member["role"] == "voter"}

    def figures(self, node: int) -> dict[str, Any]:
        response = self.get(node, "/metrics")
        assert response.status_code == 200
        return response.json()

    def agree(self, timeout_s: float = START_S) -> dict[str, Any]:
        """Wait until all running nodes have applied the same and say the same, and what they hold is published, so that
        no log goes on by itself; answers the Merkle part of it.
        """

        def find() -> dict[str, Any] | None:
            seen = [self.figures(n) for n in self.processes]
            same = all(
                (s["raft"]["applied_index"], s["merkle"]) == (seen[0]["raft"]["applied_index"], seen[0]["merkle"])
                for s in seen
            )
            merkle = seen[0]["merkle"]
            return merkle if same and merkle["published_size"] == merkle["tree_size"] else None

        return await_value(find, "all nodes to hold the same tree", timeout_s)


@contextmanager
def running_cluster(
    directory: Path,
    environment: Mapping[str, str] | None = None,
    *,
    founders: int = NODES,
    nodes: int | None = None,
    prepare: Callable[[Cluster], object] = lambda _: None,
) -> Iterator[Cluster]:
    """A cluster that is healthy; `prepare` is called with it before it is started."""
    cluster = Cluster(directory, environment, founders=founders, nodes=nodes)
    try:
        prepare(cluster)
        cluster.start()
        cluster.wait_healthy()
        yield cluster
    finally:
        cluster.close()
