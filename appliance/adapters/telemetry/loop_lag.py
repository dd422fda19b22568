"""Sampler of the event loop's delay: how late a timer comes is how long everything else waits."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from appliance.node.ports import Instruments, Log

INTERVAL_S: Final = 0.1
WINDOW_SAMPLES: Final = 100  # ten seconds
MARK_SAMPLES: Final = 100
WARN_S: Final = 0.5


async def sample_loop_lag(instruments: Instruments, log: Log, every_ten_s: Callable[[], None] | None = None) -> None:
    """Keep `scribe_loop_lag_seconds` at the worst delay of the last ten seconds until the task is cancelled.

    Logs `node.loop_lag` when one delay passes half a second. `every_ten_s` is called on the loop (for
    `Registry.mark`).
    """
    gauge = instruments.gauge("scribe_loop_lag_seconds")
    worst: deque[float] = deque(maxlen=WINDOW_SAMPLES)
    loop = asyncio.get_running_loop()
    count = 0
    while True:
        due_s = loop.time() + INTERVAL_S
        await asyncio.sleep(INTERVAL_S)
        lag_s = max(0.0, loop.time() - due_s)
        worst.append(lag_s)
        gauge.set(max(worst))
        if lag_s > WARN_S:
            log.warning("node.loop_lag", lag_s=round(lag_s, 3))
        count += 1
        if count % MARK_SAMPLES == 0 and every_ten_s is not None:
            every_ten_s()
