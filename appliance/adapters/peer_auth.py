"""How nodes prove themselves to each other, and the reasons for which one refuses another."""

from __future__ import annotations

import hmac
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
from msgspec import Struct

from appliance.adapters.config import ConfigError
from appliance.adapters.peer_settings import PeerSettings
from appliance.adapters.pki import parse_identity
from appliance.node.peer_ports import Hello

SECRET_BYTES_MIN: Final = 32

# The values of the label `reason` of scribe_peer_refused_total, and what to do about each.
REASONS: Final[Mapping[str, str]] = {
    "other_cluster": "the node belongs to another cluster; compare node.cluster_id and the seeds",
    "protocol": "the programs are too far apart; upgrade the older one",
    "bad_secret": "the nodes do not share the cluster secret; compare security.cluster_secret_file",
    "bad_certificate": "the certificate is not of this cluster's authority, has ended, or is another node's",
    "tls": "the other side does not speak TLS 1.3; compare network.peer_auth",
    "id_clash": "two nodes claim one id; give each its own node.id and data directory",
    "handshake_timeout": "the other side did not finish the handshake in time",
    "too_many": "too many connections have not proved themselves yet",
    "bad_frame": "the other side does not speak the peer protocol",
    "damaged_entry": "a log entry was damaged on its way; check memory and network of both nodes",
    "damaged_chunk": "a piece of a snapshot was damaged on its way; check memory, disk and network of both nodes",
    "not_loopback": "a shared secret is for loopback only; use peer_auth = tls between machines",
    "other": "the other side gave a reason that this program does not know",
}
# These end a connection in good order, or are told and counted as the outcome of a snapshot.
QUIET_REASONS: Final = frozenset({"self", "duplicate", "busy", "not_installed"})


class Refused(Exception):
    """A connection is refused. `by_peer` when the other side did it; `node_id` is whom it said to be, or 0."""

    node_id = 0

    def __init__(self, reason: str, detail: str = "", *, by_peer: bool = False) -> None:
        self.reason = reason if reason in REASONS or reason in QUIET_REASONS else "other"
        self.detail = detail
        self.by_peer = by_peer
        super().__init__(f"{self.reason}: {detail or REASONS.get(self.reason, '')}")


class Transcript(Struct, frozen=True, array_like=True):
    """All that both sides have said before they prove themselves; a proof covers every byte of it."""

    purpose: str
    dialer_nonce: bytes
    acceptor_nonce: bytes
    dialer_token: bytes
    acceptor_token: bytes
    dialer_hello: bytes
    acceptor_hello: bytes


class PeerAuth(Protocol):
    """One way for nodes to prove themselves."""

    def server_context(self) -> ssl.SSLContext | None:
        """TLS for accepted connections, or None for plain TCP."""
        ...

    def client_context(self) -> ssl.SSLContext | None:
        """TLS for dialed connections, or None for plain TCP."""
        ...

    def prove(self, role: str, transcript: Transcript) -> bytes:
        """The proof of the side `dialer` or `acceptor`."""
        ...

    def verify(self, role: str, transcript: Transcript, proof: bytes) -> None:
        """Check the other side's proof; raises `Refused`."""
        ...

    def check_identity(self, ssl_object: ssl.SSLObject | None, hello: Hello, cluster_id: str) -> None:
        """Check that the other side is who its hello says; raises `Refused`."""
        ...

    def reload(self) -> None:
        """Read the files again; links that stand are not touched. Raises `ConfigError` and keeps what it had."""
        ...


