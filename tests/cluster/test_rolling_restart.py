"""All nodes are restarted one after the other while clients write: none of them loses a request."""

from __future__ import annotations

from pathlib import Path

from tests.cluster.chaos import Chaos
from tests.cluster.harness import Cluster


def test_a_rolling_restart_loses_no_request_of_a_client_that_retries(cluster: Cluster, tmp_path: Path) -> None:
    chaos = Chaos(cluster, 1, tmp_path)
    chaos.restart(0)  # each node has to end with 0
    chaos.finish()
    assert not chaos.violations
    assert not chaos.gave_up
    assert chaos.acknowledged > 100
