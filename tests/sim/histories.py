"""What clients asked and were told, as a history that the linearizability checker judges."""

from __future__ import annotations

from typing import TYPE_CHECKING

from appliance.ledger.commands import Op, Operation, WriteResult
from appliance.ledger.commands import Outcome as WriteOutcome
from tests.linearizability.checker import Answer, check
from tests.linearizability.history import Outcome, Part, Record

from .checker import Violation

HISTORY_INVARIANT = "linearizability of the history"
STEPS_MAX = 20_000  # for each part of a history that has to be judged as one; beyond, it stays undecided

if TYPE_CHECKING:
    from .clients import Attempt
    from .state import Value
    from .world import World


class History:
    """Records attempts; the clock is the number of the event, so that what happens in one event is concurrent."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._calls: dict[int, tuple[int, Attempt]] = {}  # number of the attempt -> when it was made
        self.records: list[Record] = []

    def asked(self, attempt: Attempt) -> None:
        self._calls[attempt.number] = self._world.events, attempt

    def written(self, attempt: Attempt, result: WriteResult) -> None:
        if result.outcome is WriteOutcome.OK:
            self._add(attempt, Outcome.OK, versions=tuple(one.version for one in result.results))
        elif result.outcome is WriteOutcome.NOT_FOUND:
            self._add(attempt, Outcome.NOT_FOUND)
        else:
            self._add(attempt, Outcome.CONDITION_FAILED, current_version=result.current_version)

    def was_read(self, attempt: Attempt, value: Value) -> None:
        if value.value is None:
            self._add(attempt, Outcome.NOT_FOUND)
        else:
            self._add(attempt, Outcome.OK, version=value.version, value=value.value.decode())

    def failed(self, attempt: Attempt) -> None:
        self._add(attempt, Outcome.REFUSED)

    def unknown(self, attempt: Attempt) -> None:
        self._add(attempt, Outcome.UNKNOWN)

    def judge(self) -> None:
        """Raise `Violation` when no order explains all answers."""
        for _, attempt in list(self._calls.values()):
            self.unknown(attempt)
        verdict = check(self.records, STEPS_MAX)
        self._world.count(f"histories {verdict.answer}")
        if verdict.answer is Answer.VIOLATED:
            raise Violation(HISTORY_INVARIANT, verdict.explanation)

    def _add(
        self,
        attempt: Attempt,
        outcome: Outcome,
        *,
        versions: tuple[int, ...] = (),
        version: int | None = None,
        value: str | None = None,
        current_version: int | None = None,
    ) -> None:
        call, _ = self._calls.pop(attempt.number)
        is_get = attempt.operation.kind == "get"
        self.records.append(
            Record(
                attempt.client.number,
                call,
                None if outcome is Outcome.UNKNOWN else self._world.events,
                tuple(_part(operation, is_get) for operation in attempt.operation.operations),
                outcome,
                versions=versions,
                version=version,
                value=value,
                current_version=current_version,
                idempotency_key=None if is_get else attempt.operation.idempotency_key,
            )
        )


def _part(operation: Operation, is_get: bool) -> Part:
    if is_get:
        return Part("get", operation.key)
    value = operation.value.decode() if operation.op is Op.PUT else None
    return Part(operation.op.value, operation.key, value, operation.if_version)
