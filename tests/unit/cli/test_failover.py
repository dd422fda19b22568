"""Whom to ask next, and when not to ask again: the rules alone, with times given."""

from __future__ import annotations

import json
import random

import pytest

from appliance.cli.exits import CliError, Exit
from appliance.cli.failover import RETRY_AFTER_S_MAX, Call, Rotation, error_of

URLS = ("http://a", "http://b", "http://c")


def make_call(*, safe: bool = False, key: str | None = None, urls: tuple[str, ...] = URLS) -> Call:
    return Call(Rotation(urls, random.Random(7)), "PUT /kv/a", safe, key, deadline_s=10.0)


def problem(code: str, **members: object) -> bytes:
    return json.dumps({"code": code, "detail": "d", **members}).encode()


@pytest.mark.parametrize(
    ("safe", "key", "event", "expected"),
    [
        pytest.param(False, None, ("lost", False), "again", id="write, connection never made"),
        pytest.param(False, None, ("lost", True), Exit.OUTCOME_UNKNOWN, id="write, cut behind it"),
        pytest.param(False, "k", ("lost", True), "again", id="keyed write, cut behind it"),
        pytest.param(True, None, ("lost", True), "again", id="read, cut behind it"),
        pytest.param(False, None, (503, "no_leader"), "again", id="write, surely not carried out"),
        pytest.param(False, None, (503, "not_committed"), "again", id="write, another entry took its place"),
        pytest.param(False, None, (429, "rate_limited"), "again", id="write, rate limit"),
        pytest.param(False, None, (504, "outcome_unknown"), Exit.OUTCOME_UNKNOWN, id="write, outcome unknown"),
        pytest.param(False, "k", (504, "outcome_unknown"), "again", id="keyed write, outcome unknown"),
        pytest.param(False, None, (503, ""), Exit.OUTCOME_UNKNOWN, id="write, 503 of a stranger"),
        pytest.param(False, "k", (503, ""), "again", id="keyed write, 503 of a stranger"),
        pytest.param(True, None, (502, ""), "again", id="read, 502 of a stranger"),
        pytest.param(False, None, (500, "internal"), Exit.FAILURE, id="write, the node's own failure"),
        pytest.param(False, "k", (401, "unauthenticated"), Exit.AUTH, id="no key"),
        pytest.param(False, "k", (403, "forbidden"), Exit.AUTH, id="role too low"),
        pytest.param(True, None, (404, "not_found"), Exit.NOT_FOUND, id="absent"),
        pytest.param(False, "k", (412, "condition_failed"), Exit.CONFLICT, id="condition"),
        pytest.param(False, "k", (422, "idempotency_mismatch"), Exit.CONFLICT, id="key of another request"),
        pytest.param(False, "k", (413, "too_large"), Exit.USAGE, id="too large"),
        pytest.param(False, None, (404, ""), Exit.NOT_FOUND, id="404 of a stranger"),
    ],
)
def test_what_follows(safe: bool, key: str | None, event: tuple[object, object], expected: object) -> None:
    call = make_call(safe=safe, key=key)
    url, wait_s = call.next(0.0)
    assert (url, wait_s) == (URLS[0], 0.0)

    def happen() -> None:
        if event[0] == "lost":
            call.lost(url, "reset", 0.0, sent=bool(event[1]))
        else:
            assert isinstance(event[0], int)
            body = problem(str(event[1])) if event[1] else b"<html>"
            assert call.answered(url, event[0], {}, body, 0.0) is None

    if expected == "again":
        happen()
        again, _ = call.next(0.0)
        assert again == URLS[1] or event[0] == 429
    else:
        with pytest.raises(CliError) as caught:
            happen()
        assert caught.value.exit_code is expected


def test_an_unknown_attempt_makes_the_end_unknown_whatever_came_last() -> None:
    call = make_call(key="k", urls=URLS[:1])
    call.next(0.0)
    call.lost(URLS[0], "reset", 0.0, sent=True)
    call.answered(URLS[0], 503, {"retry-after": "30"}, problem("no_quorum"), 1.0)
    with pytest.raises(CliError) as caught:
        call.next(1.0)
    assert caught.value.exit_code is Exit.OUTCOME_UNKNOWN
    assert "--idempotency-key k" in caught.value.hint


