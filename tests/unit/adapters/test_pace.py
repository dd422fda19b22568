"""A stream of bytes keeps to its rate, and makes up for little of what it lost."""

import pytest

from appliance.adapters.pace import Pace

RATE = 1000


def run(pace: Pace, now_s: float, pieces: int, size_bytes: int) -> float:
    """Send so many pieces without any work between them, waiting as told; answers the time at the end."""
    for _ in range(pieces):
        now_s += pace.wait_s(size_bytes, now_s)
    return now_s


def test_it_keeps_to_the_rate() -> None:
    assert run(Pace(RATE, 5.0), 5.0, 50, 100) == pytest.approx(10.0)


def test_work_that_takes_less_than_its_share_is_waited_for_the_rest() -> None:
    pace = Pace(RATE, 0.0)
    assert pace.wait_s(100, 0.03) == pytest.approx(0.07)


def test_a_stall_is_followed_by_no_burst() -> None:
    pace = Pace(RATE, 0.0)
    assert pace.wait_s(100, 60.0) == 0.0
    assert run(pace, 60.0, 29, 100) == pytest.approx(62.0), "a second's worth at once, the rest at the rate"


def test_zero_is_no_limit() -> None:
    assert run(Pace(0, 0.0), 0.0, 100, 2**30) == 0.0
