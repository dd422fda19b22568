"""Nodes that join: told seeds and nothing else, made by `cluster add N`, or on their own by `init --join`."""

from __future__ import annotations

import json
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cluster.harness import PROGRAM, Cluster, await_value, running_cluster
from tests.cluster.programs import APPLIANCE, COMMAND_S, Bundle
from tests.cluster.recovering import await_agreement
from tests.ports import free_base_port


def events(cluster: Cluster, node: int, action: str) -> list[dict[str, Any]]:
    logs = (cluster.files.directory / f"node{node}" / "log").glob("*.log")
    lines = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
    return [line for line in lines if line["event.action"] == action]


def tell_cluster_id(cluster: Cluster, node: int) -> None:
    """Write the cluster's id into the configuration of a node that is no seed, as an operator might who copies one."""
    config = cluster.files.configs[node - 1]
    assert "cluster_id" not in config.read_text()
    config.write_text(config.read_text().replace("[node]", f'[node]\ncluster_id = "{cluster.files.cluster_id}"'))


@pytest.fixture
def idle(tmp_path: Path) -> Iterator[Cluster]:
    """Three founders and a fourth node, none of them started."""
    cluster = Cluster(tmp_path, founders=3, nodes=4)
    yield cluster
    cluster.close()


def test_a_node_that_is_no_seed_founds_nothing_whoever_comes_first(idle: Cluster) -> None:
    """It knows the cluster's id, as an operator may well have copied it, and meets two empty seeds before the third."""
    tell_cluster_id(idle, 4)
    idle.start(4)
    idle.wait_answers(4)
    idle.start(1, 2)
    idle.wait_answers(1, 2)
    await_value(lambda: len(events(idle, 4, "peer.connected")) >= 2, "node 4 to meet the seeds")
    health = idle.get(4, "/health")
    assert health.status_code == 503
    assert "founds no cluster" in health.json()["reasons"][0]
    idle.start(3)
    idle.wait_healthy(1, 2, 3)
    idle.write(2, "k", b"v")
    assert not events(idle, 4, "cluster.founded")
    members = {m["node_id"] for m in idle.get(1, "/cluster/nodes").json()["nodes"]}
    assert members == {1, 2, 3}
    answer = idle.client.post(
        idle.url(1, "/cluster/nodes/add"), json={"node_id": 4, "address": idle.url(4)[7:]}, timeout=60
    )
    assert (answer.status_code, answer.json()["role"]) == (200, "voter")
    idle.wait_healthy(4)
    assert idle.get(4, "/kv/k").content == b"v"


def test_a_node_that_is_told_only_seeds_waits_for_them_and_learns_its_cluster(idle: Cluster) -> None:
    idle.start(4)
    await_value(lambda: bool(events(idle, 4, "peer.unreachable")), "node 4 to ask in vain")
    assert not (idle.files.directory / "node4" / "data" / "identity.json").exists()
    idle.stop(4)
    idle.start(1, 2, 3, 4)
    idle.wait_healthy(1, 2, 3)
    idle.wait_answers(4)
    identity = json.loads((idle.files.directory / "node4" / "data" / "identity.json").read_text())
    assert identity["cluster_id"] == idle.files.cluster_id
    assert idle.get(4, "/cluster/info").json()["cluster_id"] == idle.files.cluster_id
    idle.stop(1, 2, 3)
    idle.kill(4)
    idle.start(4)
    idle.wait_answers(4)
    assert len(events(idle, 4, "cluster.found")) == 1, "it need not ask again"


