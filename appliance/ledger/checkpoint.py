"""Checkpoints, after c2sp.org/tlog-checkpoint: a tree's origin, size and root as the text of a signed note.

A log's key carries the origin as its name, so a checkpoint under another name is refused whoever signed it.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from appliance.ledger.canonical import DECIMAL_MAX, read_decimal, read_hash, write_base64
from appliance.ledger.merkle import HASH_BYTES
from appliance.ledger.note import (
    Ed25519Sign,
    Ed25519Verifier,
    Note,
    OpenedNote,
    VerifierKey,
    open_note,
    parse_note,
    sign_text,
)

RECOVERED: Final = "/recovered-"  # in the name of a log, between that of the log it goes on from and which recovery


class CheckpointError(ValueError):
    """A checkpoint cannot be used."""


class CheckpointMalformed(CheckpointError):
    """The text of the note is no checkpoint."""


class WrongOrigin(CheckpointError):
    """The checkpoint is of another log than the one that was asked for."""


class Checkpoint(NamedTuple):
    """What a log says of its tree.

    Attributes:
        origin: the log's name; not empty, one line.
        size: leaves in the tree.
        root: the root hash at that size, `HASH_BYTES` bytes.
        extensions: further lines, none empty; opaque, and no auditor can check them.
    """

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()


class OpenedCheckpoint(NamedTuple):
    """A checkpoint that its log has signed, and the note that it came in, with the signatures of others."""

    checkpoint: Checkpoint
    opened: OpenedNote


def format_checkpoint(checkpoint: Checkpoint) -> str:
    """The text that is signed: its one and only form. Raises `CheckpointMalformed`."""
    lines = (checkpoint.origin, *checkpoint.extensions)
    if not all(lines) or any("\n" in line for line in lines):
        raise CheckpointMalformed("the origin and the extension lines of a checkpoint are lines, and not empty")
    assert 0 <= checkpoint.size <= DECIMAL_MAX
    assert len(checkpoint.root) == HASH_BYTES
    head = (checkpoint.origin, str(checkpoint.size), write_base64(checkpoint.root))
    return "".join(line + "\n" for line in (*head, *checkpoint.extensions))


def parse_checkpoint(text: str) -> Checkpoint:
    """Read the text of a note; nothing is verified. Raises `CheckpointMalformed`."""
    lines = text.split("\n")
    if lines.pop() or len(lines) < 3 or not all(lines):
        raise CheckpointMalformed("a checkpoint has at least three lines, none empty, each with its newline")
    origin, size_text, root_text, *extensions = lines
    size = read_decimal(size_text)
    if size is None:
        raise CheckpointMalformed(f"{size_text!r:.40} is no size of a tree")
    root = read_hash(root_text)
    if root is None:
        raise CheckpointMalformed(f"{root_text!r:.60} is no root hash in base64")
    return Checkpoint(origin, size, root, tuple(extensions))


def sign_checkpoint(checkpoint: Checkpoint, key: VerifierKey, ed25519_sign: Ed25519Sign) -> Note:
    """The checkpoint as a note with its log's signature: the same bytes whenever and wherever the log signs it.

    Raises:
        CheckpointMalformed: no checkpoint can say this.
        NoteMalformed: a line holds a control character.
        VerifierKeyError: the key is no key of a log (type 0x01).
        WrongOrigin: the key belongs to a log of another origin.
    """
    _check_origin(checkpoint, key)
    text = format_checkpoint(checkpoint)
    return Note(text, (sign_text(text, key, ed25519_sign),))


def open_checkpoint(data: bytes, log: Ed25519Verifier) -> OpenedCheckpoint:
    """Read a checkpoint and see that the log whose key this is has signed it.

    Raises:
        NoteMalformed: the bytes are no signed note.
        CheckpointMalformed: the note's text is no checkpoint.
        WrongOrigin: it is a checkpoint of another log.
        SignatureWrong: what stands there as the log's signature is not over this text.
        NoteNotSigned: the log's signature is not there.
    """
    checkpoint = parse_checkpoint(parse_note(data).text)
    _check_origin(checkpoint, log.key)
    return OpenedCheckpoint(checkpoint, open_note(data, [log]))


def _check_origin(checkpoint: Checkpoint, key: VerifierKey) -> None:
    if checkpoint.origin != key.name:
        raise WrongOrigin(f"the checkpoint is of the log {checkpoint.origin!r:.160}, and the key of {key.name!r:.160}")


def is_recovery(origin: str, of: str) -> bool:
    """Whether a log's name says that it is what another became when an operator made one node go on alone."""
    (stem, how_often), (old_stem, old_how_often) = _parts(origin), _parts(of)
    return stem == old_stem and how_often > old_how_often


def _parts(origin: str) -> tuple[str, int]:
    """The name of the first log, and after how many recoveries."""
    stem, _, which = origin.partition(RECOVERED)
    return stem, read_decimal(which.partition("-")[0]) or 0
