"""All nodes are restarted one after the other while clients write: none of them loses a request."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.chaos import Chaos
from tests.cluster.harness import running_cluster

TUNED = {"SCRIBE_CONSENSUS__ELECTION_TIMEOUT": "5", "SCRIBE_CONSENSUS__HEARTBEAT_TIMEOUT": "1"}


@pytest.mark.parametrize(
    "settings", [pytest.param({}, id="default"), pytest.param(TUNED, id="as the runbook tunes it")]
)
def test_a_rolling_restart_loses_no_request_of_a_client_that_retries(settings: dict[str, str], tmp_path: Path) -> None:
    """And of none is the outcome unknown, also of those that cannot be repeated."""
    with running_cluster(tmp_path, settings) as cluster:
        chaos = Chaos(cluster, 1, tmp_path)
        chaos.restart(0)  # each node has to end with 0
        chaos.finish()
        print(f"longest time without an acknowledged write: {chaos.gaps_s[0]:.3f} s")
        assert not chaos.violations
        assert not chaos.gave_up
        assert not chaos.undecided
        assert not chaos.unknown["restart"]
        assert chaos.acknowledged > 100
