"""Witnesses as processes of their own, beside real nodes: cosigning goes on through deaths, and lies are refused."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from appliance.adapters.ed25519 import read_key_file, verify
from appliance.adapters.witness_store import WitnessStore
from appliance.cli.init import LOG_KEY_FILE
from appliance.ledger.checkpoint import Checkpoint, open_checkpoint, parse_checkpoint, sign_checkpoint
from appliance.ledger.cosignature import CosignatureVerifier
from appliance.ledger.note import (
    Ed25519Verifier,
    NoteNotSigned,
    format_note,
    open_note,
    parse_note,
    parse_verifier_key,
)
from appliance.ledger.witnessing import AddCheckpoint, format_request
from tests.cluster.harness import NODES, Cluster, await_value
from tests.ports import RAFT_PORT_ABOVE, free_base_port

END_S = 90.0
PROGRAM = (str(Path(sys.executable).with_name("appliance")),)
SETTINGS = {"SCRIBE_LOG__CHECKPOINT_INTERVAL": "0.2", "SCRIBE_LOG__WITNESS_TIMEOUT": "1.0"}
# The program, but for the moment in which it would sign: what it decided is durable by then, and nobody knows of it.
DIES_BEFORE_IT_SIGNS = """
import os, signal
from appliance.adapters.ed25519 import SigningKey
SigningKey.sign = lambda self, message: os.kill(os.getpid(), signal.SIGKILL)
from appliance.cli.main import run
run()
"""


class WitnessProcess:
    """A witness of a log, run by the program."""

    def __init__(self, directory: Path, name: str, log_key: str, port: int) -> None:
        self.name = name
        self.state = directory / f"{name}.state"
        self.port = port
        self.url = f"http://127.0.0.1:{self.port}"
        key = directory / f"{name}.key"
        made = subprocess.run(
            [*PROGRAM, "witness", "init", "--key", str(key), "--name", name], capture_output=True, check=True, text=True
        )
        self.vkey = made.stdout.strip()
        self.verifier = CosignatureVerifier(parse_verifier_key(self.vkey), verify)
        self._output = directory / f"{name}.out"
        listen = f"127.0.0.1:{self.port}"
        self._words = ["witness", "serve", "--key", str(key), "--state", str(self.state)]
        self._words += ["--log", log_key, "--listen", listen]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *program: str) -> None:
        with self._output.open("ab") as output:
            self.process = subprocess.Popen(
                [*(program or PROGRAM), *self._words], stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    def wait_answers(self) -> None:
        await_value(self._answers, f"{self.name} to answer")

    def _answers(self) -> bool:
        try:
            return httpx.get(self.url, timeout=2.0, trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    def end(self, number: signal.Signals) -> int:
        """Signal it and wait for its end; answers its exit code."""
        process, self.process = self.process, None
        assert process is not None
        process.send_signal(number)
        return process.wait(timeout=END_S)

    def head(self) -> int:
        """Size of what it has cosigned last, as its file says while it is down."""
        assert self.process is None
        store = WitnessStore(self.state)
        try:
            (row,) = store.rows()
        finally:
            store.close()
        return row.head.size

    def submit(self, request: AddCheckpoint) -> httpx.Response:
        body = format_request(request)
        return httpx.post(f"{self.url}/add-checkpoint", content=body, timeout=5.0, trust_env=False)


def free_base_port_beside(cluster: Cluster, count: int) -> int:
    """Ports that no node of a cluster has which is not started yet."""
    base = int(cluster.url(1).rpartition(":")[2])
    taken = {base + n + above for n in range(NODES) for above in (0, RAFT_PORT_ABOVE)}
    while True:
        port = free_base_port(count)
        if taken.isdisjoint(range(port, port + count)):
            return port


class Witnessed:
    """Three nodes and two witnesses."""

    def __init__(self, directory: Path) -> None:
        self.cluster = Cluster(directory, SETTINGS)
        log_key = self.cluster.credentials["APPLIANCE_VERIFIER_KEY"]
        self.log = Ed25519Verifier(parse_verifier_key(log_key), verify)
        port = free_base_port_beside(self.cluster, 2)
        self.witnesses = [WitnessProcess(directory, f"w{n}.example", log_key, port + n - 1) for n in (1, 2)]
        named = ",".join(f"{one.url} {one.vkey}" for one in self.witnesses)
        self.cluster.environment["SCRIBE_LOG__WITNESSES"] = named

    def start(self) -> None:
        for one in self.witnesses:
            one.start()
            one.wait_answers()
        self.cluster.start()
        self.cluster.wait_healthy()

    def close(self) -> None:
        self.cluster.close()
        for one in self.witnesses:
            if one.process is not None:
                one.process.kill()
                one.process.wait()

    def write(self, node: int, key: str) -> int:
        """Write once; answers the least size of a tree that holds it."""
        return int(self.cluster.write(node, key, b"v").json()["leaf_index"]) + 1

    def shown(self, node: int) -> tuple[int, list[str]]:
        """What a node shows: the size, and who has cosigned it. All signatures are verified."""
        answer = self.cluster.get(node, "/log/checkpoint")
        if answer.status_code != 200:
            return 0, []
        size = open_checkpoint(answer.content, self.log).checkpoint.size
        try:
            cosigned = open_note(answer.content, [one.verifier for one in self.witnesses]).verified
        except NoteNotSigned:
            return size, []
        return size, sorted(one.name for one in cosigned)

    def await_cosigned(self, node: int, size: int, *names: str) -> None:
        """Wait until a node shows a tree of so many leaves that these have cosigned, and nobody else."""

        def seen() -> bool:
            found = self.shown(node)
            return found[0] >= size and found[1] == sorted(names)

        await_value(seen, f"node {node} to show {size} leaves cosigned by {names}", END_S)

    @property
    def names(self) -> list[str]:
        return [one.name for one in self.witnesses]

    def series(self, node: int, start: str) -> list[float]:
        """Values of a node's metrics that start so."""
        text = self.cluster.get(node, "/metrics/prometheus").text
        return [float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(start)]


