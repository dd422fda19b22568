"""The one table of settings: names, types, units, defaults and bounds, as types.

Each field's `Meta` is its row: description, bounds, unit. `docs/CONFIGURATION.md` is rendered from it,
`appliance.adapters.config` reads files and the environment against it. Names follow the runbook;
units end a name or stand in the row.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct, field

MIB = 1024 * 1024


def row(text: str, *, unit: str = "", reload: bool = False, **bounds: Any) -> Meta:
    """Make the row of one setting; `reload` marks what SIGHUP applies without a restart."""
    return Meta(description=text, extra={"unit": unit, "reload": reload}, **bounds)


class Section(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A section of the configuration file; a key that it does not know stops the start."""


class NodeSettings(Section, frozen=True):
    """`[node]`: who this node is."""

    id: Annotated[int, row("Number of this node, unique in the cluster, never used again", ge=1, le=65535)]
    address: Annotated[
        str,
        row(
            "Client address that other nodes and the CLI use, host:port; empty means host and client_port of [network]"
        ),
    ] = ""
    data_dir: Annotated[str, row("Directory that holds everything this node stores", min_length=1)] = (
        "/var/lib/scribe-ledger"
    )
    cluster_id: Annotated[
        str,
        row(
            "Id of the cluster, minted by `appliance up` or `init`, without which nobody founds one; a node that joins "
            "learns it from its seeds",
            pattern="^([0-9a-f]{32})?$",
        ),
    ] = ""


class NetworkSettings(Section, frozen=True):
    """`[network]`: where the node listens and whom it knows."""

    client_host: Annotated[str, row("Address that the client port is bound to", min_length=1)] = "127.0.0.1"
    client_port: Annotated[int, row("Port of the HTTP API", ge=1, le=65535)] = 8001
    raft_host: Annotated[str, row("Address that the peer port is bound to", min_length=1)] = "127.0.0.1"
    raft_port: Annotated[int, row("Port for the other nodes", ge=1, le=65535)] = 9001
    raft_address: Annotated[
        str, row("Peer address that other nodes use, host:port; empty means raft_host and raft_port")
    ] = ""
    seed_peers: Annotated[
        list[str],
        row(
            "Peer addresses of the founding nodes, spelled as they announce them (raft_address); only a node that is "
            "among its own seeds founds a cluster, another joins that of its seeds",
            max_length=64,
        ),
    ] = field(default_factory=list)
    peer_auth: Annotated[
        str,
        row(
            "How nodes prove themselves: `tls` (certificates of the cluster's CA) or `secret` (loopback only)",
            pattern="^(tls|secret)$",
        ),
    ] = "tls"
    behind_gateway: Annotated[
        bool,
        row("The client port may leave loopback without TLS: only a gateway or a container network reaches it"),
    ] = False


