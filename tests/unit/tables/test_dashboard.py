"""The dashboard: its queries parse and read series that exist, its panels have their place, nothing is left out."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from appliance.tables.alerts import ALERTS, RECORDS
from appliance.tables.metrics import METRICS, Kind

ROOT = Path(__file__).parents[3]
DASHBOARD = json.loads((ROOT / "grafana/dashboards/scribe-ledger.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
DRAWN = [panel for panel in PANELS if panel["type"] != "row"]
SOURCES = yaml.safe_load((ROOT / "grafana/provisioning/datasources/scribe-ledger.yaml").read_text())["datasources"]
VARIABLES = {"$__rate_interval": "1m", "$instance": ".+"}

RUNBOOK_PANELS = {
    "Request rate": {"scribe_ops_total"},
    "Latency percentiles": {"scribe_request_latency_seconds_bucket"},
    "Error rate": {"scribe_errors_total"},
    "Storage utilization": {"scribe_storage_keys_total", "scribe_storage_capacity_keys"},
    "Cluster health": {"scribe_node_health", "up"},
    "Raft metrics": {"scribe_raft_term", "scribe_raft_commit_index"},
}
# Metrics that no panel and no rule reads, each with its reason.
USED_BY_NOBODY = {
    **dict.fromkeys(
        (
            "scribe_compaction_running",
            "scribe_compaction_entries_left",
            "scribe_compaction_bytes_left",
            "scribe_compaction_freed_bytes",
            "scribe_compaction_last_seconds",
            "scribe_compactions_total",
        ),
        "read by who runs a compaction, while it runs (the runbook's `Database Compaction`)",
    ),
    **dict.fromkeys(
        (
            "scribe_scrub_progress",
            "scribe_scrub_findings",
            "scribe_scrub_bytes_total",
            "scribe_scrub_last_duration_seconds",
        ),
        "read by who runs a scrub; what it finds is an alarm, and ScrubOverdue says when none comes to an end",
    ),
    "scribe_idempotency_keys": "read when new idempotency keys are refused; that error has its own code in Error rate",
}


def substituted(expr: str) -> str:
    for name, value in VARIABLES.items():
        expr = expr.replace(name, value)
    return expr


def names_in(expr: str) -> set[str]:
    """Names of the series in an expression: words outside of strings, brackets of labels and function calls."""
    bare = re.sub(r"\b(by|on|without|ignoring)\s*\([^)]*\)", " ", re.sub(r"\{[^}]*\}|\[[^\]]*\]", " ", expr))
    return set(re.findall(r"\b(?:up|[a-z]+:?scribe_[a-z0-9_:]+|scribe_[a-z0-9_]+)\b", bare))


def known_series() -> set[str]:
    names = {"up", *(row.name for row in RECORDS)}
    for row in METRICS.values():
        names |= (
            {f"{row.name}_{end}" for end in ("bucket", "sum", "count")} if row.kind is Kind.HISTOGRAM else {row.name}
        )
    return names


QUERIES = [
    pytest.param(target["expr"], id=f"{panel['title']} {target['refId']}")
    for panel in DRAWN
    for target in panel["targets"]
    if "expr" in target
]


@pytest.mark.parametrize("expr", QUERIES)
def test_query_parses_and_reads_series_that_exist(expr: str) -> None:
    promql_parser.parse(substituted(expr))

    assert names_in(expr)
    assert names_in(expr) <= known_series()
    assert 'job="scribe-ledger"' in expr


def test_annotation_parses() -> None:
    (annotation,) = DASHBOARD["annotations"]["list"]

    promql_parser.parse(substituted(annotation["expr"]))
    assert names_in(annotation["expr"]) <= known_series()


@pytest.mark.parametrize("title", RUNBOOK_PANELS)
def test_the_runbooks_panel_is_there(title: str) -> None:
    (panel,) = (panel for panel in DRAWN if panel["title"] == title)

    read = set().union(*(names_in(target["expr"]) for target in panel["targets"]))
    assert read >= RUNBOOK_PANELS[title]


def test_latency_panel_has_the_three_percentiles() -> None:
    (panel,) = (panel for panel in DRAWN if panel["title"] == "Latency percentiles")

    assert [target["legendFormat"] for target in panel["targets"]] == ["P50", "P95", "P99"]


def test_panels_lie_on_the_grid_and_do_not_overlap() -> None:
    boxes = [panel["gridPos"] for panel in PANELS]

    assert all(box["x"] >= 0 and box["x"] + box["w"] <= 24 for box in boxes)
    for a, b in combinations(boxes, 2):
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        above = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert beside or above


def test_ids_and_references_are_unique() -> None:
    ids = [panel["id"] for panel in PANELS]

    assert len(set(ids)) == len(ids)
    for panel in DRAWN:
        references = [target["refId"] for target in panel["targets"]]
        assert references == list("ABCDEFGH"[: len(references)]), panel["title"]


def test_every_query_names_a_provisioned_source() -> None:
    provisioned = {(source["type"], source["uid"]) for source in SOURCES}
    used = {
        (source["type"], source["uid"])
        for panel in DRAWN
        for source in (panel["datasource"], *(target["datasource"] for target in panel["targets"]))
    }

    assert used == provisioned


def test_every_metric_is_shown_or_watched() -> None:
    expressions = [target["expr"] for panel in DRAWN for target in panel["targets"] if "expr" in target]
    expressions += [row.expr for row in (*RECORDS, *ALERTS.values())]
    read = {re.sub(r"_(bucket|sum|count)$", "", name) for expr in expressions for name in names_in(expr)}

    assert set(METRICS) - read == set(USED_BY_NOBODY)
