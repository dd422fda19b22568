"""Pauses of writes: what they refuse, when they end, and that every node agrees about it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from ledger_rig import HOUR_US, START_US, Rig, delete, outcomes, put, result_of

from appliance.ledger.commands import (
    TIMESTAMP_US_MAX,
    Operation,
    Outcome,
    PauseCommand,
    UnknownCommand,
    WriteResult,
    decode_command,
    encode_pause,
)
from appliance.ledger.state import Refusal, Summary


def paused(until_us: int = START_US + HOUR_US) -> Rig:
    rig = Rig()
    rig.write(put("k"))
    rig.pause(until_us)
    return rig


def test_a_pause_adds_an_audit_row_and_no_leaf() -> None:
    rig = Rig()
    changes = rig.pause(START_US + HOUR_US, actor="carol")
    assert changes.result == WriteResult(Outcome.OK, 1, 1, START_US)
    assert changes.refusals == (Refusal(1, 0, START_US, "carol", "pause", "", 0, 0, Outcome.OK, "p1"),)
    assert (changes.leaves, changes.heads, changes.answer) == ((), (), None)
    assert rig.machine.tree_size == 0
    assert rig.machine.summary().paused_until_us == START_US + HOUR_US


@pytest.mark.parametrize(
    ("operations", "name"),
    [
        pytest.param([put("k", b"other")], None, id="put"),
        pytest.param([put("k", if_version=7)], None, id="a condition that does not hold"),
        pytest.param([delete("never")], None, id="delete of what is not there"),
        pytest.param([put("a"), delete("k")], None, id="batch"),
        pytest.param([put("a")], "once", id="idempotency key"),
    ],
)
def test_a_write_in_a_pause_is_refused_whatever_it_asks(operations: list[Operation], name: str | None) -> None:
    rig = paused()
    before = rig.machine.summary()
    changes = rig.write(*operations, name=name, request_hash=b"h" if name else b"")
    assert changes.result == WriteResult(Outcome.WRITES_PAUSED, 3, 1, START_US)
    assert outcomes(changes) == [Outcome.WRITES_PAUSED] * len(operations)
    assert (changes.leaves, changes.heads, changes.answer, changes.forget_answers_before_us) == ((), (), None, 0)
    after = rig.machine.summary()
    assert msgspec.structs.replace(after, applied_index=2, state_hash=before.state_hash) == before
    rig.pause(0)
    assert result_of(rig.write(put("k"), name=name, request_hash=b"h" if name else b"")).outcome == Outcome.OK


def test_a_repeat_of_a_write_before_the_pause_is_refused_and_its_answer_kept() -> None:
    rig = Rig()
    first = result_of(rig.write(put("k"), name="once", request_hash=b"h"))
    rig.pause(START_US + HOUR_US)
    assert result_of(rig.write(put("k"), name="once", request_hash=b"h")).outcome == Outcome.WRITES_PAUSED
    rig.at_us += HOUR_US
    again = result_of(rig.write(put("k"), name="once", request_hash=b"h"))
    assert again == msgspec.structs.replace(first, replayed=True)


@pytest.mark.parametrize(
    ("later_us", "outcome"),
    [
        pytest.param(0, Outcome.WRITES_PAUSED, id="at once"),
        pytest.param(HOUR_US - 1, Outcome.WRITES_PAUSED, id="in its last microsecond"),
        pytest.param(HOUR_US, Outcome.OK, id="at its end"),
        pytest.param(HOUR_US + 1, Outcome.OK, id="behind it"),
    ],
)
@pytest.mark.parametrize("restart", [False, True], ids=["running", "restarted"])
def test_it_ends_by_the_stamps(later_us: int, outcome: Outcome, restart: bool) -> None:
    rig = paused()
    if restart:
        rig.restart()
    rig.pass_over()  # another leader
    rig.at_us += later_us
    assert result_of(rig.write(put("k"), put("j"))).outcome == outcome
    assert result_of(rig.write(put("k"))).outcome == outcome


def test_a_stamp_that_goes_back_does_not_bring_a_pause_back() -> None:
    rig = paused()
    rig.at_us += HOUR_US
    rig.write(put("k"))
    rig.at_us -= HOUR_US
    assert result_of(rig.write(put("k"))).outcome == Outcome.OK


@pytest.mark.parametrize("until_us", [START_US + 2 * HOUR_US, START_US + 1000], ids=["later", "earlier"])
def test_the_last_pause_rules(until_us: int) -> None:
    rig = paused()
    assert outcomes(rig.pause(until_us)) == [Outcome.OK]
    rig.at_us = until_us - 1
    assert result_of(rig.write(put("k"))).outcome == Outcome.WRITES_PAUSED
    rig.at_us = until_us
    assert result_of(rig.write(put("k"))).outcome == Outcome.OK


def test_taking_writes_again_twice_is_taking_them_once() -> None:
    rig = paused()
    first = rig.pause(0)
    assert [row.op for row in first.refusals] == ["resume"]
    assert rig.machine.paused_until_us == 0
    again = rig.pause(0)
    assert again.refusals == ()
    assert result_of(again).outcome == Outcome.OK
    assert result_of(rig.write(put("k"))).outcome == Outcome.OK


@pytest.mark.parametrize("until_us", [0, START_US], ids=["nothing", "its own stamp"])
def test_a_pause_that_is_over_leaves_no_trace(until_us: int) -> None:
    rig = Rig()
    assert rig.pause(until_us).refusals == ()
    assert rig.machine.paused_until_us == 0


def test_the_state_hash_tells_a_node_that_did_not_pause() -> None:
    one, two = Rig(), Rig()
    one.pause(START_US + HOUR_US)
    two.pause(0)
    assert one.machine.state_hash != two.machine.state_hash
    states = set()
    for until_us in (0, START_US + HOUR_US):
        rig = paused()
        rig.machine.paused_until_us = until_us  # as if the pause had meant something else to it
        rig.write(put("k"))
        states.add(rig.machine.state_hash)
    assert len(states) == 2


def test_a_summary_from_before_there_were_pauses_is_read() -> None:
    rig = Rig()
    rig.write(put("k"))
    summary = rig.machine.summary()
    old = msgspec.msgpack.encode(msgspec.structs.astuple(summary)[:9])
    assert msgspec.msgpack.decode(old, type=Summary) == summary


GOOD: list[Any] = ["pause", 1, START_US, START_US + 1, "carol", "p1"]


def test_a_pause_reads_back() -> None:
    data = encode_pause(*GOOD[2:])
    assert msgspec.msgpack.decode(data) == GOOD
    assert decode_command(data) == PauseCommand(*GOOD[1:])


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param(["halt", *GOOD[1:]], id="another tag"),
        pytest.param(["write", *GOOD[1:]], id="a write's tag"),
        pytest.param(["pause", 2, *GOOD[2:]], id="a later format"),
        pytest.param([*GOOD, 0], id="a field more"),
        pytest.param(GOOD[:-1], id="a field less"),
        pytest.param([*GOOD[:2], -1, *GOOD[3:]], id="a stamp before 1970"),
        pytest.param([*GOOD[:3], -1, *GOOD[4:]], id="an end before 1970"),
        pytest.param([*GOOD[:3], TIMESTAMP_US_MAX + 1, *GOOD[4:]], id="an end beyond exact integers"),
        pytest.param([*GOOD[:3], None, *GOOD[4:]], id="no end"),
    ],
)
def test_what_is_not_known_is_never_guessed(parts: list[Any]) -> None:
    rig = paused()
    before = rig.machine.summary()
    with pytest.raises(UnknownCommand):
        rig.machine.apply(3, 1, msgspec.msgpack.encode(parts))
    assert rig.machine.summary() == before
