"""The checks of one proof, as rows for people and programs, and the error that the first failed one ends with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from appliance.adapters.ed25519 import verify
from appliance.cli.exits import CliError, finding
from appliance.cli.output import emit_table
from appliance.cli.proof_shapes import ProvenLeaf, VerifyCheck
from appliance.ledger.checkpoint import Checkpoint, is_recovery, parse_checkpoint
from appliance.ledger.encoding import SALT_BYTES, Leaf, LeafError, decode_leaf, value_hash
from appliance.ledger.note import Ed25519Verifier, NoteError, NoteNotSigned, VerifierKey, open_note, parse_note
from appliance.ledger.proof_extra import ExtraMalformed, ProofExtra, decode_extra
from appliance.ledger.proof_file import CheckName, CheckResult, ProofFile, ProofMalformed, parse_proof, verify_proof

LEAF: Final = "leaf"
VALUE: Final = "value"

_CODES: Final[Mapping[str, str]] = {
    CheckName.FORMAT: "proof_malformed",
    CheckName.CHECKPOINT: "checkpoint_malformed",
    CheckName.ORIGIN: "wrong_origin",
    CheckName.LOG_SIGNATURE: "checkpoint_forged",
    CheckName.WITNESSES: "witnesses_missing",
    CheckName.INCLUSION: "wrong_path",
}
_WORDS: Final[Mapping[str, str]] = {
    CheckResult.PASSED: "ok",
    CheckResult.FAILED: "FAILED",
    CheckResult.NOT_CHECKED: "not checked",
}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Trusted(NamedTuple):
    """What a person trusts beforehand.

    Attributes:
        log_key: the log's verifier key, of type 0x01.
        witness_keys: those of witnesses, of type 0x04.
        witnesses_min: how many of them must have cosigned.
    """

    log_key: VerifierKey
    witness_keys: tuple[VerifierKey, ...] = ()
    witnesses_min: int = 0

    def log(self) -> Ed25519Verifier:
        """Checks signatures of the log."""
        return Ed25519Verifier(self.log_key, verify)


class Checks:
    """Checks in the order in which they were made.

    Attributes:
        rows: one a check.
        failure: the error of the first that failed, None while there is none.
    """

    def __init__(self) -> None:
        self.rows: list[VerifyCheck] = []
        self.failure: CliError | None = None

    def passed(self, name: str, reason: str) -> None:
        """Add a check that was passed."""
        self.rows.append(VerifyCheck(name=name, result=CheckResult.PASSED, reason=reason))

    def skipped(self, name: str, reason: str) -> None:
        """Add a check that was not made."""
        self.rows.append(VerifyCheck(name=name, result=CheckResult.NOT_CHECKED, reason=reason))

    def failed(self, name: str, error: CliError) -> None:
        """Add a check that failed."""
        self.rows.append(VerifyCheck(name=name, result=CheckResult.FAILED, reason=error.message))
        self.failure = self.failure or error


class Judged(NamedTuple):
    """What a proof file says; of it, only what the checks passed is to be believed.

    Attributes:
        proof: the file, None when it is none.
        extra: what it carries for those who check it.
        leaf: the entry, None when it cannot be read.
        checkpoint: the checkpoint, if the log has signed it.
        assumptions: what a proof that holds rests on.
    """

    proof: ProofFile | None = None
    extra: ProofExtra | None = None
    leaf: Leaf | None = None
    checkpoint: Checkpoint | None = None
    assumptions: tuple[str, ...] = ()


def judge_proof(checks: Checks, data: bytes, trusted: Trusted, key: str | None) -> Judged:
    """Check a proof file, and that the entry in it is a leaf in its place, of this key if one is given.

    All checks up to `LEAF` are added to `checks`, those that were not made among them.
    """
    try:
        proof = parse_proof(data)
        extra = decode_extra(proof.extra)
    except (ProofMalformed, ExtraMalformed) as error:
        checks.failed(CheckName.FORMAT, finding("proof_malformed", f"this is no proof file of a ledger: {error}"))
        for name in (*list(CheckName)[1:], LEAF):
            checks.skipped(name, "what comes before it failed")
        return Judged()
    report = verify_proof(
        data,
        extra.leaf,
        trusted.log_key,
        verify,
        witness_keys=trusted.witness_keys,
        witnesses_min=trusted.witnesses_min,
    )
    for check in report.checks:
        if check.result is CheckResult.FAILED:
            code = _CODES[check.name]
            if check.name is CheckName.LOG_SIGNATURE and _is_unsigned(proof.checkpoint, trusted.log()):
                code = "checkpoint_unsigned"
            checks.failed(check.name, finding(code, check.reason, hint=_hint(check.name, proof, extra, trusted)))
        else:
            checks.rows.append(VerifyCheck(name=check.name, result=check.result, reason=check.reason))
    results = {check.name: check.result for check in report.checks}
    signed = results[CheckName.LOG_SIGNATURE] is CheckResult.PASSED
    checkpoint = parse_checkpoint(parse_note(proof.checkpoint).text) if signed else None
    return Judged(proof, extra, _check_leaf(checks, proof, extra, key), checkpoint, report.assumptions)


def check_value(checks: Checks, leaf: Leaf, salt: bytes, value: bytes) -> None:
    """Check that a value is the one whose hash is in the leaf."""
    if leaf.value_hash is None:
        reason = "the entry deletes the key: it has no value"
    elif len(salt) != SALT_BYTES:
        reason = f"without the salt of {SALT_BYTES} bytes nobody can tell whether this is the entry's value"
    elif value_hash(salt, value) != leaf.value_hash or len(value) != leaf.value_size:
        reason = f"these {len(value)} bytes are not the value of the entry, which has {leaf.value_size}"
    else:
        checks.passed(VALUE, f"the SHA-256 of salt and value ({len(value)} bytes) is the one in the entry")
        return
    checks.failed(VALUE, finding("wrong_value", reason))


def show_checks(rows: Sequence[VerifyCheck]) -> None:
    """Print checks as a table; of an alarm, the first line."""
    emit_table(
        ("check", "result", "why"), ((row.name, _WORDS[row.result], row.reason.partition("\n")[0]) for row in rows)
    )


def stamp_text(timestamp_us: int) -> str:
    """Unix microseconds as the API writes them: RFC 3339 in UTC, with six decimals."""
    return (_EPOCH + timedelta(microseconds=timestamp_us)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def shown_leaf(leaf: Leaf) -> ProvenLeaf:
    """A leaf as an answer shows it."""
    return ProvenLeaf(
        leaf_index=leaf.leaf_index,
        key=leaf.key,
        op=leaf.op,
        version=leaf.version,
        timestamp=stamp_text(leaf.timestamp_us),
        actor=leaf.actor,
        request_id=leaf.request_id,
        value_hash=leaf.value_hash,
        size=leaf.value_size,
    )


def _check_leaf(checks: Checks, proof: ProofFile, extra: ProofExtra, key: str | None) -> Leaf | None:
    try:
        leaf = decode_leaf(extra.leaf)
    except LeafError as error:
        checks.failed(LEAF, finding("leaf_malformed", f"the entry is no leaf of a ledger: {error}"))
        return None
    if leaf.leaf_index != proof.leaf_index:
        reason = f"the entry says that it is leaf {leaf.leaf_index}, and the proof is for index {proof.leaf_index}"
        checks.failed(LEAF, finding("leaf_malformed", reason))
    elif key is not None and leaf.key != key:
        reason = f"the proof is for another key: {leaf.key!r}, and {key!r} was asked for"
        checks.failed(LEAF, finding("wrong_key", reason))
    else:
        checks.passed(LEAF, f"leaf {leaf.leaf_index}: {leaf.op} of {leaf.key!r}, version {leaf.version}")
    return leaf


def _is_unsigned(checkpoint: bytes, log: Ed25519Verifier) -> bool:
    try:
        open_note(checkpoint, [log])
    except NoteNotSigned:
        return True
    except NoteError:
        return False
    return False


def recovery_hint(origin: str, trusted: VerifierKey) -> str:
    """What to do about a checkpoint of this origin, if it is what the trusted log became by a recovery; else empty."""
    if not is_recovery(origin, trusted.name):
        return ""
    return (
        "its name says that an operator recovered the cluster, so that entries may be gone: have whoever runs the "
        "ledger confirm it and the new key, which `appliance cluster info` shows, and give that with --verifier-key"
    )


def _hint(name: CheckName, proof: ProofFile, extra: ProofExtra, trusted: Trusted) -> str:
    if name is not CheckName.ORIGIN:
        return ""
    hint = recovery_hint(parse_checkpoint(parse_note(proof.checkpoint).text).origin, trusted.log_key)
    if hint or not extra.key_history:
        return hint
    names: Sequence[str] = [key.name for key in extra.key_history]
    return f"the file names keys of {', '.join(names)}: give the one that you trust with --verifier-key"
