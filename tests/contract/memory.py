"""Stores in memory with a disk that outlives them: the plainest statement of what a store has to do.

A disk object is what a data file is to the real stores: pass it to a new store and that store finds what was kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from pathlib import Path

from appliance.ledger.encoding import Leaf, decode_leaf
from appliance.ledger.memory import MemoryLedger
from appliance.ledger.state import Changes, Summary
from appliance.node.check_ports import ScrubSlice
from appliance.node.ports import DamagedEntry, EntriesUnavailable, StoredLog
from appliance.raft.messages import Configuration, Entry, EntryKind, HardState, SnapshotMeta, entry_intact
from appliance.raft.state import decode_configuration

from .memory_tree import MemoryTree


class MemoryLogDisk:
    """What `raft.db` holds."""

    def __init__(self) -> None:
        self.hard_state = HardState()
        self.snapshot = SnapshotMeta(0, 0, Configuration())
        self.entries: list[Entry] = []
        self.install: tuple[SnapshotMeta, str] | None = None


class MemoryLogStore:
    """`LogStore` over a list."""

    def __init__(self, disk: MemoryLogDisk) -> None:
        self._disk = disk

    def load(self) -> StoredLog:
        disk = self._disk
        term_starts: list[tuple[int, int]] = []
        configurations: list[tuple[int, Configuration]] = []
        for index, entry in enumerate(disk.entries, start=disk.snapshot.index + 1):
            if entry.index != index or not entry_intact(entry):
                raise DamagedEntry("memory", index, "it does not match its checksum")
            if not term_starts or term_starts[-1][1] != entry.term:
                term_starts.append((index, entry.term))
            if entry.kind == EntryKind.CONFIGURATION:
                configurations.append((index, decode_configuration(entry.data)))
        last_index = disk.snapshot.index + len(disk.entries)
        return StoredLog(disk.hard_state, disk.snapshot, last_index, tuple(term_starts), tuple(configurations))

    def append(self, entries: Sequence[Entry], hard_state: HardState | None) -> None:
        disk = self._disk
        if entries:
            place = entries[0].index - disk.snapshot.index - 1
            assert 0 <= place <= len(disk.entries)
            disk.entries[place:] = entries
        disk.hard_state = hard_state or disk.hard_state

    def read(self, first: int, last: int, bytes_max: int) -> list[Entry]:
        place = first - self._disk.snapshot.index - 1
        if not 0 <= place < len(self._disk.entries):
            raise EntriesUnavailable(f"entry {first} is not in the log")
        taken: list[Entry] = []
        size_bytes = 0
        for entry in self._disk.entries[place : place + last - first + 1]:
            size_bytes += len(entry.data)
            if taken and size_bytes > bytes_max:
                break
            if not entry_intact(entry):
                raise DamagedEntry("memory", entry.index, "it does not match its checksum")
            taken.append(entry)
        return taken

    def compact(self, meta: SnapshotMeta) -> None:
        disk = self._disk
        assert disk.snapshot.index <= meta.index <= disk.snapshot.index + len(disk.entries)
        del disk.entries[: meta.index - disk.snapshot.index]
        disk.snapshot = meta

    def leftovers(self) -> int:
        return 0

    def sweep(self, rows_max: int, bytes_max: int) -> None: ...

    def free_bytes(self) -> int:
        return 0

    def give_back(self, bytes_max: int) -> None: ...

    def begin_install(self, meta: SnapshotMeta, file_name: str) -> None:
        self._disk.install = (meta, file_name)

    def pending_install(self) -> tuple[SnapshotMeta, str] | None:
        return self._disk.install

    def cancel_install(self) -> None:
        self._disk.install = None

    def finish_install(self, meta: SnapshotMeta) -> None:
        self._disk.entries.clear()
        self._disk.snapshot = meta
        self._disk.install = None

    def scrub(self) -> Iterator[ScrubSlice]:
        return iter(())

    def size_bytes(self) -> int:
        return sum(len(entry.data) for entry in self._disk.entries)

    def close(self) -> None:
        pass


class MemoryLedgerDisk:
    """What `ledger.db` holds."""

    def __init__(self) -> None:
        self.ledger = MemoryLedger()


class MemoryLedgerStore(MemoryLedger):
    """`LedgerStore`: a ledger in memory, and behind it what was flushed."""

    def __init__(self, disk: MemoryLedgerDisk) -> None:
        super().__init__()
        self._disk = disk
        self._pending: list[tuple[tuple[Changes, ...], Summary, bytes]] = []
        self._taken: list[Changes] = []
        self.tree = MemoryTree(lambda: disk.ledger.leaves)
        self._become(disk.ledger)

    def _become(self, ledger: MemoryLedger) -> None:
        self.__dict__.update(deepcopy(ledger).__dict__)

    def add(self, changes: Sequence[Changes], summary: Summary, meta: bytes) -> None:
        super().add(changes, summary, meta)
        self._pending.append((tuple(self._taken), summary, meta))
        self._taken.clear()

    def prefetch(self, keys: Iterable[str]) -> None:
        pass

    def expect(self, entries: int) -> None:
        pass

    def take(self, changes: Changes) -> None:
        super().take(changes)
        self._taken.append(changes)

    def bare_leaf(self, leaf_index: int) -> Leaf | None:
        leaf = self.leaf(leaf_index)
        return None if leaf is None else decode_leaf(leaf.leaf)

    def flush(self, index_max: int) -> int:
        while self._pending and self._pending[0][1].applied_index <= index_max:
            self._disk.ledger.add(*self._pending.pop(0))
        return self._disk.ledger.load()[0].applied_index

    def checkpoint(self) -> int:
        return self._disk.ledger.load()[0].applied_index

    def pending_bytes(self) -> int:
        return sum(len(leaf.leaf) for changes, _, _ in self._pending for change in changes for leaf in change.leaves)

    def copy_to(self, path: Path) -> tuple[Summary, bytes]:
        path.write_bytes(self._disk.ledger.to_bytes())
        return self._disk.ledger.load()

    def check(self, path: Path | None = None) -> tuple[Summary, bytes]:
        return self.load() if path is None else MemoryLedger.from_bytes(path.read_bytes()).load()

    def discard(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def free_bytes(self) -> int:
        return 0

    def give_back(self, bytes_max: int) -> None: ...

    def replace(self, path: Path) -> tuple[Summary, bytes]:
        self._disk.ledger = MemoryLedger.from_bytes(path.read_bytes())
        path.unlink()
        self._pending.clear()
        self._taken.clear()
        self._become(self._disk.ledger)
        return self.load()

    def scrub(self) -> Iterator[ScrubSlice]:
        return iter(())

    def size_bytes(self) -> int:
        return len(self._disk.ledger.to_bytes())

    def close(self) -> None:
        self._pending.clear()