@pytest.fixture
def witnessed(tmp_path: Path) -> Iterator[Witnessed]:
    rig = Witnessed(tmp_path)
    try:
        rig.start()
        yield rig
    finally:
        rig.close()


def test_every_node_shows_what_witnesses_say_and_the_next_leader_goes_on(witnessed: Witnessed) -> None:
    cluster = witnessed.cluster
    size = witnessed.write(1, "a")
    for node in cluster.processes:
        witnessed.await_cosigned(node, size, *witnessed.names)
    dead = cluster.leader()
    cluster.kill(dead)
    leader = cluster.leader()
    size = witnessed.write(leader, "b")
    for node in cluster.processes:
        witnessed.await_cosigned(node, size, *witnessed.names)
    cluster.start(dead)
    cluster.wait_healthy(dead)
    size = witnessed.write(dead, "c")
    witnessed.await_cosigned(dead, size, *witnessed.names)
    merkle = cluster.agree()
    assert merkle["tree_size"] == size, "cosignatures are no leaves"
    sizes = "scribe_witness_cosigned_size{"
    await_value(lambda: witnessed.series(dead, sizes) == [size, size], "a follower's metrics to follow")
    for one in witnessed.witnesses:
        assert one.end(signal.SIGTERM) == 0


def test_a_witness_that_is_down_holds_up_nothing_and_forgets_nothing(witnessed: Witnessed) -> None:
    cluster, (first, second) = witnessed.cluster, witnessed.witnesses
    node = cluster.followers()[0]
    size = witnessed.write(1, "a")
    witnessed.await_cosigned(node, size, first.name, second.name)
    second.end(signal.SIGKILL)
    assert second.head() == size
    size = witnessed.write(1, "b")
    witnessed.await_cosigned(node, size, first.name)
    failures = "scribe_witness_failures_total{"
    await_value(lambda: sum(witnessed.series(cluster.leader(), failures)) > 0, "the failure to be counted")
    second.start(sys.executable, "-c", DIES_BEFORE_IT_SIGNS)
    process, second.process = second.process, None
    assert process is not None
    assert process.wait(timeout=END_S) == -signal.SIGKILL
    assert second.head() == size, "it was kept before it could be signed"
    second.start()
    witnessed.await_cosigned(node, size, first.name, second.name)


