"""The benchmark runs: short rounds of a write, a read and a batch, on ours and, where it is installed, on etcd."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = ("PUT c=16", "GET linearizable c=64", "batch of 100 c=4")
MEASURED = {"rate", "p50_ms", "p99_ms", "p999_ms", "max_ms", "requests", "errors", "loader_us", "loader_share", "nodes"}


@pytest.mark.skipif(shutil.which("wrk") is None, reason="needs wrk (Debian: apt-get install wrk)")
def test_short_rounds_get_nothing_but_200_and_write_complete_results(tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    command = [sys.executable, "-m", "benchmarks", "--groups", "speed", "--rows", ",".join(ROWS)]
    command += ["--rounds", "1", "--seconds", "1", "--directory", str(tmp_path), "--json", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr + done.stdout
    found = json.loads(out.read_text())
    assert {"commit", "time", "machine", "options", "rows", "targets"} <= set(found)
    assert found["machine"]["fsync_ms"] > 0
    sides = {"ours", "etcd"} if shutil.which("etcd") else {"ours"}
    assert [row["row"] for row in found["rows"]] == list(ROWS)
    for row in found["rows"]:
        assert row["failures"] == []
        assert set(row["sides"]) == sides
        assert set(row["ratios"]) == ({"rate", "p50", "p99", "p999"} if len(sides) == 2 else set())
        for name, side in row["sides"].items():
            assert set(side) >= MEASURED
            assert side["requests"] > 0
            assert side["errors"] == 0
            assert [node["role"] for node in side["nodes"]] == ["leader", "follower", "follower"]
            assert all(("lag_ms" in node) == (name == "ours") for node in side["nodes"])
    assert "targets" in done.stdout
