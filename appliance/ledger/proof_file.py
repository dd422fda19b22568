"""Proof files, after c2sp.org/tlog-proof: that an entry is in a log, checkable with the file and known keys alone.

A file holds the entry's index, its inclusion path, and a checkpoint as its log and witnesses have signed it; not the
entry. `verify_proof` takes the entry and answers check by check, with what it had to assume.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Final, NamedTuple

from appliance.ledger.canonical import read_base64, read_decimal, read_hash, write_base64
from appliance.ledger.checkpoint import (
    Checkpoint,
    CheckpointMalformed,
    WrongOrigin,
    open_checkpoint,
    parse_checkpoint,
)
from appliance.ledger.cosignature import CosignatureVerifier
from appliance.ledger.merkle import leaf_hash, root_from_inclusion
from appliance.ledger.note import (
    NOTE_BYTES_MAX,
    Ed25519Verifier,
    Ed25519Verify,
    NoteError,
    NoteMalformed,
    NoteNotSigned,
    VerifierKey,
    open_note,
    parse_note,
)

HEADER: Final = "c2sp.org/tlog-proof@v1"
PATH_LINES_MAX: Final = 63  # of a tree of 2**63 leaves
PROOF_BYTES_MAX: Final = 2 * NOTE_BYTES_MAX  # as much again for extra data


class ProofMalformed(ValueError):
    """The bytes are no proof file."""


class ProofFile(NamedTuple):
    """What a proof file says; nothing of it is verified.

    Attributes:
        leaf_index: place of the entry in the log, from 0.
        path: its inclusion path, lowest hash first.
        checkpoint: the checkpoint's note, byte for byte.
        extra: data of the application, which nothing vouches for; empty for none.
    """

    leaf_index: int
    path: tuple[bytes, ...]
    checkpoint: bytes
    extra: bytes = b""


class CheckName(StrEnum):
    """What is checked, in this order."""

    FORMAT = "format"
    CHECKPOINT = "checkpoint"
    ORIGIN = "origin"
    LOG_SIGNATURE = "log_signature"
    WITNESSES = "witnesses"
    INCLUSION = "inclusion"


class CheckResult(StrEnum):
    """How a check ended."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_CHECKED = "not_checked"


class Check(NamedTuple):
    """One check, its result, and why it is so, for a person."""

    name: CheckName
    result: CheckResult
    reason: str


class ProofReport(NamedTuple):
    """The answer to a proof.

    Attributes:
        checks: one for each `CheckName`, in its order.
        assumptions: what the answer rests on and no check here can show.
        checkpoint: what the log signed; None unless the proof holds.
    """

    checks: tuple[Check, ...]
    assumptions: tuple[str, ...]
    checkpoint: Checkpoint | None

    @property
    def holds(self) -> bool:
        """Whether the entry is proven to be in the log."""
        return self.checkpoint is not None


def format_proof(proof: ProofFile) -> bytes:
    """The proof as a file's bytes."""
    assert len(proof.path) <= PATH_LINES_MAX
    lines = [HEADER, *([f"extra {write_base64(proof.extra)}"] if proof.extra else []), f"index {proof.leaf_index}"]
    lines += map(write_base64, proof.path)
    return "".join(line + "\n" for line in (*lines, "")).encode() + proof.checkpoint


def parse_proof(data: bytes) -> ProofFile:
    """Take a proof file apart; its checkpoint stays as it is. Raises `ProofMalformed`."""
    if len(data) > PROOF_BYTES_MAX:
        raise ProofMalformed(f"the file has {len(data)} bytes, and {PROOF_BYTES_MAX} are the most that are read")
    head, separator, checkpoint = data.partition(b"\n\n")
    if not separator or not head.isascii():
        raise ProofMalformed("the file has no empty line between the proof, which is ASCII, and the checkpoint")
    lines = head.decode("ascii").split("\n")
    if lines.pop(0) != HEADER:
        raise ProofMalformed(f"the file does not begin with {HEADER}")
    extra = b""
    if lines and lines[0].startswith("extra "):
        extra = read_base64(lines.pop(0).removeprefix("extra ")) or b""
        if not extra:
            raise ProofMalformed("the extra line is not base64 of something")
    index_line = lines.pop(0) if lines else ""
    leaf_index = read_decimal(index_line.removeprefix("index "))
    if not index_line.startswith("index ") or leaf_index is None:
        raise ProofMalformed(f"{index_line!r:.60} is no index line")
    if len(lines) > PATH_LINES_MAX:
        raise ProofMalformed(f"the path has {len(lines)} hashes, and {PATH_LINES_MAX} are the most of any tree")
    path = [one for line in lines if (one := read_hash(line)) is not None]
    if len(path) != len(lines):
        raise ProofMalformed("a line of the path is no hash in base64")
    return ProofFile(leaf_index, tuple(path), checkpoint, extra)


