"""The machine's clocks."""

from __future__ import annotations

import time


class SystemClock:
    """Wall and monotonic time of this machine."""

    def now_us(self) -> int:
        """Unix time in microseconds."""
        return time.time_ns() // 1000

    def monotonic_s(self) -> float:
        """Monotonic seconds."""
        return time.monotonic()
