"""Cosignatures: the specification's example, those of public witnesses, and what is not one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from notes_rig import (
    LOG,
    PUBLIC_CHECKPOINT,
    PUBLIC_WITNESS_KEYS,
    SOFA_LINE,
    SOFA_TEXT,
    SOFA_WITNESS_LINE,
    WITNESS_VERIFIERS,
    WITNESSES,
)

from appliance.adapters.ed25519 import verify
from appliance.ledger.cosignature import TIMESTAMP_S_MAX, CosignatureVerifier, cosign, cosigned_message, timestamp_of
from appliance.ledger.note import SignatureWrong, VerifierKeyError, open_note, parse_note, parse_verifier_key

WITNESS, VERIFIER = WITNESSES[0], WITNESS_VERIFIERS[0]


def test_the_specifications_message() -> None:
    assert cosigned_message(SOFA_TEXT, 1679315147) == (
        b"cosignature/v1\n"
        b"time 1679315147\n"
        b"example.com/behind-the-sofa\n"
        b"20852163\n"
        b"CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    )


def test_the_specifications_cosignature_has_the_time_of_its_message() -> None:
    note = parse_note(f"{SOFA_TEXT}\n{SOFA_LINE}{SOFA_WITNESS_LINE}".encode())
    cosignature = note.signatures[1]
    assert (cosignature.name, len(cosignature.signature)) == ("witness.example.com/w1", 72)
    assert timestamp_of(cosignature) == 1679315147


def test_cosignatures_of_public_witnesses() -> None:
    witnesses = [CosignatureVerifier(parse_verifier_key(text), verify) for text in PUBLIC_WITNESS_KEYS]
    opened = open_note(PUBLIC_CHECKPOINT.encode(), witnesses)
    assert [one.name for one in opened.verified] == [one.key.name for one in witnesses]
    assert {timestamp_of(one) for one in opened.verified} == {1779573024}
    with pytest.raises(SignatureWrong):
        open_note(PUBLIC_CHECKPOINT.replace("1432088532", "1432088533").encode(), witnesses)


@given(st.integers(1, TIMESTAMP_S_MAX))
def test_a_cosignature_is_verified_with_its_time(timestamp_s: int) -> None:
    cosignature = cosign(SOFA_TEXT, timestamp_s, WITNESS.verifier_key, WITNESS.sign)
    assert timestamp_of(cosignature) == timestamp_s
    assert VERIFIER.verify(SOFA_TEXT, cosignature.signature)
    assert not VERIFIER.verify(SOFA_TEXT + "an extension\n", cosignature.signature)
    assert not WITNESS_VERIFIERS[1].verify(SOFA_TEXT, cosignature.signature)


def test_each_changed_bit_is_refused() -> None:
    signature = cosign(SOFA_TEXT, 1679315147, WITNESS.verifier_key, WITNESS.sign).signature
    for at in range(len(signature)):
        for bit in range(8):
            changed = signature[:at] + bytes([signature[at] ^ 1 << bit]) + signature[at + 1 :]
            assert not VERIFIER.verify(SOFA_TEXT, changed), f"byte {at}"


@pytest.mark.parametrize("length", [0, 7, 8, 64, 71, 73])
def test_another_length_is_refused_whatever_ed25519_says(length: int) -> None:
    lax = CosignatureVerifier(WITNESS.verifier_key, lambda *_: True)
    assert not lax.verify(SOFA_TEXT, bytes(length))
    assert lax.verify(SOFA_TEXT, bytes(72))


def test_a_plain_signature_is_no_cosignature() -> None:
    plain = WITNESS.sign(SOFA_TEXT.encode())
    assert not VERIFIER.verify(SOFA_TEXT, bytes(8) + plain)


def test_a_logs_key_cosigns_nothing() -> None:
    with pytest.raises(VerifierKeyError, match="type 0x01; one for type 0x04"):
        cosign(SOFA_TEXT, 1, LOG.verifier_key, LOG.sign)
    with pytest.raises(VerifierKeyError):
        CosignatureVerifier(LOG.verifier_key, verify)
