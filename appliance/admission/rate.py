"""The rate limit: a token bucket for each API key, else for each client address."""

from __future__ import annotations

from collections import OrderedDict
from ipaddress import IPv6Address, ip_address
from typing import Final

BUCKETS_MAX: Final = 10_000


class TokenBuckets:
    """Token buckets by name: `burst` tokens at most, refilled at `rate_per_s`; a request takes one.

    At most `buckets_max` are held. A bucket that is not held is full, so the one that was used longest ago is the
    one to forget: of all it has refilled most.
    """

    def __init__(self, rate_per_s: float, burst: int, buckets_max: int = BUCKETS_MAX) -> None:
        assert buckets_max >= 1
        self.configure(rate_per_s, burst)
        self._buckets_max = buckets_max
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # name -> (tokens, at which second)

    def configure(self, rate_per_s: float, burst: int) -> None:
        """Refill and hold as this says from now on; what is held stays, as far as it fits."""
        assert rate_per_s > 0
        assert burst >= 1
        self._rate_per_s = rate_per_s
        self._burst = float(burst)

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, name: str, now_s: float) -> float:
        """Take a token at `now_s` (monotonic seconds). Answers 0.0, or the seconds until there is one."""
        held = self._buckets.get(name)
        if held is None:
            if len(self._buckets) >= self._buckets_max:
                self._buckets.popitem(last=False)
            tokens = self._burst
        else:
            tokens, since_s = held
            tokens = min(self._burst, tokens + max(0.0, now_s - since_s) * self._rate_per_s)
            self._buckets.move_to_end(name)
        wait_s = 0.0
        if tokens >= 1.0:
            tokens -= 1.0
        else:
            wait_s = (1.0 - tokens) / self._rate_per_s
        self._buckets[name] = (tokens, now_s)
        return wait_s


class RateLimiter:
    """The rate limit of `[security.rate_limit]`.

    Keys and addresses have buckets apart, so that a flood from many addresses cannot make the limiter forget a key.
    """

    def __init__(self, *, max_requests: int, window_secs: int, burst_size: int, buckets_max: int = BUCKETS_MAX) -> None:
        rate_per_s = max_requests / window_secs
        self._keys = TokenBuckets(rate_per_s, burst_size, buckets_max)
        self._addresses = TokenBuckets(rate_per_s, burst_size, buckets_max)

    def configure(self, *, max_requests: int, window_secs: int, burst_size: int) -> None:
        """Limit to this from now on; nobody's bucket is forgotten."""
        for buckets in (self._keys, self._addresses):
            buckets.configure(max_requests / window_secs, burst_size)

    def wait_for_key_s(self, name: str, now_s: float) -> float:
        """Count a request of the API key `name`; 0.0 when it may pass, else seconds to wait."""
        return self._keys.take(name, now_s)

    def wait_for_address_s(self, address: str, now_s: float) -> float:
        """Count a request from an address that showed no known key; 0.0 when it may pass, else seconds to wait."""
        return self._addresses.take(_network(address), now_s)


def _network(address: str) -> str:
    """What counts as one client: an IPv4 address, or an IPv6 /64, for that is what one customer is given."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(IPv6Address(int(parsed) >> 64 << 64))
    return address
