"""What the peer transport needs to know, and the named limits of everything it holds."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from appliance.adapters.peer_protocol import FRAME_BYTES_MAX
from appliance.tables.settings import Settings

MIB = 1024 * 1024


class PeerSettings(Struct, frozen=True, kw_only=True):
    """Settings of the peer transport.

    Attributes:
        host: address to listen on.
        port: port to listen on; 0 lets the system choose (`TcpPeerNetwork.port` tells).
        auth: `tls` or `secret`; the latter on loopback only.
        secret_file: at least 32 bytes, for `secret`.
        cert_file: this node's certificate, for `tls`.
        key_file: its key, for `tls`.
        ca_file: the cluster's authority, for `tls`.
        frame_bytes_max: longest frame after the handshake, both ways.
        output_bytes_max: what may wait on one link before messages are dropped.
        handshake_timeout_s: from the first byte of TCP to the welcome.
        handshakes_max: connections that have not proved themselves yet.
        dial_delay_s_min: wait before the first retry; doubles with each failure.
        dial_delay_s_max: longest wait between retries.
        ping_interval_s: silence after which a link is probed.
        idle_timeout_s: silence after which a link counts as lost.
        writes_max: forwarded writes in flight, sent and served.
        snapshot_bytes_per_s: pace of a snapshot, so that it leaves room for the log; 0 sets none.
    """

    host: str
    port: int
    auth: str
    secret_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    ca_file: Path | None = None
    frame_bytes_max: int = FRAME_BYTES_MAX
    output_bytes_max: int = 32 * MIB
    handshake_timeout_s: float = 5.0
    handshakes_max: int = 64
    dial_delay_s_min: float = 0.05
    dial_delay_s_max: float = 2.0
    ping_interval_s: float = 1.0
    idle_timeout_s: float = 5.0
    writes_max: int = 4096
    snapshot_bytes_per_s: int = 64 * MIB


def peer_settings_from(settings: Settings) -> PeerSettings:
    """Pick what the transport needs out of the configuration of a node."""

    def path(name: str) -> Path | None:
        return Path(name) if name else None

    security = settings.security
    return PeerSettings(
        host=settings.network.raft_host,
        port=settings.network.raft_port,
        auth=settings.network.peer_auth,
        secret_file=path(security.cluster_secret_file),
        cert_file=path(security.peer_cert_file),
        key_file=path(security.peer_key_file),
        ca_file=path(security.peer_ca_file),
        writes_max=settings.performance.max_concurrency,
        snapshot_bytes_per_s=settings.storage.snapshot_rate,
    )
