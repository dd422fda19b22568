"""The one table of log events: name, level, message, fields. Log lines, Filebeat's fields and docs are held to it.

The name of an event is its ECS `event.action`; the part before the dot names its dataset. A field is written
as `scribe.<field>`. The fields of `COMMON_FIELDS` may stand on any event and become ECS fields of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How loud an event is, quietest first."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class EventRow:
    """One kind of log line.

    Attributes:
        name: dotted name, stable; searches and alerts rely on it.
        level: the only level at which it is logged.
        message: what a person reads; `{field}` stands for a field's value.
        fields: names of the fields that it may carry.
    """

    name: str
    level: Level
    message: str
    fields: tuple[str, ...] = ()


COMMON_FIELDS: Mapping[str, str] = {
    "traceparent": "trace.id and span.id",
    "request_id": "http.request.id",
    "error": "error.type, error.message and, for an exception, error.stack_trace",
}

_D, _I, _W, _E = Level.DEBUG, Level.INFO, Level.WARNING, Level.ERROR

EVENTS: Mapping[str, EventRow] = {
    row.name: row
    for row in (
        # Ledger
        EventRow("ledger.integrity", _E, "{alarm}: {reason}", ("alarm", "reason")),
        EventRow("witness.failed", _W, "Witness {witness} did not cosign: {reason}", ("witness", "failure", "reason")),
        EventRow(
            "witness.cosigns",
            _I,
            "Witness {witness} cosigns again, after {failures} times",
            ("witness", "failures"),
        ),
        # Node
        EventRow("node.starting", _I, "Node {node_id} starts, version {version}", ("node_id", "version", "data_dir")),
        EventRow("node.started", _I, "Node {node_id} is up", ("node_id", "cluster_id", "address", "raft_address")),
        EventRow("node.reloaded", _I, "The configuration is read again: {applied}", ("applied",)),
        EventRow(
            "node.replaced", _W, "The data directory was replaced, so this node is a new one: {reason}", ("reason",)
        ),
        EventRow(
            "node.set_back",
            _W,
            "The data directory was set back to an earlier state, so this node is a new one: node {told_by} knows that "
            "it was in term {term} and held entry {index}",
            ("told_by", "term", "index"),
        ),
        EventRow(
            "node.set_aside",
            _E,
            "This node's data cannot be used, are kept in {kept}, and come from the others again: {reason}",
            ("reason", "kept"),
        ),
        EventRow(
            "node.ledger_set_aside",
            _E,
            "The ledger file cannot be used, is kept in {kept}, and is made again from the log: {reason}",
            ("reason", "kept"),
        ),
        EventRow("node.lost", _W, "This directory has held data of its cluster and holds none, so it founds nothing"),
        EventRow(
            "node.standing_failed", _W, "What is worth knowing beside raft.db was not noted: {reason}", ("reason",)
        ),
        EventRow("node.reload_failed", _E, "The configuration stays as it was: {reason}", ("reason",)),
        EventRow(
            "node.resyncing",
            _W,
            "Node {node_id} gives up its data, as an operator has asked for, and is to be started again",
            ("node_id",),
        ),
        EventRow("node.stopping", _I, "Node {node_id} stops: {reason}", ("node_id", "reason")),
        EventRow("node.stopped", _I, "Node {node_id} has stopped", ("node_id",)),
        EventRow("node.failed", _E, "The node cannot go on: {reason}", ("node_id", "reason")),
        EventRow("node.task_failed", _E, "The task {task} failed", ("task",)),
        EventRow("node.loop_lag", _W, "The event loop was held up for {lag_s} s", ("lag_s",)),
        # Cluster
        EventRow("cluster.founded", _I, "Cluster {cluster_id} is founded", ("cluster_id", "members")),
        EventRow("cluster.founding_refused", _W, "The cluster cannot be founded: {reason}", ("reason",)),
        EventRow("cluster.seeking", _I, "Asks {seeds} which cluster this node is to join", ("seeds",)),
        EventRow("cluster.found", _I, "Node {peer} says that it is cluster {cluster_id}", ("peer", "cluster_id")),
        EventRow("cluster.joined", _I, "This node takes part in cluster {cluster_id}", ("cluster_id",)),
        EventRow(
            "cluster.members",
            _I,
            "From entry {index} on the voters are {voters} and the learners {learners}",
            ("index", "voters", "learners"),
        ),
        EventRow(
            "cluster.removed",
            _W,
            "Node {told_by} says that this node was removed from the cluster by entry {index}",
            ("told_by", "index"),
        ),
        EventRow(
            "cluster.left_behind",
            _E,
            "Node {peer} is of a cluster that was recovered without what this node holds, up to entry {last_index}",
            ("peer", "last_index"),
        ),
        EventRow(
            "cluster.forked",
            _E,
            "Node {peer} and this one were each made the only voter: one of them has to be cleared",
            ("peer",),
        ),
        # Raft
        EventRow("raft.election", _I, "Node {node_id} campaigns in term {term}", ("node_id", "term", "reason")),
        EventRow("raft.leader", _I, "Node {leader_id} leads in term {term}", ("leader_id", "term")),
        EventRow("raft.no_leader", _W, "No leader is known in term {term}", ("term",)),
        # Storage
        EventRow("storage.flush_slow", _W, "Writing applied changes took {seconds} s", ("seconds", "entries")),
        EventRow("storage.fsync_slow", _W, "Making the log durable took {seconds} s", ("seconds", "entries")),
        EventRow("storage.disk_full", _E, "The disk is full: {free_bytes} bytes are free", ("free_bytes",)),
        EventRow("clock.off", _E, "The clock is {offset_s} s ahead of the peers': this node gives way", ("offset_s",)),
        EventRow("clock.right", _I, "The clock agrees with the peers' again: {offset_s} s", ("offset_s",)),
        EventRow("storage.room_again", _I, "There is room on the disk again: {free_bytes} bytes", ("free_bytes",)),
        EventRow(
            "storage.scrubbed",
            _I,
            "All that is stored was read back in {seconds} s, {findings} findings",
            ("seconds", "bytes", "findings"),
        ),
        EventRow(
            "node.compacted",
            _I,
            "The node is compacted up to index {index}: {entries} entries dropped, {freed_bytes} bytes given back",
            ("index", "entries", "freed_bytes", "seconds"),
        ),
        EventRow("node.compaction_failed", _W, "The node was not compacted to the end: {reason}", ("reason",)),
        EventRow("raft.compacted", _I, "The log is compacted up to index {index}", ("index", "term")),
        # Snapshots
        EventRow("snapshot.sending", _I, "A snapshot goes to node {peer}", ("peer", "index", "bytes")),
        EventRow(
            "snapshot.resumed",
            _I,
            "Node {peer} has {offset} of {bytes} bytes of the snapshot already",
            ("peer", "index", "offset", "bytes"),
        ),
        EventRow(
            "snapshot.no_room", _W, "There is no room for a snapshot for node {peer}: {reason}", ("peer", "reason")
        ),
        EventRow("snapshot.sent", _I, "Node {peer} has the snapshot", ("peer", "index")),
        EventRow("snapshot.send_failed", _W, "The snapshot did not reach node {peer}", ("peer", "index", "reason")),
        EventRow("snapshot.received", _I, "Node {peer} has sent a snapshot at {index}", ("peer", "index")),
        EventRow(
            "snapshot.receive_failed", _W, "A snapshot of node {peer} did not arrive: {reason}", ("peer", "reason")
        ),
        EventRow("snapshot.installed", _I, "A snapshot is installed at index {index}", ("index", "term")),
        EventRow(
            "snapshot.install_finished", _I, "An interrupted install is finished at index {index}", ("index", "term")
        ),
        EventRow(
            "snapshot.install_dropped",
            _E,
            "An interrupted install at index {index} is dropped, and the node stays at {applied_index}: {reason}",
            ("index", "applied_index", "reason"),
        ),
        EventRow("snapshot.refused", _E, "A snapshot cannot be installed", ("index",)),
        # Peers
        EventRow("peer.listening", _I, "Peers may connect to {address}", ("address", "auth")),
        EventRow("peer.connected", _I, "Node {peer} is connected", ("peer", "address", "version", "direction")),
        EventRow("peer.lost", _W, "Node {peer} is lost: {reason}", ("peer", "address", "reason")),
        EventRow("peer.unreachable", _W, "{address} cannot be reached: {reason}", ("peer", "address", "reason")),
        EventRow(
            "peer.refused", _W, "A peer was refused: {reason}", ("peer", "address", "reason", "detail", "by_peer")
        ),
        EventRow(
            "peer.bad_message", _W, "Node {peer} sent what cannot be read: {reason}", ("peer", "reason", "detail")
        ),
        EventRow(
            "peer.message_too_large", _E, "A {kind} for node {peer} fits no frame", ("peer", "kind", "size_bytes")
        ),
        EventRow("peer.handshake_lost", _D, "{address} left during the handshake", ("address", "reason")),
        EventRow("peer.accept_failed", _E, "A connection of a peer could not be accepted: {reason}", ("reason",)),
        EventRow("peer.write_failed", _E, "A forwarded write failed by an error of this program"),
        EventRow("peer.call_failed", _E, "The call {name} of a peer failed by an error of this program", ("name",)),
        # HTTP
        EventRow("http.started", _I, "HTTP answers on {address}", ("address", "tls")),
        EventRow("http.stopped", _I, "HTTP has stopped", ("address",)),
        EventRow("http.error", _E, "{method} {route} failed with {code}", ("method", "route", "status", "code")),
        EventRow("http.slow", _W, "{method} {route} was slow: {seconds} s", ("method", "route", "status", "seconds")),
        EventRow("http.auth_failed", _W, "A request was refused: {reason}", ("reason", "address", "actor", "route")),
        # Audit
        EventRow("audit.query", _I, "An audit query ended with {outcome}", ("sql", "outcome", "rows", "seconds")),
        EventRow("audit.query_failed", _W, "An audit query failed with {outcome}", ("outcome", "seconds", "detail")),
        EventRow("audit.sealed", _I, "Audit segment {segment} is sealed", ("segment", "rows", "size_bytes")),
        EventRow("audit.segment_rebuilt", _W, "Audit segment {segment} is damaged and is rebuilt", ("segment",)),
        EventRow("audit.worker_failed", _W, "An audit worker ended with {exit_code}", ("exit_code", "detail")),
        # Configuration and telemetry
        EventRow("log.file_failed", _W, "The log file cannot be written: {reason}", ("path", "reason")),
        EventRow("log.python", _I, "{text}", ("text", "logger")),
        EventRow("trace.export_failed", _W, "Traces cannot be exported to {endpoint}", ("endpoint",)),
        EventRow(
            "trace.export_resumed",
            _I,
            "Traces are exported again, {failures} batches were lost",
            ("endpoint", "failures"),
        ),
    )
}
