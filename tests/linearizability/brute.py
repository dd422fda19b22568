"""The dumb checker: every order of every choice of unknown writes. For histories of a handful of operations.

It shares nothing with the clever one but the records, so that the two can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence

from .history import Outcome, Record

OPERATIONS_MAX = 8


def is_linearizable(operations: Sequence[Record]) -> bool:
    """Whether some order explains all answers; refused operations are passed over."""
    assert len(operations) <= OPERATIONS_MAX
    return _explained([record for record in operations if record.outcome is not Outcome.REFUSED], {})


def _explained(left: list[Record], state: dict[str, tuple[int, str | None]]) -> bool:
    decided = [record for record in left if record.outcome is not Outcome.UNKNOWN]
    if not decided:
        return True
    for record in left:
        others = [other for other in left if other is not record]
        if any(other.returned is not None and other.returned < record.call for other in others if other in decided):
            continue
        after = dict(state)
        if _happens(record, after) and _explained(others, after):
            return True
    return False


def _happens(record: Record, state: dict[str, tuple[int, str | None]]) -> bool:
    """Carry an operation out; False when its answer is not what happens, or when it is unknown and does nothing."""
    if record.parts[0].op == "get":
        version, value = state.get(record.parts[0].key, (0, None))
        if record.outcome is Outcome.UNKNOWN:
            return False
        return (value is None) if record.outcome is Outcome.NOT_FOUND else (version, value) == _read(record)
    before = dict(state)
    versions = []
    for position, part in enumerate(record.parts):
        version, value = state.get(part.key, (0, None))
        present = version if value is not None else 0
        refusal = None
        if part.op == "delete" and not present:
            refusal = Outcome.NOT_FOUND
        elif part.if_version is not None and part.if_version != present:
            refusal = Outcome.CONDITION_FAILED
        if refusal is not None:
            state.clear()
            state.update(before)
            return (
                record.outcome is refusal
                and record.current_version in (None, present)
                and record.failed_position in (None, position)
            )
        state[part.key] = (version + 1, part.value if part.op == "put" else None)
        versions.append(version + 1)
    if record.outcome is Outcome.UNKNOWN:
        return True
    return record.outcome is Outcome.OK and all(
        told in (None, made) for told, made in zip(record.versions, versions, strict=True)
    )


def _read(record: Record) -> tuple[int | None, str | None]:
    return record.version, record.value
