"""The disk of one simulated node: what is durable, what is on its way, and what a crash leaves.

The log store is modelled as SQLite behaves: a write is a transaction, becomes durable as a whole or not at all, and
transactions become durable in the order in which they were handed in. The ledger's file follows: it was flushed
at some points, is sure to hold only what was there at the last checkpoint, and a crash may leave any point between.
"""

from __future__ import annotations

from collections import deque
from random import Random

from msgspec import Struct

from appliance.raft.messages import (
    AnyMessage,
    Configuration,
    Entry,
    EntryKind,
    HardState,
    SnapshotMeta,
)
from appliance.raft.state import decode_configuration

from .state import LedgerState


class Write(Struct):
    """One transaction of the log store, and the messages that wait for it."""

    persist_id: int = 0
    snapshot: SnapshotMeta | None = None
    image: LedgerState | None = None  # the ledger file that the snapshot installs
    entries: tuple[Entry, ...] = ()
    hard_state: HardState | None = None
    messages: tuple[AnyMessage, ...] = ()
    compact_to: SnapshotMeta | None = None

    def is_empty(self) -> bool:
        return not (self.snapshot or self.entries or self.hard_state or self.compact_to)


class LogFile:
    """The durable content of `raft.db`."""

    def __init__(self, snapshot: SnapshotMeta) -> None:
        self.snapshot = snapshot
        self.hard_state = HardState()
        self.entries: list[Entry] = []

    def copy(self) -> LogFile:
        """A file of its own with the same content."""
        copied = LogFile(self.snapshot)
        copied.hard_state, copied.entries = self.hard_state, list(self.entries)
        return copied

    @property
    def last_index(self) -> int:
        return self.snapshot.index + len(self.entries)

    def term_at(self, index: int) -> int | None:
        if index == self.snapshot.index:
            return self.snapshot.term
        place = index - self.snapshot.index - 1
        return self.entries[place].term if 0 <= place < len(self.entries) else None

    def append(self, entries: tuple[Entry, ...]) -> None:
        place = entries[0].index - self.snapshot.index - 1
        assert 0 <= place <= len(self.entries), "the driver wrote a gap, or wrote behind the snapshot"
        self.entries[place:] = entries

    def compact(self, meta: SnapshotMeta) -> None:
        if meta.index > self.snapshot.index:
            del self.entries[: meta.index - self.snapshot.index]
            self.snapshot = meta

    def reset(self, meta: SnapshotMeta) -> None:
        self.snapshot = meta
        self.entries = []

    def read(self, first: int, last: int, bytes_max: int) -> list[Entry]:
        """What the core's `LogReader` asks for."""
        assert self.snapshot.index < first <= last <= self.last_index, f"{first}..{last} is not in the log file"
        taken: list[Entry] = []
        total = 0
        for entry in self.entries[first - self.snapshot.index - 1 : last - self.snapshot.index]:
            total += len(entry.data)
            if taken and total > bytes_max:
                break
            taken.append(entry)
        return taken

    def stored_hard_state(self) -> HardState:
        return self.hard_state

    def term_starts(self) -> list[tuple[int, int]]:
        starts: list[tuple[int, int]] = []
        for entry in self.entries:
            if not starts or starts[-1][1] != entry.term:
                starts.append((entry.index, entry.term))
        return starts

    def configurations(self) -> list[tuple[int, Configuration]]:
        return [(e.index, decode_configuration(e.data)) for e in self.entries if e.kind == EntryKind.CONFIGURATION]


class Disk:
    """Both files of a node, and the queue of writes under way."""

    def __init__(self, ledger: LedgerState) -> None:
        self.log = LogFile(SnapshotMeta(0, 0, ledger.configuration))
        self.queue: deque[Write] = deque()
        self.checkpointed = ledger
        self.flushed: list[LedgerState] = []  # since the last checkpoint, in order
        self.fsync_fails = False
        self.full = False
        self.slowness = 1

    def make_durable(self, write: Write) -> None:
        """Let a transaction take effect."""
        if write.snapshot is not None:
            assert write.image is not None
            self.log.reset(write.snapshot)
            self.checkpointed = write.image  # the received file was synced before it was renamed
            self.flushed.clear()
        if write.entries:
            self.log.append(write.entries)
        if write.hard_state is not None:
            self.log.hard_state = write.hard_state
        if write.compact_to is not None:
            self.log.compact(write.compact_to)

    def flush(self, state: LedgerState) -> None:
        """The ledger's writer commits what is applied; not durable yet."""
        self.flushed.append(state.copy())

    def checkpoint(self) -> int:
        """What was flushed becomes durable; answers its applied index."""
        if self.flushed:
            self.checkpointed = self.flushed[-1]
            self.flushed.clear()
        return self.checkpointed.applied_index

    def crash(self, chance: Random) -> None:
        """Lose what was not synced: of the writes under way the first few may have made it, each whole, if there was
        room for them.
        """
        survivors = 0 if self.full else min(chance.choice((0, 0, 1, 1, 2, 99)), len(self.queue))
        for _ in range(survivors):
            self.make_durable(self.queue.popleft())
        self.queue.clear()
        if self.flushed:
            survived = chance.randrange(len(self.flushed) + 1)
            if survived:
                self.checkpointed = self.flushed[survived - 1]
            self.flushed.clear()
