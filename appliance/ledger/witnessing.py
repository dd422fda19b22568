"""Witnesses, after c2sp.org/tlog-witness: what a log submits, what a witness decides, and what it answers.

A witness keeps one tree head for each log. It decides (`decide`), keeps the new head durably, cosigns and answers, and
lets no other submission for that log in between: two that are decided on the same head could roll it back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Final, NamedTuple

from appliance.ledger.canonical import read_decimal, read_hash, write_base64
from appliance.ledger.checkpoint import Checkpoint, CheckpointMalformed, parse_checkpoint
from appliance.ledger.cosignature import CosignatureVerifier
from appliance.ledger.merkle import EMPTY_ROOT, verify_consistency
from appliance.ledger.note import (
    NOTE_BYTES_MAX,
    Ed25519Verifier,
    NoteError,
    NoteMalformed,
    Signature,
    format_signature,
    open_note,
    parse_note,
)

PROOF_LINES_MAX: Final = 63
REQUEST_BYTES_MAX: Final = NOTE_BYTES_MAX + 4096  # the old size and as many lines of proof as there may be
SIZE_CONTENT_TYPE: Final = "text/x.tlog.size"
TEXT_CONTENT_TYPE: Final = "text/plain; charset=utf-8"


class RequestMalformed(ValueError):
    """The body of an add-checkpoint request cannot be understood."""


class AddCheckpoint(NamedTuple):
    """The body of an add-checkpoint request.

    Attributes:
        old_size: size of the checkpoint that the witness is thought to have cosigned last, 0 for none.
        proof: consistency proof from that size to the new one, empty when there is nothing to prove.
        checkpoint: the new checkpoint's note.
    """

    old_size: int
    proof: tuple[bytes, ...]
    checkpoint: bytes


class TreeHead(NamedTuple):
    """Size and root of the checkpoint of a log that a witness has cosigned last."""

    size: int = 0
    root: bytes = EMPTY_ROOT


class Verdict(StrEnum):
    """What a witness decides about a checkpoint that was submitted."""

    COSIGN = "cosign"
    MALFORMED = "malformed"
    SIZE_SHRINKS = "size_shrinks"  # the old size is above the checkpoint's
    NOT_SIGNED = "not_signed"  # no signature by a key of the log, or a wrong one
    LOG_UNKNOWN = "log_unknown"
    SIZE_STALE = "size_stale"  # the old size is not the one cosigned last; the answer says which is
    ROOT_DIFFERS = "root_differs"  # a second root for the same size: the log forks
    INCONSISTENT = "inconsistent"  # the proof does not lead from the last tree to this one


STATUS: Final[Mapping[Verdict, int]] = {
    Verdict.COSIGN: 200,
    Verdict.MALFORMED: 400,
    Verdict.SIZE_SHRINKS: 400,
    Verdict.NOT_SIGNED: 403,
    Verdict.LOG_UNKNOWN: 404,
    Verdict.SIZE_STALE: 409,
    Verdict.ROOT_DIFFERS: 409,
    Verdict.INCONSISTENT: 422,
}


class Decision(NamedTuple):
    """A witness's decision.

    Attributes:
        verdict: what was decided.
        reason: why, for a person.
        checkpoint: the checkpoint, once it is known to be signed by its log; with COSIGN its size and root are the
            log's new head, with ROOT_DIFFERS and INCONSISTENT its note may be evidence against the log.
        text: that checkpoint's text, to be cosigned with COSIGN; else empty.
        last: what was cosigned last, where that was looked up.
    """

    verdict: Verdict
    reason: str
    checkpoint: Checkpoint | None = None
    text: str = ""
    last: TreeHead = TreeHead()


class Answer(NamedTuple):
    """What a witness answers by HTTP."""

    status: int
    content_type: str
    body: bytes


def format_request(request: AddCheckpoint) -> bytes:
    """The request's body."""
    assert len(request.proof) <= PROOF_LINES_MAX
    lines = (f"old {request.old_size}", *map(write_base64, request.proof), "")
    return "".join(line + "\n" for line in lines).encode() + request.checkpoint


