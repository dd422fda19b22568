"""Signed notes and verifier keys, after c2sp.org/signed-note. Standard library only: Ed25519 comes in as a function.

A note is a text, an empty line, and a line for each signature. Its text means nothing before `open_note` has found a
signature of a known key. What a signature covers depends on its type: type 0x01 covers the text itself (here), type
0x04 is a witness's cosignature (`appliance.ledger.cosignature`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from enum import IntEnum
from hashlib import sha256
from typing import Final, NamedTuple, Protocol

from appliance.ledger.canonical import read_base64, write_base64

PUBLIC_KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
KEY_ID_BYTES: Final = 4
NOTE_BYTES_MAX: Final = 1_000_000  # as Go's sumdb/note has it
SIGNATURE_LINES_MAX: Final = 100  # as Go's sumdb/note has it; the specification asks for at least 16

Ed25519Sign = Callable[[bytes], bytes]  # message -> its signature, `SIGNATURE_BYTES` long
Ed25519Verify = Callable[[bytes, bytes, bytes], bool]  # public key, message, signature -> whether it is right

_LINE_START: Final = "\u2014 "  # an em dash and a space
_FORBIDDEN: Final = re.compile("[\x00-\x09\x0b-\x1f\ud800-\udfff]")  # controls but newline; what UTF-8 has no bytes for
_KEY_ID: Final = re.compile("[0-9a-f]{8}")


class NoteError(ValueError):
    """A note, or a key to one, cannot be used."""


class NoteMalformed(NoteError):
    """The bytes are no signed note."""


class NoteNotSigned(NoteError):
    """The note is well-formed, and none of the known keys has signed it."""


class SignatureWrong(NoteError):
    """A signature line names a known key, and the signature is not that key's over this text."""


class VerifierKeyError(NoteError):
    """The text is no verifier key, or the key is not of the type that it is wanted for."""


class SignatureType(IntEnum):
    """The types of signature that are known here; both are made with Ed25519."""

    ED25519 = 0x01
    COSIGNATURE_V1 = 0x04


class VerifierKey(NamedTuple):
    """A public key with the name of who signs with it and the type of its signatures.

    Attributes:
        name: not empty, without Unicode spaces, plus signs and control characters.
        signature_type: what the key's signatures cover; it is part of the key's identity.
        public_key: `PUBLIC_KEY_BYTES` bytes (RFC 8032).
    """

    name: str
    signature_type: SignatureType
    public_key: bytes

    @property
    def key_id(self) -> bytes:
        """`KEY_ID_BYTES` bytes that, with the name, tell which key a signature line is by. Nothing is proven by it."""
        identity = self.name.encode() + b"\n" + bytes([self.signature_type]) + self.public_key
        return sha256(identity).digest()[:KEY_ID_BYTES]


class Signature(NamedTuple):
    """One signature line: the key's name, its id, and what its type of signature consists of."""

    name: str
    key_id: bytes
    signature: bytes


class Note(NamedTuple):
    """A text, ending with a newline, and the signatures that are claimed for it."""

    text: str
    signatures: tuple[Signature, ...]


class OpenedNote(NamedTuple):
    """A note whose text may be trusted as far as the keys are, and those of its signatures that were verified."""

    note: Note
    verified: tuple[Signature, ...]


class NoteVerifier(Protocol):
    """One known key, and how its signatures are checked."""

    @property
    def key(self) -> VerifierKey:
        """The key."""
        ...

    def verify(self, text: str, signature: bytes) -> bool:
        """Tell whether the key has signed this note text."""
        ...


class Ed25519Verifier:
    """Signatures of type 0x01: Ed25519 over the note text.

    Raises:
        VerifierKeyError: the key is of another type.
    """

    def __init__(self, key: VerifierKey, ed25519_verify: Ed25519Verify) -> None:
        self.key: Final = require_type(key, SignatureType.ED25519)
        self._ed25519_verify = ed25519_verify

    def verify(self, text: str, signature: bytes) -> bool:
        """Tell whether the key has signed this note text."""
        return len(signature) == SIGNATURE_BYTES and self._ed25519_verify(self.key.public_key, text.encode(), signature)


def is_key_name(name: str) -> bool:
    """Tell whether a key may have this name."""
    return (
        name != ""
        and "+" not in name
        and not any(character.isspace() for character in name)
        and _FORBIDDEN.search(name) is None
    )


def make_verifier_key(name: str, signature_type: int, public_key: bytes) -> VerifierKey:
    """Put a verifier key together. Raises `VerifierKeyError`."""
    if not is_key_name(name):
        raise VerifierKeyError(f"{name!r:.100} is no name of a key: it is empty, or has a space, a plus or a control")
    try:
        known_type = SignatureType(signature_type)
    except ValueError as error:
        raise VerifierKeyError(f"the key {name!r:.100} is of type {signature_type:#04x}, which is not known") from error
    if len(public_key) != PUBLIC_KEY_BYTES:
        raise VerifierKeyError(f"the key {name!r:.100} has {len(public_key)} bytes instead of {PUBLIC_KEY_BYTES}")
    return VerifierKey(name, known_type, public_key)


def format_verifier_key(key: VerifierKey) -> str:
    """The key as text: name, key id in hex, and type and public key in base64, with plus signs between them."""
    return f"{key.name}+{key.key_id.hex()}+{write_base64(bytes([key.signature_type]) + key.public_key)}"


