"""What happens to writes when nodes go."""

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.cluster.harness import Cluster, await_value, running_cluster

WRITE_TIMEOUT_S = 5.0  # the default of performance.write_timeout


def test_without_a_majority_a_write_is_refused_in_time(cluster: Cluster) -> None:
    assert cluster.put(1, "before", b"x").status_code == 200
    leader = cluster.leader()
    for node in cluster.followers():
        cluster.kill(node)
    began_s = time.monotonic()
    answer = cluster.put(leader, "during", b"x")
    took_s = time.monotonic() - began_s
    # Surely not done is 503; accepted before the leader noticed that it stands alone is unknown. Never a plain failure.
    assert (answer.status_code, answer.json()["code"]) in {(503, "no_quorum"), (504, "outcome_unknown")}
    assert took_s < WRITE_TIMEOUT_S + 1
    await_value(lambda: cluster.health(leader) is None, "the lone node to say that it is unhealthy")
    began_s = time.monotonic()
    later = cluster.put(leader, "later", b"x")
    assert (later.status_code, later.json()["code"]) == (503, "no_quorum")
    assert "Retry-After" in later.headers
    assert time.monotonic() - began_s < WRITE_TIMEOUT_S
    assert cluster.get(leader, "/kv/before").status_code == 503
    stale = cluster.get(leader, "/kv/before?consistency=stale")
    assert (stale.status_code, stale.content) == (200, b"x")
    cluster.start(*({1, 2, 3} - cluster.processes.keys()))
    cluster.wait_healthy()
    assert cluster.put(2, "after", b"x").status_code == 200
    assert cluster.get(1, "/kv/later").status_code == 404  # 503 said that it surely was not done


def test_frozen_nodes_are_no_majority(cluster: Cluster) -> None:
    """Their links still stand; what counts is that nothing comes from them."""
    leader = cluster.leader()
    frozen = [cluster.processes[n] for n in cluster.followers()]
    for process in frozen:
        process.send_signal(signal.SIGSTOP)
    try:
        await_value(lambda: cluster.health(leader) is None, "the lone node to say that it is unhealthy")
        answer = cluster.put(leader, "frozen", b"x")
        assert (answer.status_code, answer.json()["code"]) == (503, "no_quorum")
    finally:
        for process in frozen:
            process.send_signal(signal.SIGCONT)
    cluster.wait_healthy()
    assert cluster.put(leader, "thawed", b"x").status_code == 200


def test_everything_stopped_and_started_again(cluster: Cluster) -> None:
    for n in range(200):
        assert cluster.put(1 + n % 3, f"k{n}", b"%d" % n).status_code == 200
    before = cluster.agree()
    cluster.stop()
    cluster.start()
    cluster.wait_healthy()
    after = cluster.agree()
    assert (after["tree_size"], after["root_hash"]) == (before["tree_size"], before["root_hash"])
    assert [cluster.get(1 + n % 3, f"/kv/k{n}").content for n in range(200)] == [b"%d" % n for n in range(200)]


class Writer(threading.Thread):
    """Writes unique keys with idempotency keys, each until it is acknowledged, through whichever node answers."""

    def __init__(self, cluster: Cluster, number: int) -> None:
        super().__init__()
        self._cluster = cluster
        self._number = number
        self._urls = list(cluster.files.urls)
        self.acknowledged: dict[str, dict[str, object]] = {}
        self.stopping = threading.Event()
        self.retries = 0

    def run(self) -> None:
        with httpx.Client(headers={"X-API-Key": self._cluster.key}, timeout=10.0) as client:
            count = 0
            while not self.stopping.is_set():
                key = f"w{self._number}-{count}"
                count += 1
                answer = self._write(client, key)
                if answer is None:
                    return
                self.acknowledged[key] = answer

    def _write(self, client: httpx.Client, key: str) -> dict[str, object] | None:
        for attempt in range(10_000):
            url = self._urls[(self._number + attempt) % len(self._urls)]
            try:
                answer = client.put(f"{url}/kv/{key}", content=key.encode(), headers={"Idempotency-Key": key})
            except httpx.TransportError:
                answer = None
            if answer is not None and answer.status_code == 200:
                return answer.json()
            assert answer is None or answer.status_code in (503, 504), answer.text
            if self.stopping.wait(0.05):
                return None
            self.retries += 1
        raise AssertionError(f"{key} was never acknowledged")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
