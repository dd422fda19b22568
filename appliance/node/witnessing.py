"""Witnesses: the leader has them cosign what it publishes, and the log keeps what they say for every node to show.

Publishing waits for none of this. A round submits the latest checkpoint to every witness that has not cosigned it, and
ends with one entry that holds the cosignatures; the next round begins when it is over. Who leads next finds in the log
what was cosigned, and asks for the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Final, NamedTuple

from appliance.ledger.commands import PublishedTree, WriteResult, encode_cosignatures
from appliance.ledger.cosignature import timestamp_of
from appliance.ledger.merkle import verify_consistency
from appliance.ledger.note import NoteError, NoteMalformed, Signature, format_note, format_signature, parse_note
from appliance.ledger.witnessing import (
    STATUS,
    AddCheckpoint,
    Answer,
    Verdict,
    format_request,
    parse_cosignatures,
    parse_last_size,
)
from appliance.node.driver import Driver
from appliance.node.findings import Finding
from appliance.node.ports import DamagedFile, Instruments, Log, StorageError
from appliance.node.proof_ports import LeavesUnavailable
from appliance.node.publishing import NOTHING_COSIGNED, Publishing, SignedTree
from appliance.node.reading import Reading
from appliance.node.view import is_paused
from appliance.node.waiting import settle
from appliance.node.witness_ports import Witness, WitnessUnreachable
from appliance.raft.core import NotLeader
from appliance.tables.errors import ApplianceError

LOOK_INTERVAL_S: Final = 1.0  # how soon a new leader, the end of a pause and the end of a back-off are noticed
RENEW_S: Final = 300.0  # a tree that does not grow is cosigned again: a cosignature says what is the latest at its time
BACKOFF_S_MIN: Final = 1.0  # before a witness that did not cosign is asked again; doubles with each failure
BACKOFF_S_MAX: Final = 60.0
SUBMISSIONS_MAX: Final = 2  # in one round: with the size that it is thought to know, and with the one that it names


class Failure(StrEnum):
    """Why a witness did not cosign."""

    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    REFUSED = "refused"  # it takes no checkpoints of this log, or has failed itself
    UNUSABLE = "unusable"  # what it answers is no cosignature over the checkpoint
    FORK = "fork"  # it says that it has cosigned a tree that this one does not continue


class _NotCosigned(Exception):
    """A witness did not cosign, and why."""

    def __init__(self, failure: Failure, detail: str) -> None:
        super().__init__(detail)
        self.failure = failure


class _Seat:
    """What a node knows of one witness.

    Attributes:
        name: its key's.
        last_size: of the checkpoint that it has cosigned last, as far as this node was told; 0 also when it was not.
        shown: its latest cosignature in the log, and of how many leaves.
        shown_s: monotonic seconds when that came.
    """

    def __init__(self, witness: Witness, instruments: Instruments) -> None:
        self.witness = witness
        self.name = witness.verifier.key.name
        self.last_size = 0
        self.shown: tuple[int, Signature | None] = (0, None)
        self.shown_s = 0.0
        self.not_before_s = 0.0
        self.backoff_s = BACKOFF_S_MIN
        self.failures = 0  # in a row
        self.failure: Failure | None = None
        self.size_gauge = instruments.gauge("scribe_witness_cosigned_size", witness=self.name)
        self.time_gauge = instruments.gauge("scribe_witness_cosigned_time_seconds", witness=self.name)
        self.counters = {
            one: instruments.counter("scribe_witness_failures_total", witness=self.name, reason=one.value)
            for one in Failure
        }

    @property
    def key(self) -> tuple[str, bytes]:
        """What its signature lines say of whose they are."""
        return self.name, self.witness.verifier.key.key_id


class _Submission(NamedTuple):
    """A checkpoint on its way to the witnesses."""

    tree: PublishedTree
    text: str
    note: bytes


class Witnessing:
    """The leader's rounds with the witnesses, and what each node knows of these.

    Args:
        driver: the running node.
        publishing: checkpoints; the node must have the log's key.
        reading: linearizable reads.
        witnesses: with different keys and names.
        timeout_s: how long one witness may take in one round.
        instruments: metrics.
        log: structured log.
    """

    def __init__(
        self,
        driver: Driver,
        *,
        publishing: Publishing,
        reading: Reading,
        witnesses: Sequence[Witness],
        timeout_s: float,
        instruments: Instruments,
        log: Log,
    ) -> None:
        self._driver = driver
        self._publishing = publishing
        self._reading = reading
        self._timeout_s = timeout_s
        self._log = log
        self._seats = {seat.key: seat for seat in (_Seat(one, instruments) for one in witnesses)}
        self._followed = NOTHING_COSIGNED
        self._in_dispute: set[str] = set()  # names of witnesses that say the log forks

    async def run(self) -> None:
        """Do so until cancelled."""
        published = self._driver.applier.machine.published.tree_size
        waiting = self._driver.published_waiters.add(published + 1)
        try:
            while True:
                await self.round()
                await asyncio.wait((waiting,), timeout=LOOK_INTERVAL_S)
                if waiting.done():
                    published = self._driver.applier.machine.published.tree_size
                    waiting = self._driver.published_waiters.add(published + 1)
        finally:
            await asyncio.gather(*(seat.witness.close() for seat in self._seats.values()))

    async def round(self) -> None:
        """If this node leads, have the witnesses that have not yet cosigned the latest checkpoint do it, and put what
        they say into the log. On all nodes, see what stands there.
        """
        self._follow()
        due = self._due()
        if not due:
            return
        try:
            signed = await self._publishing.latest()
        except ApplianceError:
            return  # this node cannot sign now; where that is an alarm, it is one already
        given = await asyncio.gather(*(self._ask(seat, signed) for seat in due))
        cosignatures = [one for one in given if one is not None]
        if cosignatures and self._may_propose():
            await self._replicate(signed.tree, cosignatures)
            self._follow()

    def _may_propose(self) -> bool:
        """While writes are paused the files rest, so nothing is cosigned: it would be known to the witnesses alone."""
        return self._publishing.may_propose() and not is_paused(self._driver)

    def _due(self) -> list[_Seat]:
        published = self._driver.applier.machine.published.tree_size
        now_s = self._driver.clock.monotonic_s()
        if not published or not self._may_propose():
            return []
        return [
            seat
            for seat in self._seats.values()
            if now_s >= seat.not_before_s and (seat.shown[0] < published or now_s >= seat.shown_s + RENEW_S)
        ]

    # -- what the log says

    def _follow(self) -> None:
        """Take note of cosignatures that have come into the log, whoever led."""
        cosigned = self._publishing.cosigned
        if cosigned == self._followed:
            return
        self._followed = cosigned
        if not cosigned.lines:  # the log has another name since
            for seat in self._seats.values():
                seat.shown, seat.shown_s, seat.last_size = (0, None), 0.0, 0
                seat.size_gauge.set(0)
        for cosignature in self._held():
            seat, shown = self._seats[cosignature.name, cosignature.key_id], (cosigned.tree.tree_size, cosignature)
            if seat.shown != shown:
                seat.shown, seat.shown_s = shown, self._driver.clock.monotonic_s()
                seat.size_gauge.set(cosigned.tree.tree_size)
                seat.time_gauge.set(min(timestamp_of(cosignature), self._driver.clock.now_us() / 1e6))
                self._in_dispute.discard(seat.name)
        if not self._in_dispute:
            self._driver.findings.withdraw(Finding.FORK_SEEN)

    def _held(self) -> list[Signature]:
        """The cosignatures in the log, those of witnesses that this node knows."""
        lines = "".join(line + "\n" for line in self._publishing.cosigned.lines)
        try:
            held = parse_note(f"cosignatures\n\n{lines}".encode()).signatures if lines else ()
        except NoteMalformed:
            return []
        return [one for one in held if (one.name, one.key_id) in self._seats]

    async def _replicate(self, tree: PublishedTree, cosignatures: Iterable[Signature]) -> None:
        """Put cosignatures into the log, beside those of the same tree that stand there."""
        driver = self._driver
        held = self._held() if self._publishing.cosigned.tree.tree_size == tree.tree_size else []
        by_key = {(one.name, one.key_id): one for one in (*held, *cosignatures)}
        lines = [format_signature(one).removesuffix("\n") for one in by_key.values()]
        decided: asyncio.Future[WriteResult] = asyncio.get_running_loop().create_future()
        try:
            driver.propose(encode_cosignatures(driver.next_stamp_us(), tree, lines), "", settle(decided))
            await decided
        except (NotLeader, ApplianceError):
            return  # the witnesses are asked again, by whoever leads

    # -- one witness

    async def _ask(self, seat: _Seat, signed: SignedTree) -> Signature | None:
        """Have a witness cosign; None when it does not."""
        submission = _Submission(signed.tree, signed.note.text, format_note(signed.note))
        try:
            async with asyncio.timeout(self._timeout_s):
                cosignature = await self._submit(seat, submission)
        except TimeoutError:
            self._failed(seat, Failure.TIMEOUT, f"no answer within {self._timeout_s:g} s")
        except WitnessUnreachable as error:
            self._failed(seat, Failure.UNREACHABLE, str(error))
        except _NotCosigned as error:
            if error.failure is Failure.FORK and await self._is_own_fault(seat, submission):
                return None
            self._failed(seat, error.failure, str(error))
        except DamagedFile as error:
            self._driver.findings.report(Finding.PROOF_FAILED, error.detail)
        except (StorageError, LeavesUnavailable):
            return None  # another ledger file has taken the place of this one, or is about to
        except Exception as error:  # whatever it answered must not end the rounds with the others
            self._failed(seat, Failure.UNUSABLE, f"{type(error).__name__}: {error}")
        else:
            if seat.failures:
                self._log.info("witness.cosigns", witness=seat.name, failures=seat.failures)
            seat.failures, seat.failure, seat.backoff_s = 0, None, BACKOFF_S_MIN
            return cosignature
        return None

    async def _submit(self, seat: _Seat, submission: _Submission) -> Signature:
        """Submit a checkpoint, once more when the witness names another size than it was thought to have cosigned.

        Raises:
            _NotCosigned: it did not cosign.
            WitnessUnreachable: nor did it answer.
            StorageError: this node's ledger file cannot be read.
            LeavesUnavailable: it does not hold these leaves.
        """
        tree = submission.tree
        for _ in range(SUBMISSIONS_MAX):
            old_size = seat.last_size
            if old_size > tree.tree_size:
                detail = f"it has cosigned a tree of {old_size} leaves, and the log published {tree.tree_size}"
                raise _NotCosigned(Failure.FORK, detail)
            proof = await self._proof(old_size, tree.tree_size)
            request = AddCheckpoint(old_size, tuple(proof), submission.note)
            answer = await seat.witness.submit(format_request(request))
            if answer.status == STATUS[Verdict.COSIGN]:
                try:
                    cosignature = parse_cosignatures(answer.body, submission.text, [seat.witness.verifier])[-1]
                except NoteError as error:
                    raise _NotCosigned(Failure.UNUSABLE, str(error)) from error
                seat.last_size = tree.tree_size
                return cosignature
            size = parse_last_size(answer)
            if size is None:
                raise _refusal(answer, old_size, tree)
            seat.last_size = size
        raise _NotCosigned(Failure.UNUSABLE, f"it says that it has cosigned {size} leaves, and not from there on")

    async def _proof(self, old_size: int, new_size: int) -> list[bytes]:
        return await asyncio.to_thread(self._driver.ledger_store.tree.consistency, old_size, new_size)

    async def _is_own_fault(self, seat: _Seat, submission: _Submission) -> bool:
        """Before a witness is believed that the log forks: whether it is this node that is behind, or that cannot prove
        what it says.
        """
        tree, size = submission.tree, seat.last_size
        try:
            await self._reading.linearize()  # who was deposed may not know what the next leader has published
            if size > tree.tree_size:
                return self._driver.applier.machine.published.tree_size >= size
            proof = await self._proof(size, tree.tree_size)
            old_root = await asyncio.to_thread(self._driver.ledger_store.tree.root, size)
        except (ApplianceError, StorageError, LeavesUnavailable):
            return True  # it cannot tell now; the next round asks again
        if verify_consistency(size, tree.tree_size, proof, old_root, tree.root):
            return False
        self._driver.findings.report(
            Finding.PROOF_FAILED, f"the tree of {size} leaves does not lead to that of {tree.tree_size}"
        )
        return True

    def _failed(self, seat: _Seat, failure: Failure, detail: str) -> None:
        seat.counters[failure].inc()
        seat.failures += 1
        if failure is Failure.FORK:
            seat.last_size = 0  # the next time it is asked from the beginning, and says where it stands then
            self._in_dispute.add(seat.name)
            self._driver.findings.report(Finding.FORK_SEEN, f"the witness {seat.name} does not cosign: {detail}")
            seat.backoff_s = BACKOFF_S_MAX
        elif failure is not seat.failure:
            self._log.warning("witness.failed", witness=seat.name, failure=failure.value, reason=detail)
        seat.failure = failure
        seat.not_before_s = self._driver.clock.monotonic_s() + seat.backoff_s
        seat.backoff_s = min(BACKOFF_S_MAX, 2 * seat.backoff_s)


def _refusal(answer: Answer, old_size: int, tree: PublishedTree) -> _NotCosigned:
    """What an answer means that neither is a cosignature nor names a size that helps."""
    said = f"it answers {answer.status}: {answer.body.decode(errors='replace').strip()!r:.200}"
    differs = answer.status == STATUS[Verdict.ROOT_DIFFERS] and old_size == tree.tree_size
    if differs or (answer.status == STATUS[Verdict.INCONSISTENT] and old_size):
        return _NotCosigned(Failure.FORK, f"{said} (from {old_size} leaves to {tree.tree_size})")
    if answer.status == STATUS[Verdict.LOG_UNKNOWN]:
        said += "; give it this log's verifier key"
    return _NotCosigned(Failure.REFUSED, said)