class StorageSettings(Section, frozen=True):
    """`[storage]`: memory and room."""

    max_cache_size: Annotated[int, row("Memory for recently used keys and values", unit="bytes", ge=MIB, le=2**40)] = (
        256 * MIB
    )
    capacity_keys: Annotated[
        int,
        row(
            "Number of keys that the node is sized for; StorageNearFull warns at nine tenths",
            unit="keys",
            ge=1,
            le=2**40,
        ),
    ] = 1_000_000
    max_value_size: Annotated[int, row("Largest value", unit="bytes", ge=1, le=64 * MIB)] = MIB
    compact_log_entries: Annotated[
        int,
        row(
            "Entries of the Raft log above which those that every live node and the ledger file hold are dropped",
            unit="entries",
            ge=1_000,
            le=2**31,
        ),
    ] = 100_000
    keep_log_entries: Annotated[
        int,
        row(
            "Entries kept behind a compaction, so that a node that lags a little needs no snapshot",
            unit="entries",
            ge=0,
            le=2**31,
        ),
    ] = 20_000
    flush_interval: Annotated[
        float,
        row(
            "How long applied entries may wait in memory before they are written to the ledger file",
            unit="s",
            ge=0.01,
            le=10,
        ),
    ] = 0.25
    snapshot_rate: Annotated[
        int,
        row(
            "Pace at which a copy of the ledger file is made and sent to a node that needs one, so that writes have "
            "the rest of the disk and the network; 0 sets no limit",
            unit="bytes/s",
            ge=0,
            le=2**40,
        ),
    ] = 64 * MIB
    scrub_rate: Annotated[
        int,
        row(
            "Bytes a second that are read back and checked in the background; 0 for none; 256 KiB cost under 1 % of a "
            "core",
            unit="bytes",
            ge=0,
            le=2**40,
        ),
    ] = 256 * 1024
    scrub_interval: Annotated[
        float,
        row("Time from the end of one pass over all that is stored to the next one", unit="s", ge=0, le=31_536_000),
    ] = 86_400.0
    idempotency_keys: Annotated[
        int, row("Idempotency keys held for 24 h; beyond it new ones are refused with 503", unit="keys", ge=1, le=2**31)
    ] = 1_000_000


class PerformanceSettings(Section, frozen=True):
    """`[performance]`: bounds on work in flight."""

    batch_size: Annotated[int, row("Most entries in one append message", unit="entries", ge=1, le=65_536)] = 512
    max_concurrency: Annotated[
        int, row("Most writes waiting for their commit; beyond it 503 overloaded", unit="requests", ge=1, le=1_000_000)
    ] = 4096
    max_batch_operations: Annotated[
        int, row("Most operations in one atomic batch", unit="operations", ge=1, le=10_000)
    ] = 1000
    write_timeout: Annotated[float, row("How long a write waits for its commit", unit="s", ge=0.1, le=60)] = 5.0


class ConsensusSettings(Section, frozen=True):
    """`[consensus]`: the two clocks of Raft."""

    election_timeout: Annotated[
        float,
        row(
            "Silence of the leader before a node campaigns; each wait is drawn between this and twice this",
            unit="s",
            ge=0.05,
            le=60,
        ),
    ] = 1.0
    heartbeat_timeout: Annotated[
        float,
        row("Time between two heartbeats of the leader; at most a third of election_timeout", unit="s", ge=0.01, le=20),
    ] = 0.1


class RateLimitSettings(Section, frozen=True):
    """`[security.rate_limit]`: a token bucket for each API key, else for each address."""

    max_requests: Annotated[int, row("Requests in one window", unit="requests", reload=True, ge=1, le=2**40)] = (
        6_000_000
    )
    window_secs: Annotated[int, row("Length of the window", unit="s", reload=True, ge=1, le=86_400)] = 60
    burst_size: Annotated[int, row("Requests that may come at once", unit="requests", reload=True, ge=1, le=2**31)] = (
        200_000
    )


class TlsSettings(Section, frozen=True):
    """`[security.tls]`: TLS on the client port; empty means plain HTTP on loopback."""

    cert_file: Annotated[str, row("Certificate chain of the client port, PEM")] = ""
    key_file: Annotated[str, row("Its private key, PEM, mode 0600")] = ""


class SecuritySettings(Section, frozen=True):
    """`[security]`: keys, certificates, limits."""

    api_keys_file: Annotated[str, row("File with the hashed API keys")] = "/etc/scribe-ledger/api-keys.json"
    cluster_secret_file: Annotated[str, row('File with the secret of `peer_auth = "secret"`, mode 0600')] = ""
    peer_cert_file: Annotated[str, row("This node's peer certificate, PEM")] = ""
    peer_key_file: Annotated[str, row("Its private key, PEM, mode 0600")] = ""
    peer_ca_file: Annotated[str, row("The cluster's own CA, PEM; a peer must show a certificate of it")] = ""
    metrics_access: Annotated[
        str,
        row("Who may read /metrics: `nobody` needs no key, `metrics` asks for that role", pattern="^(nobody|metrics)$"),
    ] = "nobody"
    rate_limit: RateLimitSettings = field(default_factory=RateLimitSettings)
    tls: TlsSettings = field(default_factory=TlsSettings)


