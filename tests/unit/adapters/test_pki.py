"""The cluster's certificate authority: what it makes, what it keeps, what it refuses."""

from __future__ import annotations

import datetime as dt
import ipaddress
from pathlib import Path

import pytest
from cryptography import x509

from appliance.adapters.pki import (
    CertificateIdentity,
    PkiError,
    certificate_expiry,
    certificate_identity,
    make_ca,
    make_node_certificate,
    parse_identity,
)

CLUSTER = "0123456789abcdef" * 2
OTHER = "f" * 32
NOW = dt.datetime(2026, 11, 23, 12, tzinfo=dt.UTC)


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_authority(tmp_path: Path) -> None:
    pair = make_ca(tmp_path / "ca", CLUSTER, now=NOW)
    ca = certificate(pair.cert_file)
    constraints = ca.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value.ca
    assert constraints.value.path_length == 0
    assert pair.key_file.stat().st_mode & 0o777 == 0o600
    assert pair.key_file.parent.stat().st_mode & 0o777 == 0o700
    assert certificate_expiry(pair.cert_file) == NOW + dt.timedelta(days=3650)
    assert certificate_identity(pair.cert_file) is None
    assert sorted(path.name for path in pair.key_file.parent.iterdir()) == ["ca.crt", "ca.key"]


def test_node_certificate(tmp_path: Path) -> None:
    ca = make_ca(tmp_path / "ca", CLUSTER, now=NOW)
    pair = make_node_certificate(tmp_path / "ca", tmp_path / "n3", 3, ["node3", "127.0.0.1", "::1"], now=NOW)
    made = certificate(pair.cert_file)
    made.verify_directly_issued_by(certificate(ca.cert_file))
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["node3"]
    assert set(names.get_values_for_type(x509.IPAddress)) == {
        ipaddress.ip_address("127.0.0.1"),
        ipaddress.ip_address("::1"),
    }
    assert certificate_identity(pair.cert_file) == CertificateIdentity(CLUSTER, 3)
    assert certificate_expiry(pair.cert_file) == NOW + dt.timedelta(days=825)
    assert pair.key_file.stat().st_mode & 0o777 == 0o600
    assert not made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_a_leaf_never_outlives_its_authority(tmp_path: Path) -> None:
    make_ca(tmp_path, CLUSTER, days=30, now=NOW)
    pair = make_node_certificate(tmp_path, tmp_path / "n", 1, [], now=NOW)
    assert certificate_expiry(pair.cert_file) == NOW + dt.timedelta(days=30)


def test_valid_files_stay(tmp_path: Path) -> None:
    ca = make_ca(tmp_path, CLUSTER, now=NOW)
    node = make_node_certificate(tmp_path, tmp_path / "n", 1, ["b", "a"], now=NOW)
    before = [path.read_bytes() for path in (ca.cert_file, ca.key_file, node.cert_file, node.key_file)]
    assert make_ca(tmp_path, CLUSTER, now=NOW) == ca
    assert make_node_certificate(tmp_path, tmp_path / "n", 1, ["a", "b"], now=NOW) == node
    assert before == [path.read_bytes() for path in (ca.cert_file, ca.key_file, node.cert_file, node.key_file)]


REPLACED = {
    "another host": {"hosts": ["b"]},
    "another node": {"node_id": 2},
    "ended": {"now": NOW + dt.timedelta(days=826)},
    "asked for": {"renew": True},
}


@pytest.mark.parametrize("change", REPLACED.values(), ids=REPLACED)
def test_node_certificate_is_made_anew(tmp_path: Path, change: dict[str, object]) -> None:
    make_ca(tmp_path, CLUSTER, now=NOW)
    given: dict[str, object] = {"node_id": 1, "hosts": ["a"], "now": NOW}
    pair = make_node_certificate(tmp_path, tmp_path / "n", **given)  # type: ignore[arg-type]
    before = pair.cert_file.read_bytes()
    make_node_certificate(tmp_path, tmp_path / "n", **{**given, **change})  # type: ignore[arg-type]
    assert pair.cert_file.read_bytes() != before


@pytest.mark.parametrize("damage", ["peer.key", "peer.crt"])
def test_damaged_node_files_are_made_anew(tmp_path: Path, damage: str) -> None:
    make_ca(tmp_path, CLUSTER, now=NOW)
    make_node_certificate(tmp_path, tmp_path / "n", 1, ["a"], now=NOW)
    (tmp_path / "n" / damage).write_text("damaged")
    pair = make_node_certificate(tmp_path, tmp_path / "n", 1, ["a"], now=NOW)
    assert certificate_identity(pair.cert_file) == CertificateIdentity(CLUSTER, 1)


def test_certificate_of_another_authority_is_made_anew(tmp_path: Path) -> None:
    make_ca(tmp_path / "a", CLUSTER, now=NOW)
    make_ca(tmp_path / "b", CLUSTER, now=NOW)
    make_node_certificate(tmp_path / "a", tmp_path / "n", 1, ["a"], now=NOW)
    pair = make_node_certificate(tmp_path / "b", tmp_path / "n", 1, ["a"], now=NOW)
    certificate(pair.cert_file).verify_directly_issued_by(certificate(tmp_path / "b" / "ca.crt"))


def test_an_authority_is_never_replaced(tmp_path: Path) -> None:
    pair = make_ca(tmp_path, CLUSTER, now=NOW)
    before = pair.cert_file.read_bytes()
    with pytest.raises(PkiError, match="another cluster"):
        make_ca(tmp_path, OTHER, now=NOW)
    with pytest.raises(PkiError, match="valid only from"):
        make_ca(tmp_path, CLUSTER, now=NOW + dt.timedelta(days=3651))
    pair.key_file.unlink()
    with pytest.raises(PkiError, match="holds no private key"):
        make_ca(tmp_path, CLUSTER, now=NOW)
    with pytest.raises(PkiError, match="holds no private key"):
        make_node_certificate(tmp_path, tmp_path / "n", 1, [], now=NOW)
    assert pair.cert_file.read_bytes() == before


def test_key_of_another_certificate(tmp_path: Path) -> None:
    make_ca(tmp_path / "a", CLUSTER, now=NOW)
    make_ca(tmp_path / "b", CLUSTER, now=NOW)
    (tmp_path / "a" / "ca.key").write_bytes((tmp_path / "b" / "ca.key").read_bytes())
    with pytest.raises(PkiError, match="is not the key of"):
        make_ca(tmp_path / "a", CLUSTER, now=NOW)


URIS = {
    "ours": ([f"scribe://{CLUSTER}/node/12"], CertificateIdentity(CLUSTER, 12)),
    "among others": (["https://example.org/", f"scribe://{CLUSTER}/node/1"], CertificateIdentity(CLUSTER, 1)),
    "none": ([], None),
    "two": ([f"scribe://{CLUSTER}/node/1", f"scribe://{CLUSTER}/node/2"], None),
    "trailing": ([f"scribe://{CLUSTER}/node/1\n"], None),
    "zero": ([f"scribe://{CLUSTER}/node/0"], None),
    "short cluster": (["scribe://abc/node/1"], None),
}


@pytest.mark.parametrize(("uris", "expected"), URIS.values(), ids=URIS)
def test_identity_in_uris(uris: list[str], expected: CertificateIdentity | None) -> None:
    assert parse_identity(uris) == expected
