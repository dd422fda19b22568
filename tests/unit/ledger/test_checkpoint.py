"""Checkpoints: a published one with its cosignatures, the one form of the text, and what opening refuses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from notes_rig import (
    FORGER,
    LOG,
    LOG_VERIFIER,
    OTHER_LOG,
    PUBLIC_CHECKPOINT,
    PUBLIC_LOG_KEY,
    SOFA_LINE,
    SOFA_TEXT,
    WITNESSES,
    signed,
)

from appliance.adapters.ed25519 import verify
from appliance.ledger.canonical import DECIMAL_MAX
from appliance.ledger.checkpoint import (
    Checkpoint,
    CheckpointError,
    CheckpointMalformed,
    WrongOrigin,
    format_checkpoint,
    open_checkpoint,
    parse_checkpoint,
    sign_checkpoint,
)
from appliance.ledger.merkle import EMPTY_ROOT
from appliance.ledger.note import (
    Ed25519Verifier,
    NoteError,
    NoteMalformed,
    NoteNotSigned,
    SignatureWrong,
    VerifierKeyError,
    format_note,
    parse_verifier_key,
    sign_text,
)

ROOT = bytes(range(32))
LINES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="".join(map(chr, range(32)))), min_size=1)
CHECKPOINTS = st.builds(
    Checkpoint,
    LINES,
    st.integers(0, DECIMAL_MAX),
    st.binary(min_size=32, max_size=32),
    st.lists(LINES, max_size=2).map(tuple),
)


def test_a_published_checkpoint_is_opened_with_its_logs_key() -> None:
    log = Ed25519Verifier(parse_verifier_key(PUBLIC_LOG_KEY), verify)
    checkpoint, opened = open_checkpoint(PUBLIC_CHECKPOINT.encode(), log)
    assert (checkpoint.origin, checkpoint.size) == (log.key.name, 1432088532)
    assert len(opened.verified) == 1
    assert len(opened.note.signatures) == 6
    assert format_note(opened.note) == PUBLIC_CHECKPOINT.encode()


def test_the_specifications_example() -> None:
    checkpoint = parse_checkpoint(SOFA_TEXT)
    assert (checkpoint.origin, checkpoint.size) == ("example.com/behind-the-sofa", 20852163)
    assert checkpoint.root.hex() == "0ac5186a91863e8e1d90c808014aa89bf5da8e3ee1d9f07630f0378f68f1ab62"
    assert format_checkpoint(checkpoint) == SOFA_TEXT
    with pytest.raises(WrongOrigin, match=r"of the log 'example\.com/behind-the-sofa', and the key of"):
        open_checkpoint((SOFA_TEXT + "\n" + SOFA_LINE).encode(), LOG_VERIFIER)


@given(CHECKPOINTS)
def test_a_text_reads_back(checkpoint: Checkpoint) -> None:
    assert parse_checkpoint(format_checkpoint(checkpoint)) == checkpoint


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("", "three lines", id="empty"),
        pytest.param(SOFA_TEXT[:-1], "three lines", id="no newline"),
        pytest.param(SOFA_TEXT + "\n", "three lines", id="empty line behind"),
        pytest.param("\n" + SOFA_TEXT, "three lines", id="empty origin"),
        pytest.param("a\n1\n", "three lines", id="no root"),
        pytest.param(SOFA_TEXT.replace("2085", "02085"), "no size", id="leading zero"),
        pytest.param(SOFA_TEXT.replace("2085", "+2085"), "no size", id="sign"),
        pytest.param(SOFA_TEXT.replace("20852163", "20852163 "), "no size", id="space behind"),
        pytest.param(SOFA_TEXT.replace("20852163", str(2**63)), "no size", id="too large"),
        pytest.param(SOFA_TEXT.replace("2I=", "2J="), "no root hash", id="bits behind the end of the root"),
        pytest.param(SOFA_TEXT.replace("2I=", "2I"), "no root hash", id="root without padding"),
        pytest.param(f"a\n1\n{'A' * 40}\n", "no root hash", id="short root"),
        pytest.param(f"a\n1\n{ROOT.hex()}\n", "no root hash", id="root in hex"),
    ],
)
def test_what_is_no_checkpoint(text: str, reason: str) -> None:
    with pytest.raises(CheckpointMalformed, match=reason):
        parse_checkpoint(text)
    if text.endswith("\n"):
        data = f"{text}\n".encode() + b"\xe2\x80\x94 a AAAAAAA=\n"
        with pytest.raises((CheckpointMalformed, NoteMalformed)):
            open_checkpoint(data, LOG_VERIFIER)


@pytest.mark.parametrize(
    "checkpoint",
    [
        Checkpoint("", 0, EMPTY_ROOT),
        Checkpoint("a\nb", 0, EMPTY_ROOT),
        Checkpoint("a", 0, EMPTY_ROOT, ("",)),
        Checkpoint("a", 0, EMPTY_ROOT, ("b\nc",)),
    ],
    ids=["no origin", "origin of two lines", "empty extension", "extension of two lines"],
)
def test_what_no_checkpoint_can_say(checkpoint: Checkpoint) -> None:
    with pytest.raises(CheckpointMalformed):
        format_checkpoint(checkpoint)


def test_an_empty_log_has_a_checkpoint() -> None:
    checkpoint = Checkpoint(LOG.verifier_key.name, 0, EMPTY_ROOT)
    assert format_checkpoint(checkpoint) == "example.com/log\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n"
    assert open_checkpoint(signed(checkpoint), LOG_VERIFIER).checkpoint == checkpoint


def test_the_same_checkpoint_is_signed_with_the_same_bytes() -> None:
    checkpoint = Checkpoint(LOG.verifier_key.name, 9, ROOT, ("an extension",))
    assert signed(checkpoint) == signed(checkpoint)
    assert open_checkpoint(signed(checkpoint), LOG_VERIFIER).checkpoint == checkpoint


def test_a_log_signs_only_what_is_its_own() -> None:
    with pytest.raises(WrongOrigin):
        signed(Checkpoint("example.com/other", 9, ROOT), LOG)
    witness = WITNESSES[0]
    with pytest.raises(VerifierKeyError):
        sign_checkpoint(Checkpoint(witness.verifier_key.name, 9, ROOT), witness.verifier_key, witness.sign)
    with pytest.raises(NoteMalformed):
        signed(Checkpoint(LOG.verifier_key.name, 9, ROOT, ("a\tb",)))


def test_a_foreign_a_forged_and_a_posing_checkpoint_are_told_apart() -> None:
    checkpoint = Checkpoint(LOG.verifier_key.name, 9, ROOT)
    with pytest.raises(WrongOrigin):
        open_checkpoint(signed(checkpoint._replace(origin="example.com/other"), OTHER_LOG), LOG_VERIFIER)
    with pytest.raises(NoteNotSigned):
        open_checkpoint(signed(checkpoint, FORGER), LOG_VERIFIER)
    note = sign_checkpoint(checkpoint, LOG.verifier_key, LOG.sign)
    larger = note._replace(text=format_checkpoint(checkpoint._replace(size=10)))
    with pytest.raises(SignatureWrong):
        open_checkpoint(format_note(larger), LOG_VERIFIER)


def test_another_origin_is_refused_even_when_the_log_signed_it() -> None:
    text = format_checkpoint(Checkpoint("example.com/other", 9, ROOT))
    note = sign_checkpoint(Checkpoint(LOG.verifier_key.name, 9, ROOT), LOG.verifier_key, LOG.sign)
    data = format_note(note._replace(text=text, signatures=(sign_text(text, LOG.verifier_key, LOG.sign),)))
    with pytest.raises(WrongOrigin):
        open_checkpoint(data, LOG_VERIFIER)


def test_each_changed_byte_is_refused() -> None:
    data = signed(Checkpoint(LOG.verifier_key.name, 9, ROOT))
    for at in range(len(data)):
        for bit in range(8):
            changed = data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
            with pytest.raises((NoteError, CheckpointError)):
                open_checkpoint(changed, LOG_VERIFIER)
