"""Three nodes of ours and three of etcd's, as plain processes on loopback."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from appliance.cli.init import initialise_local

NODES = 3
START_S = 60.0


class Peer:
    """A running cluster under measurement.

    Attributes:
        name: `ours` or `etcd`.
        urls: client URL of each node.
        token: API key that goes with each request; empty for etcd.
        processes: the nodes.
    """

    def __init__(
        self, name: str, urls: Sequence[str], token: str, processes: Sequence[subprocess.Popen[bytes]]
    ) -> None:
        self.name = name
        self.urls = list(urls)
        self.token = token
        self.processes = list(processes)

    def ask(self, url: str, body: bytes | None = None) -> dict[str, Any]:
        """One small request to a node."""
        request = urllib.request.Request(url, data=body, headers={"X-API-Key": self.token})
        with urllib.request.urlopen(request, timeout=5) as answer:
            return json.loads(answer.read())

    def leader(self) -> int:
        """Position of the node that leads; waits for one."""
        deadline_s = time.monotonic() + START_S
        while time.monotonic() < deadline_s:
            for position, url in enumerate(self.urls):
                with contextlib.suppress(urllib.error.URLError, OSError, KeyError):
                    if self._leads(url):
                        return position
            time.sleep(0.1)
        raise RuntimeError(f"{self.name} has no leader after {START_S:g} s")

    def _leads(self, url: str) -> bool:
        if self.name == "ours":
            return self.ask(f"{url}/health")["role"] == "leader"
        status = self.ask(f"{url}/v3/maintenance/status", b"{}")
        return status["leader"] == status["header"]["member_id"]

    def url(self, through: str) -> str:
        """URL of the leader, or of a follower."""
        leader = self.leader()
        return self.urls[leader if through == "leader" else (leader + 1) % NODES]

    def usage(self) -> list[dict[str, float]]:
        """CPU seconds so far and resident MiB of each node."""
        found = []
        for process in self.processes:
            stat = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
            pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
            found.append({"cpu_s": (int(stat[11]) + int(stat[12])) / 100, "resident_mib": pages * 4096 / 2**20})
        return found

    def stop(self) -> None:
        """End the processes."""
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def free_base_port() -> int:
    """A port with the next two free, and those a thousand above."""
    for base in range(21_000, 60_000, 10):
        with contextlib.ExitStack() as stack:
            try:
                for port in (base, base + 1, base + 2, base + 1000, base + 1001, base + 1002):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return base
    raise RuntimeError("no free ports")


@contextlib.contextmanager
def ours(directory: Path) -> Iterator[Peer]:
    """Our three nodes, with the configuration that `up --local` writes."""
    files = initialise_local(directory / ".scribe", base_port=free_base_port())
    program = str(Path(sys.executable).with_name("scribe-node"))
    processes = [
        subprocess.Popen(
            [program, "--config", str(config)],
            stdout=(directory / f"ours{number}.out").open("wb"),
            stderr=subprocess.STDOUT,
        )
        for number, config in enumerate(files.configs, 1)
    ]
    lines = files.credentials.read_text().splitlines()
    token = next(line.split("=", 1)[1] for line in lines if line.startswith("APPLIANCE_API_KEY="))
    yield from _running(Peer("ours", files.urls, token, processes))


@contextlib.contextmanager
def etcd(directory: Path) -> Iterator[Peer]:
    """Three nodes of etcd with its defaults."""
    ports = free_ports(2 * NODES)
    clients, peers = ports[:NODES], ports[NODES:]
    members = ",".join(f"e{n}=http://127.0.0.1:{port}" for n, port in enumerate(peers))
    processes = []
    for n in range(NODES):
        client, peer = f"http://127.0.0.1:{clients[n]}", f"http://127.0.0.1:{peers[n]}"
        command = ["etcd", "--name", f"e{n}", "--data-dir", str(directory / f"etcd{n}")]
        command += ["--listen-client-urls", client, "--advertise-client-urls", client]
        command += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
        command += [
            "--initial-cluster",
            members,
            "--initial-cluster-state",
            "new",
            "--quota-backend-bytes",
            str(8 * 2**30),
        ]
        out = (directory / f"etcd{n}.out").open("wb")
        processes.append(subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT))
    yield from _running(Peer("etcd", [f"http://127.0.0.1:{p}" for p in clients], "", processes))


def _running(peer: Peer) -> Iterator[Peer]:
    try:
        peer.leader()
        yield peer
    finally:
        peer.stop()
