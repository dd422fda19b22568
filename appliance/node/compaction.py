"""How much of the log may go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

HOLD_FACTOR: Final = 4  # a log this many times over its bound is not held for slow followers any longer
STEP_DIVISOR: Final = 4  # a compaction drops at least this share of the bound, so that it is not done all the time


def compaction_target(
    *,
    snapshot_index: int,
    last_index: int,
    needless_index: int,
    held_indexes: Sequence[int],
    sending_index: int | None,
    compact_entries: int,
    keep_entries: int,
) -> int | None:
    """Index up to which the log is dropped, or None when it is not worth it.

    Args:
        snapshot_index: up to where it is dropped already.
        last_index: its last index.
        needless_index: up to where the ledger file and this node's own disk hold everything.
        held_indexes: match indexes of the followers that can be reached.
        sending_index: index of the oldest snapshot on its way, None without one.
        compact_entries: entries above which the log is compacted.
        keep_entries: entries kept in any case.
    """
    length = last_index - snapshot_index
    if length < compact_entries:
        return None
    target = needless_index - keep_entries
    if length < HOLD_FACTOR * compact_entries:
        target = min([target, *held_indexes])
    if sending_index is not None:
        target = min(target, sending_index)
    return target if target - snapshot_index >= max(1, compact_entries // STEP_DIVISOR) else None
