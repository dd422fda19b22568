"""All nodes on one small file system, filled to the brim, and given room again."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.cluster.harness import Cluster, await_value, running_cluster

SIZE_MIB = 360
FILLER_MIB = 180  # each of the three nodes wants its reserve and as much again, beside what waits to be written
VALUE = os.urandom(256 * 1024)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("only root may mount the small file system that this fills")
    place = tmp_path / "small"
    place.mkdir()
    options = f"size={SIZE_MIB}m"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "scribe-test", str(place)], check=True, timeout=30)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True, timeout=30)


def codes_of(cluster: Cluster, node: int) -> str | None:
    health = cluster.health(node)
    return None if health is None or "disk_full" not in health["alarms"] else "disk_full"


def test_a_full_disk_refuses_writes_and_recovers_by_itself(small_disk: Path) -> None:
    filler = small_disk / "filler"
    filler.write_bytes(bytes(FILLER_MIB * 2**20))
    with running_cluster(small_disk) as cluster:
        acknowledged: list[str] = []
        refused = None
        for number in range(600):
            try:
                answer = cluster.put(1 + number % 3, f"big-{number}", VALUE)
            except httpx.ReadTimeout:
                continue
            if answer.status_code == 200:
                acknowledged.append(f"big-{number}")
            elif answer.json()["code"] == "disk_full":
                refused = answer
                break
            else:
                assert answer.json()["code"] in {"outcome_unknown", "no_leader", "no_quorum"}
        assert refused is not None, f"never refused, {len(acknowledged)} writes"
        assert refused.status_code == 503
        assert "Retry-After" in refused.headers
        for node in (1, 2, 3):
            assert cluster.is_running(node), cluster.output(node)
        assert any(codes_of(cluster, node) for node in (1, 2, 3))
        for key in acknowledged[:: max(1, len(acknowledged) // 10)]:
            assert cluster.get(1, f"/kv/{key}?consistency=stale").content == VALUE  # reads go on

        filler.unlink()

        def written() -> bool:
            return cluster.put(1, "after", b"room again").status_code == 200

        await_value(written, "writes to be taken again", 60.0)
        await_value(lambda: not any(codes_of(cluster, n) for n in (1, 2, 3)), "the alarms to end", 60.0)
        cluster.agree(60.0)
        for key in acknowledged:
            assert cluster.get(2, f"/kv/{key}?consistency=stale").content == VALUE
        cluster.stop()
        cluster.start()
        cluster.wait_healthy()
        cluster.agree()
