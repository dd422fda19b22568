"""Large work spread over time, so that it leaves room on disks and links for what is small and urgent."""

from __future__ import annotations

from typing import Final

DEBT_S_MAX: Final = 1.0  # of the time lost in a stall so much is made up for, and no burst follows a longer one


class Pace:
    """Keeps a stream of bytes to a rate.

    Args:
        bytes_per_s: the rate; 0 means as fast as it goes.
        now_s: monotonic time at which the stream begins.
    """

    def __init__(self, bytes_per_s: int, now_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._due_s = now_s  # when the next bytes are due

    def wait_s(self, size_bytes: int, now_s: float) -> float:
        """Note that so many bytes have gone by now; answers for how many seconds the next ones have to wait."""
        if not self._bytes_per_s:
            return 0.0
        self._due_s = max(self._due_s, now_s - DEBT_S_MAX) + size_bytes / self._bytes_per_s
        return max(0.0, self._due_s - now_s)
