"""The proof by a shared secret, addresses, and what the transport takes from the configuration."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from appliance.adapters.config import ConfigError
from appliance.adapters.peer_address import is_loopback, join_address, split_address
from appliance.adapters.peer_auth import Refused, SecretAuth, Transcript, make_auth
from appliance.adapters.peer_settings import PeerSettings, peer_settings_from
from appliance.tables.settings import NodeSettings, SecuritySettings, Settings

TRANSCRIPT = Transcript("raft", b"n" * 32, b"m" * 32, b"t" * 8, b"u" * 8, b"hello one", b"hello two")


@pytest.fixture
def auth(tmp_path: Path) -> SecretAuth:
    (tmp_path / "secret").write_text("s" * 64 + "\n")
    return SecretAuth(tmp_path / "secret")


def test_a_proof_holds_for_its_role_and_transcript_only(auth: SecretAuth) -> None:
    proof = auth.prove("dialer", TRANSCRIPT)
    auth.verify("dialer", TRANSCRIPT, proof)
    with pytest.raises(Refused, match="bad_secret"):
        auth.verify("acceptor", TRANSCRIPT, proof)
    with pytest.raises(Refused, match="bad_secret"):
        auth.verify("dialer", TRANSCRIPT, b"")


@pytest.mark.parametrize("field", Transcript.__struct_fields__)
def test_a_proof_covers_all_that_was_said(auth: SecretAuth, field: str) -> None:
    proof = auth.prove("dialer", TRANSCRIPT)
    value = getattr(TRANSCRIPT, field)
    altered = value[:-1]
    with pytest.raises(Refused, match="bad_secret"):
        auth.verify("dialer", msgspec.structs.replace(TRANSCRIPT, **{field: altered}), proof)


def test_bytes_cannot_move_between_fields(auth: SecretAuth) -> None:
    moved = msgspec.structs.replace(TRANSCRIPT, dialer_hello=b"hello o", acceptor_hello=b"nehello two")
    with pytest.raises(Refused, match="bad_secret"):
        auth.verify("dialer", moved, auth.prove("dialer", TRANSCRIPT))


def test_a_secret_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cluster_secret_file: cannot be read"):
        SecretAuth(tmp_path / "none")


@pytest.mark.parametrize("kind", ["secret", "tls", "none"])
def test_files_that_are_not_named(kind: str) -> None:
    with pytest.raises(ConfigError, match="lacks its files"):
        make_auth(PeerSettings(host="127.0.0.1", port=0, auth=kind))


def test_settings_of_the_transport() -> None:
    settings = Settings(node=NodeSettings(id=1), security=SecuritySettings(peer_ca_file="/x/ca.crt"))
    taken = peer_settings_from(settings)
    assert (taken.host, taken.port, taken.auth) == ("127.0.0.1", 9001, "tls")
    assert (taken.ca_file, taken.secret_file) == (Path("/x/ca.crt"), None)
    assert taken.writes_max == settings.performance.max_concurrency
    assert taken.frame_bytes_max > settings.storage.max_value_size


ADDRESSES = {
    "name": ("node1:9001", ("node1", 9001)),
    "IPv4": ("127.0.0.1:1", ("127.0.0.1", 1)),
    "IPv6": ("[::1]:65535", ("::1", 65535)),
}


@pytest.mark.parametrize(("text", "parts"), ADDRESSES.values(), ids=ADDRESSES)
def test_addresses(text: str, parts: tuple[str, int]) -> None:
    assert split_address(text) == parts
    assert join_address(*parts) == text


@pytest.mark.parametrize(
    "text", ["", "node1", "node1:", ":1", "a:0", "a:65536", "::1:9001", "a b:1", "a:1 ", "a:+1", "a:²"]
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match=r"host:port|port from|brackets"):
        split_address(text)


LOOPBACK = {"localhost": True, "127.0.0.1": True, "127.1.2.3": True, "::1": True, "0.0.0.0": False, "node1": False}


@pytest.mark.parametrize(("host", "expected"), LOOPBACK.items(), ids=LOOPBACK)
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
