"""Signed notes: those that others have published, what is refused and as what, and notes made and read back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from notes_rig import (
    ENOCH_KEY,
    ENOCH_LINE,
    FORGER,
    LOG,
    LOG_VERIFIER,
    OTHER_LOG,
    PETER_KEY,
    PETER_LINE,
    PETER_TEXT,
    PUBLIC_WITNESS_KEYS,
    SOFA_LINE,
    SOFA_TEXT,
    SPEC_KEY,
    SPEC_NOTE,
    WITNESSES,
)

from appliance.adapters.ed25519 import verify
from appliance.ledger.canonical import write_base64
from appliance.ledger.note import (
    NOTE_BYTES_MAX,
    SIGNATURE_LINES_MAX,
    Ed25519Verifier,
    Note,
    NoteError,
    NoteMalformed,
    NoteNotSigned,
    Signature,
    SignatureWrong,
    VerifierKeyError,
    format_note,
    format_signature,
    format_verifier_key,
    is_key_name,
    make_verifier_key,
    open_note,
    parse_note,
    parse_verifier_key,
    sign_text,
    with_signatures,
)

# Unicode's White_Space property.
SPACES = [*range(9, 14), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000]
TEXTS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="".join(map(chr, range(32)))) | st.just("\n")
)
NAMES = st.text(min_size=1, max_size=12).filter(is_key_name)
SIGNATURES = st.builds(Signature, NAMES, st.binary(min_size=4, max_size=4), st.binary(min_size=1, max_size=80))
GOOD_LINE = "— a AAAAAAA=\n"


def verifier(key_text: str) -> Ed25519Verifier:
    return Ed25519Verifier(parse_verifier_key(key_text), verify)


@pytest.mark.parametrize(
    ("data", "keys", "signers"),
    [
        pytest.param(SPEC_NOTE, [SPEC_KEY], ["example.com/foo"], id="the specification's"),
        pytest.param(PETER_TEXT + "\n" + PETER_LINE, [PETER_KEY], ["PeterNeumann"], id="Go's"),
        pytest.param(
            PETER_TEXT + "\n" + PETER_LINE + ENOCH_LINE,
            [ENOCH_KEY, PETER_KEY],
            ["PeterNeumann", "EnochRoot"],
            id="Go's with two",
        ),
        pytest.param(
            PETER_TEXT + "\n" + PETER_LINE + ENOCH_LINE, [ENOCH_KEY, SPEC_KEY], ["EnochRoot"], id="one of two known"
        ),
    ],
)
def test_published_notes(data: str, keys: list[str], signers: list[str]) -> None:
    opened = open_note(data.encode(), map(verifier, keys))
    assert [signature.name for signature in opened.verified] == signers
    assert format_note(opened.note) == data.encode()


def test_a_published_note_whose_key_is_not() -> None:
    note = parse_note((SOFA_TEXT + "\n" + SOFA_LINE).encode())
    assert note.text == SOFA_TEXT
    assert [(one.name, one.key_id.hex(), len(one.signature)) for one in note.signatures] == [
        ("example.com/behind-the-sofa", "033de0ae", 64)
    ]


@pytest.mark.parametrize("text", [SPEC_KEY, PETER_KEY, ENOCH_KEY, *PUBLIC_WITNESS_KEYS])
def test_published_verifier_keys(text: str) -> None:
    assert format_verifier_key(parse_verifier_key(text)) == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("", "a verifier key is", id="empty"),
        pytest.param("example.com/foo", "a verifier key is", id="name alone"),
        pytest.param("example.com/foo+530d903a", "a verifier key is", id="no key"),
        pytest.param(SPEC_KEY.replace("530d903a", "530d903"), "a verifier key is", id="short id"),
        pytest.param(SPEC_KEY.replace("530d903a", "530D903A"), "a verifier key is", id="upper case id"),
        pytest.param(SPEC_KEY.replace("530d903a", "530d903b"), "has the id 530d903a", id="another id"),
        pytest.param(SPEC_KEY.replace("foo", "bar"), "has the id", id="another name"),
        pytest.param(SPEC_KEY + "\n", "a verifier key is", id="newline behind"),
        pytest.param(SPEC_KEY[:-4], "31 bytes|29 bytes", id="short key"),
        pytest.param(SPEC_KEY.replace("com/foo", "com/ foo"), "no name", id="space in the name"),
        pytest.param(SPEC_KEY.removeprefix("example.com/foo"), "no name", id="no name"),
        pytest.param("a+00000000+" + write_base64(b"\x06" + bytes(32)), "type 0x06", id="a type that is not known"),
        pytest.param("a+00000000+" + write_base64(b"\x01" + bytes(33)), "33 bytes", id="long key"),
        pytest.param("a+00000000+", "a verifier key is", id="nothing behind the id"),
    ],
)
def test_what_is_no_verifier_key(text: str, reason: str) -> None:
    with pytest.raises(VerifierKeyError, match=reason):
        parse_verifier_key(text)


@given(st.data())
def test_one_changed_character_makes_another_key_or_none(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(SPEC_KEY) - 1))
    other = data.draw(st.characters(exclude_characters=SPEC_KEY[at]))
    with pytest.raises(VerifierKeyError):
        parse_verifier_key(SPEC_KEY[:at] + other + SPEC_KEY[at + 1 :])


@pytest.mark.parametrize("code", SPACES, ids=hex)
def test_no_unicode_space_is_in_a_key_name(code: int) -> None:
    assert not is_key_name(f"a{chr(code)}b")


@pytest.mark.parametrize("name", ["", "a+b", "a\x00", "a\x1fb", "\ud800"], ids=ascii)
def test_what_is_no_key_name(name: str) -> None:
    assert not is_key_name(name)


@pytest.mark.parametrize("name", ["a", "example.com/log42", "ü€𝄞", "—", "a\u200bb", "=/\\\"'"], ids=ascii)
def test_key_names(name: str) -> None:
    key = make_verifier_key(name, 1, bytes(32))
    assert parse_verifier_key(format_verifier_key(key)) == key


def test_a_key_signs_its_own_type_only() -> None:
    with pytest.raises(VerifierKeyError, match="type 0x04; one for type 0x01"):
        Ed25519Verifier(WITNESSES[0].verifier_key, verify)
    with pytest.raises(VerifierKeyError, match="type 0x04"):
        sign_text("text\n", WITNESSES[0].verifier_key, WITNESSES[0].sign)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"", "no empty line", id="empty"),
        pytest.param(b"text\n", "no empty line", id="text alone"),
        pytest.param(b"text\n\n", "does not end with", id="no signature"),
        pytest.param(("text\n" + GOOD_LINE).encode(), "no empty line", id="no empty line"),
        pytest.param(("text\n\n" + GOOD_LINE)[:-1].encode(), "does not end with", id="no newline at the end"),
        pytest.param(("text\n\n" + GOOD_LINE + "\n").encode(), "does not end with", id="empty line at the end"),
        pytest.param(("text\n\n" + GOOD_LINE + "x\n").encode(), "no signature line", id="something between"),
        pytest.param(("text\n\n" + GOOD_LINE.replace("—", "-")).encode(), "no signature line", id="hyphen"),
        pytest.param(("text\n\n" + GOOD_LINE.replace("— ", "—")).encode(), "no signature line", id="no space"),
        pytest.param(("text\n\n" + GOOD_LINE.replace("— ", "—\u00a0")).encode(), "no signature line", id="other space"),
        pytest.param(("text\n\n" + GOOD_LINE.replace(" a ", "  ")).encode(), "no signature line", id="no name"),
        pytest.param(("text\n\n" + GOOD_LINE.replace("a", "a+b")).encode(), "no signature line", id="plus in a name"),
        pytest.param(("text\n\n" + GOOD_LINE.replace(" a ", " a  ")).encode(), "not base64", id="two spaces"),
        pytest.param(("text\n\n" + GOOD_LINE.replace("=\n", "= \n")).encode(), "not base64", id="space behind"),
        pytest.param("text\n\n— a\n".encode(), "not base64", id="name alone"),
        pytest.param("text\n\n— a AAAAAA==\n".encode(), "not base64", id="key id alone"),
        pytest.param("text\n\n— a AAAAAAB=\n".encode(), "not base64", id="bits behind the end"),
        pytest.param("text\n\n— a AAAAAAA\n".encode(), "not base64", id="no padding"),
        pytest.param(("te\txt\n\n" + GOOD_LINE).encode(), "character U\\+0009 at character 2", id="tab"),
        pytest.param(("text\r\n\r\n" + GOOD_LINE).encode(), "no empty line", id="carriage returns"),
        pytest.param(("te\rxt\n\n" + GOOD_LINE).encode(), "U\\+000D", id="carriage return"),
        pytest.param(("te\x00xt\n\n" + GOOD_LINE).encode(), "U\\+0000", id="zero"),
        pytest.param(b"te\xffxt\n\n" + GOOD_LINE.encode(), "not UTF-8 at byte 2", id="not UTF-8"),
        pytest.param(b"te\xed\xa0\x80\n\n" + GOOD_LINE.encode(), "not UTF-8", id="surrogate"),
        pytest.param(b"te\xc0\x80\n\n" + GOOD_LINE.encode(), "not UTF-8", id="overlong"),
        pytest.param(
            ("t\n\n" + GOOD_LINE * (SIGNATURE_LINES_MAX + 1)).encode(), "101 signatures", id="signatures too many"
        ),
        pytest.param(b"t" * NOTE_BYTES_MAX + b"\n\n" + GOOD_LINE.encode(), "are the most", id="too long"),
    ],
)
def test_what_is_no_note(data: bytes, reason: str) -> None:
    with pytest.raises(NoteMalformed, match=reason):
        parse_note(data)
    with pytest.raises(NoteMalformed):
        open_note(data, [LOG_VERIFIER])


@pytest.mark.parametrize("text", ["", "no newline", "tab\t\n", "\ud800\n"], ids=ascii)
def test_what_is_no_text_of_a_note(text: str) -> None:
    with pytest.raises(NoteMalformed):
        sign_text(text, LOG.verifier_key, LOG.sign)
    with pytest.raises(NoteMalformed):
        format_note(Note(text, (Signature("a", bytes(4), b"x"),)))


@given(TEXTS.map(lambda text: text + "\n"), st.lists(SIGNATURES, min_size=1, max_size=4))
def test_a_note_reads_back(text: str, signatures: list[Signature]) -> None:
    note = Note(text, tuple(signatures))
    assert parse_note(format_note(note)) == note


def test_what_is_read_at_most() -> None:
    assert len(parse_note(("t\n\n" + GOOD_LINE * SIGNATURE_LINES_MAX).encode()).signatures) == SIGNATURE_LINES_MAX
    behind = ("\n\n" + GOOD_LINE).encode()
    parse_note(b"t" * (NOTE_BYTES_MAX - len(behind)) + behind)
    with pytest.raises(NoteMalformed, match="1000001 bytes"):
        parse_note(b"t" * (NOTE_BYTES_MAX - len(behind) + 1) + behind)


def test_16_signatures_as_large_as_there_are_are_read() -> None:
    """What the specification asks of every reader; an ML-DSA signature has up to nearly 5 kB."""
    lines = [format_signature(Signature(f"w{n}", bytes(4), bytes(5000))) for n in range(16)]
    assert len(parse_note(("text\n\n" + "".join(lines)).encode()).signatures) == 16


@given(TEXTS.map(lambda text: text + "\n"))
def test_what_is_signed_is_opened(text: str) -> None:
    data = format_note(Note(text, (sign_text(text, LOG.verifier_key, LOG.sign),)))
    assert open_note(data, [LOG_VERIFIER]).note.text == text


def test_a_note_of_nobody_known_a_forged_one_and_a_broken_one_are_told_apart() -> None:
    text = "text\n"
    forged = sign_text(text, FORGER.verifier_key, FORGER.sign)
    data = format_note(Note(text, (forged,)))
    with pytest.raises(NoteNotSigned, match=r"known: 'example\.com/log'"):
        open_note(data, [LOG_VERIFIER])  # the same name, and another id
    with pytest.raises(NoteNotSigned, match="known: nobody"):
        open_note(data, [])
    posing = forged._replace(key_id=LOG.verifier_key.key_id)
    with pytest.raises(SignatureWrong, match=r"'example\.com/log', key"):
        open_note(format_note(Note(text, (posing,))), [LOG_VERIFIER])
    with pytest.raises(NoteMalformed):
        open_note(data[:-1], [LOG_VERIFIER])


def test_one_wrong_signature_spoils_a_note_that_others_have_signed() -> None:
    right = sign_text("text\n", LOG.verifier_key, LOG.sign)
    wrong = sign_text("other\n", OTHER_LOG.verifier_key, OTHER_LOG.sign)
    known = [LOG_VERIFIER, Ed25519Verifier(OTHER_LOG.verifier_key, verify)]
    data = format_note(Note("text\n", (right, wrong)))
    with pytest.raises(SignatureWrong, match="other"):
        open_note(data, known)
    assert open_note(data, [LOG_VERIFIER]).verified == (right,)


@pytest.mark.parametrize("length", [1, 63, 65])
def test_a_signature_of_another_length_is_wrong_whatever_ed25519_says(length: int) -> None:
    signature = Signature(LOG.verifier_key.name, LOG.verifier_key.key_id, bytes(length))
    with pytest.raises(SignatureWrong):
        open_note(format_note(Note("text\n", (signature,))), [Ed25519Verifier(LOG.verifier_key, lambda *_: True)])


def test_each_changed_byte_is_refused() -> None:
    data = SPEC_NOTE.encode()
    known = [verifier(SPEC_KEY)]
    for at in range(len(data)):
        for other in {data[at] ^ bit for bit in (1, 2, 4, 8, 16, 32, 64, 128)} | {0, 10, 32}:
            if other == data[at]:
                continue
            with pytest.raises(NoteError):
                open_note(data[:at] + bytes([other]) + data[at + 1 :], known)


def test_each_truncation_is_refused() -> None:
    data = SPEC_NOTE.encode()
    for length in range(len(data)):
        with pytest.raises(NoteMalformed):
            open_note(data[:length], [verifier(SPEC_KEY)])


def test_signatures_are_added_behind_and_a_second_by_the_same_key_replaces_the_first() -> None:
    a, b, c = (Signature(name, bytes(4), b"x") for name in "abc")
    again = a._replace(signature=b"y")
    note = with_signatures(Note("text\n", (a, b)), [c, again])
    assert note == Note("text\n", (again, b, c))
    other_id = a._replace(key_id=b"1234")
    assert with_signatures(note, [other_id]).signatures == (again, b, c, other_id)
