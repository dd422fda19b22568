"""`appliance verify KEY` and `verify proof`: one entry, its value, its place in the tree, the log's signature."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from appliance.cli.checkpoint_memory import CheckpointMemory, Seen
from appliance.cli.exits import EXIT_OF_FINDING, CliError, Exit, finding
from appliance.cli.init_files import OPEN_FILE, write_file
from appliance.cli.output import emit_json, emit_table, say
from appliance.cli.proof_shapes import Verified
from appliance.cli.verify_checks import (
    VALUE,
    Checks,
    Judged,
    Trusted,
    check_value,
    judge_proof,
    show_checks,
    shown_leaf,
)
from appliance.cli.verify_fetch import FetchedValue, LogSource
from appliance.cli.verify_standing import CONSISTENCY, Standing, compare
from appliance.ledger.note import format_verifier_key
from appliance.ledger.proof_file import PROOF_BYTES_MAX

if TYPE_CHECKING:
    from appliance.cli.failover import Answer
    from appliance.cli.session import Session

VERSION: Final = "version"

_LATEST: Final = (
    "That this is the latest version of the key is the word of the nodes that were asked. What the key was before, and "
    "that nothing is missing, `appliance verify log` checks."
)
_OLDER: Final = "Later entries may have changed or deleted the key; the proof is of this version alone."
_NO_VALUE: Final = "The value was not given, so nothing is said about it (--value FILE)."
_ABSENT: Final = "that a key was never written cannot be proven for it alone; `appliance verify log` reads all entries"
_SKIPPED: Final = "what comes before it failed"


def verify_key(session: Session, key: str, trusted: Trusted, memory: CheckpointMemory, save: Path | None) -> None:
    """Check what the nodes answer for a key.

    Raises:
        CliError: what is wrong, after all checks were shown; `not_found` for a key that is absent, or proven deleted.
    """
    verification = _Verification(session, trusted)
    with LogSource(session) as source:
        value = _read(source, key, None)
        answer = _fetch_proof(source, key, value)
        verification.judge(answer.body, key)
        verification.check_version(value, source)
    verification.compare(memory, answer.url)
    checks, leaf = verification.checks, verification.judged.leaf
    if save is not None and checks.failure is None:
        write_file(save, answer.body, OPEN_FILE)
        say(f"{save}: the proof, for `appliance verify proof`")
    verification.answer(_LATEST)
    if leaf is not None and leaf.value_hash is None:
        text = f"the key {key!r} is not there: it was deleted by leaf {leaf.leaf_index}, which is proven"
        raise CliError(Exit.NOT_FOUND, text, code="not_found")


def verify_file(session: Session, data: bytes, trusted: Trusted, key: str | None, value: bytes | None) -> None:
    """Check a proof file with nothing but known keys. Raises as `verify_key`."""
    verification = _Verification(session, trusted)
    verification.judge(data, key)
    checks, judged = verification.checks, verification.judged
    if value is None:
        checks.skipped(VALUE, "no value was given")
    elif judged.leaf is None or judged.extra is None:
        checks.skipped(VALUE, _SKIPPED)
    else:
        check_value(checks, judged.leaf, judged.extra.salt, value)
    checks.skipped(CONSISTENCY, "the log was not asked, and nothing is remembered of it")
    verification.answer(_OLDER, *([_NO_VALUE] if value is None else []))


def read_file(path: Path, bytes_max: int = PROOF_BYTES_MAX) -> bytes:
    """Read a file as far as it may be long, and a byte more. Raises `CliError` when it is not there."""
    try:
        with path.open("rb") as file:
            return file.read(bytes_max + 1)
    except FileNotFoundError:
        raise CliError(Exit.NOT_FOUND, f"there is no file {path}", code="not_found") from None


class _Verification:
    """A proof on its way through the checks.

    Attributes:
        checks: those that were made.
        judged: what the proof says.
    """

    def __init__(self, session: Session, trusted: Trusted) -> None:
        self._session = session
        self._trusted = trusted
        self._standing: Standing | None = None
        self.checks = Checks()
        self.judged = Judged()

    def judge(self, data: bytes, key: str | None) -> None:
        """Check the proof file."""
        self.judged = judge_proof(self.checks, data, self._trusted, key)

    def check_version(self, value: FetchedValue | None, source: LogSource) -> None:
        """Check that the value that was read is the entry's; one that was written over meanwhile is read as of then."""
        leaf, checks = self.judged.leaf, self.checks
        if leaf is None or checks.failure is not None:
            checks.skipped(VERSION, _SKIPPED)
            checks.skipped(VALUE, _SKIPPED)
            return
        if value is None or leaf.leaf_index > value.leaf_index:
            value = _read(source, leaf.key, leaf.leaf_index)
        found = "no value" if value is None else f"version {value.version}, leaf {value.leaf_index}"
        if value is None and leaf.value_hash is None:
            checks.passed(VERSION, f"the key is absent, and the entry deletes it as version {leaf.version}")
            checks.skipped(VALUE, "a deleted key has none")
        elif value is None or (value.leaf_index, value.version) != (leaf.leaf_index, leaf.version):
            proven = f"the proof is for {leaf.op} version {leaf.version}, leaf {leaf.leaf_index}"
            checks.failed(VERSION, finding("wrong_version", f"{proven}; the value that is answered is {found}"))
            checks.skipped(VALUE, _SKIPPED)
        else:
            checks.passed(VERSION, f"value and proof are of version {leaf.version}")
            check_value(checks, leaf, value.salt, value.value)

    def compare(self, memory: CheckpointMemory, url: str) -> None:
        """Compare the checkpoint, if the log has signed it, with the remembered one. An alarm outweighs the rest."""
        proof, checkpoint = self.judged.proof, self.judged.checkpoint
        if proof is None or checkpoint is None:
            self.checks.skipped(CONSISTENCY, _SKIPPED)
            return
        try:
            seen = Seen(checkpoint, proof.checkpoint, url)
            self._standing = compare(self._session, memory, seen, self._trusted.log())
        except CliError as error:
            if error.code not in EXIT_OF_FINDING:
                raise
            self.checks.failed(CONSISTENCY, error)
            if error.exit_code in (Exit.SHRUNK, Exit.FORKED):
                self.checks.failure = error
        else:
            self.checks.rows.append(self._standing.check)

    def answer(self, *assumptions: str) -> None:
        """Show everything. Raises the error of the check that failed."""
        judged, failure = self.judged, self.checks.failure
        checkpoint = judged.checkpoint
        remembered = self._standing.remembered if self._standing else None
        shown = Verified(
            verified=failure is None,
            log=self._trusted.log_key.name,
            leaf=shown_leaf(judged.leaf) if judged.leaf else None,
            tree_size=checkpoint.size if checkpoint else None,
            root_hash=checkpoint.root.hex() if checkpoint else None,
            checkpoint=judged.proof.checkpoint.decode() if judged.proof and checkpoint else None,
            remembered=remembered.note.decode() if remembered else None,
            checks=self.checks.rows,
            assumptions=[*judged.assumptions, *assumptions] if failure is None else [],
            key_history=[format_verifier_key(one) for one in judged.extra.key_history] if judged.extra else [],
        )
        if self._session.as_json:
            emit_json(shown)
        else:
            _show(shown)
        if failure is not None:
            raise failure


