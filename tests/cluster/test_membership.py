"""Members come and go on real processes: grown, shrunk, replaced, wiped, under load and in the wrong order."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cluster.chaos import await_back, incarnation, wipe
from tests.cluster.harness import PASSING, Cluster, await_value, running_cluster
from tests.cluster.writer import Writer

CHANGE_S = 60.0
CONFLICTS = ("would lose its quorum", "did not take over", "took over", "Ask again")  # that may pass


def ask(cluster: Cluster, node: int, path: str, **body: Any) -> httpx.Response:
    return cluster.client.post(cluster.url(node, path), json=body, timeout=CHANGE_S)


def address(cluster: Cluster, node: int) -> str:
    return cluster.url(node).removeprefix("http://")


def change(cluster: Cluster, through: int, path: str, **body: Any) -> dict[str, Any]:
    """Ask until it is done; a node that has only just been heard of, or a leader that has, may not do it yet."""

    def find() -> dict[str, Any] | None:
        response = ask(cluster, through, path, **body)
        if response.status_code == 200:
            return response.json()
        problem = response.json()
        passing = problem["code"] in PASSING or any(text in problem["detail"] for text in CONFLICTS)
        assert passing, response.text
        return None

    return await_value(find, f"{path} to be done", CHANGE_S)


def add(cluster: Cluster, through: int, node: int) -> dict[str, Any]:
    return change(cluster, through, "/cluster/nodes/add", node_id=node, address=address(cluster, node))


def remove(cluster: Cluster, through: int, node: int) -> dict[str, Any]:
    return change(cluster, through, "/cluster/nodes/remove", node_id=node)


def await_voters(cluster: Cluster, node: int, expected: set[int]) -> None:
    await_value(lambda: cluster.voters(node) == expected, f"node {node} to see the voters {expected}", CHANGE_S)


def await_removed(cluster: Cluster, node: int) -> None:
    """Until a node that runs on says that it was removed."""

    def says() -> bool:
        health = cluster.get(node, "/health")
        return health.status_code == 503 and "removed from the cluster" in health.text

    await_value(says, f"node {node} to say that it was removed", CHANGE_S)


@contextmanager
def growing(directory: Path, founders: int, nodes: int) -> Iterator[Cluster]:
    with running_cluster(directory, founders=founders, nodes=nodes) as cluster:
        yield cluster


def test_from_one_to_three_to_five_to_three_under_load(tmp_path: Path) -> None:
    with growing(tmp_path, 1, 5) as cluster:
        with Writer(cluster, "w") as writer:
            writer.wait(50)
            for node in (2, 3, 4, 5):
                cluster.start(node)
                cluster.wait_answers(node)
                answer = add(cluster, 1, node)
                assert (answer["role"], answer["changed"]) == ("voter", True)
                writer.wait(50)
            await_voters(cluster, 3, {1, 2, 3, 4, 5})
            first = cluster.leader()
            through = next(n for n in cluster.processes if n != first)
            assert remove(cluster, through, first)["role"] == "removed"
            assert cluster.leader() != first
            await_removed(cluster, first)
            cluster.stop(first)  # a write there waits for a leader in vain
            writer.wait(50)
            second = cluster.followers()[0]
            remove(cluster, cluster.leader(), second)
            cluster.stop(second)
            writer.wait(50)
        left = set(cluster.processes)
        assert len(left) == 3
        await_voters(cluster, min(left), left)
        cluster.agree()
        writer.check(min(left))


def test_acknowledged_writes_survive_every_change(tmp_path: Path) -> None:
    with growing(tmp_path, 3, 4) as cluster:
        with Writer(cluster, "w") as writer:
            writer.wait(30)
            cluster.start(4)
            cluster.wait_answers(4)
            add(cluster, 2, 4)
            for node in (1, 2, 3):
                remove(cluster, 4, node)
                cluster.stop(node)
                writer.wait(20)
        assert cluster.leader() == 4
        writer.check(4)


def test_a_wiped_follower_comes_back_by_itself(cluster: Cluster) -> None:
    with Writer(cluster, "w") as writer:
        writer.wait(30)
        node = cluster.followers()[0]
        before = wipe(cluster, node)
        writer.wait(30)
        cluster.start(node)
        await_back(cluster, node, before)
        writer.wait(30)
    cluster.agree()
    writer.check(node)


def put_back(data: Path, copy: Path) -> None:
    """Other files take the place of those that are there."""
    shutil.rmtree(data)
    shutil.copytree(copy, data)


def set_back(data: Path, copy: Path) -> None:
    """The files that are there get the content that they had."""
    kept = {path.name for path in copy.iterdir()}
    for path in data.iterdir():
        if path.name in kept:
            path.write_bytes((copy / path.name).read_bytes())
        else:
            path.unlink()


@pytest.mark.parametrize(
    ("restore", "event"),
    [(put_back, "node.replaced"), (set_back, "node.set_back")],
    ids=["seen-by-itself", "known-to-the-leader"],
)
def test_an_older_copy_of_a_data_directory_comes_back_as_a_learner_first(
    cluster: Cluster, tmp_path: Path, restore: Callable[[Path, Path], None], event: str
) -> None:
    with Writer(cluster, "w") as writer:
        writer.wait(30)
        node = cluster.followers()[0]
        _, before = incarnation(cluster, cluster.leader(), node)
        data = cluster.files.directory / f"node{node}" / "data"
        cluster.stop(node)
        shutil.copytree(data, tmp_path / "copy")
        cluster.start(node)
        cluster.wait_healthy(node)
        writer.wait(30)
        cluster.kill(node)
        restore(data, tmp_path / "copy")
        cluster.start(node)
        await_back(cluster, node, before)
        assert event in cluster.log(node)
        writer.wait(30)
    cluster.agree()
    writer.check(node)


def test_two_of_three_wiped_in_turn_while_the_third_keeps_everything(cluster: Cluster) -> None:
    with Writer(cluster, "w") as writer:
        for node in (1, 2, 3):
            writer.wait(20)
            before = wipe(cluster, node)
            cluster.leader()
            cluster.start(node)
            await_back(cluster, node, before)
    cluster.agree()
    writer.check(1)


def metric(cluster: Cluster, node: int, name: str) -> float | None:
    """A metric of a node; None while it has none of this name."""
    lines = cluster.get(node, "/metrics/prometheus").text.splitlines()
    return next((float(line.removeprefix(f"{name} ")) for line in lines if line.startswith(f"{name} ")), None)


def lag_of(node: int) -> str:
    return f'scribe_raft_peer_lag_entries{{peer="{node}"}}'


def test_a_node_that_was_removed_while_it_was_down_says_so_and_disturbs_nobody(cluster: Cluster) -> None:
    leader, (gone, _) = cluster.roles()
    cluster.kill(gone)
    cluster.write(leader, "lacked", b"x")
    await_value(lambda: (metric(cluster, leader, lag_of(gone)) or 0) > 0, "the leader to see that it lags")
    assert remove(cluster, leader, gone)["changed"] is True
    await_value(lambda: metric(cluster, leader, lag_of(gone)) == 0, "the leader to forget it")
    cluster.start(gone)
    cluster.wait_answers(gone)

    def says() -> str | None:
        reasons = cluster.get(gone, "/health").json().get("reasons", ())
        return next((reason for reason in reasons if "removed from the cluster" in reason), None)

    reason = await_value(says, "it to say that it was removed")
    assert "says node" in reason
    assert "`appliance cluster add`" in reason
    assert cluster.get(gone, "/cluster/info").json()["role"] == "outsider"
    refused = cluster.put(gone, "refused", b"x").json()  # after two election time-outs
    assert refused["code"] == "no_leader"
    assert reason.partition(",")[0] in refused["detail"]
    assert metric(cluster, gone, "scribe_raft_elections_total") == 0
    assert says() is not None
    cluster.write(leader, "kept", b"x")
    assert add(cluster, leader, gone)["changed"] is True
    cluster.wait_healthy(gone)
    cluster.agree()
    assert cluster.get(gone, "/kv/kept").content == b"x"


def test_leadership_is_handed_to_whom_one_names(cluster: Cluster) -> None:
    leader, (target, other) = cluster.roles()
    answer = change(cluster, other, "/cluster/leader/transfer", node_id=target)
    assert answer["leader_id"] == target
    assert cluster.leader() == target
    assert change(cluster, leader, "/cluster/leader/transfer", node_id=target)["changed"] is False
    assert change(cluster, target, "/cluster/leader/transfer")["changed"] is True
    assert cluster.leader() != target


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with growing(tmp_path_factory.mktemp("four"), 3, 5) as cluster:
        cluster.start(4)
        cluster.wait_answers(4)
        yield cluster


def refused(response: httpx.Response, *says: str) -> None:
    assert response.status_code == 409, response.text
    assert response.json()["code"] == "conflict"
    for text in says:
        assert text in response.json()["detail"]


def test_an_address_that_answers_as_another_node_is_refused(four: Cluster) -> None:
    answer = ask(four, 1, "/cluster/nodes/add", node_id=9, address=address(four, 4))
    refused(answer, "is node 4, not node 9")
    for member in (1, 2, 3):  # the leader among them
        answer = ask(four, 1, "/cluster/nodes/add", node_id=9, address=address(four, member))
        refused(answer, f"That is node {member}, a member at")


def test_an_address_where_nobody_answers_is_refused(four: Cluster) -> None:
    answer = ask(four, 1, "/cluster/nodes/add", node_id=5, address=address(four, 5))
    refused(answer, "Nobody answers", "Start the node first")


def test_a_node_of_another_cluster_is_refused(four: Cluster, tmp_path: Path) -> None:
    with growing(tmp_path, 1, 1) as other:
        answer = ask(four, 1, "/cluster/nodes/add", node_id=1, address=address(four, 1))
        assert answer.json()["changed"] is False
        answer = ask(four, 1, "/cluster/nodes/add", node_id=7, address=address(other, 1))
        refused(answer, "does not belong here")


def test_adding_and_removing_twice_is_doing_it_once(four: Cluster) -> None:
    assert add(four, 2, 4)["changed"] is True
    assert add(four, 3, 4)["changed"] is False
    moved = ask(four, 3, "/cluster/nodes/add", node_id=4, address="127.0.0.1:1")
    refused(moved, "is a member at", "replace")
    assert remove(four, 2, 4)["changed"] is True
    assert remove(four, 3, 4)["changed"] is False
    assert add(four, 1, 4)["changed"] is True, "with its data directory as it was"
    assert remove(four, 1, 4)["changed"] is True


def test_the_live_quorum_is_not_given_away(cluster: Cluster) -> None:
    leader, (down, other) = cluster.roles()
    cluster.kill(down, signal.SIGKILL)

    def refusal() -> httpx.Response | None:
        answer = ask(cluster, leader, "/cluster/nodes/remove", node_id=other)
        assert answer.status_code in {409, 503}, answer.text
        return answer if answer.status_code == 409 else None

    answer = await_value(refusal, "a refusal")
    refused(answer, "would lose its quorum", f"Start node {down} first", f"`appliance cluster remove {down}`")
    assert remove(cluster, other, down)["changed"] is True, "the one that is gone may be removed"


def test_the_last_voter_stays(tmp_path: Path) -> None:
    with growing(tmp_path, 1, 1) as cluster:
        refused(ask(cluster, 1, "/cluster/nodes/remove", node_id=1), "last voter")
        refused(ask(cluster, 1, "/cluster/leader/transfer"), "no other voter")
