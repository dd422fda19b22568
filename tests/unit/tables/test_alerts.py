"""The table of alerts against the table of metrics, the runbook's promises, and the promtool cases."""

from __future__ import annotations

import re
from pathlib import Path

import promql_parser
import pytest
import yaml

from appliance.tables.alerts import ALERTS, RECORDS
from appliance.tables.metrics import METRICS, Kind

ROOT = Path(__file__).parents[3]
CASES = sorted((ROOT / "prometheus/tests").glob("*.yml"))
ALWAYS_FIRES = {"Watchdog"}  # that is its purpose: it has no silent case


def series_of(expr: str) -> set[str]:
    """Names of the series that an expression selects, without strings, functions, labels and keywords."""
    found: set[str] = set()

    def walk(node: object) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            assert node.name is not None
            found.add(node.name)
        for field in ("expr", "lhs", "rhs", "vector_selector", "param"):
            child = getattr(node, field, None)
            if child is not None:
                walk(child)
        for child in getattr(node, "args", None) or ():
            walk(child)

    walk(promql_parser.parse(expr))
    return found


def known_series() -> set[str]:
    names = {"up", *(row.name for row in RECORDS)}
    for row in METRICS.values():
        names |= (
            {f"{row.name}_{end}" for end in ("bucket", "sum", "count")} if row.kind is Kind.HISTOGRAM else {row.name}
        )
    return names


EXPRESSIONS = {**{row.name: row.expr for row in RECORDS}, **{row.name: row.expr for row in ALERTS.values()}}


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_expression_reads_series_that_exist(name: str) -> None:
    series = series_of(EXPRESSIONS[name])

    assert series <= known_series()
    assert series or name in ALWAYS_FIRES


@pytest.mark.parametrize(
    ("name", "for_s", "severity", "threshold"),
    [
        ("HighLatency", 300, "warning", "scribe_request_latency_p99 > 1000"),
        ("HighErrorRate", 120, "critical", "> 0.1"),
        ("NodeDown", 60, "critical", 'up{job="scribe-ledger"} == 0'),
        ("ClusterQuorumLost", 60, "critical", "floor("),
        ("StorageNearFull", 600, "warning", "> 0.9 * scribe_storage_capacity_keys"),
    ],
)
def test_the_runbooks_alerts_keep_their_figures(name: str, for_s: int, severity: str, threshold: str) -> None:
    row = ALERTS[name]

    assert (row.for_s, str(row.severity)) == (for_s, severity)
    assert threshold in row.expr


def test_labels_in_descriptions_survive_the_aggregation() -> None:
    for row in ALERTS.values():
        kept = set(re.findall(r"\$labels\.(\w+)", row.description))
        aggregated = re.match(r"(?:sum|max|min|count) by \(([^)]*)\)", row.expr)
        if aggregated:
            assert kept <= {label.strip() for label in aggregated[1].split(",")}, row.name


def cases() -> list[tuple[str, bool]]:
    """(alert, whether it fires) of every promtool case."""
    return [
        (case["alertname"], bool(case["exp_alerts"]))
        for path in CASES
        for test in yaml.safe_load(path.read_text())["tests"]
        for case in test.get("alert_rule_test", ())
    ]


def test_every_alert_has_a_firing_and_a_silent_case() -> None:
    written = set(cases())

    assert {name for name, fires in written if fires} == set(ALERTS)
    assert {name for name, fires in written if not fires} == set(ALERTS) - ALWAYS_FIRES


def test_inhibitions_name_alerts_that_exist() -> None:
    config = yaml.safe_load((ROOT / "prometheus/alertmanager.yml").read_text())

    named: set[str] = set()
    for rule in config["inhibit_rules"]:
        for matcher in (*rule["source_matchers"], *rule["target_matchers"]):
            label, value = re.split(r"\s*=~?\s*", matcher, maxsplit=1)
            assert label == "alertname"
            named |= set(value.strip('"').split("|"))
    assert named <= set(ALERTS)
    assert {"ClusterQuorumLost", "NodeDown"} <= named