def test_no_acknowledged_write_is_lost_or_applied_twice(cluster: Cluster, number: signal.Signals) -> None:
    writers = [Writer(cluster, n) for n in range(4)]
    for writer in writers:
        writer.start()
    try:
        for _ in range(3):
            leader = cluster.leader()
            seen = sum(len(w.acknowledged) for w in writers)
            await_value(lambda seen=seen: sum(len(w.acknowledged) for w in writers) > seen + 50, "writes to go on")
            cluster.kill(leader, number)
            cluster.leader()
            cluster.start(leader)
            cluster.wait_healthy()
    finally:
        for writer in writers:
            writer.stopping.set()
        for writer in writers:
            writer.join()
    cluster.agree()
    acknowledged = {key: answer for w in writers for key, answer in w.acknowledged.items()}
    assert len(acknowledged) > 150
    leaves = set()
    for position, (key, said) in enumerate(acknowledged.items()):
        answer = cluster.get(1 + position % 3, f"/kv/{key}?consistency=stale")
        assert (answer.status_code, answer.content) == (200, key.encode())
        assert answer.headers["ETag"] == '"1"'  # applied once
        assert answer.headers["Scribe-Leaf-Index"] == str(said["leaf_index"])
        leaves.add(said["leaf_index"])
    assert len(leaves) == len(acknowledged)


def test_a_whole_cluster_killed_at_once_keeps_what_it_acknowledged(cluster: Cluster) -> None:
    acknowledged: list[str] = []
    for round_number in range(3):
        writers = [Writer(cluster, 10 * round_number + n) for n in range(3)]
        for writer in writers:
            writer.start()
        await_value(lambda writers=writers: sum(len(w.acknowledged) for w in writers) > 60, "writes")
        for node in list(cluster.processes):
            cluster.processes[node].send_signal(signal.SIGKILL)
        for writer in writers:
            writer.stopping.set()
        for writer in writers:
            writer.join()
        for node in list(cluster.processes):
            cluster.processes.pop(node).wait()
        acknowledged += [key for w in writers for key in w.acknowledged]
        cluster.start()
        cluster.wait_healthy()
    cluster.agree()
    for position, key in enumerate(acknowledged):
        assert cluster.get(1 + position % 3, f"/kv/{key}?consistency=stale").content == key.encode()


def test_a_node_that_missed_more_than_the_log_holds_gets_a_snapshot(tmp_path: Path) -> None:
    small = {"SCRIBE_STORAGE__COMPACT_LOG_ENTRIES": "1000", "SCRIBE_STORAGE__KEEP_LOG_ENTRIES": "0"}
    with running_cluster(tmp_path, small) as cluster:
        behind = cluster.followers()[0]
        cluster.kill(behind)
        through = cluster.leader()

        def write(number: int) -> int:
            return cluster.put(through, f"k{number % 50}", b"%d" % number).status_code

        with ThreadPoolExecutor(8) as pool:  # an entry each: batches would make too few for a compaction
            assert set(pool.map(write, range(1500))) == {200}

        def snapshot_index() -> int | None:
            return cluster.figures(through)["raft"]["snapshot_index"] or None

        compacted = await_value(snapshot_index, "the leader to drop the beginning of its log")
        cluster.start(behind)
        cluster.wait_healthy()
        cluster.agree()
        assert cluster.figures(behind)["raft"]["snapshot_index"] >= compacted
        assert len(cluster.get(behind, "/history/k7?limit=100").json()["versions"]) == 30
        cluster.kill(behind)  # and what it installed is its own now
        cluster.start(behind)
        cluster.wait_healthy()
        cluster.agree()


def test_a_second_process_on_one_data_directory_refuses_to_start(cluster: Cluster) -> None:
    process = cluster.processes.pop(2)
    cluster.start(2)
    assert cluster.processes[2].wait(timeout=20) == 1
    assert "in use by process" in cluster.output(2) + log_of(cluster, 2)
    cluster.processes[2] = process
    cluster.wait_healthy()


def log_of(cluster: Cluster, node: int) -> str:
    return "".join(p.read_text() for p in (cluster.files.directory / f"node{node}" / "log").glob("*.log"))


def test_a_rotated_log_file_is_reopened(cluster: Cluster) -> None:
    log = next((cluster.files.directory / "node1" / "log").glob("*.log"))
    moved = log.with_suffix(".log.1")
    log.rename(moved)
    cluster.processes[1].send_signal(signal.SIGHUP)
    await_value(log.exists, "a new log file")
    assert cluster.put(1, "after-rotation", b"x").status_code == 200
