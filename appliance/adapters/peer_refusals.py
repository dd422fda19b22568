"""Counts and logs refused connections; the same refusal is logged once a minute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from appliance.adapters.peer_auth import QUIET_REASONS, REASONS, Refused
from appliance.node.ports import Instruments, Log

REPEAT_S: Final = 60.0
REMEMBERED_MAX: Final = 256


class Refusals:
    """What both sides of a refused connection do about it.

    Args:
        instruments: for `scribe_peer_refused_total`.
        log: for `peer.refused`, `peer.unreachable` and `peer.bad_message`.
        now_s: monotonic seconds.
    """

    def __init__(self, instruments: Instruments, log: Log, now_s: Callable[[], float]) -> None:
        self._counters = {reason: instruments.counter("scribe_peer_refused_total", reason=reason) for reason in REASONS}
        self._log = log
        self._now_s = now_s
        self._logged: dict[tuple[str, str], float] = {}

    def note(self, address: str, error: Refused) -> None:
        """Count and log a refusal of ours, or of the other side's (`by_peer`)."""
        if error.reason in QUIET_REASONS:
            return
        self._counters[error.reason].inc()
        if self._is_news(address, error.reason):
            self._log.warning(
                "peer.refused",
                address=address,
                reason=error.reason,
                detail=f"{error.detail} ({REASONS[error.reason]})" if error.detail else REASONS[error.reason],
                by_peer=error.by_peer,
                peer=error.node_id,
            )

    def note_violation(self, node_id: int, reason: str, detail: str) -> None:
        """Count and log what a connected peer sent and may not send."""
        self._counters[reason].inc()
        if self._is_news(f"node {node_id}", reason):
            self._log.warning("peer.bad_message", peer=node_id, reason=reason, detail=detail)

    def note_unreachable(self, address: str, node_id: int, error: Exception) -> None:
        """Log that nobody could be reached at an address."""
        if self._is_news(address, "unreachable"):
            reason = f"{type(error).__name__}: {error}"
            self._log.warning("peer.unreachable", address=address, peer=node_id, reason=reason)

    def reached(self, address: str) -> None:
        """A connection to this address stands: what ends it is news again."""
        self._logged.pop((address, "unreachable"), None)

    def _is_news(self, address: str, reason: str) -> bool:
        now_s = self._now_s()
        last_s = self._logged.get((address, reason))
        if last_s is not None and now_s - last_s < REPEAT_S:
            return False
        if len(self._logged) >= REMEMBERED_MAX:
            self._logged.clear()
        self._logged[address, reason] = now_s
        return True