class SecretAuth:
    """A secret that all nodes share, proved both ways by HMAC-SHA-256 (RFC 2104) over the transcript.

    Nonces of both sides keep a proof from being used again, the role in it from being sent back. The stream behind the
    handshake is neither encrypted nor signed, hence loopback only.
    """

    def __init__(self, secret_file: Path) -> None:
        self._file = secret_file
        self._secret = b""
        self.reload()

    def reload(self) -> None:
        """Read the secret again."""
        try:
            secret = self._file.read_bytes().strip()
        except OSError as error:
            raise ConfigError(
                [f"{self._file}: security.cluster_secret_file: cannot be read ({error.strerror})"]
            ) from error
        if len(secret) < SECRET_BYTES_MIN:
            raise ConfigError([f"{self._file}: security.cluster_secret_file: needs at least {SECRET_BYTES_MIN} bytes"])
        self._secret = secret

    def server_context(self) -> ssl.SSLContext | None:
        """No TLS."""
        return None

    def client_context(self) -> ssl.SSLContext | None:
        """No TLS."""
        return None

    def prove(self, role: str, transcript: Transcript) -> bytes:
        """HMAC over the role and the transcript."""
        return hmac.digest(self._secret, msgspec.msgpack.encode(("scribe-ledger peer", role, transcript)), "sha256")

    def verify(self, role: str, transcript: Transcript, proof: bytes) -> None:
        """Compare in constant time."""
        if not hmac.compare_digest(self.prove(role, transcript), proof):
            raise Refused("bad_secret")

    def check_identity(self, ssl_object: ssl.SSLObject | None, hello: Hello, cluster_id: str) -> None:
        """The proof covered the hello; there is nothing more to compare it with."""


class TlsAuth:
    """Mutual TLS 1.3 with the cluster's own authority; the certificate's URI must name the hello's node."""

    def __init__(self, cert_file: Path, key_file: Path, ca_file: Path) -> None:
        self._cert_file, self._key_file, self._ca_file = cert_file, key_file, ca_file
        self.reload()

    def reload(self) -> None:
        """Read certificate, key and authority again."""
        self._server = self._context(ssl.PROTOCOL_TLS_SERVER)
        self._client = self._context(ssl.PROTOCOL_TLS_CLIENT)

    def _context(self, protocol: int) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False  # the URI in the certificate names the node; its address may change
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        if protocol == ssl.PROTOCOL_TLS_SERVER:
            context.num_tickets = 0  # links are long-lived; a resumed session would skip the certificate
        try:
            context.load_cert_chain(self._cert_file, self._key_file)
            context.load_verify_locations(self._ca_file)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                [
                    f"{self._cert_file}, {self._key_file}, {self._ca_file}: security.peer_cert_file, "
                    f"peer_key_file, peer_ca_file: cannot be used together: {error}"
                ]
            ) from error
        return context

    def server_context(self) -> ssl.SSLContext | None:
        """TLS that asks for a client certificate."""
        return self._server

    def client_context(self) -> ssl.SSLContext | None:
        """TLS that shows the node's certificate."""
        return self._client

    def prove(self, role: str, transcript: Transcript) -> bytes:
        """TLS has proved it."""
        return b""

    def verify(self, role: str, transcript: Transcript, proof: bytes) -> None:
        """TLS has verified it."""

    def check_identity(self, ssl_object: ssl.SSLObject | None, hello: Hello, cluster_id: str) -> None:
        """Compare the certificate's URI with the hello and with this cluster."""
        certificate: Mapping[str, Any] = (ssl_object.getpeercert() if ssl_object is not None else None) or {}
        identity = parse_identity([value for kind, value in certificate.get("subjectAltName", ()) if kind == "URI"])
        if identity is None:
            raise Refused("bad_certificate", "the certificate names no node of a cluster; make one with the cluster CA")
        if identity.node_id != hello.identity.node_id:
            raise Refused(
                "bad_certificate",
                f"node {hello.identity.node_id} shows the certificate of node {identity.node_id}",
            )
        if identity.cluster_id != (cluster_id or hello.identity.cluster_id):
            raise Refused("bad_certificate", f"the certificate is of cluster {identity.cluster_id}")


def make_auth(settings: PeerSettings) -> PeerAuth:
    """Make what `settings.auth` names.

    Raises:
        ConfigError: a file is missing or cannot be used.
    """
    if settings.auth == "secret" and settings.secret_file is not None:
        return SecretAuth(settings.secret_file)
    if settings.auth == "tls" and settings.cert_file and settings.key_file and settings.ca_file:
        return TlsAuth(settings.cert_file, settings.key_file, settings.ca_file)
    raise ConfigError([f"network.peer_auth: {settings.auth!r} lacks its files in [security]"])


def tls_reason(error: ssl.SSLError) -> str:
    """The reason that stands for a failed TLS handshake, seen from either side."""
    name = f"{error.reason or ''} {error}".upper()
    return "bad_certificate" if "CERTIFICATE" in name or "UNKNOWN_CA" in name else "tls"
