"""Whether a checkpoint continues the one that was seen before: what makes a rolled-back log or a fork an alarm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from appliance.cli.checkpoint_memory import CheckpointMemory, Seen
from appliance.cli.exits import CliError, Exit, finding
from appliance.cli.proof_shapes import VerifyCheck
from appliance.cli.verify_checks import recovery_hint
from appliance.cli.verify_fetch import LogSource
from appliance.ledger.checkpoint import CheckpointMalformed, WrongOrigin, open_checkpoint, parse_checkpoint
from appliance.ledger.merkle import verify_consistency
from appliance.ledger.note import Ed25519Verifier, NoteMalformed, NoteNotSigned, SignatureWrong, parse_note
from appliance.ledger.proof_file import CheckResult

if TYPE_CHECKING:
    from appliance.cli.session import Session

CONSISTENCY: Final = "consistency"
NODES_AT_ONCE: Final = 16

_NO_PROOF: Final = "no node can prove that the larger of the two trees continues the smaller one"

N = TypeVar("N")
T = TypeVar("T")


class Standing(NamedTuple):
    """How a checkpoint stands to the one that was remembered, None when it is the first of its log."""

    check: VerifyCheck
    remembered: Seen | None


def open_signed(data: bytes, log: Ed25519Verifier, url: str) -> Seen:
    """Read a checkpoint that a node showed. Raises `CliError`: what is wrong with it, by name."""
    try:
        return Seen(open_checkpoint(data, log).checkpoint, data, url)
    except (NoteMalformed, CheckpointMalformed) as error:
        code, reason = "checkpoint_malformed", str(error)
    except WrongOrigin as error:
        raise finding(
            "wrong_origin", f"the checkpoint of {url}: {error}", hint=recovery_hint(_origin(data), log.key)
        ) from None
    except SignatureWrong as error:
        code, reason = "checkpoint_forged", str(error)
    except NoteNotSigned as error:
        code, reason = "checkpoint_unsigned", str(error)
    raise finding(code, f"the checkpoint of {url}: {reason}")


def _origin(data: bytes) -> str:
    return parse_checkpoint(parse_note(data).text).origin


def compare(session: Session, memory: CheckpointMemory, seen: Seen, log: Ed25519Verifier) -> Standing:
    """Compare a checkpoint with the remembered one, and remember it when it is of a larger tree that continues that.

    A smaller checkpoint is no alarm while some node proves that it and the remembered one are of one log.

    Raises:
        CliError: `log_forked` or `log_shrunk`, with both checkpoints; `log_behind`, `no_consistency` or what a node
            answered when it cannot be told; `memory_unusable`.
    """
    with memory.locked():
        last = memory.last()
        if last is None:
            memory.remember(seen)
            reason = "no checkpoint of this log was seen before; this one is remembered from now on"
            return Standing(VerifyCheck(name=CONSISTENCY, result=CheckResult.NOT_CHECKED, reason=reason), None)
        size, last_size = seen.checkpoint.size, last.checkpoint.size
        if size == last_size:
            reason = _same(memory, last, seen)
        elif size > last_size:
            _continue(session, memory, last, seen)
            memory.remember(seen)
            reason = f"continues the checkpoint of {last_size} entries that was seen before"
        else:
            _lag(session, memory, last, seen, log)
            reason = (
                f"the node is behind: it is continued by the checkpoint of {last_size} entries that was seen before"
            )
        return Standing(VerifyCheck(name=CONSISTENCY, result=CheckResult.PASSED, reason=reason), last)


def forked(memory: CheckpointMemory, first: Seen, second: Seen, why: str) -> CliError:
    """The alarm for two signed trees that cannot both be this log's."""
    return _alarm(memory, "log_forked", f"the log {first.checkpoint.origin} has forked: {why}", first, second)


def at_all(nodes: Sequence[N], ask: Callable[[N], T]) -> list[T]:
    """Ask all nodes at once."""
    with ThreadPoolExecutor(max(1, min(len(nodes), NODES_AT_ONCE))) as pool:
        return list(pool.map(ask, nodes))


