"""The rest of `ledger.db` while writes are paused: whoever copies the data directory then finds a file that no write
passes through.
"""

from __future__ import annotations

from appliance.node.applier import Applier
from appliance.node.ports import Clock


class LedgerRest:
    """Up to where the ledger file may be written. While writes are paused that is what this node had applied when it
    found the pause, or was asked to settle: what is committed afterwards is no write (a new leader's first entry, a
    configuration), stays in memory, and is in the log.

    The pause ends here by this node's clock, or earlier by the stamps of what is applied.

    Args:
        applier: what is applied.
        clock: wall time.
    """

    def __init__(self, applier: Applier, clock: Clock) -> None:
        self._applier = applier
        self._clock = clock
        self._paused_until_us = 0
        self._index = 0
        self.index()  # a file that says itself that writes are paused rests from the start

    def index(self) -> int | None:
        """Raft index up to which the file may be written; None when writes are not paused."""
        machine = self._applier.machine
        until_us = machine.paused_until_us
        if until_us <= max(self._clock.now_us(), machine.last_timestamp_us):
            self._paused_until_us = 0
            return None
        if until_us != self._paused_until_us:
            self._paused_until_us = until_us
            self._index = machine.applied_index
        return self._index

    def extend(self) -> bool:
        """Let the file be written up to what is applied now; False when writes are not paused."""
        if self.index() is None:
            return False
        self._index = self._applier.applied_index
        return True