class LogSettings(Section, frozen=True):
    """`[log]`: the ledger as a transparency log: signed checkpoints, tiles, proofs."""

    key_file: Annotated[
        str,
        row(
            "Private key that checkpoints are signed with, the same on all nodes, mode 0600; empty means that this "
            "node signs none"
        ),
    ] = ""
    public: Annotated[bool, row("Checkpoints, tiles, entries and proofs under /log/ need no API key")] = False
    checkpoint_interval: Annotated[
        float,
        row("Least time between two checkpoints; one is published only when the tree grew", unit="s", ge=0.1, le=3600),
    ] = 1.0
    witnesses: Annotated[
        list[str],
        row(
            "Witnesses that the leader has cosign checkpoints, the same on all nodes; each is its submission prefix (a "
            "URL), a space, and its verifier key, as `appliance witness init` prints it",
            max_length=16,
        ),
    ] = field(default_factory=list)
    witness_timeout: Annotated[
        float,
        row(
            "How long one witness may take to cosign; cosignatures of the others wait so long, publishing does not",
            unit="s",
            ge=0.1,
            le=30,
        ),
    ] = 2.0


class LoggingSettings(Section, frozen=True):
    """`[logging]`: ECS JSON lines."""

    level: Annotated[str, row("Least level written", pattern="^(debug|info|warning|error)$", reload=True)] = "info"
    directory: Annotated[str, row("Directory of the log file; empty means standard output only")] = ""
    max_size: Annotated[int, row("Size at which the log file is rotated", unit="bytes", ge=65_536, le=2**34)] = 64 * MIB
    keep_files: Annotated[int, row("Rotated files kept", unit="files", ge=1, le=1000)] = 5
    stdout: Annotated[bool, row("Write the same lines to standard output")] = True


class TelemetrySettings(Section, frozen=True):
    """`[telemetry]`: traces."""

    otlp_endpoint: Annotated[
        str, row("OTLP/HTTP endpoint for traces, e.g. http://collector:4318; empty means none are exported")
    ] = ""
    sample_ratio: Annotated[
        float,
        row(
            "Share of requests traced when an endpoint is set; a request with a sampled traceparent is always traced",
            ge=0,
            le=1,
        ),
    ] = 0.01


class AuditSettings(Section, frozen=True):
    """`[audit]`: SQL over the audit trail."""

    query_timeout: Annotated[float, row("Time that one query may take", unit="s", ge=0.1, le=3600)] = 30.0
    query_memory: Annotated[int, row("Memory that one query may take", unit="bytes", ge=64 * MIB, le=2**40)] = 512 * MIB
    query_concurrency: Annotated[int, row("Queries running at once; more wait", unit="queries", ge=1, le=64)] = 2
    max_rows: Annotated[int, row("Most rows in one answer", unit="rows", ge=1, le=10_000_000)] = 100_000


class Settings(Section, frozen=True):
    """The whole configuration of a node."""

    node: NodeSettings
    network: NetworkSettings = field(default_factory=NetworkSettings)
    storage: StorageSettings = field(default_factory=StorageSettings)
    performance: PerformanceSettings = field(default_factory=PerformanceSettings)
    consensus: ConsensusSettings = field(default_factory=ConsensusSettings)
    security: SecuritySettings = field(default_factory=SecuritySettings)
    log: LogSettings = field(default_factory=LogSettings)
    logging: LoggingSettings = field(default_factory=LoggingSettings)
    telemetry: TelemetrySettings = field(default_factory=TelemetrySettings)
    audit: AuditSettings = field(default_factory=AuditSettings)
