"""Rendered files are up to date, and the renderer says so when they are not."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
import yaml
from typer.testing import CliRunner

from appliance.cli import render
from appliance.tables.alerts import ALERTS, RECORDS

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def rendered() -> dict[str, str]:
    return {name: make() for name, make in render.outputs(ROOT).items()}


@pytest.mark.parametrize("name", sorted(render.outputs(ROOT)))
def test_committed_file_is_up_to_date(name: str, rendered: dict[str, str]) -> None:
    assert (ROOT / name).read_text(encoding="utf-8") == rendered[name], "run `appliance render`"


def test_the_dashboard_is_among_them() -> None:
    assert render.DASHBOARD in render.outputs(ROOT)


def test_rules_are_the_table() -> None:
    groups = yaml.safe_load(render.render_rules())["groups"]
    records, alerts = (group["rules"] for group in groups)

    assert [(rule["record"], rule["expr"]) for rule in records] == [(row.name, row.expr) for row in RECORDS]
    assert [(rule["alert"], rule["expr"].strip()) for rule in alerts] == [(r.name, r.expr) for r in ALERTS.values()]
    assert [rule["labels"]["severity"] for rule in alerts] == [str(row.severity) for row in ALERTS.values()]
    assert {rule["alert"] for rule in alerts if "for" not in rule} == {r.name for r in ALERTS.values() if not r.for_s}


def test_every_runbook_url_leads_to_a_heading() -> None:
    page = render.render_alerts_page()
    headings = {line.removeprefix("## ").lower() for line in page.splitlines() if line.startswith("## ")}
    rules = yaml.safe_load(render.render_rules())["groups"][1]["rules"]

    for rule in rules:
        path, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert path == render.ALERTS_PAGE
        assert anchor in headings


def test_scrape_configuration_is_the_runbooks() -> None:
    config = yaml.safe_load(render.render_prometheus())
    job = next(job for job in config["scrape_configs"] if job["job_name"] == "scribe-ledger")

    assert job["static_configs"] == [{"targets": ["node1:8001", "node2:8002", "node3:8003"]}]
    assert job["metrics_path"] == "/metrics/prometheus"
    assert config["global"]["scrape_interval"] == "15s"
    assert config["rule_files"] == ["rules/*.yml"]


def test_time_scale_shortens_every_duration() -> None:
    node_down = next(
        rule
        for group in yaml.safe_load(render.render_rules(0.05))["groups"]
        for rule in group["rules"]
        if rule.get("alert") == "NodeDown"
    )
    config = yaml.safe_load(render.render_prometheus(0.05))

    assert node_down["for"] == "3s"
    assert config["global"] == {"scrape_interval": "750ms", "scrape_timeout": "500ms", "evaluation_interval": "1500ms"}


def tree_with_builder(root: Path) -> Path:
    (root / "grafana").mkdir()
    (root / render.DASHBOARD_BUILDER).write_text('def build() -> str:\n    return "{}"\n')
    return root


def test_command_writes_then_finds_nothing_to_do_then_finds_what_is_stale(tmp_path: Path) -> None:
    root = tree_with_builder(tmp_path)
    app = typer.Typer()
    render.register(app)
    run = CliRunner().invoke

    assert run(app, ["--root", str(root)]).exit_code == 0
    assert {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and path.suffix != ".pyc"} == {
        *render.outputs(root),
        render.DASHBOARD_BUILDER,
    }
    assert run(app, ["--root", str(root), "--check"]).exit_code == 0

    (root / "prometheus/prometheus.yml").write_text("changed by hand")
    stale = run(app, ["--root", str(root), "--check"])
    assert stale.exit_code != 0
    assert "prometheus/prometheus.yml: stale" in stale.stderr
    assert (root / "prometheus/prometheus.yml").read_text() == "changed by hand"


def test_command_refuses_what_is_no_source_tree(tmp_path: Path) -> None:
    app = typer.Typer()
    render.register(app)

    refused = CliRunner().invoke(app, ["--root", str(tmp_path)])

    assert refused.exit_code != 0
    assert "no source tree" in str(refused.exception)
    assert list(tmp_path.iterdir()) == []
