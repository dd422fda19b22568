"""What a leader makes of the answers of one follower."""

from __future__ import annotations

import pytest

from appliance.raft.progress import Progress, ProgressState


def probing(next_index: int) -> Progress:
    return Progress(next_index, incarnation=1)


def replicating(match_index: int) -> Progress:
    progress = probing(match_index + 1)
    progress.acknowledged(match_index)
    return progress


def test_a_probe_sends_one_message_at_a_time() -> None:
    progress = probing(5)
    assert progress.may_send(8, 1000)
    progress.sent(9, 10)
    assert not progress.may_send(8, 1000)
    assert progress.next_index == 5


def test_an_acknowledged_probe_begins_the_pipeline() -> None:
    progress = probing(5)
    progress.sent(9, 10)
    assert progress.acknowledged(9)
    assert (progress.state, progress.match_index, progress.next_index) == (ProgressState.REPLICATE, 9, 10)


def test_a_probe_that_brings_no_news_begins_the_pipeline_too() -> None:
    progress = replicating(9)
    progress.become_probe()
    progress.sent(9, 0)
    assert not progress.acknowledged(9)
    assert progress.state is ProgressState.REPLICATE


@pytest.mark.parametrize(
    ("messages_max", "bytes_max", "may"),
    [
        pytest.param(3, 1000, True, id="room"),
        pytest.param(2, 1000, False, id="messages"),
        pytest.param(3, 20, False, id="bytes"),
    ],
)
def test_the_pipeline_has_bounds(messages_max: int, bytes_max: int, may: bool) -> None:
    progress = replicating(4)
    progress.sent(5, 10)
    progress.sent(6, 10)
    assert progress.may_send(messages_max, bytes_max) is may


def test_an_answer_frees_what_it_covers() -> None:
    progress = replicating(4)
    for index in (5, 6, 7):
        progress.sent(index, 10)
    assert progress.acknowledged(6)
    assert progress.inflight_bytes == 10
    assert progress.next_index == 8
    assert not progress.acknowledged(5), "a late answer is no news"


def test_an_old_refusal_does_not_stop_the_pipeline() -> None:
    progress = replicating(9)
    assert not progress.refused(prev_index=9, next_index=3)
    assert progress.state is ProgressState.REPLICATE


def test_a_refusal_ends_the_pipeline_behind_what_is_known() -> None:
    progress = replicating(9)
    progress.sent(12, 10)
    assert progress.refused(prev_index=12, next_index=3)
    assert (progress.state, progress.next_index, progress.inflight_bytes) == (ProgressState.PROBE, 10, 0)


@pytest.mark.parametrize(
    ("prev_index", "next_index", "moved", "expected"),
    [
        pytest.param(9, 4, True, 4, id="back-to-the-hint"),
        pytest.param(9, 30, True, 9, id="at-least-one-back"),
        pytest.param(8, 4, False, 10, id="refusal-of-another-probe"),
        pytest.param(9, 0, True, 1, id="never-before-the-first"),
    ],
)
def test_a_refused_probe(prev_index: int, next_index: int, moved: bool, expected: int) -> None:
    progress = probing(10)
    progress.sent(10, 1)
    assert progress.refused(prev_index, next_index) is moved
    assert progress.next_index == expected
    assert progress.probe_sent is not moved


def test_nothing_is_sent_beside_a_snapshot() -> None:
    progress = replicating(4)
    progress.become_snapshot()
    assert not progress.may_send(8, 1000)
    assert not progress.refused(4, 2)
    assert not progress.acknowledged(4), "a late answer from before the snapshot"
    assert progress.state is ProgressState.SNAPSHOT
    assert progress.acknowledged(20)
    assert (progress.state, progress.next_index) == (ProgressState.REPLICATE, 21)
