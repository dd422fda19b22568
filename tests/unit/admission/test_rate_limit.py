"""The token buckets, at times that the test gives."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.admission.rate import RateLimiter, TokenBuckets


def _limiter(**changes: int) -> RateLimiter:
    return RateLimiter(**{"max_requests": 60, "window_secs": 60, "burst_size": 2, **changes})


def test_a_burst_passes_then_the_wait_is_told_exactly() -> None:
    buckets = TokenBuckets(rate_per_s=2.0, burst=3)
    assert [buckets.take("a", 10.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert buckets.take("a", 10.25) == pytest.approx(0.25)
    assert buckets.take("a", 10.5) == 0.0
    assert buckets.take("a", 10.5) == pytest.approx(0.5)


def test_a_bucket_never_holds_more_than_its_burst() -> None:
    buckets = TokenBuckets(rate_per_s=100.0, burst=2)
    buckets.take("a", 0.0)
    assert [buckets.take("a", 1e6) > 0 for _ in range(3)] == [False, False, True]


def test_time_that_runs_backwards_gives_nothing_and_takes_nothing() -> None:
    buckets = TokenBuckets(rate_per_s=1.0, burst=2)
    assert buckets.take("a", 100.0) == 0.0
    assert buckets.take("a", 50.0) == 0.0
    assert buckets.take("a", 50.0) > 0.0


def test_buckets_are_bounded_and_the_longest_idle_is_forgotten() -> None:
    buckets = TokenBuckets(rate_per_s=1.0, burst=1, buckets_max=2)
    for name in ("a", "b"):
        buckets.take(name, 0.0)
    assert buckets.take("a", 0.1) > 0.0  # used again, so b is idle longer
    buckets.take("c", 0.2)
    assert len(buckets) == 2
    assert buckets.take("a", 0.3) > 0.0, "still known"
    assert buckets.take("b", 0.4) == 0.0, "forgotten, so full"


def test_another_limit_holds_at_once_and_forgets_nobody() -> None:
    limiter = _limiter(burst_size=5)
    assert [limiter.wait_for_key_s("a", 0.0) for _ in range(2)] == [0.0, 0.0]
    limiter.configure(max_requests=120, window_secs=60, burst_size=1)
    assert limiter.wait_for_key_s("a", 0.0) == 0.0
    assert limiter.wait_for_key_s("a", 0.0) == pytest.approx(0.5), "one in hand, and two a second"
    limiter.configure(max_requests=60, window_secs=60, burst_size=5)
    assert limiter.wait_for_key_s("a", 0.0) == pytest.approx(1.0)


def test_keys_and_addresses_are_counted_apart() -> None:
    limiter = _limiter(burst_size=1)
    assert limiter.wait_for_key_s("10.0.0.1", 0.0) == 0.0
    assert limiter.wait_for_address_s("10.0.0.1", 0.0) == 0.0
    assert limiter.wait_for_key_s("10.0.0.1", 0.0) == 1.0
    assert limiter.wait_for_address_s("10.0.0.1", 0.0) == 1.0


def test_a_flood_of_addresses_makes_no_key_forgotten() -> None:
    limiter = RateLimiter(max_requests=60, window_secs=60, burst_size=1, buckets_max=10)
    limiter.wait_for_key_s("ann", 0.0)
    for number in range(100):
        limiter.wait_for_address_s(f"10.0.0.{number}", 0.0)
    assert limiter.wait_for_key_s("ann", 0.0) == 1.0


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [
        ("10.0.0.1", "10.0.0.2", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.2", False),
        ("", "", True),
        ("no address", "another", False),
    ],
)
def test_what_counts_as_one_client(one: str, other: str, together: bool) -> None:
    limiter = _limiter(burst_size=1)
    limiter.wait_for_address_s(one, 0.0)
    assert (limiter.wait_for_address_s(other, 0.0) > 0.0) is together


@given(
    rate=st.floats(0.1, 1000),
    burst=st.integers(1, 50),
    gaps_s=st.lists(st.floats(0, 2), min_size=1, max_size=100),
)
def test_no_more_pass_than_burst_and_refill_allow_and_a_wait_is_enough(
    rate: float, burst: int, gaps_s: list[float]
) -> None:
    buckets = TokenBuckets(rate, burst)
    now_s, passed = 0.0, 0
    for gap_s in gaps_s:
        now_s += gap_s
        wait_s = buckets.take("a", now_s)
        passed += wait_s == 0.0
        if wait_s:
            now_s += wait_s + 1e-6
            assert buckets.take("a", now_s) == 0.0
            passed += 1
    assert passed <= burst + now_s * rate + 1e-3