def parse_verifier_key(text: str) -> VerifierKey:
    """Read a key back. Raises `VerifierKeyError`; also when the key id in the text is not the key's."""
    name, id_hex, encoded = [*text.split("+", 2), "", ""][:3]
    data = read_base64(encoded)
    if _KEY_ID.fullmatch(id_hex) is None or not data:
        raise VerifierKeyError("a verifier key is a name, 8 lower-case hex digits and base64, with + between them")
    key = make_verifier_key(name, data[0], data[1:])
    if key.key_id.hex() != id_hex:
        raise VerifierKeyError(f"the key {name!r:.100} has the id {key.key_id.hex()}, and its text says {id_hex}")
    return key


def require_type(key: VerifierKey, signature_type: SignatureType) -> VerifierKey:
    """Answer the key when it makes signatures of this type. Raises `VerifierKeyError`."""
    if key.signature_type is not signature_type:
        raise VerifierKeyError(
            f"the key {key.name!r:.100} makes signatures of type {key.signature_type:#04x}; "
            f"one for type {signature_type:#04x} is needed here"
        )
    return key


def sign_text(text: str, key: VerifierKey, ed25519_sign: Ed25519Sign) -> Signature:
    """Sign a note text with a key of type 0x01.

    Raises:
        NoteMalformed: no note can have this text.
        VerifierKeyError: the key is of another type.
    """
    require_type(key, SignatureType.ED25519)
    return Signature(key.name, key.key_id, ed25519_sign(_checked_text(text).encode()))


def format_note(note: Note) -> bytes:
    """The note as bytes. Raises `NoteMalformed` when no note can have this text."""
    assert note.signatures, "a note has at least one signature"
    lines = "".join(format_signature(signature) for signature in note.signatures)
    return f"{_checked_text(note.text)}\n{lines}".encode()


def format_signature(signature: Signature) -> str:
    """The signature's line, with its newline."""
    return f"{_LINE_START}{signature.name} {write_base64(signature.key_id + signature.signature)}\n"


def parse_note(data: bytes) -> Note:
    """Take a note apart; nothing is verified. Raises `NoteMalformed`."""
    if len(data) > NOTE_BYTES_MAX:
        raise NoteMalformed(f"the note has {len(data)} bytes, and {NOTE_BYTES_MAX} are the most that are read")
    try:
        whole = data.decode()
    except UnicodeDecodeError as error:
        raise NoteMalformed(f"the note is not UTF-8 at byte {error.start}") from error
    text, separator, lines_text = whole.rpartition("\n\n")
    if not separator:
        raise NoteMalformed("the note has no empty line between text and signatures")
    lines = lines_text.split("\n")
    if lines.pop() or not lines:
        raise NoteMalformed("the note does not end with a signature line and its newline")
    if len(lines) > SIGNATURE_LINES_MAX:
        raise NoteMalformed(
            f"the note has {len(lines)} signatures, and {SIGNATURE_LINES_MAX} are the most that are read"
        )
    return Note(_checked_text(text + "\n"), tuple(map(_parse_signature, lines)))


def with_signatures(note: Note, new_signatures: Iterable[Signature]) -> Note:
    """The note with more signatures; one by a key that has signed already takes that one's place."""
    by_key = {(one.name, one.key_id): one for one in (*note.signatures, *new_signatures)}
    return Note(note.text, tuple(by_key.values()))


def open_note(data: bytes, verifiers: Iterable[NoteVerifier]) -> OpenedNote:
    """Take a note apart and verify the signatures of all known keys; those of other keys are passed over.

    A key may have signed more than once; each of its signatures must be right.

    Raises:
        NoteMalformed: the bytes are no signed note.
        SignatureWrong: a known key's signature is wrong, whatever the others are.
        NoteNotSigned: there is none of a known key.
    """
    note = parse_note(data)
    known = {(one.key.name, one.key.key_id): one for one in verifiers}
    verified = []
    for signature in note.signatures:
        verifier = known.get((signature.name, signature.key_id))
        if verifier is None:
            continue
        if not verifier.verify(note.text, signature.signature):
            raise SignatureWrong(
                f"the signature of {signature.name!r:.100}, key {signature.key_id.hex()}, is not over this text"
            )
        verified.append(signature)
    if not verified:
        names = ", ".join(sorted({f"{name!r:.100}" for name, _ in known})) or "nobody"
        raise NoteNotSigned(f"the note has no signature by a known key (known: {names})")
    return OpenedNote(note, tuple(verified))


def _checked_text(text: str) -> str:
    forbidden = _FORBIDDEN.search(text)
    if forbidden is not None:
        raise NoteMalformed(f"the note has the character U+{ord(forbidden[0]):04X} at character {forbidden.start()}")
    if not text.endswith("\n"):
        raise NoteMalformed("a note's text ends with a newline")
    return text


def _parse_signature(line: str) -> Signature:
    name, _, encoded = line.removeprefix(_LINE_START).partition(" ")
    if not line.startswith(_LINE_START) or not is_key_name(name):
        raise NoteMalformed(f"{line!r:.100} is no signature line")
    data = read_base64(encoded)
    if data is None or len(data) <= KEY_ID_BYTES:
        raise NoteMalformed(f"the signature of {name!r:.100} is not base64 of a key id and a signature")
    return Signature(name, data[:KEY_ID_BYTES], data[KEY_ID_BYTES:])
