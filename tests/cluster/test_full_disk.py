"""Small file systems, filled to the brim, and given room again: one that all nodes share, and one for each node."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.cluster.harness import Cluster, await_value, running_cluster

SIZE_MIB = 360
FILLER_MIB = 180  # each of the three nodes wants its reserve and as much again, beside what waits to be written
OWN_SIZE_MIB = 96
LEFT_MIB = 1  # beside the reserve
VALUE = os.urandom(256 * 1024)
FLEETING = {"outcome_unknown", "no_leader", "no_quorum", "not_committed"}  # while leadership moves


@pytest.fixture
def mount() -> Iterator[Callable[[Path, int], None]]:
    """Mount a file system in memory of so many MiB at a directory."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount the small file systems that this fills")
    places: list[Path] = []

    def mount_at(place: Path, size_mib: int) -> None:
        place.mkdir(mode=0o700, exist_ok=True)
        options = f"size={size_mib}m,mode=0700"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "scribe-test", str(place)], check=True, timeout=30)
        places.append(place)

    yield mount_at
    for place in places:
        subprocess.run(["umount", str(place)], check=True, timeout=30)


def is_full(cluster: Cluster, node: int) -> bool:
    """Whether a node says so."""
    return "disk_full" in cluster.alarms(node)


def test_a_full_disk_refuses_writes_and_recovers_by_itself(tmp_path: Path, mount: Callable[[Path, int], None]) -> None:
    small_disk = tmp_path / "small"
    mount(small_disk, SIZE_MIB)
    filler = small_disk / "filler"
    filler.write_bytes(bytes(FILLER_MIB * 2**20))
    with running_cluster(small_disk) as cluster:
        acknowledged: dict[str, int] = {}  # the place in the log of each
        refused = None
        for number in range(600):
            try:
                answer = cluster.put(1 + number % 3, f"big-{number}", VALUE)
            except httpx.ReadTimeout:
                continue
            if answer.status_code == 200:
                acknowledged[f"big-{number}"] = int(answer.json()["index"])
            elif answer.json()["code"] == "disk_full":
                refused = answer
                break
            else:
                assert answer.json()["code"] in FLEETING
        assert refused is not None, f"never refused, {len(acknowledged)} writes"
        assert refused.status_code == 503
        assert "Retry-After" in refused.headers
        for node in (1, 2, 3):
            assert cluster.is_running(node), cluster.output(node)
        await_value(lambda: any(is_full(cluster, node) for node in (1, 2, 3)), "the alarm")
        for node in (1, 2, 3):  # reads go on, of what a node has applied: not all could store everything
            applied_index = int(cluster.get(node, "/health").json()["applied_index"])
            held = [key for key, index in acknowledged.items() if index <= applied_index]
            assert held
            for key in held[:: max(1, len(held) // 10)]:
                assert cluster.get(node, f"/kv/{key}?consistency=stale").content == VALUE

        filler.unlink()

        def written() -> bool:
            return cluster.put(1, "after", b"room again").status_code == 200

        await_value(written, "writes to be taken again", 60.0)
        await_value(lambda: not any(is_full(cluster, n) for n in (1, 2, 3)), "the alarms to end", 60.0)
        cluster.agree(60.0)
        for key in acknowledged:
            assert cluster.get(2, f"/kv/{key}?consistency=stale").content == VALUE
        cluster.stop()
        cluster.start()
        cluster.wait_healthy()
        cluster.agree()


def test_a_leader_whose_disk_is_full_hands_over_and_the_others_take_the_writes(
    tmp_path: Path, mount: Callable[[Path, int], None]
) -> None:
    with running_cluster(
        tmp_path, prepare=lambda made: [mount(made.data(n), OWN_SIZE_MIB) for n in (1, 2, 3)]
    ) as cluster:
        full = cluster.leader()
        assert cluster.put(full, "before", b"v").status_code == 200
        filler = cluster.data(full) / "filler"
        room = os.statvfs(cluster.data(full))
        filler.write_bytes(bytes(room.f_bavail * room.f_frsize - LEFT_MIB * 2**20))
        acknowledged: list[str] = []

        def filled() -> bool:
            key = f"k{len(acknowledged)}"
            try:
                answer = cluster.put(full, key, VALUE)
            except httpx.ReadTimeout:
                return is_full(cluster, full)
            if answer.status_code == 200:
                acknowledged.append(key)
            else:
                assert answer.json()["code"] in {*FLEETING, "disk_full"}
            return is_full(cluster, full)

        await_value(filled, "the leader's disk to be full")
        await_value(lambda: any(leads(cluster, n) for n in (1, 2, 3) if n != full), "another to lead")
        for number in range(20):  # also through the node that has no room; a majority stores them
            cluster.write(full, f"later-{number}", VALUE)
        assert cluster.leader() != full
        assert is_full(cluster, full)
        filler.unlink()
        await_value(lambda: not is_full(cluster, full), "the alarm to end", 60.0)
        cluster.agree(60.0)
        for key in [*acknowledged, *(f"later-{number}" for number in range(20))]:
            assert cluster.get(full, f"/kv/{key}?consistency=stale").content == VALUE
        cluster.stop()


def leads(cluster: Cluster, node: int) -> bool:
    health = cluster.health(node)
    return health is not None and health["role"] == "leader"
