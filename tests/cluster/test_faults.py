"""What happens to writes when nodes go."""

import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.cluster.harness import CLIENT_S, Cluster, await_value, running_cluster


def test_without_a_majority_a_write_is_refused_in_time(cluster: Cluster) -> None:
    cluster.write(1, "before", b"x")
    leader, others = cluster.roles()
    for node in others:
        cluster.kill(node)
    answer = cluster.put(leader, "during", b"x")  # within CLIENT_S: the client waits no longer
    # Surely not done is 503; accepted before the leader noticed that it stands alone is unknown. Never a plain failure.
    assert (answer.status_code, answer.json()["code"]) in {(503, "no_quorum"), (504, "outcome_unknown")}
    await_value(lambda: cluster.health(leader) is None, "the lone node to say that it is unhealthy")
    later = cluster.put(leader, "later", b"x")
    assert (later.status_code, later.json()["code"]) == (503, "no_quorum")
    assert "Retry-After" in later.headers
    assert cluster.get(leader, "/kv/before").status_code == 503
    stale = cluster.get(leader, "/kv/before?consistency=stale")
    assert (stale.status_code, stale.content) == (200, b"x")
    cluster.start(*({1, 2, 3} - cluster.processes.keys()))
    cluster.wait_healthy()
    cluster.write(2, "after", b"x")
    assert cluster.get(1, "/kv/later").status_code == 404  # 503 said that it surely was not done


def test_frozen_nodes_are_no_majority(cluster: Cluster) -> None:
    """Their links still stand; what counts is that nothing comes from them."""
    leader, others = cluster.roles()
    frozen = [cluster.processes[n] for n in others]
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
    cluster.write(leader, "thawed", b"x")


def test_everything_stopped_and_started_again(cluster: Cluster) -> None:
    for n in range(200):
        cluster.write(1 + n % 3, f"k{n}", b"%d" % n)
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
        self.failures: list[Exception] = []

    def run(self) -> None:
        try:
            self._write_on()
        except Exception as error:
            self.failures.append(error)  # for whoever waits for the end of this thread

    def _write_on(self) -> None:
        with httpx.Client(headers={"X-API-Key": self._cluster.key}, timeout=CLIENT_S) as client:
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
        raise AssertionError(f"{key} was never acknowledged")


@contextmanager
def writing(cluster: Cluster, *numbers: int) -> Iterator[list[Writer]]:
    """So many writers at work. At the end they are stopped; none of them may have failed."""
    writers = [Writer(cluster, number) for number in numbers]
    for writer in writers:
        writer.start()
    try:
        yield writers
    finally:
        for writer in writers:
            writer.stopping.set()
        for writer in writers:
            writer.join()
        failures = [failure for writer in writers for failure in writer.failures]
        assert not failures


def await_writes(writers: list[Writer], count: int) -> None:
    """Until so many more writes are acknowledged."""
    goal = acknowledged_by(writers) + count
    await_value(lambda: acknowledged_by(writers) > goal, "writes to go on")


def acknowledged_by(writers: list[Writer]) -> int:
    return sum(len(writer.acknowledged) for writer in writers)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
def test_no_acknowledged_write_is_lost_or_applied_twice(cluster: Cluster, number: signal.Signals) -> None:
    with writing(cluster, *range(4)) as writers:
        for _ in range(3):
            await_writes(writers, 50)
            leader = cluster.leader()
            code = cluster.kill(leader, number)
            assert code == (0 if number is signal.SIGTERM else -signal.SIGKILL), cluster.output(leader)
            cluster.leader()
            cluster.start(leader)
            cluster.wait_healthy()
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
        with writing(cluster, *(10 * round_number + n for n in range(3))) as writers:
            await_writes(writers, 60)
            for process in cluster.processes.values():
                process.send_signal(signal.SIGKILL)
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
        through, (behind, other) = cluster.roles()
        cluster.kill(behind)
        with ThreadPoolExecutor(8) as pool:  # an entry each: batches would make too few for a compaction
            list(pool.map(lambda n: cluster.write(through, f"k{n % 50}", b"%d" % n), range(1500)))

        def snapshot_index() -> int | None:
            """Where the log of either begins: whoever leads when it comes back has no entries before that."""
            return min(cluster.figures(node)["raft"]["snapshot_index"] for node in (through, other)) or None

        compacted = await_value(snapshot_index, "both to drop the beginning of their logs")
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
    assert "in use by process" in cluster.output(2) + cluster.log(2)
    cluster.processes[2] = process
    cluster.wait_healthy()


def test_a_rotated_log_file_is_reopened(cluster: Cluster) -> None:
    log = next((cluster.files.directory / "node1" / "log").glob("*.log"))
    moved = log.with_suffix(".log.1")
    log.rename(moved)
    cluster.processes[1].send_signal(signal.SIGHUP)
    await_value(log.exists, "a new log file")
    kept = moved.read_bytes()
    cluster.kill(2)
    await_value(lambda: "peer.lost" in log.read_text(), "what is logged to go there")
    assert moved.read_bytes() == kept, "and nowhere else"
    cluster.write(1, "after-rotation", b"x")
