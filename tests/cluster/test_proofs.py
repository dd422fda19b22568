"""The ledger as a transparency log, on three real processes: what strangers and readers may ask of any node."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from appliance.adapters.ed25519 import verify as ed25519_verify
from appliance.ledger.encoding import decode_leaf, value_hash
from appliance.ledger.merkle import leaf_hash, verify_consistency, verify_inclusion
from appliance.ledger.note import parse_verifier_key
from appliance.ledger.proof_extra import decode_extra
from appliance.ledger.proof_file import parse_proof, verify_proof
from tests.cluster.harness import Cluster, await_value, running_cluster
from tests.log_client import LogClient

# What waits for a checkpoint does so for as long as a slow machine may need.
PUBLIC = {"SCRIBE_LOG__PUBLIC": "true", "SCRIBE_PERFORMANCE__WRITE_TIMEOUT": "12"}
ANSWER_S = 40.0  # above that
NODES = (1, 2, 3)


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("public"), PUBLIC) as cluster:
        yield cluster


def stranger(cluster: Cluster, node: int) -> LogClient:
    """Somebody with the verifier key and no API key, who asks one node."""

    def fetch(path: str) -> bytes:
        answer = httpx.get(cluster.url(node, "/log/" + path), timeout=ANSWER_S)
        assert answer.status_code == 200, answer.text
        return answer.content

    return LogClient(fetch, cluster.credentials["APPLIANCE_VERIFIER_KEY"])


def batch(cluster: Cluster, node: int, keys: list[str], query: str = "") -> dict[str, Any]:
    operations = [{"op": "put", "key": key, "value": f"value of {key}"} for key in keys]
    url = cluster.url(node, "/batch" + query)
    answer = cluster.client.post(url, json={"operations": operations}, timeout=ANSWER_S)
    assert answer.status_code == 200, answer.text
    return answer.json()


def note(cluster: Cluster, node: int) -> bytes:
    answer = cluster.get(node, "/log/checkpoint", timeout=ANSWER_S)
    assert answer.status_code == 200, answer.text
    return answer.content


def size_of(cluster: Cluster, checkpoint: bytes) -> int:
    return stranger(cluster, 1).opened(checkpoint).size


def await_size(cluster: Cluster, node: int, size: int) -> bytes:
    """Wait until a node shows a checkpoint of so many leaves."""

    def find() -> bytes | None:
        found = note(cluster, node)
        return found if size_of(cluster, found) >= size else None

    return await_value(find, f"node {node} to show a checkpoint of {size} leaves")


def tree_size(cluster: Cluster) -> int:
    return int(cluster.agree()["tree_size"])


def hold_to(cluster: Cluster, answer: dict[str, Any]) -> dict[str, Any]:
    """See that a receipt proves all that its write wrote."""
    receipt: dict[str, Any] = answer["receipt"]
    checkpoint = stranger(cluster, 1).opened(receipt["checkpoint"].encode())
    assert (checkpoint.size, checkpoint.root.hex()) == (receipt["tree_size"], receipt["root_hash"])
    for one in receipt["inclusion"]:
        path = [bytes.fromhex(sibling) for sibling in one["siblings"]]
        own_hash = leaf_hash(one["leaf"].encode())
        assert verify_inclusion(own_hash, one["leaf_index"], checkpoint.size, path, checkpoint.root)
    return receipt


def test_a_stranger_rebuilds_the_same_tree_from_any_node(public: Cluster) -> None:
    for begin in range(0, 600, 100):
        batch(public, public.leader(), [f"k{n}" for n in range(begin, begin + 100)])
    size = tree_size(public)
    notes = [await_size(public, node, size) for node in NODES]
    assert len(set(notes)) == 1, "Ed25519 knows no chance: the same size has the same bytes"
    trees = []
    for node in NODES:
        client = stranger(public, node)
        checkpoint = client.checkpoint()
        leaves = list(client.leaves(checkpoint))
        assert len(leaves) == checkpoint.size == size
        assert all(client.leaf(n, checkpoint) == leaves[n] for n in range(0, size, 37))
        for earlier in range(1, size, 71):
            client.checkpoint_of(earlier, checkpoint)
        paths = client.all_resources(checkpoint)
        trees.append({path: httpx.get(public.url(node, f"/log/{path}"), timeout=ANSWER_S) for path in paths})
    for path, first in trees[0].items():
        assert {(tree[path].content, tree[path].headers["etag"]) for tree in trees} == {
            (first.content, first.headers["etag"])
        }, path
        assert first.headers["cache-control"] == "public, max-age=31536000, immutable"


def test_while_writes_go_on_no_two_checkpoints_contradict_each_other(public: Cluster) -> None:
    size = int(public.write(1, "while", b"v").json()["leaf_index"]) + 1  # so that there is a checkpoint to begin with
    seen: list[tuple[int, bytes]] = []
    done = threading.Event()

    def look(node: int) -> None:
        while not done.is_set():
            seen.append((node, note(public, node)))

    with ThreadPoolExecutor(len(NODES)) as pool:
        looking = [pool.submit(look, node) for node in NODES]
        try:
            begun = size_of(public, await_size(public, 1, size))
            wanted = begun
            while wanted < begun + 5:
                wanted += 1
                public.write(1, f"while-{wanted}", b"v")
                follower = public.followers()[0]
                seen.append((follower, await_size(public, follower, wanted)))
        finally:
            done.set()
        for one in looking:
            one.result()
    client = stranger(public, 2)
    notes = sorted({client.opened(text): text for _, text in seen}.items(), key=lambda pair: pair[0].size)
    assert len({checkpoint.size for checkpoint, _ in notes}) == len(notes) == len({text for _, text in seen}) >= 5
    for (earlier, _), (later, _) in pairwise(notes):
        client.expect_continued(earlier, later)
        query = f"/log/proof/consistency?from={earlier.size}&to={later.size}"
        path = [bytes.fromhex(one) for one in public.get(3, query).json()["path"]]
        assert verify_consistency(earlier.size, later.size, path, earlier.root, later.root)


def test_a_receipt_comes_from_any_node(public: Cluster) -> None:
    for node in (public.leader(), *public.followers()):
        answer = public.put(node, f"receipt-{node}?receipt=true", b"value", timeout=ANSWER_S)
        assert answer.status_code == 200
        (one,) = hold_to(public, answer.json())["inclusion"]
        assert decode_leaf(one["leaf"].encode()).key == f"receipt-{node}"
        keys = [f"receipt-{node}-{n}" for n in range(50)]
        inclusion = hold_to(public, batch(public, node, keys, "?receipt=true"))["inclusion"]
        assert [decode_leaf(one["leaf"].encode()).key for one in inclusion] == keys


def test_every_node_proves_a_key_at_once(public: Cluster) -> None:
    """The write is read back linearizably, and the checkpoint that covers it is waited for."""
    read = {"X-API-Key": public.credentials["APPLIANCE_API_KEY_READ"]}
    log_key = parse_verifier_key(public.credentials["APPLIANCE_VERIFIER_KEY"])
    for node in NODES:
        put = public.write(public.leader(), "proven", b"value %d" % node).json()
        answer = httpx.get(public.url(node, "/verify/proven"), headers=read, timeout=ANSWER_S).json()
        assert (answer["verified"], answer["leaf_index"]) == (True, put["leaf_index"])
        file = httpx.get(public.url(node, "/log/proof/file/proven"), headers=read, timeout=ANSWER_S).content
        extra = decode_extra(parse_proof(file).extra)
        assert verify_proof(file, extra.leaf, log_key, ed25519_verify).holds
        assert decode_leaf(extra.leaf).value_hash == value_hash(extra.salt, b"value %d" % node)
        assert public.get(node, "/verify/never").json()["verified"] is False
    assert public.get(1, "/cluster/info").json()["verifier_key"] == public.credentials["APPLIANCE_VERIFIER_KEY"]
    refused = httpx.get(public.url(1, "/verify/proven"), timeout=ANSWER_S)
    assert refused.status_code == 401, "what is public is the log alone"


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[Cluster]:
    with running_cluster(tmp_path, PUBLIC) as cluster:
        yield cluster


def test_a_node_that_lags_waits_and_then_says_so(patient: Cluster) -> None:
    cluster = patient
    batch(cluster, 1, [f"k{n}" for n in range(10)])
    size = tree_size(cluster)
    for node in NODES:
        await_size(cluster, node, size)
    leader, (lagging, other) = cluster.roles()
    cluster.processes[lagging].send_signal(signal.SIGSTOP)
    later = int(batch(cluster, leader, [f"l{n}" for n in range(290)])["batch_id"]) + 290
    await_size(cluster, leader, later)
    paths = [
        "/log/tile/0/000",
        f"/log/tile/0/001.p/{later - 256}",
        "/log/tile/1/000.p/1",
        "/log/tile/entries/000",
        f"/log/tile/entries/001.p/{later - 256}",
        f"/log/proof/inclusion?leaf=3&size={later}",
        f"/log/proof/inclusion?leaf={later - 1}",
        f"/log/proof/consistency?from={size}&to={later}",
        f"/log/proof/consistency?from={later}",
        "/verify/l289",
    ]
    sent: list[str] = []

    def ask(path: str) -> httpx.Response:
        def trace(event: str, _: dict[str, Any]) -> None:
            if event.endswith("send_request_body.complete"):
                sent.append(path)

        return cluster.get(lagging, path, timeout=ANSWER_S, extensions={"trace": trace})

    with ThreadPoolExecutor(len(paths)) as pool:
        asked = [pool.submit(ask, path) for path in paths]
        await_value(lambda: len(sent) == len(paths), "all to be asked before the node goes on")
        cluster.processes[lagging].send_signal(signal.SIGCONT)
        answers = [one.result() for one in asked]
    assert [answer.status_code for answer in answers] == [200] * len(paths), [answer.text for answer in answers]
    assert [answer.content for answer in answers[:5]] == [cluster.get(leader, path).content for path in paths[:5]]

    for node in (leader, other):
        cluster.processes[node].send_signal(signal.SIGSTOP)
    try:
        for path in (f"/log/tile/0/001.p/{later - 255}", f"/log/proof/inclusion?leaf={later}"):
            refused = cluster.get(lagging, path, timeout=ANSWER_S)
            assert (refused.status_code, refused.json()["code"]) == (503, "not_published")
            assert int(refused.headers["Retry-After"]) >= 1
        assert size_of(cluster, note(cluster, lagging)) == later, "what it has it goes on to show"
    finally:
        for node in (leader, other):
            cluster.processes[node].send_signal(signal.SIGCONT)


def test_proofs_outlive_the_death_of_all_nodes(tmp_path: Path) -> None:
    with running_cluster(tmp_path, PUBLIC) as cluster:
        receipts = [batch(cluster, node, [f"b{node}-{n}" for n in range(100)], "?receipt=true") for node in NODES]
        put = cluster.put(2, "a?receipt=true", b"value", timeout=ANSWER_S).json()
        size = tree_size(cluster)
        before = {node: await_size(cluster, node, size) for node in NODES}
        for node in tuple(cluster.processes):
            cluster.kill(node)
        cluster.start()
        cluster.wait_healthy()
        for node in NODES:
            assert note(cluster, node) == before[node], "nothing was written, so nothing else is signed"
            assert cluster.get(node, "/verify/a").json()["leaf_index"] == put["leaf_index"]
        after = cluster.put(1, "after?receipt=true", b"v", timeout=ANSWER_S).json()
        assert after["receipt"]["tree_size"] == size + 1
        for node in NODES:
            await_size(cluster, node, size + 1)
            client = stranger(cluster, node)
            latest = client.checkpoint()
            assert latest.size == size + 1
            assert len(list(client.leaves(latest))) == latest.size
            for answer in (put, *receipts):
                receipt = hold_to(cluster, answer)
                client.expect_continued(client.opened(receipt["checkpoint"].encode()), latest)
