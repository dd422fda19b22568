"""Scrubs of real nodes find and name one byte that was changed in their files, whether they ran meanwhile or not."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw

from appliance.ledger.merkle import leaf_hash
from tests.cluster.harness import Cluster, await_value, running_cluster
from tests.cluster.programs import APPLIANCE, Bundle
from tests.cluster.recovering import await_agreement
from tests.flips import flip

VALUE = b"a value that stands nowhere else"
LEAVES = 300  # a whole tile, and leaves behind it
RATE = 2**30


def fill(cluster: Cluster) -> None:
    operations = [{"op": "put", "key": f"key-{n:04d}", "value": f"value-{n}"} for n in range(LEAVES)]
    operations[100]["value"] = VALUE.decode()
    answer = cluster.client.post(cluster.url(1, "/batch"), json={"operations": operations})
    assert answer.status_code == 200, answer.text
    cluster.agree()


def scrub(cluster: Cluster, node: int) -> dict[str, Any]:
    answer = cluster.client.post(cluster.url(node, "/admin/scrub"), json={"rate": RATE}, timeout=60)
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"status": "ok", **cluster.figures(node)["scrub"]}
    return answer.json()


def settle(cluster: Cluster) -> None:
    """Have all files at rest: what was written is in them, and not beside them."""
    answer = cluster.client.post(cluster.url(1, "/admin/pause-writes"), json={"ttl_seconds": 600}, timeout=60)
    assert answer.json()["unsettled"] == []


def leaf_of(data: Path, leaf_index: int) -> bytes:
    db = apsw.Connection(str(data / "ledger.db"), flags=apsw.SQLITE_OPEN_READONLY)
    row = db.execute("SELECT leaf FROM leaves WHERE leaf_index = ?", (leaf_index,)).fetchone()
    db.close()
    assert row is not None
    return bytes(row[0])


# What is changed: bytes of the file, and the place of one among them; and what a scrub says of it.
ON_THE_RUN: dict[str, tuple[Callable[[Path], bytes], int, str]] = {
    "a leaf": (lambda _: b'"key":"key-0200"', 12, "leaf 200 does not lead to its hash in the tile above"),
    "a tile": (lambda data: leaf_hash(leaf_of(data, 100)), 5, "tile 0 of level 0 does not lead to the root beside it"),
    "a value": (lambda _: VALUE, 5, "the value of leaf 100 does not match the hash in the leaf"),
}


def test_one_byte_of_a_running_nodes_ledger(cluster: Cluster) -> None:
    fill(cluster)
    settle(cluster)
    node = cluster.followers()[0]
    data = cluster.data(node)
    assert scrub(cluster, node)["findings"] == 0
    for text_of, at, says in ON_THE_RUN.values():
        changed = flip(data / "ledger.db", text_of(data), at)
        assert scrub(cluster, node)["details"] == [says]
        assert cluster.get(node, "/health").json()["alarms"] == ["writes_paused", "storage_rotten"]
        flip(data / "ledger.db", changed, at)
        assert scrub(cluster, node)["findings"] == 0
        assert cluster.get(node, "/health").json()["alarms"] == ["writes_paused"]
    flip(data / "ledger.db", VALUE, 5)
    scrub(cluster, node)
    assert 'scribe_integrity_alarm{alarm="storage_rotten"} 1.0' in cluster.get(node, "/metrics/prometheus").text
    answer = cluster.get(node, "/kv/key-0100")
    assert (answer.status_code, answer.json()["code"]) == (500, "verification_failed")
    assert cluster.get(node, "/kv/key-0150").content == b"value-150"
    others = [n for n in cluster.processes if n != node]
    assert all(scrub(cluster, other)["findings"] == 0 for other in others)
    assert all(cluster.get(other, "/kv/key-0100").content == VALUE for other in others)


def test_one_byte_of_a_stopped_nodes_head(cluster: Cluster) -> None:
    fill(cluster)
    node = cluster.followers()[0]
    cluster.stop(node)
    path = cluster.data(node) / "ledger.db"
    db = apsw.Connection(str(path))
    db.execute("INSERT OR REPLACE INTO stored_heads SELECT * FROM heads")
    db.execute("UPDATE meta SET value = CAST(? AS BLOB) WHERE name = 'heads_leaf_next'", (str(LEAVES),))
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    cluster.start(node)
    cluster.wait_healthy(node)
    assert scrub(cluster, node)["findings"] == 0
    cluster.stop(node)
    db = apsw.Connection(str(path))
    db.execute("UPDATE stored_heads SET version = 2 WHERE key = 'key-0250'")
    db.close()
    cluster.start(node)
    cluster.wait_healthy(node)
    assert scrub(cluster, node)["details"] == ["the head of key 'key-0250' does not match leaf 250"]


def test_one_byte_of_a_running_nodes_log(cluster: Cluster) -> None:
    node = cluster.followers()[0]
    marker = b"an entry of the log that is found again"
    cluster.write(1, "k", marker)
    cluster.agree()
    for path in cluster.data(node).glob("raft.db*"):
        if marker in path.read_bytes():
            flip(path, marker, 7)
    found = scrub(cluster, node)
    assert len(found["details"]) == 1
    assert "log entry" in found["details"][0]
    assert "does not match its checksum" in found["details"][0]


def test_nodes_scrub_by_themselves(tmp_path: Path) -> None:
    environment = {"SCRIBE_STORAGE__SCRUB_RATE": str(RATE), "SCRIBE_STORAGE__SCRUB_INTERVAL": "1"}
    with running_cluster(tmp_path, environment) as cluster:
        figures = cluster.figures(1)["scrub"]
        assert (figures["rate"], figures["number"]) == (RATE, 0), "it begins a minute behind the start"
        fill(cluster)
        answer = cluster.client.post(cluster.url(1, "/admin/scrub"), json={"rate": RATE}, timeout=60)
        assert answer.status_code == 200, answer.text  # the next pass may have begun by now: no figures to compare
        await_value(lambda: cluster.figures(1)["scrub"]["number"] >= 3, "the next passes", 90)
        assert cluster.figures(1)["scrub"]["findings"] == 0


def test_a_rotten_node_is_found_and_healed_by_two_commands(bundle: Bundle) -> None:
    bundle.run("kv", "put", "k", VALUE.decode())
    for _ in range(3):
        bundle.run("kv", "put", "other", "v")
    assert [node["findings"] for node in bundle.answer("scrub", "--all")["nodes"]] == [0, 0, 0]
    leader = bundle.answer("cluster", "info")["leader_id"]
    before = bundle.running()
    bundle.run("writes", "pause")
    flip(bundle.state / f"node{leader}" / "data" / "ledger.db", VALUE, 5)
    bundle.run("writes", "resume")
    url = f"http://127.0.0.1:{bundle.base_port + leader - 1}"
    found = subprocess.run(
        [APPLIANCE, "--dir", str(bundle.state), "scrub", "--node", url], capture_output=True, text=True, check=False
    )
    assert found.returncode == 9
    assert "does not match the hash in the leaf" in found.stderr
    done = json.loads(bundle.run("cluster", "resync", str(leader), "-o", "json").stdout)
    assert (done["role"], done["changed"]) == ("voter", True)
    assert done["incarnation"] != done["incarnation_before"]
    after = bundle.running()
    assert [name for name in before if before[name] != after[name]] == [f"node{leader}"]
    await_agreement(bundle, 3)
    assert [node["findings"] for node in bundle.answer("scrub", "--all")["nodes"]] == [0, 0, 0]
    assert len(list((bundle.state / f"node{leader}" / "data").glob("damaged-*"))) == 1
