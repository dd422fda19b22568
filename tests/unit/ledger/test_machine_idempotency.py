"""Idempotency keys: the first answer again, their binding, their expiry, their limit."""

from __future__ import annotations

import msgspec
import pytest
from ledger_rig import HOUR_US, START_US, TTL_US, Rig, delete, outcomes, put, result_of

from appliance.ledger.commands import Operation, OperationResult, Outcome, WriteResult
from appliance.ledger.machine import EXPIRY_INTERVAL_US


@pytest.mark.parametrize(
    ("operations", "outcome"),
    [
        pytest.param([put("k", b"v")], Outcome.OK, id="ok"),
        pytest.param([delete("x")], Outcome.NOT_FOUND, id="not found"),
        pytest.param([put("k", if_version=9)], Outcome.CONDITION_FAILED, id="condition failed"),
        pytest.param([put("k"), put("k")], Outcome.OK, id="batch"),
    ],
)
def test_a_repeat_gets_the_first_answer(operations: list[Operation], outcome: Outcome) -> None:
    rig = Rig()
    first = result_of(rig.write(*operations, name="n", request_hash=b"h"))
    assert (first.outcome, first.replayed) == (outcome, False)
    rig.write(put("x"), put("k"))  # the repeat must not be judged by what is there now
    tree_size = rig.machine.tree_size
    rig.at_us += HOUR_US
    changes = rig.write(*operations, name="n", request_hash=b"h")
    assert changes.result == msgspec.structs.replace(first, replayed=True)
    assert outcomes(changes) == [Outcome.DUPLICATE] * len(operations)
    assert (changes.leaves, changes.heads, changes.answer) == ((), (), None)
    assert (rig.machine.tree_size, rig.machine.answer_count) == (tree_size, 1)


def test_an_idempotency_key_belongs_to_its_actor() -> None:
    rig = Rig()
    rig.write(put("k"), name="n", request_hash=b"h", actor="alice")
    changes = rig.write(put("k"), name="n", request_hash=b"h", actor="bob")
    assert result_of(changes).results == (OperationResult("k", 2, 1),)
    assert rig.machine.answer_count == 2


def test_an_idempotency_key_used_for_another_request() -> None:
    rig = Rig()
    rig.write(put("k"), name="n", request_hash=b"h")
    changes = rig.write(put("j"), put("k"), name="n", request_hash=b"other")
    assert changes.result == WriteResult(Outcome.IDEMPOTENCY_MISMATCH, 2, 1, START_US)
    assert outcomes(changes) == [Outcome.IDEMPOTENCY_MISMATCH] * 2
    assert changes.answer is None
    assert result_of(rig.write(put("k"), name="n", request_hash=b"h")).replayed, "the first answer still stands"


@pytest.mark.parametrize(
    ("age_us", "replayed"),
    [
        pytest.param(TTL_US, True, id="24 h to the microsecond"),
        pytest.param(TTL_US + 1, False, id="one microsecond later"),
        pytest.param(100 * TTL_US, False, id="long ago"),
    ],
)
def test_expiry_is_judged_by_the_stamp(age_us: int, replayed: bool) -> None:
    rig = Rig()
    rig.write(put("k"), name="n", request_hash=b"h")
    rig.at_us += age_us
    changes = rig.write(put("k"), name="n", request_hash=b"h")
    assert result_of(changes).replayed is replayed
    assert result_of(changes).outcome is Outcome.OK
    assert rig.machine.answer_count == len(rig.store.answers) == 1
    assert rig.machine.tree_size == (1 if replayed else 2)


def test_an_expired_answer_counts_as_absent_before_it_is_dropped() -> None:
    rig = Rig()
    rig.write(put("k"), name="old", request_hash=b"h")
    rig.at_us += EXPIRY_INTERVAL_US
    rig.write(put("k"), name="n", request_hash=b"h")
    rig.at_us = START_US + TTL_US + 1
    assert rig.write(put("k")).forget_answers_before_us == START_US + 1
    rig.at_us = START_US + TTL_US + EXPIRY_INTERVAL_US + 1  # too soon after the last time to drop without need
    assert rig.write(put("k")).forget_answers_before_us == 0
    assert ("alice", "n") in rig.store.answers
    changes = rig.write(put("k"), name="n", request_hash=b"another request")
    assert result_of(changes).outcome is Outcome.OK
    assert rig.store.answers["alice", "n"].request_hash == b"another request"
    assert rig.machine.answer_count == len(rig.store.answers) == 1


def test_expired_answers_are_dropped_by_any_write() -> None:
    rig = Rig()
    for number in range(5):
        rig.write(put("k"), name=str(number))
    rig.at_us += TTL_US + EXPIRY_INTERVAL_US
    changes = rig.write(put("k"))
    assert changes.forget_answers_before_us == START_US + EXPIRY_INTERVAL_US
    assert rig.machine.answer_count == len(rig.store.answers) == 0


def test_at_the_limit_a_new_idempotency_key_is_refused_and_none_leaves_early() -> None:
    rig = Rig(answers_max=2)
    rig.write(put("k"), name="1", request_hash=b"h")
    rig.at_us += HOUR_US
    rig.write(put("k"), name="2", request_hash=b"h")
    changes = rig.write(put("k"), name="3", request_hash=b"h")
    assert changes.result == WriteResult(Outcome.IDEMPOTENCY_FULL, 3, 1, START_US + HOUR_US)
    assert outcomes(changes) == [Outcome.IDEMPOTENCY_FULL]
    assert result_of(rig.write(put("k"), name="1", request_hash=b"h")).replayed, "held keys go on answering"
    assert result_of(rig.write(put("k"))).outcome is Outcome.OK, "writes without a key go on"
    rig.at_us = START_US + TTL_US + 1
    assert result_of(rig.write(put("k"), name="3", request_hash=b"h")).outcome is Outcome.OK, "the first one expired"
    assert set(rig.store.answers) == {("alice", "2"), ("alice", "3")}
    assert rig.machine.answer_count == 2


def test_at_the_limit_an_expired_key_makes_its_own_room() -> None:
    rig = Rig(answers_max=1)
    rig.write(put("k"), name="1", request_hash=b"h")
    rig.at_us += TTL_US + 1
    assert result_of(rig.write(put("k"), name="1", request_hash=b"h")).outcome is Outcome.OK
    assert rig.machine.answer_count == len(rig.store.answers) == 1


def test_the_leaders_limit_rules_and_not_each_nodes_own() -> None:
    generous, mean = Rig(answers_max=100), Rig(answers_max=1)
    for rig in (generous, mean):
        for number in range(3):
            rig.write(put("k"), name=str(number), leader_answers_max=2)
    assert generous.machine.summary() == mean.machine.summary()
    assert generous.machine.answer_count == 2


def test_refusals_of_the_limit_are_not_first_answers() -> None:
    rig = Rig(answers_max=1)
    rig.write(put("k"), name="1")
    rig.write(put("k"), name="2")
    rig.at_us += TTL_US + 1
    assert not result_of(rig.write(put("k"), name="2")).replayed
