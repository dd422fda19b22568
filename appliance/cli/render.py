"""Renders what repeats the tables: Prometheus' rules and configuration, the page of alerts, the dashboards."""

from __future__ import annotations

import importlib.util
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final

import typer

from appliance.adapters.config import render_reference
from appliance.cli.exits import CliError, Exit
from appliance.cli.init_files import OPEN_FILE, write_file
from appliance.cli.output import say
from appliance.cli.reference import render_cli
from appliance.tables.alerts import ALERTS, JOB, RECORDS, AlertRow, RecordRow

MADE_BY: Final = "Made by `appliance render` from appliance/tables/alerts.py; change that and render again."
TARGETS: Final = ("node1:8001", "node2:8002", "node3:8003")
ALERTS_PAGE: Final = "docs/ALERTS.md"
DASHBOARD: Final = "grafana/dashboards/scribe-ledger.json"
DASHBOARD_BUILDER: Final = "grafana/build.py"

SCRAPE_INTERVAL_S: Final = 15.0
RULE_INTERVAL_S: Final = 30.0  # the runbook's interval of its group


def render_rules(time_scale: float = 1.0) -> str:
    """Write the rule file: recording rules first, because alerts use them.

    Args:
        time_scale: factor on intervals and on the time that an alert must hold; tests shorten them.
    """
    lines = [f"# {MADE_BY}", "groups:"]
    for name, interval_s, rules in (
        ("scribe-ledger-records", SCRAPE_INTERVAL_S, [_record(row) for row in RECORDS]),
        ("scribe-ledger", RULE_INTERVAL_S, [_alert(row, time_scale) for row in ALERTS.values()]),
    ):
        lines += [f"  - name: {name}", f"    interval: {_duration(interval_s * time_scale)}", "    rules:"]
        lines += [textwrap.indent(rule, " " * 6) for rule in rules]
    return "\n".join(lines) + "\n"


def render_prometheus(time_scale: float = 1.0) -> str:
    """Write `prometheus.yml`: the runbook's scrape configuration, rules, Alertmanager.

    Args:
        time_scale: factor on the intervals; tests shorten them.
    """
    targets = "\n".join(f"          - {target}" for target in TARGETS)
    return f"""\
# {MADE_BY.replace("tables/alerts.py", "cli/render.py")}
global:
  scrape_interval: {_duration(SCRAPE_INTERVAL_S * time_scale)}
  scrape_timeout: {_duration(10 * time_scale)}
  evaluation_interval: {_duration(RULE_INTERVAL_S * time_scale)}

rule_files:
  - rules/*.yml

alerting:
  alertmanagers:
    - static_configs:
        - targets:
            - alertmanager:9093

scrape_configs:
  - job_name: {JOB}
    metrics_path: /metrics/prometheus
    static_configs:
      - targets:
{targets}
    # Nodes that `appliance cluster add` put beside these.
    file_sd_configs:
      - files:
          - targets/*.json
        refresh_interval: {_duration(SCRAPE_INTERVAL_S * time_scale)}

  - job_name: prometheus
    static_configs:
      - targets:
          - localhost:9090

  - job_name: alertmanager
    static_configs:
      - targets:
          - alertmanager:9093
"""


def render_alerts_page() -> str:
    """Write the page that every alert's `runbook_url` points into."""
    parts = [
        f"<!-- {MADE_BY} -->",
        "# Alerts",
        "Each alert of `prometheus/rules/scribe-ledger.yml`: when it fires, and what to do first. "
        "`procedure` names the chapter of the operations runbook that goes on from there.",
    ]
    for row in ALERTS.values():
        held = f"holds for {_duration(row.for_s)}" if row.for_s else "holds"
        parts += [
            f"## {row.name}",
            f"{row.summary}. Severity `{row.severity}`; fires when this {held}:",
            f"```promql\n{row.expr}\n```",
            f"First: {row.action}",
            f"Procedure: *{row.procedure}*.",
        ]
    parts += ["## Recorded series", "\n".join(f"- `{row.name}`: {row.help}" for row in RECORDS)]
    return "\n\n".join(parts) + "\n"


def outputs(root: Path) -> Mapping[str, Callable[[], str]]:
    """What is rendered below `root`: relative path, and the function that makes the text.

    The dashboard is among them only where its library is installed, which is a dependency of development alone.
    """
    made: dict[str, Callable[[], str]] = {
        "prometheus/prometheus.yml": render_prometheus,
        "prometheus/rules/scribe-ledger.yml": render_rules,
        ALERTS_PAGE: render_alerts_page,
        "docs/CLI.md": render_cli,
        "docs/CONFIGURATION.md": render_reference,
    }
    if importlib.util.find_spec("grafana_foundation_sdk") is not None:
        made[DASHBOARD] = lambda: build_dashboard(root / DASHBOARD_BUILDER)
    return made


def build_dashboard(builder: Path) -> str:
    """Run the dashboard's builder, which lives beside what it makes and outside of the installed package."""
    spec = importlib.util.spec_from_file_location("scribe_ledger_dashboard", builder)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    text: str = module.build()
    return text


def render_all(root: Path, *, check: bool) -> Sequence[str]:
    """Write every rendered file that is not up to date, or with `check` none; answers their names."""
    stale = []
    for name, make in outputs(root).items():
        path, text = root / name, make()
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
            if not check:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_file(path, text.encode(), OPEN_FILE)
    return stale


def register(app: typer.Typer) -> None:
    """Add the command `render`."""

    @app.command("render")
    def render(
        check: Annotated[bool, typer.Option("--check", help="Write nothing; fail when a file is stale.")] = False,
        root: Annotated[Path | None, typer.Option(help="Root of the source tree.", show_default=False)] = None,
    ) -> None:
        """Render the files that repeat the tables: rules, dashboards, reference pages (for developers)."""
        tree = root or Path(__file__).resolve().parents[2]
        if not (tree / DASHBOARD_BUILDER).is_file():
            raise CliError(Exit.USAGE, f"{tree} is no source tree of the appliance", hint="give it with --root")
        stale = render_all(tree, check=check)
        if DASHBOARD not in outputs(tree):
            say(f"{DASHBOARD}: passed over, grafana-foundation-sdk is not installed (make install-dev)")
        for name in stale:
            say(f"{name}: {'stale' if check else 'written'}")
        if check and stale:
            raise CliError(Exit.FAILURE, f"{len(stale)} rendered files are stale", hint="appliance render")


def _record(row: RecordRow) -> str:
    return f"- record: {row.name}\n  expr: {row.expr}"


def _alert(row: AlertRow, time_scale: float) -> str:
    lines = [f"- alert: {row.name}", "  expr: |", textwrap.indent(row.expr, " " * 4)]
    if row.for_s:
        lines.append(f"  for: {_duration(row.for_s * time_scale)}")
    lines += [
        "  labels:",
        f"    severity: {row.severity}",
        "  annotations:",
        f'    summary: "{row.summary}"',
        f'    description: "{row.description}"',
        f"    runbook_url: {ALERTS_PAGE}#{row.name.lower()}",
    ]
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    """Write a duration as Prometheus reads it: 5m, 15s, 1500ms."""
    milliseconds = round(seconds * 1000)
    if milliseconds % 60_000 == 0:
        return f"{milliseconds // 60_000}m"
    return f"{milliseconds // 1000}s" if milliseconds % 1000 == 0 else f"{milliseconds}ms"