def set_back(data: Path, files: dict[str, bytes]) -> None:
    """Put an earlier state of a data directory in the place of the later one, in the same files."""
    for path in data.iterdir():
        if path.is_file() and path.name not in files:
            path.unlink()
    for name, content in files.items():
        (data / name).write_bytes(content)


def test_a_log_that_was_set_back_is_refused_and_says_so(witnessed: Witnessed) -> None:
    """All nodes at once: none of them can know of it, but for the witnesses."""
    cluster = witnessed.cluster
    witnessed.await_cosigned(1, witnessed.write(1, "a"), *witnessed.names)
    cluster.stop()
    nodes = (1, 2, 3)
    kept = {n: {p.name: p.read_bytes() for p in cluster.data(n).iterdir() if p.is_file()} for n in nodes}
    cluster.start()
    cluster.wait_healthy()
    for key in ("b", "c"):
        witnessed.await_cosigned(1, witnessed.write(1, key), *witnessed.names)
    cluster.stop()
    for node in nodes:
        set_back(cluster.data(node), kept[node])
    cluster.start()
    cluster.wait_healthy()
    leader = cluster.leader()
    assert witnessed.write(leader, "d") == 2
    asked = await_value(lambda: alarmed(cluster), "the alarm that the log is smaller than it was", END_S)
    assert "a tree of 3 leaves, and the log published 2" in cluster.log(asked)
    for key in ("e", "f"):
        witnessed.write(leader, key)
    # What was cosigned before is the last that was, and is shown as long as what came behind it is not much newer.
    size, names = witnessed.shown(asked)
    assert (size, names) == (1, witnessed.names) or (size > 1 and names == [])
    assert witnessed.series(asked, 'scribe_integrity_alarm{alarm="fork_seen"') == [1.0]
    failures = "scribe_witness_failures_total{"
    await_value(lambda: sum(sum(witnessed.series(n, failures)) for n in nodes) >= 2, "both to refuse it", END_S)


def alarmed(cluster: Cluster) -> int | None:
    """A node that has seen a fork, and has no other alarm: whoever led when the witnesses were asked."""
    seen = {node: cluster.health(node) for node in cluster.processes}
    return next((node for node, health in seen.items() if health and health["alarms"] == ["fork_seen"]), None)


def test_whoever_has_the_logs_key_cannot_have_a_fork_cosigned(witnessed: Witnessed) -> None:
    cluster, (witness, _) = witnessed.cluster, witnessed.witnesses
    for key in ("a", "b"):
        size = witnessed.write(1, key)
    witnessed.await_cosigned(1, size, *witnessed.names)
    honest = cluster.get(1, "/log/checkpoint").content
    key = read_key_file(cluster.files.directory / LOG_KEY_FILE)

    def signed(size: int, root: bytes) -> bytes:
        return format_note(sign_checkpoint(Checkpoint(key.verifier_key.name, size, root), key.verifier_key, key.sign))

    root = parse_checkpoint(parse_note(honest).text).root
    submissions: list[tuple[AddCheckpoint, int, Callable[[httpx.Response], bool]]] = [
        (AddCheckpoint(size, (), signed(size, bytes(32))), 409, lambda answer: b"another root" in answer.content),
        (AddCheckpoint(size, (bytes(32),) * 2, signed(size + 1, bytes(32))), 422, lambda _: True),
        (AddCheckpoint(0, (), signed(size - 1, bytes(32))), 409, lambda answer: answer.content == b"%d\n" % size),
        (AddCheckpoint(size, (), signed(size, root)), 200, lambda _: True),
    ]
    for request, status, is_right in submissions:
        answer = witness.submit(request)
        assert (answer.status_code, is_right(answer)) == (status, True), answer.text
