"""Private keys: Go's text and signature, RFC 8032's vector, and files that only their owner can read."""

from __future__ import annotations

import hmac
import os
from pathlib import Path

import pytest

from appliance.adapters import ed25519
from appliance.adapters.ed25519 import (
    SigningKey,
    SigningKeyError,
    generate_key,
    parse_signing_key,
    read_key_file,
    verify,
    write_key_file,
)
from appliance.ledger.canonical import write_base64
from appliance.ledger.checkpoint import is_recovery
from appliance.ledger.note import (
    Ed25519Verifier,
    Note,
    SignatureType,
    VerifierKeyError,
    format_note,
    format_verifier_key,
    open_note,
    sign_text,
)

# The keys and the note of Go's golang.org/x/mod/sumdb/note.
PRIVATE = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
PUBLIC = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
LINE = "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"


def test_gos_key_makes_gos_signature() -> None:
    key = parse_signing_key(PRIVATE)
    assert format_verifier_key(key.verifier_key) == PUBLIC
    assert key.to_text() == PRIVATE
    note = Note(TEXT, (sign_text(TEXT, key.verifier_key, key.sign),))
    assert format_note(note) == f"{TEXT}\n{LINE}".encode()
    assert open_note(format_note(note), [Ed25519Verifier(key.verifier_key, verify)]).note == note


def test_the_vector_of_rfc_8032() -> None:
    """Section 7.1, test 2."""
    key = SigningKey("a", 1, bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"))
    public_key = key.verifier_key.public_key
    signature = key.sign(b"\x72")
    assert public_key.hex() == "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
    assert signature.hex() == (
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )
    assert verify(public_key, b"\x72", signature)
    assert not verify(public_key, b"\x73", signature)
    assert not verify(public_key, b"\x72", signature[:-1])
    assert not verify(bytes(32), b"\x72", signature)


@pytest.mark.parametrize("signature_type", list(SignatureType))
def test_new_keys_differ_and_read_back(signature_type: SignatureType) -> None:
    first, second = (generate_key("example.com/log", signature_type) for _ in range(2))
    assert first.verifier_key != second.verifier_key
    assert first.verifier_key.signature_type is signature_type
    assert parse_signing_key(first.to_text()).verifier_key == first.verifier_key


def test_a_key_needs_a_name_that_a_note_can_have() -> None:
    with pytest.raises(VerifierKeyError):
        generate_key("two words", SignatureType.ED25519)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("", "no private key", id="empty"),
        pytest.param(PUBLIC, "no private key", id="verifier key"),
        pytest.param(PRIVATE.removeprefix("PRIVATE+"), "no private key", id="no start"),
        pytest.param(PRIVATE[:-4], "no private key", id="short seed"),
        pytest.param(PRIVATE + "\n", "no private key", id="newline behind"),
        pytest.param(PRIVATE.replace("c74f20a3", "c74f20a4"), "not the one", id="another id"),
        pytest.param(PRIVATE.replace("Peter", "Paul"), "not the one", id="another name"),
        pytest.param(PRIVATE.replace("PeterNeumann", "P N"), "no name", id="name with a space"),
        pytest.param("PRIVATE+KEY+a+00000000+" + write_base64(b"\x06" + bytes(32)), "type 0x06", id="unknown type"),
    ],
)
def test_what_is_no_private_key(text: str, reason: str) -> None:
    with pytest.raises(SigningKeyError, match=reason) as refusal:
        parse_signing_key(text)
    assert "AYEKFALVFGy" not in str(refusal.value)


def test_a_key_does_not_show_itself() -> None:
    assert repr(parse_signing_key(PRIVATE)) == "<SigningKey of PeterNeumann c74f20a3>"


def test_a_file_is_the_owners_alone_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "log.key"
    before = os.umask(0)
    try:
        write_key_file(path, parse_signing_key(PRIVATE))
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text() == PRIVATE + "\n"
    assert read_key_file(path).to_text() == PRIVATE
    assert list(tmp_path.iterdir()) == [path]


def test_a_key_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "log.key"
    write_key_file(path, parse_signing_key(PRIVATE))
    with pytest.raises(SigningKeyError, match=r"log\.key exists already"):
        write_key_file(path, generate_key("a", SignatureType.ED25519))
    assert path.read_text() == PRIVATE + "\n"
    assert list(tmp_path.iterdir()) == [path]


def test_a_crash_before_the_file_has_its_name_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object) -> None:
        raise OSError("no link")

    monkeypatch.setattr(ed25519.os, "link", crash)
    with pytest.raises(SigningKeyError, match="cannot be written: no link"):
        write_key_file(tmp_path / "log.key", parse_signing_key(PRIVATE))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610, 0o602, 0o777], ids=oct)
def test_a_file_that_others_can_open_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "log.key"
    write_key_file(path, parse_signing_key(PRIVATE))
    path.chmod(mode)
    with pytest.raises(SigningKeyError, match=f"mode {mode:04o}.*chmod 600"):
        read_key_file(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "no private key"), (b"\xff", "not text"), (PRIVATE.encode() + b"\n\n", "no private key")],
    ids=["empty", "not text", "two newlines"],
)
def test_a_file_without_a_key(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "log.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(SigningKeyError, match=rf"log\.key.*{reason}"):
        read_key_file(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SigningKeyError, match="cannot be read"):
        read_key_file(tmp_path / "log.key")
    with pytest.raises(SigningKeyError, match="cannot be written"):
        write_key_file(tmp_path / "missing" / "log.key", parse_signing_key(PRIVATE))


def test_a_recovered_log_has_another_name_and_key_that_all_nodes_come_to() -> None:
    seed = bytes(range(32))
    first = SigningKey("scribe-ledger/ab/1", SignatureType.ED25519, seed)
    assert first.after(()) is first
    once, twice = first.after((7,)), first.after((7, 2**64 - 1))
    again = SigningKey("scribe-ledger/ab/1", SignatureType.ED25519, seed).after([7])
    assert again.verifier_key == once.verifier_key
    names = [key.verifier_key.name for key in (first, once, twice, first.after((8,)), first.after((8, 2**64 - 1)))]
    assert names[1].startswith("scribe-ledger/ab/1/recovered-1-")
    assert names[2].startswith("scribe-ledger/ab/1/recovered-2-")
    assert len(set(names)) == 5
    assert len({key.verifier_key.public_key for key in (first, once, twice, first.after((8,)))}) == 4
    assert [is_recovery(name, names[0]) for name in names] == [False, True, True, True, True]
    assert is_recovery(names[2], names[1])
    assert not is_recovery("scribe-ledger/ac/1/recovered-1-00", names[0])
    note = Note(TEXT, (sign_text(TEXT, once.verifier_key, once.sign),))
    assert open_note(format_note(note), [Ed25519Verifier(once.verifier_key, verify)]).note == note


def test_the_key_of_a_recovered_log_is_derived_as_written() -> None:
    """HKDF-SHA256 by hand (RFC 5869, one block without a salt)."""
    seed = bytes(range(32))
    info = b"scribe-ledger: key of a log that was recovered\0" + (7).to_bytes(8) + (9).to_bytes(8)
    pseudorandom = hmac.digest(bytes(32), seed, "sha256")
    derived = SigningKey("x", SignatureType.ED25519, hmac.digest(pseudorandom, info + b"\x01", "sha256"))
    key = SigningKey("scribe-ledger/ab/1", SignatureType.ED25519, seed).after((7, 9))
    assert key.verifier_key.public_key == derived.verifier_key.public_key