def parse_request(body: bytes) -> AddCheckpoint:
    """Take a request's body apart; its checkpoint stays as it is. Raises `RequestMalformed`."""
    if len(body) > REQUEST_BYTES_MAX:
        raise RequestMalformed(f"the request has {len(body)} bytes, and {REQUEST_BYTES_MAX} are the most that are read")
    head, separator, checkpoint = body.partition(b"\n\n")
    if not separator or not head.isascii():
        raise RequestMalformed("there is no empty line between the proof, which is ASCII, and the checkpoint")
    old_line, *lines = head.decode("ascii").split("\n")
    old_size = read_decimal(old_line.removeprefix("old "))
    if not old_line.startswith("old ") or old_size is None:
        raise RequestMalformed(f"{old_line!r:.60} is no line with the old size")
    if len(lines) > PROOF_LINES_MAX:
        raise RequestMalformed(f"the proof has {len(lines)} hashes, and {PROOF_LINES_MAX} are the most there may be")
    proof = [one for line in lines if (one := read_hash(line)) is not None]
    if len(proof) != len(lines):
        raise RequestMalformed("a line of the proof is no hash in base64")
    return AddCheckpoint(old_size, tuple(proof), checkpoint)


def decide(
    body: bytes, logs: Mapping[str, Sequence[Ed25519Verifier]], last_head: Callable[[str], TreeHead]
) -> Decision:
    """Decide about an add-checkpoint request; the checks go in the order of the specification.

    Args:
        body: the request's.
        logs: the keys of each known log, by origin.
        last_head: tells what was cosigned last of a known log; the empty tree when nothing was.
    """
    try:
        request = parse_request(body)
        text = parse_note(request.checkpoint).text
        checkpoint = parse_checkpoint(text)
    except (RequestMalformed, NoteMalformed, CheckpointMalformed) as error:
        return Decision(Verdict.MALFORMED, str(error))
    keys = logs.get(checkpoint.origin)
    if keys is None:
        return Decision(Verdict.LOG_UNKNOWN, f"the log {checkpoint.origin!r:.100} is not known here")
    try:
        open_note(request.checkpoint, keys)
    except NoteError as error:
        return Decision(Verdict.NOT_SIGNED, str(error))
    last = last_head(checkpoint.origin)
    verdict, reason = _judge(request, checkpoint, last)
    return Decision(verdict, reason, checkpoint, text if verdict is Verdict.COSIGN else "", last)


def answer(decision: Decision, cosignatures: Iterable[Signature] = ()) -> Answer:
    """What to answer; with COSIGN the cosignatures, made after the new head is durable."""
    status = STATUS[decision.verdict]
    if decision.verdict is Verdict.COSIGN:
        lines = "".join(map(format_signature, cosignatures))
        assert lines, "a checkpoint that passes is cosigned"
        return Answer(status, TEXT_CONTENT_TYPE, lines.encode())
    if decision.verdict is Verdict.SIZE_STALE:
        return Answer(status, SIZE_CONTENT_TYPE, f"{decision.last.size}\n".encode())
    return Answer(status, TEXT_CONTENT_TYPE, f"{decision.reason}\n".encode())


def parse_last_size(reply: Answer) -> int | None:
    """The size that a witness says it has cosigned last, out of its 409; None when it says none."""
    if reply.status != STATUS[Verdict.SIZE_STALE] or reply.content_type != SIZE_CONTENT_TYPE:
        return None
    text = reply.body.decode("latin-1")  # whatever is not ASCII is no decimal either
    return read_decimal(text.removesuffix("\n")) if text.endswith("\n") else None


def parse_cosignatures(
    body: bytes, checkpoint_text: str, witnesses: Iterable[CosignatureVerifier]
) -> tuple[Signature, ...]:
    """The cosignatures by known witnesses in the body of a 200, verified; those of other keys are passed over.

    Raises:
        NoteMalformed: the body is no sequence of signature lines.
        SignatureWrong: one by a known witness is not over this checkpoint.
        NoteNotSigned: there is none by a known witness.
    """
    if b"\n\n" in b"\n" + body:
        raise NoteMalformed("the answer of a witness has an empty line")
    return open_note(f"{checkpoint_text}\n".encode() + body, witnesses).verified


def _judge(request: AddCheckpoint, checkpoint: Checkpoint, last: TreeHead) -> tuple[Verdict, str]:
    if request.old_size > checkpoint.size:
        return Verdict.SIZE_SHRINKS, f"the old size is {request.old_size}, and the checkpoint's {checkpoint.size}"
    if request.old_size != last.size:
        return Verdict.SIZE_STALE, f"the old size is {request.old_size}, and {last.size} was cosigned last"
    if last.size == checkpoint.size and last.root != checkpoint.root:
        return Verdict.ROOT_DIFFERS, f"another root was cosigned for the size {last.size}"
    if not verify_consistency(last.size, checkpoint.size, request.proof, last.root, checkpoint.root):
        return Verdict.INCONSISTENT, f"the proof does not lead from size {last.size} to size {checkpoint.size}"
    return Verdict.COSIGN, f"the tree of size {checkpoint.size} continues that of size {last.size}"
