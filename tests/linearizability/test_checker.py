"""The checker on histories with known answers, and beside a checker that is too simple to be wrong."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from .brute import OPERATIONS_MAX, is_linearizable
from .checker import Answer, check
from .history import Contradiction, HistoryError, Outcome, Part, Record, operations, read_history, write_history
from .order import order_problems
from .register import Shape, change, valid_history

SMALL = Shape(operations=OPERATIONS_MAX - 1, clients=4, keys=2, unknown=0.2, values=3, vague=0.3)
TEN_THOUSAND = Shape(operations=10_000, clients=16, keys=40, again=0.5)


def put(
    call: int, end: int | None, version: int, value: str = "v", key: str = "k", condition: int | None = None
) -> Record:
    """An acknowledged put, or with no end an unknown one."""
    outcome = Outcome.UNKNOWN if end is None else Outcome.OK
    versions = () if end is None else (version,)
    return Record(1, call, end, (Part("put", key, value, condition),), outcome, versions=versions)


def got(call: int, end: int, version: int, value: str = "v", key: str = "k") -> Record:
    return Record(2, call, end, (Part("get", key),), Outcome.OK, version=version, value=value)


def absent(call: int, end: int, key: str = "k") -> Record:
    return Record(2, call, end, (Part("get", key),), Outcome.NOT_FOUND)


def deleted(call: int, end: int, version: int, key: str = "k") -> Record:
    return Record(1, call, end, (Part("delete", key),), Outcome.OK, versions=(version,))


def both(call: int, end: int | None, *versions: int, value: str = "b") -> Record:
    """A batch on keys k and l."""
    parts = (Part("put", "k", value), Part("put", "l", value))
    outcome = Outcome.UNKNOWN if end is None else Outcome.OK
    return Record(3, call, end, parts, outcome, versions=versions)


def refused_at(call: int, end: int, condition: int, found: int) -> Record:
    parts = (Part("put", "k", "w", condition),)
    return Record(1, call, end, parts, Outcome.CONDITION_FAILED, current_version=found)


GOOD = {
    "nothing": [],
    "one after the other": [put(1, 2, 1), got(3, 4, 1), put(5, 6, 2, "w"), got(7, 8, 2, "w")],
    "a read beside a write sees either": [put(1, 2, 1, "a"), put(3, 9, 2, "b"), got(4, 5, 1, "a"), got(6, 7, 2, "b")],
    "an unknown write that is seen late": [
        put(1, 2, 1, "a"),
        put(3, None, 2, "b"),
        got(4, 5, 1, "a"),
        got(90, 91, 2, "b"),
    ],
    "an unknown write that never was": [put(1, 2, 1, "a"), put(3, None, 2, "b"), got(4, 5, 1, "a"), put(6, 7, 2, "c")],
    "versions go on behind a tombstone": [put(1, 2, 1), deleted(3, 4, 2), absent(5, 6), put(7, 8, 3, condition=0)],
    "a condition that held": [put(1, 2, 1), put(3, 4, 2, condition=1), refused_at(5, 6, 1, 2)],
    "a batch is seen as a whole": [both(1, 9, 1, 1), absent(2, 3), got(4, 5, 1, "b"), got(6, 7, 1, "b", "l")],
    "an unknown batch": [both(1, None), got(4, 5, 1, "b", "l"), got(6, 7, 1, "b")],
}
BAD = {
    "a stale read": [put(1, 2, 1, "a"), put(3, 4, 2, "b"), got(5, 6, 1, "a")],
    "a lost write": [put(1, 2, 1), absent(3, 4)],
    "a value that nobody wrote": [put(1, 2, 1, "a"), got(3, 4, 1, "z")],
    "reads that go back": [put(1, 9, 1, "a"), got(2, 3, 1, "a"), absent(4, 5)],
    "two writes of one version": [put(1, 2, 1, "a"), put(3, 4, 1, "b")],
    "a compare-and-set that was done twice": [
        put(1, 2, 1),
        put(3, 4, 2, "b", condition=1),
        put(5, 6, 3, "c", condition=1),
    ],
    "a condition that held and was refused": [put(1, 2, 1), refused_at(3, 4, 1, 1)],
    "half a batch": [both(1, 2, 1, 1), got(3, 4, 1, "b"), absent(5, 6, "l")],
    "half of a batch at a time": [both(1, 9, 1, 1), got(2, 3, 1, "b"), absent(4, 5, "l")],
    "half of an unknown batch": [both(1, None), got(2, 3, 1, "b"), absent(4, 5, "l")],
    "an unknown write before it was called": [got(1, 2, 1, "b"), put(3, None, 1, "b")],
    "a delete that comes back": [put(1, 2, 1), deleted(3, 4, 2), got(5, 6, 1)],
}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_history_is_found_good(name: str) -> None:
    verdict = check(GOOD[name])
    assert verdict.valid, verdict
    assert is_linearizable(GOOD[name])


@pytest.mark.parametrize("name", BAD)
def test_a_bad_history_is_found_bad_and_explained(name: str) -> None:
    verdict = check(BAD[name])
    assert verdict.answer is Answer.VIOLATED
    assert verdict.explanation
    assert not is_linearizable(BAD[name])


@pytest.mark.parametrize("first", range(0, 2000, 250))
def test_it_agrees_with_the_simple_checker(first: int) -> None:
    answers = set()
    for seed in range(first, first + 250):
        chance = random.Random(seed)
        history = valid_history(chance, SMALL)
        assert check(history).valid, f"seed {seed}"
        history = change(chance, history)
        try:
            expected = is_linearizable(operations(history))
        except Contradiction:
            expected = False
        verdict = check(history)
        assert verdict.answer is not Answer.UNDECIDED
        assert verdict.valid is expected, f"seed {seed}: {verdict}"
        answers.add(expected)
    assert answers == {True, False}


def test_ten_thousand_operations_are_judged() -> None:
    history = valid_history(random.Random(7), TEN_THOUSAND)
    verdict = check(history)
    assert verdict.valid, verdict
    assert verdict.operations > 9_000
    assert verdict.steps < 2 * len(history), "most steps are no choice"
    reads = [place for place, record in enumerate(history) if record.is_get and (record.version or 0) > 3]
    stale = list(history)
    place = reads[len(reads) // 2]
    stale[place] = replace(stale[place], version=1)
    assert check(stale).answer is Answer.VIOLATED


def test_attempts_of_one_idempotency_key_are_one_operation() -> None:
    first = replace(put(1, None, 1), idempotency_key="once")
    again = replace(put(5, 6, 1), idempotency_key="once")
    assert check([first, again, got(7, 8, 1)]).valid
    twice = replace(put(9, 10, 2), idempotency_key="once")
    assert check([again, twice]).answer is Answer.VIOLATED


def test_the_servers_order_has_to_agree_with_the_clients_time() -> None:
    one = replace(put(1, 2, 1), index=10, leaf_indexes=(4,))
    two = replace(put(3, 4, 2), index=11, leaf_indexes=(5,))
    assert not order_problems([one, two])
    assert order_problems([one, replace(two, index=9)])
    assert order_problems([one, replace(two, leaf_indexes=(3,))])


def test_a_history_is_the_same_when_it_is_read_back(tmp_path: Path) -> None:
    history = valid_history(random.Random(3), Shape(operations=200, clients=5, keys=6, unknown=0.2, again=0.5))
    path = tmp_path / "history.jsonl"
    write_history(path, history)
    again = read_history(path)
    unknown = [replace(record, returned=None) if record.outcome is Outcome.UNKNOWN else record for record in history]
    assert again == unknown
    assert path.read_text().count("\n") == len(history)


@pytest.mark.parametrize("line", ["{}", '{"client": 1, "call": 2, "parts": [], "outcome": "ok"}', "[]"])
def test_what_is_no_record_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(HistoryError):
        read_history(path)
