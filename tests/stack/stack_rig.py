"""The container stack under test: one project of its own, on ports of its own, and time-outs on everything."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
from testcontainers.compose import DockerCompose

from appliance.cli.init_files import read_env_file
from appliance.cli.render import render_prometheus, render_rules
from tests.ports import free_ports

ROOT = Path(__file__).parents[2]
FILES = ["compose/compose.yaml", "tests/stack/compose.override.yaml"]
NODE_PORT_NAMES = ("NODE1_PORT", "NODE2_PORT", "NODE3_PORT", "NODE4_PORT", "NODE5_PORT")
PORT_NAMES = (*NODE_PORT_NAMES, "PROMETHEUS_PORT", "ALERTMANAGER_PORT", "GRAFANA_PORT")
APPLIANCE = str(Path(sys.executable).with_name("appliance"))
TIME_SCALE = 0.1  # alerts that hold for a minute fire after six seconds
COMMAND_TIMEOUT_S = 420.0
POLL_S = 0.25

T = TypeVar("T")


def eventually(what: str, probe: Callable[[], T | None], timeout_s: float) -> T:
    """Ask again and again until `probe` answers something true; the one place where tests of the stack wait."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        try:
            found = probe()
        except (httpx.HTTPError, ValueError):
            found = None
        if found:
            return found
        assert time.monotonic() < deadline_s, f"not within {timeout_s:.0f} s: {what}"
        time.sleep(POLL_S)  # the other side is another process's HTTP port: there is nothing to be woken by


@dataclass
class BoundedCompose(DockerCompose):
    """`DockerCompose` with an environment of its own and a time-out for every command, which it lacks."""

    environ: Mapping[str, str] = field(default_factory=dict)

    def _run_command(self, cmd: str | list[str], context: str | None = None) -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run(
            cmd,
            cwd=context or str(self.context),
            env={**os.environ, **self.environ},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, f"{cmd}\n{done.stdout.decode()}\n{done.stderr.decode()}"
        return done

    def command(self, *arguments: str) -> str:
        """Run `docker compose ARGUMENTS` and answer its standard output."""
        return self._run_command([*self.docker_compose_command(), *arguments]).stdout.decode()


@dataclass
class Stack:
    """A running stack, seen from the host."""

    compose: BoundedCompose
    ports: dict[str, int]

    def node_url(self, number: int) -> str:
        return f"http://127.0.0.1:{self.ports[f'NODE{number}_PORT']}"

    def credentials(self, directory: Path) -> dict[str, str]:
        """What `init` made, fetched the documented way."""
        path = directory / "credentials.env"
        self.compose.command("cp", "init:/secrets/operator/credentials.env", str(path))
        return read_env_file(path)

    def appliance(self, directory: Path, *words: str) -> Any:
        """Run the program over this stack, with its state in a directory; answers its JSON. It must end with 0."""
        done = self._run(directory, *words)
        assert done.returncode == 0, f"{words}\n{done.stdout.decode()}\n{done.stderr.decode()}"
        return json.loads(done.stdout)

    def await_agreement(self, directory: Path, nodes: int) -> None:
        """Until `appliance status` ends with 0 and shows so many nodes that agree."""

        def agrees() -> bool:
            done = self._run(directory, "status")
            if done.returncode != 0:
                return False
            status = json.loads(done.stdout)
            return (len(status["nodes"]), status["agreement"]) == (nodes, "agree")

        eventually(f"{nodes} nodes that agree", agrees, 90)

    def _run(self, directory: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
        directory.mkdir(exist_ok=True)
        if not (directory / "credentials.env").exists():
            self.credentials(directory)
        return subprocess.run(
            [APPLIANCE, "--dir", str(directory), "--output", "json", *words],
            env={**os.environ, **self.compose.environ, "COMPOSE_FILE": os.pathsep.join(FILES)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )

    def prometheus(self, path: str) -> Any:
        url = f"http://127.0.0.1:{self.ports['PROMETHEUS_PORT']}/api/v1/{path}"
        return httpx.get(url, timeout=5).raise_for_status().json()["data"]

    def alerts(self, name: str) -> list[dict[str, Any]]:
        """Alertmanager's active alerts of a name, inhibited ones among them."""
        url = f"http://127.0.0.1:{self.ports['ALERTMANAGER_PORT']}/api/v2/alerts"
        found: list[dict[str, Any]] = httpx.get(url, timeout=5).raise_for_status().json()
        return [alert for alert in found if alert["labels"]["alertname"] == name]

    def targets(self) -> dict[str, str]:
        """Health by instance of the job scribe-ledger."""
        active = self.prometheus("targets?state=active")["activeTargets"]
        return {t["labels"]["instance"]: t["health"] for t in active if t["labels"]["job"] == "scribe-ledger"}


def make_stack(directory: Path) -> Stack:
    """A stack that is not started yet; `directory` gets Prometheus' configuration."""
    (directory / "rules").mkdir(mode=0o755)
    for name, text in (
        ("prometheus.yml", render_prometheus(TIME_SCALE)),
        ("rules/scribe-ledger.yml", render_rules(TIME_SCALE)),
    ):
        (directory / name).write_text(text)
        (directory / name).chmod(0o644)  # read by the uid of Prometheus
    project = f"scribe-test-{secrets.token_hex(4)}"
    ports = dict(zip(PORT_NAMES, free_ports(len(PORT_NAMES)), strict=True))
    environ = {
        "COMPOSE_PROJECT_NAME": project,
        "COMPOSE_PROFILES": "",
        "TEST_PROMETHEUS_DIR": str(directory),
        "APPLIANCE_IMAGE": f"{project}:test",
        **{name: str(port) for name, port in ports.items()},
    }
    return Stack(BoundedCompose(ROOT, FILES, build=True, environ=environ), ports)
