"""Builds the dashboard of the ledger: `appliance render` writes it to grafana/dashboards/scribe-ledger.json.

Panels are rows of the table below; grid positions, ids and refIds are counted out here, because the library's own
layout runs over the 24 columns.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from grafana_foundation_sdk.builders import common, dashboard, elasticsearch, logs, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    BigValueTextMode,
    DataSourceRef,
    LegendDisplayMode,
    LegendPlacement,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    GridPos,
    Threshold,
    VariableRefresh,
    VariableSort,
)

PROMETHEUS: Final = DataSourceRef(type_val="prometheus", uid="prometheus")
ELASTICSEARCH: Final = DataSourceRef(type_val="elasticsearch", uid="elasticsearch")
COLUMNS: Final = 24
NODES: Final = '{job="scribe-ledger", instance=~"$instance"}'


@dataclass(frozen=True, slots=True)
class PanelRow:
    """One panel: `queries` are (PromQL, legend), for logs a Lucene query.

    Attributes:
        title: what it shows.
        queries: the lines of it.
        unit: Grafana's name of the unit.
        width: columns out of 24.
        kind: timeseries, stat, names (a stat of the series' names) or logs.
        limits: (value, colour) in rising order, the first value is None.
        help: what to read from it.
    """

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    width: int = 8
    kind: str = "timeseries"
    limits: tuple[tuple[float | None, str], ...] = ()
    help: str = ""


def rate(metric: str, by: str, matchers: str = "") -> str:
    """The rate of a counter, summed by labels."""
    return f"sum by ({by}) (rate({metric}{with_matchers(matchers)}[$__rate_interval]))"


def quantile(q: float, histogram: str, by: str = "") -> str:
    """A quantile of a histogram over the chosen nodes, together or by further labels."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({q}, sum by ({labels}) (rate({histogram}_bucket{NODES}[$__rate_interval])))"


def with_matchers(matchers: str) -> str:
    """The selector of the chosen nodes, with more matchers."""
    return NODES[:-1] + f", {matchers}}}" if matchers else NODES


def by_node(metric: str) -> tuple[tuple[str, str], ...]:
    """One line a node."""
    return ((f"{metric}{NODES}", "{{instance}}"),)


RED_GREEN: Final = ((None, "red"), (1.0, "green"))
SECTIONS: Final[tuple[tuple[str, tuple[PanelRow, ...]], ...]] = (
    (
        "Overview",
        (
            PanelRow(
                "Request rate",
                (
                    (rate("scribe_ops_total", "op"), "{{op}}"),
                    (f"sum(rate(scribe_ops_total{NODES}[$__rate_interval]))", "all"),
                ),
                "reqps",
                help="Requests answered in a second, by operation.",
            ),
            PanelRow(
                "Latency percentiles",
                tuple(
                    (quantile(q, "scribe_request_latency_seconds"), name)
                    for q, name in ((0.5, "P50"), (0.95, "P95"), (0.99, "P99"))
                ),
                "s",
                help="Time to answer, over all operations of the chosen nodes.",
            ),
            PanelRow(
                "Error rate",
                ((rate("scribe_errors_total", "code"), "{{code}}"),),
                "reqps",
                help="Answers of 5xx in a second, by error code. HighErrorRate fires above 0.1 on one node.",
            ),
            PanelRow(
                "Storage utilization",
                ((f"scribe_storage_keys_total{NODES} / scribe_storage_capacity_keys{NODES}", "{{instance}}"),),
                "percentunit",
                help="Keys present, as a share of the capacity. StorageNearFull fires above 90%.",
            ),
            PanelRow(
                "Cluster health",
                (
                    ('sum(up{job="scribe-ledger"})', "nodes up"),
                    ('sum(scribe_node_health{job="scribe-ledger"})', "nodes that serve"),
                    ('sum(scribe_raft_leader{job="scribe-ledger"})', "leaders"),
                    ('max(scribe_raft_voters{job="scribe-ledger"})', "voters"),
                    ('min(scribe_raft_has_leader{job="scribe-ledger"})', "all know a leader"),
                ),
                kind="stat",
                limits=RED_GREEN,
                help="Nodes up and serving should equal the voters; there should be one leader.",
            ),
            PanelRow(
                "Raft metrics",
                (
                    (f"scribe_raft_term{NODES}", "term {{instance}}"),
                    (f"scribe_raft_commit_index{NODES}", "commit index {{instance}}"),
                ),
                help="A term that rises often means elections; commit indexes should move together.",
            ),
        ),
    ),
    (
        "Writes",
        (
            PanelRow("Proposals", ((rate("scribe_raft_proposals_total", "outcome"), "{{outcome}}"),), "ops"),
            PanelRow("Proposals waiting for their commit", by_node("scribe_raft_proposals_pending")),
            PanelRow(
                "Time from proposal to commit",
                tuple((quantile(q, "scribe_raft_commit_seconds"), f"P{q * 100:.0f}") for q in (0.5, 0.99)),
                "s",
            ),
            PanelRow(
                "Time to make the log durable, P99",
                ((quantile(0.99, "scribe_raft_fsync_seconds", "instance"), "{{instance}}"),),
                "s",
                help="A slow disk here slows every write when its node leads.",
            ),
            PanelRow(
                "Entries in one durable write, median",
                ((quantile(0.5, "scribe_raft_append_batch_entries", "instance"), "{{instance}}"),),
                help="Group commit: it grows with the load.",
            ),
            PanelRow(
                "P99 by node, ms",
                ((f"scribe_request_latency_p99{NODES}", "{{instance}}"),),
                "ms",
                help="What HighLatency reads.",
            ),
        ),
    ),
    (
        "Replication",
        (
            PanelRow("Entries that a peer lacks", ((f"scribe_raft_peer_lag_entries{NODES}", "node {{peer}}"),)),
            PanelRow(
                "Entries committed, not yet applied",
                ((f"scribe_raft_commit_index{NODES} - scribe_raft_applied_index{NODES}", "{{instance}}"),),
            ),
            PanelRow(
                "Entries applied, not yet in the ledger file",
                ((f"scribe_raft_applied_index{NODES} - scribe_raft_durable_index{NODES}", "{{instance}}"),),
            ),
            PanelRow(
                "Entries in the log",
                ((f"scribe_raft_last_index{NODES} - scribe_raft_snapshot_index{NODES}", "{{instance}}"),),
            ),
            PanelRow(
                "Elections and changes of leader, an hour",
                (
                    (f"increase(scribe_raft_elections_total{NODES}[1h])", "elections {{instance}}"),
                    (f"increase(scribe_raft_leader_changes_total{NODES}[1h])", "changes {{instance}}"),
                ),
            ),
            PanelRow(
                "Peer links",
                (
                    (rate("scribe_peer_messages_dropped_total", "instance, peer"), "dropped {{instance}} to {{peer}}"),
                    (rate("scribe_peer_refused_total", "instance, reason"), "refused {{instance}} {{reason}}"),
                    (
                        f"increase(scribe_raft_snapshots_total{NODES}[1h])",
                        "snapshots an hour {{instance}} {{direction}} {{outcome}}",
                    ),
                ),
            ),
        ),
    ),
    (
        "Storage",
        (
            PanelRow("Keys", by_node("scribe_storage_keys_total")),
            PanelRow("Leaves in the Merkle tree", by_node("scribe_merkle_tree_size")),
            PanelRow("Bytes on disk", ((f"scribe_storage_bytes{NODES}", "{{part}} {{instance}}"),), "bytes"),
            PanelRow("Waiting for the ledger file", by_node("scribe_storage_pending_bytes"), "bytes"),
            PanelRow(
                "Time to write one bulk, P99",
                ((quantile(0.99, "scribe_storage_flush_seconds", "instance"), "{{instance}}"),),
                "s",
            ),
            PanelRow(
                "Disk free",
                ((f"scribe_disk_free_bytes{NODES} / scribe_disk_size_bytes{NODES}", "{{instance}}"),),
                "percentunit",
            ),
        ),
    ),
    (
        "Integrity and witnesses",
        (
            PanelRow(
                "Leaves that are published and cosigned",
                (
                    *by_node("scribe_merkle_published_size"),
                    (f"max by (witness) (scribe_witness_cosigned_size{NODES})", "cosigned by {{witness}}"),
                ),
                width=6,
                help="Each node publishes the same sizes; witnesses follow within seconds.",
            ),
            PanelRow(
                "Data found wrong",
                (
                    (f"scribe_integrity_alarm{NODES}", "{{alarm}} {{instance}}"),
                    (
                        f"increase(scribe_verification_failures_total{NODES}[1h])",
                        "findings an hour {{alarm}} {{instance}}",
                    ),
                ),
                width=6,
                help="Always 0. LedgerIntegrity fires at once.",
            ),
            PanelRow(
                "Age of the last cosignature",
                (
                    (
                        f"time() - (max by (witness) (scribe_witness_cosigned_time_seconds{NODES}) > 0)",
                        "{{witness}}",
                    ),
                ),
                "s",
                6,
                help="A tree that does not grow is cosigned again every five minutes. WitnessStale fires beyond ten.",
            ),
            PanelRow(
                "Checkpoints that a witness did not cosign, an hour",
                (
                    (
                        f"sum by (witness, reason) (increase(scribe_witness_failures_total{NODES}[1h]))",
                        "{{witness}} {{reason}}",
                    ),
                ),
                width=6,
            ),
        ),
    ),
    (
        "Gateway and process",
        (
            PanelRow(
                "Refused at the gateway",
                (
                    (f"sum(rate(scribe_rate_limited_total{NODES}[$__rate_interval]))", "rate limit"),
                    (rate("scribe_auth_failures_total", "reason"), "{{reason}}"),
                ),
                "reqps",
            ),
            PanelRow("Audit queries", ((rate("scribe_audit_queries_total", "outcome"), "{{outcome}}"),), "ops"),
            PanelRow("Time of an audit query, P99", ((quantile(0.99, "scribe_audit_query_seconds"), "P99"),), "s"),
            PanelRow("Worst delay of the event loop", by_node("scribe_loop_lag_seconds"), "s"),
            PanelRow(
                "Log lines, and telemetry that failed",
                (
                    (rate("scribe_log_lines_total", "level"), "{{level}}"),
                    (rate("scribe_log_write_errors_total", "instance, sink"), "not written {{instance}} {{sink}}"),
                    (rate("scribe_trace_export_failures_total", "instance"), "traces not exported {{instance}}"),
                ),
            ),
            PanelRow("Time up", ((f"time() - scribe_start_time_seconds{NODES}", "{{instance}}"),), "s", 4, kind="stat"),
            PanelRow("Versions", ((f"scribe_build_info{NODES}", "{{node_id}}: {{version}}"),), width=4, kind="names"),
        ),
    ),
    ("Logs", (PanelRow("Warnings and errors", (("log.level:(warning OR error)", ""),), width=24, kind="logs"),)),
)


def placed(height: int = 8) -> Iterator[tuple[str | PanelRow, GridPos]]:
    """Every section heading and panel with its place on the grid."""
    y = 0
    for title, rows in SECTIONS:
        yield title, GridPos(h=1, w=COLUMNS, x=0, y=y)
        x, y = 0, y + 1
        for row in rows:
            if x + row.width > COLUMNS:
                x, y = 0, y + height
            yield row, GridPos(h=height, w=row.width, x=x, y=y)
            x += row.width
        y += height


def prometheus_query(expr: str, legend: str, ref_id: str, *, instant: bool) -> prometheus.Dataquery:
    """One target of a panel."""
    query = prometheus.Dataquery().datasource(PROMETHEUS).expr(expr).legend_format(legend).ref_id(ref_id)
    return query.instant() if instant else query.range().exemplar(False)


def make_panel(row: PanelRow, number: int, place: GridPos) -> timeseries.Panel | stat.Panel | logs.Panel:
    """Make the panel of a row."""
    if row.kind == "logs":
        query = elasticsearch.Dataquery().ref_id("A").query(row.queries[0][0]).metrics([elasticsearch.Logs().id("1")])
        made = (
            logs.Panel().datasource(ELASTICSEARCH).with_target(query.datasource(ELASTICSEARCH).time_field("@timestamp"))
        )
        return made.id(number).title(row.title).grid_pos(place).show_time(True).wrap_log_message(True)
    panel: timeseries.Panel | stat.Panel
    if row.kind in ("stat", "names"):
        panel = stat.Panel().reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        panel = panel.text_mode(BigValueTextMode.NAME if row.kind == "names" else BigValueTextMode.AUTO)
        if row.limits:
            steps = [Threshold(value=value, color=color) for value, color in row.limits]
            panel = panel.thresholds(dashboard.ThresholdsConfig().steps(steps))
    else:
        legend = common.VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM)
        tooltip = common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI)
        panel = timeseries.Panel().legend(legend.show_legend(True)).tooltip(tooltip).fill_opacity(8).line_width(1)
        panel = panel.min(0)
    panel = (
        panel.id(number).title(row.title).description(row.help).unit(row.unit).grid_pos(place).datasource(PROMETHEUS)
    )
    for letter, (expr, name) in zip("ABCDEFGH", row.queries, strict=False):
        panel = panel.with_target(prometheus_query(expr, name, letter, instant=row.kind != "timeseries"))
    return panel


