"""What the driver takes from the configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from msgspec import Struct

from appliance.node.log_writer import QUICK_S
from appliance.raft.state import RaftSettings

TICKS_PER_HEARTBEAT: Final = 4
SPARE_ENTRIES_MAX: Final = 4  # with more under way, what a follower does for each is little already
INCOMING_FILE: Final = "snapshot-incoming.db"  # being checked; `.part` behind it while it is received
INSTALLING_FILE: Final = "snapshot-installing.db"


class DriverSettings(Struct, frozen=True, kw_only=True):
    """What the driver takes from the configuration; times in seconds.

    Attributes:
        seeds: peer addresses of the founding nodes but this one.
        founder: whether this node is one of them.
        quick_append_s: see `LogWriter`.
    """

    address: str
    raft_address: str
    seeds: tuple[str, ...]
    founder: bool
    directory: Path
    version: str
    election_timeout_s: float
    heartbeat_timeout_s: float
    write_timeout_s: float
    flush_interval_s: float
    batch_size: int
    idempotency_keys: int
    compact_log_entries: int
    keep_log_entries: int
    quick_append_s: float = QUICK_S

    @property
    def tick_s(self) -> float:
        """Length of one tick of the Raft core."""
        return self.heartbeat_timeout_s / TICKS_PER_HEARTBEAT

    @property
    def incoming_path(self) -> Path:
        """Where a snapshot is received."""
        return self.directory / INCOMING_FILE

    @property
    def installing_path(self) -> Path:
        """Where a received snapshot waits for its install, out of the way of the next one."""
        return self.directory / INSTALLING_FILE

    def raft(self) -> RaftSettings:
        """The core's bounds, in ticks."""
        return RaftSettings(
            election_ticks=max(2, round(self.election_timeout_s / self.tick_s)),
            heartbeat_ticks=TICKS_PER_HEARTBEAT,
            append_entries_max=self.batch_size,
            spare_entries_max=SPARE_ENTRIES_MAX,
        )
