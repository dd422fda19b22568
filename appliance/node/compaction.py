"""How much of the log may go."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Final

from appliance.node.driver_settings import DriverSettings
from appliance.raft.messages import Configuration, SnapshotMeta
from appliance.raft.state import RaftState

HOLD_FACTOR: Final = 4  # a follower that lags by so many times the bound is not waited for any longer
ASKED_KEEP_ENTRIES: Final = 1_000  # an operator wants room: no more is kept for who leads next and a follower's lag
STEP_DIVISOR: Final = 4  # a compaction drops at least this share of the bound, so that it is not done all the time


def compaction_target(
    *,
    snapshot_index: int,
    last_index: int,
    needless_index: int,
    match_indexes: Sequence[int],
    held_index: int | None,
    compact_entries: int,
    keep_entries: int,
) -> int | None:
    """Index up to which the log is dropped, or None when it is not worth it.

    Args:
        snapshot_index: up to where it is dropped already.
        last_index: its last index.
        needless_index: up to where the ledger file and this node's own disk hold everything.
        match_indexes: match indexes of the followers that can be reached.
        held_index: index behind which the log stays for followers that are brought a snapshot (see `Holds`), or None.
        compact_entries: entries above which the log is compacted.
        keep_entries: entries kept in any case.
    """
    length = last_index - snapshot_index
    if length < compact_entries:
        return None
    target = needless_index - keep_entries
    waited_entries = HOLD_FACTOR * compact_entries
    target = min([target, *(i for i in match_indexes if length < waited_entries or last_index - i < waited_entries)])
    if held_index is not None:
        target = min(target, held_index)
    return target if target - snapshot_index >= max(1, compact_entries // STEP_DIVISOR) else None


def plan_compaction(
    state: RaftState,
    settings: DriverSettings,
    durable_index: int,
    connected: Container[int],
    held_index: int | None,
) -> SnapshotMeta | None:
    """What is to stand before the log's first entry from now on, or None.

    Args:
        state: the core's.
        settings: the bounds.
        durable_index: applied index that the ledger file has made durable.
        connected: peers that can be reached.
        held_index: see `compaction_target`.
    """
    target = compaction_target(
        snapshot_index=state.log.snapshot_index,
        last_index=state.log.last_index,
        needless_index=min(durable_index, state.log.stable_index, state.applied_index),
        match_indexes=[p.match_index for n, p in state.progress.items() if n in connected],
        held_index=held_index,
        compact_entries=settings.compact_log_entries,
        keep_entries=settings.keep_log_entries,
    )
    return None if target is None else _meta_at(state, target)


def plan_asked(
    state: RaftState,
    settings: DriverSettings,
    durable_index: int,
    connected: Container[int],
    held_index: int | None,
) -> SnapshotMeta | None:
    """The same when an operator has asked for it: whatever the length of the log, and with fewer entries kept; what a
    follower that can be reached lacks stays. None when nothing may go.
    """
    keep_entries = min(settings.keep_log_entries, ASKED_KEEP_ENTRIES)
    target = min(
        min(durable_index, state.log.stable_index, state.applied_index) - keep_entries,
        *(p.match_index for n, p in state.progress.items() if n in connected),
        state.log.last_index if held_index is None else held_index,
    )
    return None if target <= state.log.snapshot_index else _meta_at(state, target)


def _meta_at(state: RaftState, index: int) -> SnapshotMeta:
    term = state.log.term_at(index)
    assert term is not None
    return SnapshotMeta(index, term, configuration_at(state, index))


def configuration_at(state: RaftState, index: int) -> Configuration:
    """The configuration that acted at an index."""
    return next(configuration for at, configuration in reversed(state.configurations) if at <= index)
