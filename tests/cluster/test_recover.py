"""A majority is gone for good: `appliance cluster recover` makes the node that holds most the only voter."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from appliance.adapters.ed25519 import verify
from appliance.cli.shapes import Recovered
from appliance.ledger.checkpoint import WrongOrigin, open_checkpoint
from appliance.ledger.note import Ed25519Verifier, format_verifier_key, parse_verifier_key
from appliance.ledger.proof_extra import decode_extra
from appliance.ledger.proof_file import parse_proof
from tests.cluster.chaos import wipe
from tests.cluster.harness import Cluster, await_value
from tests.cluster.recovering import COMMAND_S, reasons, recovered, refused
from tests.cluster.writer import Writer

BACK_S = 90.0


def check_renamed(cluster: Cluster, key: str, before: bytes, done: Recovered) -> None:
    """The log goes on under another name and key, the same on all nodes; the old key has no say, and is remembered."""
    old = cluster.credentials["APPLIANCE_VERIFIER_KEY"]
    assert done.verifier_key is not None
    first, second = (Ed25519Verifier(parse_verifier_key(key), verify) for key in (old, done.verifier_key))
    notes = {cluster.get(node, "/log/checkpoint").content for node in cluster.processes}
    assert len(notes) == 1
    (note,) = notes
    assert open_checkpoint(note, second).checkpoint.size >= open_checkpoint(before, first).checkpoint.size
    with pytest.raises(WrongOrigin):
        open_checkpoint(note, first)
    for node in cluster.processes:
        assert cluster.get(node, "/cluster/info").json()["key_history"] == [old, done.verifier_key]
        proof = cluster.get(node, f"/log/proof/file/{key}").content
        assert [format_verifier_key(one) for one in decode_extra(parse_proof(proof).extra).key_history] == [
            old,
            done.verifier_key,
        ]


def test_one_of_three_is_left(cluster: Cluster) -> None:
    with Writer(cluster, "w") as writer:
        writer.wait(40)
    survivor = cluster.leader()
    cluster.agree()
    before = cluster.get(survivor, "/log/checkpoint").content
    others = [node for node in (1, 2, 3) if node != survivor]  # whoever leads by now
    for node in others:
        wipe(cluster, node)
    await_value(lambda: "appliance cluster recover" in reasons(cluster, survivor), "the node to name the way out")
    assert "in use by process" in refused(cluster, survivor)
    cluster.start(*others)
    cluster.wait_answers(*others)
    await_value(lambda: "can be elected any more" in reasons(cluster, survivor), "the node to see what the others lost")
    await_value(lambda: "appliance cluster recover" in reasons(cluster, others[0]), "an empty node to say so, too")
    cluster.stop(survivor)

    files = {path.name: path.read_bytes() for path in cluster.data(survivor).glob("*.json")}
    seen = recovered(cluster, survivor)
    assert (seen.done, seen.node_id, seen.from_ledger, seen.recovery) == (False, survivor, False, None)
    assert [(m.node_id, m.state, m.remembers) for m in seen.members] == [(n, "empty", False) for n in others]
    assert len(seen.may_be_lost) == 1
    assert f"behind entry {seen.last_index} of term {seen.last_term}" in seen.may_be_lost[0]
    assert {path.name: path.read_bytes() for path in cluster.data(survivor).glob("*.json")} == files
    done = recovered(cluster, survivor, "--yes")
    assert (done.done, done.last_index) == (True, seen.last_index)
    assert "a leader is elected" in refused(cluster, survivor, "--yes"), "once is enough"

    cluster.start(survivor)
    cluster.wait_answers(survivor)
    await_value(lambda: cluster.voters(survivor) == {1, 2, 3}, "the others to come back by themselves", BACK_S)
    cluster.wait_healthy()
    cluster.agree()
    writer.check()
    check_renamed(cluster, writer.acknowledged[0], before, done)
    cluster.write(others[0], "after", b"x")
    cluster.stop()
    cluster.start()
    cluster.wait_healthy()
    assert cluster.get(survivor, "/kv/after").content == b"x"


def test_all_three_are_restored_from_copies(cluster: Cluster, tmp_path: Path) -> None:
    with Writer(cluster, "w") as writer:
        writer.wait(40)
    cluster.agree()
    for process in cluster.processes.values():  # at once: a leader of two would leave an entry that the first lacks
        process.kill()
    for node in (1, 2, 3):
        cluster.kill(node)
    for node in (1, 2, 3):
        shutil.move(cluster.data(node), tmp_path / f"node{node}")
        shutil.copytree(tmp_path / f"node{node}", cluster.data(node))
    cluster.start()
    cluster.wait_answers(1, 2, 3)
    for node in (1, 2, 3):
        await_value(lambda node=node: "appliance cluster recover" in reasons(cluster, node), "the way out to be named")
    cluster.stop(1)
    seen = recovered(cluster, 1)
    assert {(m.state, m.remembers, m.last_index) for m in seen.members} == {("holds", False, seen.last_index)}
    recovered(cluster, 1, "--yes")
    cluster.start(1)
    cluster.wait_answers(1)
    for node in (2, 3):  # what their copies hold is of before the recovery, and they have no vote that could count
        assert cluster.processes.pop(node).wait(COMMAND_S) == 1
        assert "cluster.left_behind" in cluster.log(node)
        cluster.start(node)
    await_value(lambda: cluster.voters(1) == {1, 2, 3}, "the others to come back by themselves", BACK_S)
    cluster.wait_healthy()
    cluster.agree()
    writer.check()
    assert all(list(cluster.data(node).glob("damaged-*/raft.db")) for node in (2, 3))


def test_a_member_of_before_that_comes_back_with_its_data_harms_nothing(cluster: Cluster) -> None:
    """Two of three were taken for lost and were not: their majority must not go on beside the recovered one."""
    with Writer(cluster, "w") as writer:
        writer.wait(20)
    cluster.agree()
    cluster.stop()
    recovered(cluster, 1, "--yes")
    cluster.start(1)
    assert cluster.leader() == 1
    cluster.write(1, "alone", b"x")
    cluster.start(2, 3)
    for node in (2, 3):
        assert cluster.processes.pop(node).wait(COMMAND_S) == 1
        assert "clear this node's data directory" in cluster.log(node)
        assert not list(cluster.data(node).glob("damaged-*")), "only an operator can tell whether that was meant"
    refusal = refused(cluster, 2)
    assert "a recovery that this node missed" in refusal
    for node in (2, 3):
        shutil.rmtree(cluster.data(node))
        cluster.start(node)
    await_value(lambda: cluster.voters(1) == {1, 2, 3}, "the others to come back", BACK_S)
    cluster.wait_healthy()
    cluster.agree()
    writer.check()
    assert cluster.get(3, "/kv/alone").content == b"x"


def test_the_node_that_holds_most_is_the_one_to_recover(cluster: Cluster, tmp_path: Path) -> None:
    cluster.write(1, "both", b"x")
    cluster.agree()
    behind = cluster.followers()[0]
    cluster.kill(behind)
    leader = cluster.leader()
    (other,) = {1, 2, 3} - {leader, behind}
    cluster.write(leader, "later", b"x")
    cluster.agree()
    wipe(cluster, other)
    assert "which is a majority" in refused(cluster, behind, "--yes")
    shutil.move(cluster.data(behind), tmp_path / "data")
    shutil.copytree(tmp_path / "data", cluster.data(behind))
    assert f"node {leader} holds more" in refused(cluster, behind, "--yes")
    cluster.kill(leader)
    seen = recovered(cluster, behind, "--yes")
    assert [m.state for m in seen.members] == ["unreachable", "unreachable"]
    cluster.start(behind)
    cluster.wait_healthy(behind)
    assert cluster.get(behind, "/kv/both").content == b"x"
    assert cluster.get(behind, "/kv/later").status_code == 404, "as it was said"