def _same(memory: CheckpointMemory, last: Seen, seen: Seen) -> str:
    if last.checkpoint.root != seen.checkpoint.root:
        raise forked(memory, last, seen, f"it has signed two roots for {seen.checkpoint.size} entries")
    return f"the same tree of {seen.checkpoint.size} entries as was seen before"


def _continue(session: Session, memory: CheckpointMemory, last: Seen, seen: Seen) -> None:
    try:
        if _is_proven(session, last, seen):
            return
    except CliError as error:
        raise _unproven(error, last, seen) from None
    raise forked(memory, last, seen, _NO_PROOF)


def _lag(session: Session, memory: CheckpointMemory, last: Seen, seen: Seen, log: Ed25519Verifier) -> None:
    try:
        if _is_proven(session, seen, last):
            return
    except CliError as error:  # no node has that many entries, or none answers: each had as long as a call may take
        if error.exit_code is Exit.AUTH:
            raise
        raise _shrunk(session, memory, last, seen, log) from None
    raise forked(memory, last, seen, _NO_PROOF)


def _is_proven(session: Session, smaller: Seen, larger: Seen) -> bool:
    """Whether some node proves that the larger tree continues the smaller one. Raises `CliError` when none answers."""

    def ask(url: str) -> bool | CliError:
        try:
            return _proves(session, url, smaller, larger)
        except CliError as error:
            return error

    answers = at_all(session.urls, ask)
    told = [answer for answer in answers if isinstance(answer, bool)]
    if not told:
        errors = [answer for answer in answers if isinstance(answer, CliError)]
        # One that may answer when it is asked again says more than one that refuses.
        raise next((error for error in errors if error.exit_code is Exit.UNAVAILABLE), errors[0])
    return any(told)


def _proves(session: Session, url: str, smaller: Seen, larger: Seen) -> bool:
    with LogSource(session, url) as source:
        proof = source.consistency(smaller.checkpoint.size, larger.checkpoint.size)
    return proof is not None and verify_consistency(
        smaller.checkpoint.size, larger.checkpoint.size, proof, smaller.checkpoint.root, larger.checkpoint.root
    )


def _shrunk(session: Session, memory: CheckpointMemory, last: Seen, seen: Seen, log: Ed25519Verifier) -> CliError:
    """What it means that no node has as many entries as were seen before."""

    def look(url: str) -> int | None:
        try:
            with LogSource(session, url) as source:
                return open_signed(source.checkpoint().body, log, url).checkpoint.size
        except CliError:
            return None

    sizes = dict(zip(session.urls, at_all(session.urls, look), strict=True))
    wanted = last.checkpoint.size
    if any(size is None or size >= wanted for size in sizes.values()):
        told = ", ".join(f"{url}: {'no valid checkpoint' if size is None else size}" for url, size in sizes.items())
        return finding(
            "log_behind",
            f"a checkpoint of {wanted} entries was seen before, and none that continues it is shown now ({told})",
            hint="ask again when all nodes answer; if they still have less then, the log was rolled back",
        )
    nodes = "the one node that was asked has" if len(sizes) == 1 else f"all {len(sizes)} nodes have"
    why = f"{nodes} less than the {wanted} entries that it has signed before"
    return _alarm(memory, "log_shrunk", f"the log {last.checkpoint.origin} was rolled back: {why}", last, seen)


def _unproven(error: CliError, last: Seen, seen: Seen) -> CliError:
    if error.exit_code not in (Exit.USAGE, Exit.NOT_FOUND):
        return error
    return finding(
        "no_consistency",
        f"no node tells how its tree of {seen.checkpoint.size} entries continues the one of {last.checkpoint.size} "
        f"that was seen before: {error.message}",
        status=error.status,
    )


def _alarm(memory: CheckpointMemory, code: str, message: str, last: Seen, seen: Seen) -> CliError:
    text = (
        f"{message}\n\n--- signed before, seen at {last.url}:\n{last.note.decode()}"
        f"\n--- signed, and seen now at {seen.url}:\n{seen.note.decode()}"
    )
    kept = memory.keep_evidence(text)
    return finding(
        code,
        text.rstrip("\n"),
        hint=f"trust nothing that this log says until it is explained; both checkpoints are kept in {kept}",
    )
