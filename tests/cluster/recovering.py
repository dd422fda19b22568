"""The command `appliance cluster recover` on the nodes of a test, and what is said until all is well again."""

from __future__ import annotations

import subprocess

import httpx
import msgspec

from appliance.cli.shapes import Recovered
from tests.cluster.harness import Cluster, await_value
from tests.cluster.programs import APPLIANCE, Bundle

COMMAND_S = 60.0
AGREE_S = 90.0


def recover(cluster: Cluster, node: int, *options: str) -> subprocess.CompletedProcess[bytes]:
    config = str(cluster.files.configs[node - 1])
    command = [APPLIANCE, "cluster", "recover", "--config", config]
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
    """Why a node is not healthy; empty when it is, or does not answer."""
    try:
        response = cluster.get(node, "/health", timeout=2.0)
    except httpx.TransportError:
        return ""
    return " ".join(response.json().get("reasons", ()))


def await_agreement(bundle: Bundle, nodes: int) -> None:
    """Until `appliance status` ends with 0 and shows so many nodes that are healthy and agree."""

    def agrees() -> bool:
        command = [APPLIANCE, "--dir", str(bundle.state), "status", "-o", "json"]
        done = subprocess.run(command, capture_output=True, timeout=COMMAND_S, check=False)
        if done.returncode != 0:
            return False
        status = msgspec.json.decode(done.stdout)
        return (len(status["nodes"]), status["agreement"], status["healthy"]) == (nodes, "agree", True)

    await_value(agrees, f"{nodes} nodes to agree", AGREE_S)
