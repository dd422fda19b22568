"""What clients are told while nodes die and lose their disks is linearizable."""

from __future__ import annotations

import time
from pathlib import Path

from tests.cluster.chaos import await_back, kill_leader, wipe
from tests.cluster.harness import Cluster, await_value
from tests.linearizability.checker import check
from tests.linearizability.history import read_history, write_history
from tests.linearizability.order import order_problems
from tests.linearizability.recorder import Clients


def test_histories_over_a_kill_and_a_wipe_are_linearizable(cluster: Cluster, tmp_path: Path) -> None:
    def urls() -> list[str]:
        return [cluster.url(node) for node in (1, 2, 3)]  # a node that is down refuses: nothing was done

    def wait_for(clients: Clients, more: int) -> None:
        goal = clients.acknowledged() + more
        await_value(lambda: clients.acknowledged() >= goal, f"{more} more writes")

    with Clients(urls, cluster.key, seed=time.time_ns()) as clients:
        wait_for(clients, 200)
        node = kill_leader(cluster)
        wait_for(clients, 100)
        cluster.start(node)
        cluster.wait_healthy(node)
        node = cluster.followers()[0]
        before = wipe(cluster, node)
        wait_for(clients, 100)
        cluster.start(node)
        await_back(cluster, node, before)
        wait_for(clients, 100)
    clients.read_all()
    path = tmp_path / "history.jsonl"
    write_history(path, clients.records)
    verdict = check(read_history(path))
    assert verdict.valid, f"seed {clients.seed}: {verdict}"
    assert not order_problems(clients.records)
    cluster.agree()
