"""The one table of metrics: name, kind, unit, labels, meaning. Exposition, dashboards and docs are held to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """Prometheus metric type."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class MetricRow:
    """One metric. `name` is what Prometheus sees; `buckets` are a histogram's upper bounds in `unit`."""

    name: str
    kind: Kind
    unit: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


REQUEST_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
DISK_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
COUNT_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

_C, _G, _H = Kind.COUNTER, Kind.GAUGE, Kind.HISTOGRAM

METRICS: Mapping[str, MetricRow] = {
    row.name: row
    for row in (
        # The runbook's names. scribe_request_latency_p99 is a recording rule over the histogram.
        MetricRow(
            "scribe_ops_total", _C, "requests", "Requests answered, by operation and status class", ("op", "status")
        ),
        MetricRow("scribe_errors_total", _C, "requests", "Answers of 5xx, by error code", ("code",)),
        MetricRow("scribe_storage_keys_total", _G, "keys", "Keys present (a gauge; the name is the runbook's)"),
        MetricRow("scribe_raft_term", _G, "terms", "Current term"),
        MetricRow("scribe_node_health", _G, "", "1 when the node can serve linearizable reads, else 0"),
        MetricRow("scribe_request_latency_seconds", _H, "s", "Time to answer a request", ("op",), REQUEST_BUCKETS),
        MetricRow("scribe_writes_paused", _G, "", "1 while an operator has paused writes, else 0"),
        MetricRow(
            "scribe_clock_offset_seconds",
            _G,
            "s",
            "How far this clock is ahead of the median of its peers', negative: behind",
        ),
        # Storage
        MetricRow("scribe_storage_capacity_keys", _G, "keys", "Keys that the node is sized for"),
        MetricRow("scribe_storage_bytes", _G, "bytes", "Bytes on disk, by part", ("part",)),
        MetricRow(
            "scribe_storage_pending_bytes", _G, "bytes", "Applied changes that wait to be written to the ledger file"
        ),
        MetricRow(
            "scribe_storage_flush_seconds", _H, "s", "Time to write one bulk of applied changes", (), DISK_BUCKETS
        ),
        MetricRow(
            "scribe_storage_set_aside",
            _G,
            "directories",
            "Directories with damaged data that were set aside and are kept",
        ),
        MetricRow("scribe_disk_free_bytes", _G, "bytes", "Free bytes on the file system of the data directory"),
        MetricRow("scribe_disk_size_bytes", _G, "bytes", "Size of the file system of the data directory"),
        # Raft
        MetricRow("scribe_raft_leader", _G, "", "1 on the leader, else 0"),
        MetricRow("scribe_raft_has_leader", _G, "", "1 when this node knows a leader, else 0"),
        MetricRow("scribe_raft_voters", _G, "nodes", "Voters in this node's configuration"),
        MetricRow("scribe_raft_commit_index", _G, "entries", "Commit index"),
        MetricRow("scribe_raft_applied_index", _G, "entries", "Applied index"),
        MetricRow("scribe_raft_last_index", _G, "entries", "Index of the last log entry"),
        MetricRow("scribe_raft_durable_index", _G, "entries", "Applied index that the ledger file has made durable"),
        MetricRow("scribe_raft_snapshot_index", _G, "entries", "Index up to which the log is compacted"),
        MetricRow("scribe_raft_leader_changes_total", _C, "changes", "Times this node saw another leader"),
        MetricRow("scribe_raft_elections_total", _C, "elections", "Elections this node started"),
        MetricRow("scribe_raft_proposals_total", _C, "proposals", "Proposals by what became of them", ("outcome",)),
        MetricRow("scribe_raft_proposals_pending", _G, "proposals", "Proposals waiting for their commit"),
        MetricRow("scribe_raft_append_batch_entries", _H, "entries", "Entries in one durable write", (), COUNT_BUCKETS),
        MetricRow("scribe_raft_fsync_seconds", _H, "s", "Time to make one batch of the log durable", (), DISK_BUCKETS),
        MetricRow("scribe_raft_commit_seconds", _H, "s", "Time from proposal to commit", (), REQUEST_BUCKETS),
        MetricRow(
            "scribe_raft_peer_lag_entries", _G, "entries", "On the leader: entries that a peer still lacks", ("peer",)
        ),
        MetricRow(
            "scribe_raft_snapshots_total",
            _C,
            "snapshots",
            "Snapshots by direction and outcome",
            ("direction", "outcome"),
        ),
        MetricRow(
            "scribe_peer_messages_dropped_total",
            _C,
            "messages",
            "Messages to peers dropped for want of room or link",
            ("peer",),
        ),
        MetricRow("scribe_peer_refused_total", _C, "connections", "Peer connections refused, by reason", ("reason",)),
        # Ledger
        MetricRow("scribe_merkle_tree_size", _G, "leaves", "Leaves in the Merkle tree"),
        MetricRow("scribe_merkle_published_size", _G, "leaves", "Leaves in the tree that was published last"),
        MetricRow("scribe_integrity_alarm", _G, "", "1 while the node has found its data wrong, by alarm", ("alarm",)),
        MetricRow(
            "scribe_verification_failures_total", _C, "findings", "Times the node found its data wrong", ("alarm",)
        ),
        MetricRow(
            "scribe_witness_cosigned_size",
            _G,
            "leaves",
            "Leaves in the last tree that a witness cosigned",
            ("witness",),
        ),
        MetricRow(
            "scribe_witness_cosigned_time_seconds",
            _G,
            "s",
            "Unix time of its last cosignature, 0 while none is known",
            ("witness",),
        ),
        MetricRow(
            "scribe_witness_failures_total",
            _C,
            "submissions",
            "On the leader: checkpoints that a witness did not cosign, by reason",
            ("witness", "reason"),
        ),
        MetricRow("scribe_scrub_progress", _G, "", "Share of the scrub under way that is done; 1 while there is none"),
        MetricRow("scribe_scrub_findings", _G, "findings", "What that scrub, or the last one, found rotten"),
        MetricRow("scribe_scrub_bytes_total", _C, "bytes", "Bytes that scrubs have read back"),
        MetricRow("scribe_scrub_rate_bytes", _G, "bytes", "Bytes a second that scrubs may read; 0: none run"),
        MetricRow(
            "scribe_scrub_last_completed_seconds", _G, "s", "Unix time at which a scrub was completed last; 0 before"
        ),
        MetricRow("scribe_scrub_last_duration_seconds", _G, "s", "How long the last completed scrub took"),
        MetricRow("scribe_compaction_running", _G, "", "1 while an operator's compaction of this node is under way"),
        MetricRow("scribe_compaction_entries_left", _G, "entries", "Log entries that it has still to drop"),
        MetricRow("scribe_compaction_bytes_left", _G, "bytes", "Free room in the file that it is shortening"),
        MetricRow("scribe_compaction_freed_bytes", _G, "bytes", "Bytes that the last one gave back"),
        MetricRow("scribe_compaction_last_seconds", _G, "s", "How long the last one took"),
        MetricRow("scribe_compactions_total", _C, "compactions", "Compactions that operators asked for", ("outcome",)),
        MetricRow("scribe_idempotency_keys", _G, "keys", "Idempotency keys held"),
        # Gateway
        MetricRow("scribe_rate_limited_total", _C, "requests", "Requests refused by the rate limit"),
        MetricRow("scribe_auth_failures_total", _C, "requests", "Requests refused for their credentials", ("reason",)),
        MetricRow("scribe_audit_queries_total", _C, "queries", "Audit queries by outcome", ("outcome",)),
        MetricRow("scribe_audit_query_seconds", _H, "s", "Time of an audit query", (), REQUEST_BUCKETS),
        # Process
        MetricRow("scribe_loop_lag_seconds", _G, "s", "Worst delay of the event loop in the last ten seconds"),
        MetricRow("scribe_start_time_seconds", _G, "s", "Unix time at which the node started"),
        MetricRow("scribe_build_info", _G, "", "1, with the version", ("version", "node_id")),
        MetricRow("scribe_log_lines_total", _C, "lines", "Log lines written, by level", ("level",)),
        MetricRow("scribe_log_write_errors_total", _C, "lines", "Log lines that a sink did not take", ("sink",)),
        MetricRow("scribe_trace_export_failures_total", _C, "batches", "Batches of spans that no collector took"),
    )
}
