"""`appliance verify` as a stranger runs it, against three real nodes."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from appliance.cli.exits import Exit
from tests.cluster.harness import Cluster, await_value, running_cluster
from tests.cluster.programs import APPLIANCE
from tests.cluster.writer import Writer

NODES = (1, 2, 3)


class Done(NamedTuple):
    exit_code: int
    answer: dict[str, Any]
    error: dict[str, Any]


class Stranger:
    """A user who remembers checkpoints; by default the credentials file tells where the nodes are."""

    def __init__(self, home: Path, cluster: Cluster) -> None:
        self.home = home
        self._cluster = cluster

    def run(self, *words: str, timeout_s: float = 15.0, **environment: str) -> Done:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("APPLIANCE_")}
        place = ["--dir", str(self._cluster.files.directory), "--timeout", str(timeout_s), "-o", "json"]
        done = subprocess.run(
            [APPLIANCE, *place, "verify", *words],
            env={**clean, "XDG_CONFIG_HOME": str(self.home), **environment},
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        error = json.loads(done.stderr.splitlines()[-1])["error"] if done.returncode else {}
        return Done(done.returncode, json.loads(done.stdout) if done.stdout else {}, error)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("verify"), {"SCRIBE_LOG__PUBLIC": "true"}) as cluster:
        fill(cluster, 0, 600)
        yield cluster


@pytest.fixture
def stranger(filled: Cluster, tmp_path: Path) -> Stranger:
    return Stranger(tmp_path, filled)


def fill(cluster: Cluster, begin: int, end: int) -> None:
    for first in range(begin, end, 100):
        keys = [f"key/{number % 250}" for number in range(first, min(end, first + 100))]
        cluster.write_batch(1 + first % 3, [{"op": "put", "key": key, "value": f"{key} {first}"} for key in keys])


def stored(cluster: Cluster, node: int, path: str) -> bytes:
    """What a node answers, asked again while it cannot."""

    def read() -> bytes | None:
        answer = cluster.get(node, path)
        assert answer.status_code in {200, 503}, answer.text
        return answer.content if answer.status_code == 200 else None

    return await_value(read, f"node {node} to answer {path}")


def test_a_key_is_verified_and_the_next_checkpoint_continues_the_last(filled: Cluster, stranger: Stranger) -> None:
    first = stranger.run("key/7")
    assert first.exit_code == Exit.OK, first.error
    assert first.answer["leaf"]["key"] == "key/7"
    filled.write(2, "key/7", b"new")
    for node in NODES:
        done = stranger.run("key/7", "--url", filled.url(node), APPLIANCE_API_KEY=filled.key)
        assert done.exit_code == Exit.OK, done.error
        assert done.answer["leaf"]["version"] == first.answer["leaf"]["version"] + 1
        checks = {check["name"]: check["result"] for check in done.answer["checks"]}
        assert checks["consistency"] == checks["value"] == "passed"


def test_a_deleted_key_and_one_that_was_never_written(filled: Cluster, stranger: Stranger) -> None:
    filled.write(1, "soon-gone", b"1")
    assert filled.client.delete(filled.url(2, "/kv/soon-gone")).status_code == 200
    gone = stranger.run("soon-gone")
    assert (gone.exit_code, gone.answer["verified"]) == (Exit.NOT_FOUND, True), gone.error
    assert stranger.run("never").exit_code == Exit.NOT_FOUND


def test_a_proof_is_checked_offline(filled: Cluster, stranger: Stranger) -> None:
    file, value = stranger.home / "proof", stranger.home / "value"
    file.write_bytes(stored(filled, 3, "/log/proof/file/key/8"))
    value.write_bytes(stored(filled, 1, "/kv/key/8"))
    words = ("proof", str(file), "--key", "key/8", "--value", str(value), "--url", "http://127.0.0.1:1")
    assert stranger.run(*words).exit_code == Exit.OK
    value.write_bytes(b"something else")
    assert stranger.run(*words).exit_code == Exit.WRONG_PROOF


def test_the_whole_log_is_verified_on_all_nodes_while_writes_go_on(filled: Cluster, stranger: Stranger) -> None:
    with Writer(filled, "meanwhile") as writer:
        writer.wait(20)
        done = stranger.run("log")
        writer.wait(20)
    assert not writer.unexpected
    assert done.exit_code == Exit.OK, done.error
    assert [node["result"] for node in done.answer["nodes"]] == ["verified"] * 3
    assert {check["name"] for check in done.answer["checks"]} == {"consistency", "checkpoints", "entries", "keys"}
    assert all(node["entries"] >= 600 and node["listed"] >= 250 for node in done.answer["nodes"])
    again = stranger.run("log")
    assert again.exit_code == Exit.OK, again.error
    assert again.answer["tree_size"] > done.answer["tree_size"] - 1


def test_a_stranger_without_an_api_key_verifies_a_public_log(filled: Cluster, stranger: Stranger) -> None:
    key = filled.credentials["APPLIANCE_VERIFIER_KEY"]
    urls = ",".join(filled.url(node) for node in NODES)
    nowhere = stranger.home / "nowhere"
    done = stranger.run("log", "--dir", str(nowhere), "--url", urls, "--verifier-key", key)
    assert done.exit_code == Exit.OK, done.error
    assert sum(text.startswith("The list of keys") for text in done.answer["not_checked"]) == 3


def test_a_node_that_is_down_leaves_the_others_verified(filled: Cluster, stranger: Stranger) -> None:
    node = filled.followers()[0]
    filled.kill(node)
    try:
        done = stranger.run("log")
    finally:
        filled.start(node)
        filled.wait_healthy(node)
    assert done.exit_code == Exit.PARTIAL, done.error
    assert [one["result"] for one in done.answer["nodes"]].count("verified") == 2


def test_one_changed_leaf_on_one_node_is_named(filled: Cluster, stranger: Stranger) -> None:
    node = filled.followers()[0]
    filled.agree()
    filled.stop(node)
    change_leaf(filled.files.directory / f"node{node}", 123)
    filled.start(node)
    filled.wait_answers(node)
    stored(filled, node, "/log/checkpoint")
    done = stranger.run("log")
    assert done.exit_code == Exit.WRONG_ENTRIES, (done.error, done.answer)
    by_node = dict(zip(NODES, done.answer["nodes"], strict=True))
    assert (by_node[node]["code"], by_node[node]["first_bad_entry"]) == ("entry_wrong", 123)
    assert [by_node[one]["result"] for one in NODES if one != node] == ["verified"] * 2


def change_leaf(directory: Path, leaf_index: int) -> None:
    (path,) = directory.rglob("ledger.db")
    with sqlite3.connect(path) as db:
        (leaf,) = db.execute("SELECT leaf FROM leaves WHERE leaf_index = ?", (leaf_index,)).fetchone()
        changed = leaf.replace(b'"admin"', b'"nobody"')
        assert changed != leaf
        db.execute("UPDATE leaves SET leaf = ? WHERE leaf_index = ?", (changed, leaf_index))
    db.close()


def test_a_cluster_that_is_set_back_is_rolled_back_and_then_a_fork(cluster: Cluster, tmp_path: Path) -> None:
    stranger = Stranger(tmp_path / "home", cluster)
    fill(cluster, 0, 300)
    cluster.agree()
    cluster.stop()
    earlier = [copy_of(cluster.files.directory / f"node{node}") for node in NODES]
    cluster.start()
    cluster.wait_healthy()
    fill(cluster, 300, 500)
    cluster.write(1, "last", b"1")
    assert stranger.run("last").exit_code == Exit.OK
    cluster.stop()
    for node, files in zip(NODES, earlier, strict=True):
        set_back(cluster.files.directory / f"node{node}", files)
    cluster.start()
    cluster.wait_healthy()
    back = stranger.run("key/7", timeout_s=10.0)
    assert (back.exit_code, back.error["code"]) == (Exit.SHRUNK, "log_shrunk"), back.error
    assert "\n501\n" in back.error["detail"]
    fill(cluster, 500, 800)

    def grown() -> Done | None:
        done = stranger.run("key/7")
        return done if done.error.get("code") != "log_shrunk" else None

    forked = await_value(grown, "a checkpoint of the last writes to be published")
    assert (forked.exit_code, forked.error["code"]) == (Exit.FORKED, "log_forked"), forked.error
    assert len(list((tmp_path / "home" / "appliance" / "checkpoints" / "alarms").iterdir())) >= 2


def copy_of(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file() and path.suffix != ".log"}


def set_back(directory: Path, files: dict[Path, bytes]) -> None:
    """Put the old bytes into the same files, as somebody does who does not want to be seen."""
    for path in directory.rglob("*"):
        if path.is_file() and path.suffix != ".log" and path not in files:
            path.unlink()
    for path, data in files.items():
        with path.open("r+b") if path.exists() else path.open("wb") as file:
            file.truncate()
            file.write(data)