def build() -> str:
    """The dashboard as JSON, classic schema, with a line end."""
    nodes = (
        dashboard.QueryVariable("instance")
        .label("Node")
        .datasource(PROMETHEUS)
        .query({"query": 'label_values(up{job="scribe-ledger"}, instance)', "refId": "instance"})
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".+")
    )
    leaders = (
        dashboard.AnnotationQuery()
        .name("Changes of leader")
        .datasource(PROMETHEUS)
        .enable(True)
        .icon_color("orange")
        .expr('sum(changes(scribe_raft_leader{job="scribe-ledger"}[1m])) > 0')
        .step("30s")
        .title_format("Another leader")
    )
    made = (
        dashboard.Dashboard("Scribe Ledger")
        .uid("scribe-ledger")
        .description("Made by `appliance render` from grafana/build.py; change that and render again.")
        .tags(["scribe-ledger"])
        .time("now-1h", "now")
        .timezone("browser")
        .refresh("15s")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(nodes)
        .annotation(leaders)
    )
    for number, (row, place) in enumerate(placed(), start=1):
        if isinstance(row, str):
            made = made.with_row(dashboard.Row(row).id(number).grid_pos(place))
        else:
            made = made.with_panel(make_panel(row, number, place))
    return json.dumps(json.loads(JSONEncoder(sort_keys=True).encode(made.build())), indent=2, sort_keys=True) + "\n"