def test_a_read_is_never_of_unknown_outcome() -> None:
    call = make_call(safe=True, urls=URLS[:1])
    call.next(0.0)
    call.lost(URLS[0], "reset", 9.99, sent=True)
    with pytest.raises(CliError) as caught:
        call.next(10.0)
    assert caught.value.exit_code is Exit.UNAVAILABLE


def test_every_node_refusing_in_turn_ends_the_call_early() -> None:
    call = make_call(safe=True)
    call.refused_rounds_max = 2
    for _ in range(5):
        url, _ = call.next(0.0)
        call.lost(url, "refused", 0.0, sent=False)
    url, _ = call.next(0.0)
    with pytest.raises(CliError) as caught:
        call.lost(url, "refused", 0.0, sent=False)
    assert (caught.value.exit_code, caught.value.code) == (Exit.UNAVAILABLE, "no_connection")


def test_retry_after_holds_one_node_and_the_others_go_first() -> None:
    rotation = Rotation(URLS, random.Random(1))
    rotation.failed("http://a", 0.0, 5.0)
    assert rotation.choose(0.0) == ("http://b", 0.0)
    rotation.failed("http://b", 0.0, 3.0)
    rotation.failed("http://c", 0.0, 4.0)
    assert rotation.choose(1.0) == ("http://b", 2.0)
    assert rotation.choose(6.0) == ("http://a", 0.0)


def test_retry_after_has_a_limit() -> None:
    rotation = Rotation(URLS[:1], random.Random(1))
    rotation.failed("http://a", 0.0, 1e9)
    assert rotation.choose(0.0) == ("http://a", RETRY_AFTER_S_MAX)


def test_back_off_doubles_to_its_limit_and_a_good_answer_ends_it() -> None:
    rotation = Rotation(URLS[:1], random.Random(3))
    waits = []
    now_s = 0.0
    for _ in range(8):
        rotation.failed("http://a", now_s, None)
        waits.append(rotation.choose(now_s)[1])
        now_s += waits[-1]
    assert 0.05 <= waits[0] <= 0.1
    assert all(1.0 <= wait_s <= 2.0 for wait_s in waits[5:])
    rotation.succeeded("http://a")
    assert rotation.choose(now_s) == ("http://a", 0.0)


def test_calls_that_fail_together_count_once() -> None:
    rotation = Rotation(URLS[:1], random.Random(3))
    for _ in range(50):
        rotation.failed("http://a", 0.0, None)
    assert rotation.choose(0.0)[1] <= 0.1


def test_a_rate_limit_holds_every_node() -> None:
    call = make_call(safe=True)
    call.next(0.0)
    call.answered(URLS[0], 429, {"retry-after": "2"}, problem("rate_limited"), 0.0)
    assert call.next(0.0)[1] == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (problem("no_quorum", detail="1 of 3 nodes"), "1 of 3 nodes"),
        (b"not json", "not json"),
        (b'["list"]', '["list"]'),
        (b"\xff\xfe", "\ufffd"),
        (b"", "no reason given"),
    ],
)
def test_the_reason_is_told_whatever_the_body_is(body: bytes, words: str) -> None:
    assert words in error_of("http://a", 503, body)[0].message


def test_without_a_node_the_next_step_is_told() -> None:
    with pytest.raises(CliError) as caught:
        Rotation((), random.Random(1))
    assert caught.value.exit_code is Exit.USAGE
    assert "appliance up" in caught.value.hint


@pytest.mark.parametrize(
    ("lost_s", "code"),
    [pytest.param(10.0, "not_published", id="at the end"), pytest.param(9.0, "no_connection", id="before")],
)
def test_what_a_node_answered_is_not_forgotten_over_an_attempt_that_the_deadline_cut_short(
    lost_s: float, code: str
) -> None:
    call = make_call(safe=True, urls=URLS[:1])
    call.next(0.0)
    assert call.answered(URLS[0], 503, {}, problem("not_published"), 0.0) is None
    call.next(8.0)
    call.lost(URLS[0], "timed out", lost_s, sent=True)
    with pytest.raises(CliError) as caught:
        call.next(10.0)
    assert (caught.value.code, caught.value.exit_code) == (code, Exit.UNAVAILABLE)
    assert "tried 2 times" in caught.value.message
