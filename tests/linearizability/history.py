"""Records of a history, their JSON lines, and what several attempts of one operation come to."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple


class Outcome(StrEnum):
    """What a client was told."""

    OK = "ok"
    NOT_FOUND = "not_found"
    CONDITION_FAILED = "condition_failed"
    REFUSED = "refused"
    UNKNOWN = "unknown"


UNDECIDED = frozenset({Outcome.REFUSED, Outcome.UNKNOWN})


class Part(NamedTuple):
    """One thing that is asked of one key; `if_version` 0 means that the key must be absent."""

    op: str
    key: str
    value: str | None = None
    if_version: int | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """One attempt; the package's docstring has the members. `returned` is `return` there."""

    client: int | str
    call: int
    returned: int | None
    parts: tuple[Part, ...]
    outcome: Outcome
    versions: tuple[int | None, ...] = ()
    version: int | None = None
    value: str | None = None
    current_version: int | None = None
    failed_position: int | None = None
    idempotency_key: str | None = None
    index: int | None = None
    leaf_indexes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        problem = _problem(self)
        if problem is not None:
            raise HistoryError(f"{problem}, and not {self.parts} -> {self.outcome}")

    @property
    def is_get(self) -> bool:
        """Whether it reads."""
        return self.parts[0].op == "get"

    @property
    def keys(self) -> frozenset[str]:
        """All keys that it touches."""
        return frozenset(part.key for part in self.parts)

    def __str__(self) -> str:
        asked = ", ".join(map(_asked, self.parts))
        if len(self.parts) > 1:
            asked = f"batch [{asked}]"
        until = "" if self.returned is None else f" to {self.returned}"
        return f"client {self.client}, {self.call}{until}: {asked} -> {_answered(self)}"


class HistoryError(ValueError):
    """A record makes no sense."""


class Contradiction(Exception):
    """Attempts with one idempotency key were answered differently.

    Attributes:
        records: two attempts that contradict each other.
    """

    def __init__(self, records: tuple[Record, Record]) -> None:
        super().__init__("\n".join(map(str, records)))
        self.records = records


def _problem(record: Record) -> str | None:
    parts = record.parts
    if not parts or any(part.op not in {"put", "delete", "get"} for part in parts):
        return "a record asks for puts, deletes or one get"
    if any(part.op == "put" and part.value is None for part in parts):
        return "a put has a value"
    if record.outcome not in UNDECIDED and (record.returned is None or record.returned < record.call):
        return "an answer comes after its call"
    if any(part.op == "get" for part in parts):
        return _problem_of_get(record)
    if record.outcome is Outcome.OK and len(record.versions) != len(parts):
        return "a write that is ok has a version, or null, for each part"
    return None


def _problem_of_get(record: Record) -> str | None:
    if len(record.parts) > 1:
        return "a get stands alone"
    if record.outcome is Outcome.CONDITION_FAILED:
        return "a get has no condition"
    if record.outcome is Outcome.OK and (record.version is None or record.value is None):
        return "a get that found something has a version and a value"
    return None


def _asked(part: Part) -> str:
    value = "" if part.value is None else f" = {part.value!r}"
    condition = {None: "", 0: " if absent"}.get(part.if_version, f" if at version {part.if_version}")
    return f"{part.op} {part.key!r}{value}{condition}"


def _answered(record: Record) -> str:
    outcome = str(record.outcome)
    if record.outcome is Outcome.OK and record.is_get:
        return f"version {record.version} = {record.value!r}"
    if record.outcome is Outcome.OK:
        told = ", ".join("?" if version is None else str(version) for version in record.versions)
        return f"ok, version {told}"
    if record.current_version is not None:
        outcome += f", found version {record.current_version}" if record.current_version else ", found it absent"
    return outcome if record.failed_position is None else f"{outcome}, at part {record.failed_position}"


# -- JSON lines

_OPTIONAL = ("version", "value", "current_version", "failed_position", "idempotency_key", "index")


def to_json(record: Record) -> str:
    """One line, without its end."""
    members: dict[str, Any] = {
        "client": record.client,
        "call": record.call,
        "return": record.returned if record.outcome is not Outcome.UNKNOWN else None,
        "parts": [{name: v for name, v in part._asdict().items() if v is not None} for part in record.parts],
        "outcome": record.outcome.value,
    }
    if record.versions:
        members["versions"] = list(record.versions)
    if record.leaf_indexes:
        members["leaf_indexes"] = list(record.leaf_indexes)
    members.update((name, told) for name in _OPTIONAL if (told := getattr(record, name)) is not None)
    return json.dumps(members, ensure_ascii=False, separators=(",", ":"))


def from_json(line: str) -> Record:
    """Read one line. Raises `HistoryError` or `ValueError`."""
    members: Mapping[str, Any] = json.loads(line)
    try:
        return Record(
            members["client"],
            members["call"],
            members.get("return"),
            tuple(Part(**part) for part in members["parts"]),
            Outcome(members["outcome"]),
            versions=tuple(members.get("versions", ())),
            leaf_indexes=tuple(members.get("leaf_indexes", ())),
            **{name: members[name] for name in _OPTIONAL if name in members},
        )
    except (KeyError, TypeError) as error:
        raise HistoryError(f"no record of a history: {line.strip()}") from error


def read_history(path: Path) -> list[Record]:
    """Read a file; empty lines are passed over."""
    with path.open(encoding="utf-8") as lines:
        return [from_json(line) for line in lines if line.strip()]


def write_history(path: Path, records: Iterable[Record]) -> None:
    """Write a file."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(to_json(record) + "\n" for record in records)


# -- attempts


def operations(records: Iterable[Record]) -> list[Record]:
    """What has to be explained: attempts of one idempotency key as one operation, and without what had no effect
    and told nothing.

    Several attempts take effect at most once, not before the first of them that may have had an effect was called, and
    not after the first answer that decides, since every later answer only repeats it. Raises `Contradiction` when
    two answers differ.
    """
    attempts: defaultdict[str, list[Record]] = defaultdict(list)
    result = []
    for record in records:
        if record.outcome is Outcome.REFUSED or (record.is_get and record.outcome is Outcome.UNKNOWN):
            continue
        if record.idempotency_key is not None and not record.is_get:
            attempts[record.idempotency_key].append(record)
        else:
            result.append(record)
    result.extend(map(_one_operation, attempts.values()))
    return result


def _one_operation(attempts: list[Record]) -> Record:
    call = min(record.call for record in attempts)
    answers = sorted(_decided(attempts), key=lambda pair: pair[0])
    if not answers:
        return min(attempts, key=lambda record: record.call)
    first = answers[0][1]
    for _, other in answers[1:]:
        if _told(first) != _told(other):
            raise Contradiction((first, other))
    return replace(first, call=call)


def _decided(attempts: list[Record]) -> Iterator[tuple[int, Record]]:
    for record in attempts:
        if record.outcome not in UNDECIDED:
            assert record.returned is not None
            yield record.returned, record


def _told(record: Record) -> tuple[object, ...]:
    return record.parts, record.outcome, record.versions, record.current_version, record.index, record.leaf_indexes