def test_a_fourth_and_a_fifth_node_join_with_one_command_each_and_leave_with_one(bundle: Bundle) -> None:
    founders = bundle.running()
    for number in (4, 5):
        change = bundle.answer("cluster", "add", str(number))
        assert (change["node_id"], change["role"], change["changed"]) == (number, "voter", True)
        assert change["url"] == f"http://127.0.0.1:{bundle.base_port + number - 1}"
    grown = bundle.running()
    assert grown.keys() == {f"node{n}" for n in range(1, 6)}
    assert {name: grown[name] for name in founders} == founders, "nobody else was started anew"
    assert bundle.answer("cluster", "add", "4")["changed"] is False
    assert bundle.running() == grown
    await_agreement(bundle, 5)
    secrets = [path for path in (bundle.state / "node4").rglob("*") if path.is_file() and "data" not in path.parts]
    assert {stat.S_IMODE(p.stat().st_mode) for p in secrets if p.suffix == ".toml"} == {0o600}
    bundle.run("kv", "put", "hello", "world")
    bundle.run("down")
    assert len(bundle.answer("up")["urls"]) == 5
    assert bundle.run("kv", "get", "hello").stdout.strip() == "world"
    gone = bundle.answer("cluster", "remove", "5", "--purge", "--yes")
    assert (gone["role"], gone["stopped"]) == ("removed", True)
    assert not (bundle.state / "node5").exists()
    kept = bundle.answer("cluster", "remove", "4")
    assert (kept["role"], kept["stopped"]) == ("removed", True)
    assert (bundle.state / "node4" / "data" / "ledger.db").exists()
    assert bundle.running().keys() == {"node1", "node2", "node3"}
    again = bundle.answer("cluster", "remove", "4")
    assert (again["changed"], again["stopped"]) == (False, False)
    await_agreement(bundle, 3)
    assert bundle.answer("cluster", "add", "4")["changed"] is True, "with the data that it left"
    bundle.run("cluster", "remove", "4", "--purge", "--yes")


def test_a_founder_may_leave_too_and_an_interrupted_add_is_finished_by_the_next(bundle: Bundle) -> None:
    adding = subprocess.Popen(
        [APPLIANCE, "--dir", str(bundle.state), "cluster", "add", "4"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert adding.stderr is not None
    adding.stderr.readline()  # says that the configuration is written
    adding.send_signal(signal.SIGINT)
    adding.communicate(timeout=30)
    assert adding.returncode == 130
    assert bundle.answer("cluster", "add", "4")["role"] == "voter"
    assert bundle.answer("cluster", "remove", "1")["stopped"] is True
    assert bundle.running().keys() == {"node2", "node3", "node4"}
    bundle.run("kv", "put", "k", "v")
    bundle.run("down")
    assert len(bundle.answer("up")["urls"]) == 3
    assert bundle.answer("cluster", "add", "1")["changed"] is True
    assert bundle.running().keys() == {"node1", "node2", "node3", "node4"}


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("cluster", "add", "10"), 2, "appliance cluster add 10 HOST:PORT"),
        (("cluster", "add", "4", "--url", "http://127.0.0.1:1"), 2, "only a cluster that `appliance up` started"),
        (("cluster", "add", "4", "--raft-address", "127.0.0.1:9"), 2, "--raft-address"),
        (("cluster", "remove", "3", "--purge"), 2, "add --yes"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is(
    words: tuple[str, ...], code: int, says: str, shared_bundle: Bundle
) -> None:
    before = shared_bundle.running()
    assert says in shared_bundle.run(*words, code=code).stderr
    assert shared_bundle.running() == before


@pytest.fixture(scope="module")
def shared_bundle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bundle]:
    bundle = Bundle(tmp_path_factory.mktemp("shared"))
    bundle.run("up", "--local", "--base-port", str(bundle.base_port), "--nodes", "1")
    yield bundle
    bundle.run("down", "--purge", "--yes")


def test_a_node_on_its_own_joins_with_what_init_join_wrote(tmp_path: Path) -> None:
    with running_cluster(tmp_path) as cluster:
        cluster.write(1, "k", b"v")
        home, address = tmp_path / "own", f"127.0.0.1:{free_base_port(1)}"
        join = ["--join", cluster.url(2), "--node", "7", "--address", address]
        command = [APPLIANCE, "--dir", str(home), "init", *join, "--authority", str(cluster.files.directory)]
        subprocess.run(command, check=True, timeout=COMMAND_S, capture_output=True)
        written = (home / "config.toml").read_bytes()
        assert b"cluster_id" not in written
        assert stat.S_IMODE((home / "config.toml").stat().st_mode) == 0o600
        subprocess.run(command, check=True, timeout=COMMAND_S, capture_output=True)
        assert (home / "config.toml").read_bytes() == written
        node = subprocess.Popen([*PROGRAM, "--config", str(home / "config.toml")])
        try:
            add = [APPLIANCE, "--dir", str(cluster.files.directory), "cluster", "add", "7", address]

            def added() -> bool:
                return subprocess.run(add, timeout=COMMAND_S, capture_output=True, check=False).returncode == 0

            await_value(added, "node 7 to be added")
            answer = httpx.get(f"http://{address}/kv/k", headers={"X-API-Key": cluster.key}, timeout=10)
            assert (answer.status_code, answer.content) == (200, b"v")
        finally:
            node.send_signal(signal.SIGTERM)
            assert node.wait(30) == 0
