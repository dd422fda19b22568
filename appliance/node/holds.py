"""What of the log stays for followers that are brought a snapshot, so that the log goes on where the snapshot ends.

A follower that has taken one lacks all that was written meanwhile: under load more than the log holds for a follower
that lags. Were that dropped, it would get the next snapshot, and then the one after.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from appliance.raft.progress import Progress
from appliance.raft.state import RaftState

PATIENCE_S: Final = 300.0  # for a follower that is silent; for one that goes on there is no limit of time
HOLD_BYTES_MIN: Final = 256 * 2**20  # a small ledger goes over in seconds: this is the log of a minute at least


@dataclass(slots=True)
class _Hold:
    """One follower's.

    Attributes:
        index: what the snapshot covers; 0 while the copy is being made.
        taken: whether the follower has it.
        log_bytes: size of the log's file when it began.
        bytes_max: by so much the file may grow before nothing is held any more.
    """

    index: int
    taken: bool
    log_bytes: int
    bytes_max: int


class Holds:
    """The copies on their way, and the followers that have taken one and lack what was written meanwhile.

    Each hold has an end: the follower is near the end of the log, is silent for `PATIENCE_S`, or the log's file has
    grown by as much as the ledger file was large, so that another snapshot is the cheaper way.

    Args:
        log_bytes: answers the size of the log's file.
        tick_s: length of a tick.
        lag_max: entries that a follower may lack and is near the end all the same.
    """

    def __init__(self, log_bytes: Callable[[], int], tick_s: float, lag_max: int) -> None:
        self._log_bytes = log_bytes
        self._tick_s = tick_s
        self._lag_max = lag_max
        self._holds: dict[int, _Hold] = {}

    def begin(self, node_id: int, ledger_bytes: int) -> None:
        """A copy of the ledger file, which is so large, is about to be made for a node: everything stays."""
        self._holds[node_id] = _Hold(0, False, self._log_bytes(), max(HOLD_BYTES_MIN, ledger_bytes))

    def copied(self, node_id: int, index: int) -> None:
        """The copy is made, and covers the log up to here: what comes behind it stays."""
        self._holds[node_id].index = index

    def taken(self, node_id: int) -> None:
        """The node has it: what it lacks stays."""
        self._holds[node_id].taken = True

    def end(self, node_id: int) -> None:
        """Nothing stays for this node any more."""
        self._holds.pop(node_id, None)

    def index(self, state: RaftState) -> int | None:
        """Index behind which the log stays; None when nothing is held."""
        grown_to = self._log_bytes()
        held = []
        for node_id, hold in tuple(self._holds.items()):
            index = hold.index
            if hold.taken:
                progress = state.progress.get(node_id)
                if progress is None or self._is_over(hold, progress, state.log.last_index):
                    del self._holds[node_id]
                    continue
                index = max(index, progress.match_index)
            if grown_to - hold.log_bytes <= hold.bytes_max:
                held.append(index)
        return min(held, default=None)

    def _is_over(self, hold: _Hold, progress: Progress, last_index: int) -> bool:
        is_near = progress.match_index >= hold.index and last_index - progress.match_index <= self._lag_max
        return is_near or progress.silent_ticks * self._tick_s > PATIENCE_S
