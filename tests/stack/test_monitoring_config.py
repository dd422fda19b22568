"""Prometheus' and Alertmanager's own tools, from the images that the stack runs, over what the stack gives them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from stack_rig import ROOT, TIME_SCALE

from appliance.cli.render import render_prometheus, render_rules
from appliance.tables.alerts import ALERTS, RECORDS

pytestmark = pytest.mark.stack
CASES = sorted(path.name for path in (ROOT / "prometheus/tests").glob("*.yml"))


def run_tool(image: str, tool: str, *arguments: str, directory: Path = ROOT / "prometheus") -> str:
    """Run a tool of an image over a directory, and answer what it printed."""
    command = [
        "docker",
        "run",
        "--rm",
        "--network",
        "none",
        "--read-only",
        "--tmpfs",
        "/tmp",
        "--volume",
        f"{directory}:/files:ro",
    ]
    command += ["--entrypoint", tool, image, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("case", CASES)
def test_alerts_fire_and_are_silent_as_written(case: str, image_of: Callable[[str], str]) -> None:
    assert "SUCCESS" in run_tool(image_of("prometheus"), "promtool", "test", "rules", f"/files/tests/{case}")


def test_prometheus_accepts_its_configuration(image_of: Callable[[str], str]) -> None:
    printed = run_tool(image_of("prometheus"), "promtool", "check", "config", "/files/prometheus.yml")

    assert f"{len(ALERTS) + len(RECORDS)} rules found" in printed


def test_prometheus_accepts_the_shortened_configuration(image_of: Callable[[str], str], tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "rules").mkdir(mode=0o755)
    (tmp_path / "prometheus.yml").write_text(render_prometheus(TIME_SCALE))
    (tmp_path / "rules/scribe-ledger.yml").write_text(render_rules(TIME_SCALE))

    run_tool(image_of("prometheus"), "promtool", "check", "config", "/files/prometheus.yml", directory=tmp_path)


def test_alertmanager_accepts_its_configuration(image_of: Callable[[str], str]) -> None:
    printed = run_tool(image_of("alertmanager"), "amtool", "check-config", "/files/alertmanager.yml")

    assert "3 inhibit rules" in printed
