"""SIGHUP applies what the reference page marks, and nothing that is wrong."""

import json
import signal
from pathlib import Path
from typing import Any

from appliance.adapters.config_rows import setting_rows
from tests.cluster.harness import Cluster, await_value

MARKED = {
    "security.rate_limit.max_requests",
    "security.rate_limit.window_secs",
    "security.rate_limit.burst_size",
    "logging.level",
}


def reload_with(cluster: Cluster, changes: str, event: str) -> dict[str, Any]:
    """Replace what the last reload appended to the configuration of node 1, and wait for what it says of it."""
    config: Path = cluster.files.configs[0]
    config.write_text(config.read_text().partition("# changed\n")[0] + "# changed\n" + changes)
    (log,) = (cluster.files.directory / "node1" / "log").glob("*.log")
    seen = log.stat().st_size
    cluster.processes[1].send_signal(signal.SIGHUP)

    def told() -> dict[str, Any] | None:
        with log.open("rb") as file:
            file.seek(seen)
            lines = [json.loads(line) for line in file if line.endswith(b"\n")]
        return next((line for line in lines if line["event.action"] == event), None)

    return await_value(told, event)


def test_limits_and_level_are_applied_without_a_restart(cluster: Cluster) -> None:
    assert {name for name, row in setting_rows().items() if row.reload} == MARKED
    slow = "[security.rate_limit]\nmax_requests = 1\nwindow_secs = 3600\nburst_size = 1\n"
    assert "burst_size" in reload_with(cluster, slow, "node.reloaded")["scribe.applied"]
    assert [cluster.put(1, "limited", b"x").status_code for _ in range(2)] == [200, 429]

    refused = reload_with(cluster, "[security.rate_limit]\nburst_size = 0\n", "node.reload_failed")
    assert "security.rate_limit.burst_size: 0 is not allowed" in refused["scribe.reason"]
    assert cluster.put(1, "limited", b"x").status_code == 429, "the limits stay as they were"

    reload_with(cluster, "", "node.reloaded")
    await_value(lambda: cluster.put(1, "limited", b"x").status_code == 200, "the limit of before")
