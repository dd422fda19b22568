"""A waiting write is bound to (index, term): ok, surely not, or unknown; never anything else."""

import asyncio

import pytest

from appliance.ledger.commands import Outcome, WriteResult
from appliance.node.waiting import (
    PRUNE_AT_MIN,
    QUESTIONS_MAX,
    ReadBatches,
    WaitingIndexes,
    WaitingWrites,
    settle,
)
from appliance.tables.errors import ApplianceError

pytestmark = pytest.mark.anyio
TIMEOUT_S = 5.0


class Seen:
    def __init__(self) -> None:
        self.values: list[float] = []

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
        self.values.append(amount)


def result(index: int, term: int) -> WriteResult:
    return WriteResult(Outcome.OK, index, term, 1)


def add(writes: WaitingWrites, index: int, term: int, now_s: float) -> asyncio.Future[WriteResult]:
    future: asyncio.Future[WriteResult] = asyncio.get_running_loop().create_future()
    writes.add(index, term, now_s, settle(future))
    return future


def code_of(future: asyncio.Future[WriteResult]) -> str:
    error = future.exception()
    assert isinstance(error, ApplianceError)
    return error.code


async def test_committed_where_it_was_proposed() -> None:
    seen = Seen()
    writes = WaitingWrites(TIMEOUT_S, seen)
    future = add(writes, 7, 2, 10.0)
    writes.resolve(7, 2, result(7, 2), now_s=10.5)
    assert future.result() == result(7, 2)
    assert seen.values == [0.5]
    assert len(writes) == 0


async def test_another_entry_in_its_place() -> None:
    writes = WaitingWrites(TIMEOUT_S, Seen())
    future = add(writes, 7, 2, 10.0)
    writes.resolve(7, 3, result(7, 3), now_s=10.5)
    assert code_of(future) == "not_committed"


async def test_a_no_op_in_its_place() -> None:
    writes = WaitingWrites(TIMEOUT_S, Seen())
    future = add(writes, 7, 2, 10.0)
    writes.resolve(7, 3, None, now_s=10.5)
    assert code_of(future) == "not_committed"


async def test_the_same_place_in_two_terms() -> None:
    """A leader that lost and regained its office may propose at one index twice; either may be committed (a node
    that still holds the older entry may win an election), so the older write is not failed early.
    """
    writes = WaitingWrites(TIMEOUT_S, Seen())
    older, newer = add(writes, 7, 2, 10.0), add(writes, 7, 4, 11.0)
    assert not older.done()
    writes.resolve(7, 2, result(7, 2), now_s=12.0)
    assert older.result() == result(7, 2)
    assert code_of(newer) == "not_committed"


async def test_time_over_means_unknown_and_only_for_those_whose_time_is_over() -> None:
    writes = WaitingWrites(TIMEOUT_S, Seen())
    first, second = add(writes, 7, 2, 10.0), add(writes, 8, 2, 12.0)
    writes.expire(now_s=15.0)
    assert code_of(first) == "outcome_unknown"
    assert not second.done()
    writes.resolve(7, 2, result(7, 2), now_s=15.1)  # too late: nobody waits
    writes.resolve(8, 2, result(8, 2), now_s=15.2)
    assert second.result().raft_index == 8


async def test_a_snapshot_over_its_place_means_unknown() -> None:
    writes = WaitingWrites(TIMEOUT_S, Seen())
    covered, behind = add(writes, 7, 2, 10.0), add(writes, 9, 2, 10.0)
    writes.skip_to(8)
    assert code_of(covered) == "outcome_unknown"
    assert not behind.done()
    writes.fail_all("this node was shut down")
    assert code_of(behind) == "outcome_unknown"
    assert len(writes) == 0


@pytest.mark.parametrize("end", ["resolve", "expire", "skip_to", "fail_all"])
async def test_who_awaits_that_nobody_waits_is_told_however_it_ends(end: str) -> None:
    writes = WaitingWrites(TIMEOUT_S, Seen())
    await asyncio.wait_for(writes.emptied(), 1)
    write = add(writes, 7, 2, 10.0)
    impatient, patient = (asyncio.create_task(writes.emptied()) for _ in range(2))
    await asyncio.sleep(0)
    impatient.cancel()
    await asyncio.sleep(0)
    assert impatient.cancelled()
    assert not patient.done()
    match end:
        case "resolve":
            writes.resolve(7, 2, result(7, 2), now_s=10.5)
        case "expire":
            writes.expire(now_s=15.0)
        case "skip_to":
            writes.skip_to(7)
        case "fail_all":
            writes.fail_all("this node was shut down")
    await asyncio.wait_for(patient, 1)
    assert (write.exception() is None) is (end == "resolve")


async def test_a_cancelled_writer_is_no_harm() -> None:
    writes = WaitingWrites(TIMEOUT_S, Seen())
    future = add(writes, 7, 2, 10.0)
    future.cancel()
    writes.resolve(7, 2, result(7, 2), now_s=10.5)
    assert future.cancelled()


async def test_waiting_for_an_index() -> None:
    waiting = WaitingIndexes()
    late, early = waiting.add(9), waiting.add(3)
    waiting.reach(3)
    assert early.done()
    assert not late.done()
    waiting.reach(12)
    assert late.done()


async def test_waiting_for_what_never_comes_takes_no_room_for_ever() -> None:
    waiting = WaitingIndexes()
    kept = waiting.add(10)
    for _ in range(5000):
        waiting.add(10**9).cancel()
    assert len(waiting._heap) <= 2 * PRUNE_AT_MIN
    waiting.reach(10)
    assert kept.done()


async def test_questions_without_an_answer_are_bounded() -> None:
    reads = ReadBatches(TIMEOUT_S)
    answers: list[list[int | None]] = []
    for _ in range(QUESTIONS_MAX + 1):
        answers.append([])
        reads.join(answers[-1].append, 10.0)
        reads.close_open()
    assert answers[0] == [None]
    assert not any(answers[1:])


async def test_reads_of_one_turn_share_a_question() -> None:
    reads = ReadBatches(TIMEOUT_S)
    first: list[int | None] = []
    second: list[int | None] = []
    third: list[int | None] = []
    context, opened = reads.join(first.append, 10.0)
    assert reads.join(second.append, 10.0) == (context, False)
    assert opened
    reads.close_open()
    other, opened_third = reads.join(third.append, 10.0)
    assert other != context
    assert opened_third
    reads.ready(context, 41)
    assert (first, second, third) == ([41], [41], [])
    reads.failed(other)
    assert third == [None]
    reads.ready(other, 1)  # an answer that comes too late
    assert third == [None]


async def test_a_question_that_was_lost_is_asked_anew_and_only_that() -> None:
    reads = ReadBatches(TIMEOUT_S)
    lost: list[int | None] = []
    waiting: list[int | None] = []
    context, _ = reads.join(lost.append, 10.0)
    reads.close_open()
    later, _ = reads.join(waiting.append, 11.0)
    assert reads.expire(10.0 + TIMEOUT_S) == [context]
    assert (lost, waiting) == ([None], [])
    reads.ready(later, 5)
    assert waiting == [5]
    assert reads.expire(100.0) == []
