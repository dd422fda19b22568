"""The one table of alerts, and of the series recorded for them.

The rule files of Prometheus and `docs/ALERTS.md` are rendered from it; each alert has a firing and a silent case
under `prometheus/tests`. Names, thresholds and durations of the first five are the runbook's, except where the
reason for another expression stands beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

JOB: Final = "scribe-ledger"
SCRUB_AGE_S_MAX: Final = 14 * 86_400
_J: Final = f'{{job="{JOB}"}}'


class Severity(StrEnum):
    """How soon somebody has to look; Alertmanager routes and inhibits by it."""

    CRITICAL = "critical"  # now: the ledger does not serve, or is one fault away from it
    WARNING = "warning"  # today
    INFO = "info"  # worth knowing
    NONE = "none"  # for machines only


@dataclass(frozen=True, slots=True)
class RecordRow:
    """A recording rule: `name` holds the outcome of `expr`; `help` says what it is, with its unit."""

    name: str
    expr: str
    help: str


@dataclass(frozen=True, slots=True)
class AlertRow:
    """One alert.

    Attributes:
        name: its name in Prometheus.
        expr: PromQL; the alert holds for each series of its outcome.
        for_s: seconds that it must hold before it fires.
        severity: how soon somebody has to look.
        summary: what is wrong, in a few words.
        description: the same with the figures, in Prometheus' template language.
        action: what to do first, for `docs/ALERTS.md`.
        procedure: heading of the operations runbook that goes on from there.
    """

    name: str
    expr: str
    for_s: int
    severity: Severity
    summary: str
    description: str
    action: str
    procedure: str


RECORDS: Final[tuple[RecordRow, ...]] = (
    RecordRow(
        "instance:scribe_request_latency_seconds:p99_5m",
        f"histogram_quantile(0.99, sum by (job, instance, le) (rate(scribe_request_latency_seconds_bucket{_J}[5m])))",
        "99th percentile of the time to answer, by node, in seconds",
    ),
    RecordRow(
        "scribe_request_latency_p99",
        "1000 * instance:scribe_request_latency_seconds:p99_5m",
        "the same in milliseconds, under the runbook's name",
    ),
)

# With every node down `up == 1` selects nothing and a count of it is empty, not 0; with the targets gone `up` is
# empty too. So: the sum, or 0. The number of voters comes from a node that is up, else from the last day, else it is
# the number of targets.
_NODES_UP: Final = f"(sum by (job) (up{_J}) or absent(up{_J}) - 1)"
_VOTERS: Final = (
    f"(max by (job) (scribe_raft_voters{_J})"
    f" or max by (job) (last_over_time(scribe_raft_voters{_J}[1d]))"
    f" or count by (job) (up{_J}) or absent(up{_J}))"
)


def _p99(histogram: str) -> str:
    return f"histogram_quantile(0.99, sum by (job, instance, le) (rate({histogram}_bucket{_J}[5m])))"


ALERTS: Final[Mapping[str, AlertRow]] = {
    row.name: row
    for row in (
        AlertRow(
            "HighLatency",
            "scribe_request_latency_p99 > 1000",
            300,
            Severity.WARNING,
            "High latency detected",
            "P99 latency of {{ $labels.instance }} is {{ $value | humanize }}ms",
            "Compare `scribe_raft_fsync_seconds` (a slow disk), `scribe_loop_lag_seconds` (a busy process) and "
            "`scribe_raft_commit_seconds` (a slow majority) on the dashboard.",
            "High Latency",
        ),
        AlertRow(
            "HighErrorRate",
            # Summed over the error codes: the runbook's series has no such label.
            f"sum by (job, instance) (rate(scribe_errors_total{_J}[5m])) > 0.1",
            120,
            Severity.CRITICAL,
            "High error rate",
            "Error rate of {{ $labels.instance }}: {{ $value | humanize }}/sec",
            "See which code it is: `sum by (code) (rate(scribe_errors_total[5m]))`. `no_quorum` and `no_leader` mean "
            "other nodes, `disk_full` and `overloaded` this one.",
            "Incident Response",
        ),
        AlertRow(
            "NodeDown",
            f"up{_J} == 0",
            60,
            Severity.CRITICAL,
            "Node is down",
            "{{ $labels.instance }} is not responding",
            "`appliance ps` and `appliance logs` of that node; start it again. It catches up by itself.",
            "Node Failure",
        ),
        AlertRow(
            "ClusterQuorumLost",
            f"{_NODES_UP}\n< on (job)\nfloor({_VOTERS} / 2) + 1",
            60,
            Severity.CRITICAL,
            "Cluster quorum lost",
            "Only {{ $value }} nodes available: less than a majority, writes are refused",
            "Start the missing nodes; acknowledged writes are on the disks of a majority. Only when those disks are "
            "lost: `appliance cluster recover` on the node that holds most, which says what may be lost with them.",
            "Cluster Quorum Lost",
        ),
        AlertRow(
            "StorageNearFull",
            f"scribe_storage_keys_total{_J} > 0.9 * scribe_storage_capacity_keys{_J}",
            600,
            Severity.WARNING,
            "Storage approaching capacity",
            "{{ $value }} keys stored on {{ $labels.instance }}: more than nine tenths of capacity_keys",
            "Raise `[storage] capacity_keys` when memory and disk allow it, else retire keys.",
            "Capacity Planning",
        ),
        AlertRow(
            "NodeUnhealthy",
            f"scribe_node_health{_J} < 1",
            120,
            Severity.WARNING,
            "Node cannot serve",
            "{{ $labels.instance }} answers, but cannot serve linearizable reads",
            "`curl http://NODE/health` names the reasons.",
            "Node Failure",
        ),
        AlertRow(
            "NoLeader",
            f"max by (job) (scribe_raft_has_leader{_J}) < 1",
            60,
            Severity.CRITICAL,
            "The cluster has no leader",
            "No node that answers knows a leader",
            "`/health` of each node says what it waits for. Check that the nodes reach each other's peer ports, and "
            "that their clocks and certificates are valid.",
            "Cluster Quorum Lost",
        ),
        AlertRow(
            "WritesPaused",
            f"max by (job) (scribe_writes_paused{_J}) == 1",
            1800,
            Severity.WARNING,
            "Writes are paused",
            "Writes have been paused for half an hour: a backup that hangs, or was forgotten",
            "`appliance writes resume` when no backup is under way. A pause ends by itself when its time is over.",
            "Backup and Restore",
        ),
        AlertRow(
            "LedgerIntegrity",
            f"max by (job, instance, alarm) (scribe_integrity_alarm{_J}) == 1",
            0,
            Severity.CRITICAL,
            "The ledger is not what it was",
            "{{ $labels.instance }} has found its data wrong: {{ $labels.alarm }}",
            "The event `ledger.integrity` in that node's log says what it found. `proof_failed` and `storage_rotten`: "
            "its disk; `diverged`: its state. Keep a copy of its data directory, and resync it from the others. "
            "`divergence_seen`: no majority agrees; pause writes, and compare the nodes. `fork_seen`: a witness has "
            "cosigned what this log does not continue. Was the log set back under its old key? Keep the witness's "
            "state file: it holds what the log signed.",
            "Incident Response",
        ),
        AlertRow(
            "WitnessStale",
            # The maximum: a node that has just started does not know of cosignatures that newer ones have replaced.
            f"time() - max by (job, witness) (scribe_witness_cosigned_time_seconds{_J}) > 600\n"
            f"and on (job)\nmax by (job) (scribe_merkle_published_size{_J}) > 0\n"
            f"unless on (job)\nmax by (job) (scribe_writes_paused{_J}) == 1",
            300,
            Severity.WARNING,
            "A witness does not cosign",
            "The witness {{ $labels.witness }} has cosigned nothing for a quarter of an hour",
            "`scribe_witness_failures_total` says how it fails, the leader's event `witness.failed` why. Checkpoints "
            "are published without it; clients that insist on its cosignature go on with older ones, or stop.",
            "Incident Response",
        ),
        AlertRow(
            "LeaderChangesFrequent",
            f"max by (job) (increase(scribe_raft_leader_changes_total{_J}[15m])) > 3",
            0,
            Severity.WARNING,
            "Leadership changes often",
            "{{ $value | humanize }} changes of leader in 15 minutes",
            "Look for slow disks, paused machines and a lossy network; raise `[consensus] election_timeout` when the "
            "network is slow for good.",
            "Optimize Consensus Parameters",
        ),
        AlertRow(
            "SlowFsync",
            f"{_p99('scribe_raft_fsync_seconds')} > 0.5",
            600,
            Severity.WARNING,
            "The disk is slow",
            "P99 of making the log durable on {{ $labels.instance }} is {{ $value | humanizeDuration }}",
            "Something else uses the disk, or it fails. A leader on a slow disk slows every write: "
            "move leadership to another node.",
            "High Latency",
        ),
        AlertRow(
            "CommitStalled",
            f"sum by (job) (max_over_time(scribe_raft_proposals_pending{_J}[2m])) > 0\n"
            f"and on (job)\nmax by (job) (changes(scribe_raft_commit_index{_J}[2m])) == 0",
            120,
            Severity.CRITICAL,
            "Writes wait and nothing is committed",
            "{{ $value }} proposals wait, and the commit index has not moved",
            "Check that a majority is up and that the leader reaches it; see `scribe_raft_peer_lag_entries`.",
            "Cluster Quorum Lost",
        ),
        AlertRow(
            "FollowerLagging",
            f"scribe_raft_peer_lag_entries{_J} > 10000",
            300,
            Severity.WARNING,
            "A follower lags",
            "Node {{ $labels.peer }} lacks {{ $value }} entries that its leader {{ $labels.instance }} has",
            "A node that was down catches up by itself; one that stays behind has a slow disk or link.",
            "Node Failure",
        ),
        AlertRow(
            "ClockOff",
            f"abs(scribe_clock_offset_seconds{_J}) > 2",
            120,
            Severity.WARNING,
            "Clock off",
            "The clock of {{ $labels.instance }} is {{ $value | humanizeDuration }} from those of its peers",
            "Mend time synchronisation there (`chronyc tracking`). Beyond 5 s the node gives leadership away.",
            "Node Failure",
        ),
        AlertRow(
            "DiskNearlyFull",
            f"scribe_disk_free_bytes{_J} / scribe_disk_size_bytes{_J} < 0.1",
            300,
            Severity.WARNING,
            "Disk nearly full",
            "{{ $value | humanizePercentage }} of the disk of {{ $labels.instance }} is free",
            "`appliance compact` frees what the Raft log no longer needs; then give the disk more room.",
            "Database Compaction",
        ),
        AlertRow(
            "DataSetAside",
            f"scribe_storage_set_aside{_J} > 0",
            0,
            Severity.WARNING,
            "Damaged data were set aside",
            "{{ $labels.instance }} keeps {{ $value }} directories of data that it found damaged and got again",
            "See `damaged-*/reason.txt` in its data directory, and look at the disk and the memory of that machine; "
            "then remove these directories.",
            "Data Corruption",
        ),
        AlertRow(
            "ScrubOverdue",
            f"time() - (scribe_scrub_last_completed_seconds{_J} > 0"
            f" or on (job, instance) scribe_start_time_seconds{_J}) > {SCRUB_AGE_S_MAX}\n"
            f"and on (job, instance)\nscribe_scrub_rate_bytes{_J} > 0",
            0,
            Severity.WARNING,
            "Stored data were not read back for long",
            "{{ $labels.instance }} has not read all that it stores back for {{ $value | humanizeDuration }}, so that "
            "what has rotted there would not be known",
            "`GET /metrics` shows how far the pass is. It takes too long at its rate: raise `[storage] scrub_rate`, or "
            "run `appliance scrub` when the node has little to do.",
            "Data Corruption",
        ),
        AlertRow(
            "RequestRateDropped",
            f"sum by (job) (rate(scribe_ops_total{_J}[10m]))\n"
            f"< 0.5 * sum by (job) (rate(scribe_ops_total{_J}[10m] offset 1h))\n"
            f"and on (job)\nsum by (job) (rate(scribe_ops_total{_J}[10m] offset 1h)) > 10",
            600,
            Severity.INFO,
            "Request rate has halved",
            "{{ $value | humanize }} requests a second: less than half of an hour ago",
            "Clients that stopped, or cannot reach the nodes; when no other alert fires the ledger is well.",
            "Monitoring and Alerting",
        ),
        AlertRow(
            "Watchdog",
            "vector(1)",
            0,
            Severity.NONE,
            "Alerting works",
            "Always fires. When it does not arrive, Prometheus or Alertmanager does not work",
            "Have a receiver outside of this machine that raises an alarm when this one stops arriving.",
            "Monitoring and Alerting",
        ),
    )
}
