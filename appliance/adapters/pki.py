"""The cluster's own certificate authority and the certificates of its nodes (EC P-256, X.509 after RFC 5280).

A node's certificate names the node in a URI, `scribe://<cluster_id>/node/<node_id>`, beside the DNS names and addresses
at which it is reached: identity is an id, not an address, so a node may move without a new certificate.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from msgspec import Struct

CA_DAYS: Final = 3650
NODE_DAYS: Final = 825
BACKDATE: Final = dt.timedelta(minutes=5)  # clocks of a young cluster differ a little

_IDENTITY = re.compile(r"scribe://([0-9a-f]{32})/node/([1-9][0-9]{0,4})", re.ASCII)


class PkiError(Exception):
    """A file of the certificate authority or of a node cannot be used; the message says what to do."""


class KeyPair(Struct, frozen=True):
    """Where a certificate and its private key lie, PEM both; the key has mode 0600."""

    cert_file: Path
    key_file: Path


class CertificateIdentity(Struct, frozen=True):
    """Whom a node's certificate speaks for."""

    cluster_id: str
    node_id: int


def identity_uri(cluster_id: str, node_id: int) -> str:
    """The URI that stands for a node in its certificate."""
    return f"scribe://{cluster_id}/node/{node_id}"


def parse_identity(uris: Sequence[str]) -> CertificateIdentity | None:
    """The identity among a certificate's URIs; None when there is none, or more than one."""
    found = [match for uri in uris if (match := _IDENTITY.fullmatch(uri))]
    if len(found) != 1:
        return None
    return CertificateIdentity(found[0][1], int(found[0][2]))


def make_ca(directory: Path, cluster_id: str, *, days: int = CA_DAYS, now: dt.datetime | None = None) -> KeyPair:
    """Make `ca.crt` and `ca.key` in a directory; a valid pair of this cluster stays as it is.

    Args:
        directory: made when it is missing, mode 0700.
        cluster_id: 32 hex digits.
        days: validity.
        now: time to start at, for tests; else the clock's.

    Raises:
        PkiError: what is there belongs to another cluster, has ended or lacks its key. It is never replaced, because
            every certificate of the cluster hangs on it.
    """
    pair = KeyPair(directory / "ca.crt", directory / "ca.key")
    now = now or dt.datetime.now(dt.UTC)
    if pair.cert_file.exists():
        _check_ca(pair, cluster_id, now)
        return pair
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"Scribe Ledger cluster {cluster_id}")
    certificate = (
        _builder(name, name, key.public_key(), now, days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(ca=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write_pair(pair, key, certificate)
    return pair


def make_node_certificate(
    ca_dir: Path,
    out_dir: Path,
    node_id: int,
    hosts: Sequence[str],
    *,
    days: int = NODE_DAYS,
    renew: bool = False,
    now: dt.datetime | None = None,
) -> KeyPair:
    """Make `peer.crt` and `peer.key` for a node; a valid pair for the same node and hosts stays as it is.

    Args:
        ca_dir: where `make_ca` put the authority.
        out_dir: made when it is missing, mode 0700.
        node_id: 1 to 65535.
        hosts: DNS names and IP addresses at which the node is reached.
        days: validity; never beyond the authority's own end.
        renew: make new ones even when those present are valid.
        now: time to start at, for tests; else the clock's.

    Raises:
        PkiError: the authority cannot be used.
    """
    now = now or dt.datetime.now(dt.UTC)
    pair = KeyPair(out_dir / "peer.crt", out_dir / "peer.key")
    ca, ca_key = _load_pair(KeyPair(ca_dir / "ca.crt", ca_dir / "ca.key"))
    cluster_id = _cluster_of(ca)
    if cluster_id is None or not _in_time(ca, now):
        raise PkiError(f"{ca_dir / 'ca.crt'} is not a valid authority of a cluster; make one with make_ca")
    names = _alternative_names(cluster_id, node_id, hosts)
    if not renew and _node_pair_valid(pair, ca, names, now):
        return pair
    out_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    days_left = (ca.not_valid_after_utc - now).days
    certificate = (
        _builder(_name(f"node {node_id}"), ca.subject, key.public_key(), now, min(days, days_left))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(ca=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    _write_pair(pair, key, certificate)
    return pair


def certificate_expiry(cert_file: Path) -> dt.datetime:
    """When the first certificate of a PEM file ends, UTC.

    Raises:
        PkiError: the file holds no certificate.
    """
    return _load_certificate(cert_file).not_valid_after_utc


def certificate_identity(cert_file: Path) -> CertificateIdentity | None:
    """Whom the first certificate of a PEM file speaks for, or None.

    Raises:
        PkiError: the file holds no certificate.
    """
    try:
        names = _load_certificate(cert_file).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None
    return parse_identity(names.get_values_for_type(x509.UniformResourceIdentifier))


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: dt.datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + dt.timedelta(days=days))
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative_names(cluster_id: str, node_id: int, hosts: Sequence[str]) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(identity_uri(cluster_id, node_id))]
    for host in sorted(set(hosts)):
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    return names


def _cluster_of(ca: x509.Certificate) -> str | None:
    (attribute,) = ca.subject.get_attributes_for_oid(NameOID.COMMON_NAME) or (None,)
    match = re.fullmatch(r"Scribe Ledger cluster ([0-9a-f]{32})", str(attribute.value) if attribute else "")
    return match[1] if match else None


def _in_time(certificate: x509.Certificate, now: dt.datetime) -> bool:
    return certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc


def _check_ca(pair: KeyPair, cluster_id: str, now: dt.datetime) -> None:
    ca, _ = _load_pair(pair)
    if _cluster_of(ca) != cluster_id:
        raise PkiError(f"{pair.cert_file} is the authority of another cluster; use another directory")
    if not _in_time(ca, now):
        raise PkiError(
            f"{pair.cert_file} is valid only from {ca.not_valid_before_utc} to {ca.not_valid_after_utc}; "
            "move it and its key away, make a new authority and new certificates for all nodes"
        )


def _node_pair_valid(pair: KeyPair, ca: x509.Certificate, names: list[x509.GeneralName], now: dt.datetime) -> bool:
    """Tell whether a node's files are whole, in time, of this authority and for these names."""
    try:
        certificate, _ = _load_pair(pair)
        certificate.verify_directly_issued_by(ca)
        present = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (PkiError, ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    return _in_time(certificate, now) and list(present) == names


def _load_certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise PkiError(f"{path} holds no certificate that can be read: {error}") from error


def _load_pair(pair: KeyPair) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    certificate = _load_certificate(pair.cert_file)
    try:
        key = serialization.load_pem_private_key(pair.key_file.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise PkiError(f"{pair.key_file} holds no private key that can be read: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise PkiError(f"{pair.key_file} is not the key of {pair.cert_file}; restore the one that belongs to it")
    return certificate, key


def _write_pair(pair: KeyPair, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
    """Write the key first: a certificate without its key is never left behind by a crash."""
    encoded = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _write_atomically(pair.key_file, encoded, 0o600)
    _write_atomically(pair.cert_file, certificate.public_bytes(serialization.Encoding.PEM), 0o644)


def _write_atomically(path: Path, content: bytes, mode: int) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
