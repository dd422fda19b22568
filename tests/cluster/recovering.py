"""The command `appliance cluster recover` on the nodes of a test, and where their data are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec

from appliance.cli.shapes import Recovered
from tests.cluster.harness import Cluster

COMMAND_S = 60.0


def recover(cluster: Cluster, node: int, *options: str) -> subprocess.CompletedProcess[bytes]:
    config = str(cluster.files.configs[node - 1])
    command = [str(Path(sys.executable).with_name("appliance")), "cluster", "recover", "--config", config]
    return subprocess.run([*command, "-o", "json", *options], capture_output=True, timeout=COMMAND_S, check=False)


def recovered(cluster: Cluster, node: int, *options: str) -> Recovered:
    result = recover(cluster, node, *options)
    assert result.returncode == 0, result.stderr.decode()
    return msgspec.json.decode(result.stdout, type=Recovered)


def refused(cluster: Cluster, node: int, *options: str) -> str:
    result = recover(cluster, node, *options)
    assert result.returncode == 4, (result.stdout, result.stderr)
    return str(msgspec.json.decode(result.stderr.splitlines()[-1])["error"]["detail"])


def reasons(cluster: Cluster, node: int) -> str:
    response = cluster.get(node, "/health", timeout=2.0)
    return " ".join(response.json().get("reasons", []))