def _read(source: LogSource, key: str, at_leaf: int | None) -> FetchedValue | None:
    try:
        return source.value(key, at_leaf)
    except CliError as error:
        if error.exit_code is not Exit.NOT_FOUND:
            raise
        return None


def _fetch_proof(source: LogSource, key: str, value: FetchedValue | None) -> Answer:
    try:
        return source.proof_file(key)
    except CliError as error:
        if error.exit_code is not Exit.NOT_FOUND:
            raise
        if value is not None:
            raise finding(
                "proof_malformed", f"{value.url} answers a value, and no proof of it: {error.message}"
            ) from None
        raise CliError(error.exit_code, error.message, hint=_ABSENT, code=error.code, status=error.status) from None


def _show(shown: Verified) -> None:
    show_checks(shown.checks)
    if shown.key_history:
        emit_table(("keys of this log, the first one first, as the proof has them",), [(k,) for k in shown.key_history])
    leaf = shown.leaf
    if not shown.verified or leaf is None:
        return
    emit_table(
        ("proven entry", "key", "version", "op", "written", "by", "size", "value hash"),
        [(leaf.leaf_index, leaf.key, leaf.version, leaf.op, leaf.timestamp, leaf.actor, leaf.size, leaf.value_hash)],
    )
    emit_table(("what this rests on, and what it does not show",), [(text,) for text in shown.assumptions])