def verify_proof(
    data: bytes,
    leaf: bytes,
    log_key: VerifierKey,
    ed25519_verify: Ed25519Verify,
    *,
    witness_keys: Sequence[VerifierKey] = (),
    witnesses_min: int = 0,
) -> ProofReport:
    """Check a proof file against an entry and known keys.

    Args:
        data: the file.
        leaf: bytes of the entry that is said to be in the log.
        log_key: the log's key, of type 0x01; its name is the origin.
        ed25519_verify: checks one signature.
        witness_keys: keys of known witnesses, of type 0x04.
        witnesses_min: how many of them must have cosigned, 0 to ask for none; one key counts once, whatever its names.

    Raises:
        VerifierKeyError: a key is of the wrong type.
    """
    log = Ed25519Verifier(log_key, ed25519_verify)
    witnesses = [CosignatureVerifier(key, ed25519_verify) for key in witness_keys]
    try:
        proof = parse_proof(data)
    except ProofMalformed as error:
        return _report([_failed(CheckName.FORMAT, str(error))], None)
    checks = [_passed(CheckName.FORMAT, f"a proof for the entry at index {proof.leaf_index}")]
    try:
        checkpoint = parse_checkpoint(parse_note(proof.checkpoint).text)
    except (NoteMalformed, CheckpointMalformed) as error:
        return _report([*checks, _failed(CheckName.CHECKPOINT, str(error))], None)
    checks += (
        _passed(CheckName.CHECKPOINT, f"a checkpoint of a tree of {checkpoint.size} entries"),
        *_check_log(proof.checkpoint, checkpoint, log),
        _check_witnesses(proof.checkpoint, witnesses, witnesses_min),
        _check_inclusion(proof, checkpoint, leaf),
    )
    return _report(checks, checkpoint)


def _check_log(data: bytes, checkpoint: Checkpoint, log: Ed25519Verifier) -> tuple[Check, Check]:
    named = _passed(CheckName.ORIGIN, f"the checkpoint is of the log {checkpoint.origin}")
    try:
        open_checkpoint(data, log)
    except WrongOrigin as error:
        other = "the checkpoint is of another log"
        return _failed(CheckName.ORIGIN, str(error)), _not_checked(CheckName.LOG_SIGNATURE, other)
    except NoteError as error:
        return named, _failed(CheckName.LOG_SIGNATURE, str(error))
    return named, _passed(CheckName.LOG_SIGNATURE, f"signed by the log's key {log.key.key_id.hex()}")


def _check_witnesses(data: bytes, witnesses: Sequence[CosignatureVerifier], witnesses_min: int) -> Check:
    if witnesses_min == 0:
        return _not_checked(CheckName.WITNESSES, "no cosignatures were asked for")
    public_keys = {(one.key.name, one.key.key_id): one.key.public_key for one in witnesses}
    try:
        verified = open_note(data, witnesses).verified
    except NoteNotSigned:
        verified = ()
    except NoteError as error:
        return _failed(CheckName.WITNESSES, str(error))
    count = len({public_keys[one.name, one.key_id] for one in verified})
    reason = f"{count} of {len(witnesses)} known witnesses have cosigned; {witnesses_min} are asked for"
    return (_passed if count >= witnesses_min else _failed)(CheckName.WITNESSES, reason)


def _check_inclusion(proof: ProofFile, checkpoint: Checkpoint, leaf: bytes) -> Check:
    root = root_from_inclusion(leaf_hash(leaf), proof.leaf_index, checkpoint.size, proof.path)
    place = f"index {proof.leaf_index} of a tree of {checkpoint.size} entries"
    if root is None:
        reason = f"a path of {len(proof.path)} hashes is none to {place}"
        return _failed(CheckName.INCLUSION, reason)
    if root != checkpoint.root:
        reason = f"this entry at {place} leads to another root: the proof is for another entry, place or tree"
        return _failed(CheckName.INCLUSION, reason)
    return _passed(CheckName.INCLUSION, f"the entry is at {place} with the checkpoint's root")


def _report(checks: list[Check], checkpoint: Checkpoint | None) -> ProofReport:
    done = {check.name for check in checks}
    checks += [_not_checked(name, "what comes before it failed") for name in CheckName if name not in done]
    results = {check.name: check.result for check in checks}
    if CheckResult.FAILED in results.values():
        return ProofReport(tuple(checks), (), None)
    assumptions = [
        "The verifier keys that were given are the right ones: they came on a way that whoever made the file does not "
        "control.",
        "Nobody but the log has the log's private key; Ed25519 and SHA-256 are not broken.",
        "The entry says what it says: a time in it is the log's own word, and a later entry may have overtaken it.",
    ]
    if results[CheckName.WITNESSES] is CheckResult.PASSED:
        assumptions.append(
            "The witnesses that cosigned do not all work for the log: they vouch for one and the same tree."
        )
    else:
        assumptions.append("The log shows the same tree to everybody: no witness was asked.")
    return ProofReport(tuple(checks), tuple(assumptions), checkpoint)


def _passed(name: CheckName, reason: str) -> Check:
    return Check(name, CheckResult.PASSED, reason)


def _failed(name: CheckName, reason: str) -> Check:
    return Check(name, CheckResult.FAILED, reason)


def _not_checked(name: CheckName, reason: str) -> Check:
    return Check(name, CheckResult.NOT_CHECKED, reason)
