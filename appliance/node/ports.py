"""What the node driver needs from the world. The adapters implement these; tests have versions in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Final, Protocol

from msgspec import Struct

from appliance.ledger.encoding import Leaf
from appliance.ledger.state import Changes, Head, NewLeaf, StateView, Summary
from appliance.node.check_ports import ScrubSlice
from appliance.node.proof_ports import LedgerTree
from appliance.raft.messages import Configuration, Entry, HardState, SnapshotMeta

LOG_NAME: Final = "raft.db"
LEDGER_NAME: Final = "ledger.db"


class StorageError(Exception):
    """A store could not do what it was asked for. Its subclasses tell the driver what follows from that."""


class DiskFull(StorageError):
    """There is no room. Nothing of the call was kept, what was stored before is intact, and reads go on; the same
    call may succeed once there is room.
    """


class StorageFailed(StorageError):
    """A write, a sync or a read failed, or an earlier one did: what the file holds is known only after a restart.
    The store refuses all further writes; nothing is retried.
    """


class FileAway(StorageError):
    """A file is closed, or another is about to take its place; what was not read of it can be read of that one."""


class DamagedFile(StorageError):
    """A file holds what it cannot hold: the node must be treated as if it had lost that file."""

    def __init__(self, path: str, detail: str) -> None:
        self.path = path
        self.detail = detail
        super().__init__(path, detail)

    def __str__(self) -> str:
        return f"{self.path} is damaged: {self.detail}"


class DamagedEntry(DamagedFile):
    """A log entry does not match its checksum, or is missing between others. `index` names the first such entry."""

    def __init__(self, path: str, index: int, detail: str) -> None:
        super().__init__(path, detail)
        self.index = index
        self.args = (path, index, detail)

    def __str__(self) -> str:
        return f"{self.path}: log entry {self.index} is damaged: {self.detail}"


class EntriesUnavailable(LookupError):
    """The first of the entries that were asked for lies before or behind the log, for example since a compaction."""


class Identity(Struct, frozen=True):
    """Who a data directory belongs to. `cluster_id` is 32 hex digits, `incarnation` a random 63-bit number."""

    cluster_id: str
    node_id: int
    incarnation: int


class IdentityStatus(StrEnum):
    """What a data directory says of itself before its files are opened."""

    FRESH = "fresh"  # nothing was ever stored in it
    OK = "ok"  # the identity file and the `raft.db` that it was written for are there
    REPLACED = "replaced"  # what it promised to peers may be forgotten: a new incarnation is needed


class IdentityCheck(Struct, frozen=True):
    """Whose data directory it is.

    Attributes:
        status: see `IdentityStatus`.
        identity: None when it is fresh, or when the identity file is missing or unreadable.
        reason: one sentence that says why the status is REPLACED.
        lost: whether `raft.db`, which was there, is missing.
    """

    status: IdentityStatus
    identity: Identity | None = None
    reason: str = ""
    lost: bool = False


class StoredLog(Struct, frozen=True):
    """What a log store holds when it is opened.

    Attributes:
        hard_state: term, vote and commit hint.
        snapshot: what stands before the first entry; index 0 and term 0 in a log that never was compacted.
        last_index: index of the last entry, or the snapshot's.
        term_starts: (first index, term) of each run of entries of one term, in order.
        configurations: (index, configuration) of every configuration entry in the log, in order.
    """

    hard_state: HardState
    snapshot: SnapshotMeta
    last_index: int
    term_starts: tuple[tuple[int, int], ...] = ()
    configurations: tuple[tuple[int, Configuration], ...] = ()


class LogStore(Protocol):
    """`raft.db`. Every method that changes something is durable when it returns; called from one thread at a time,
    `read` from another at the same time.
    """

    def load(self) -> StoredLog:
        """Read what is stored; every entry's checksum is checked."""
        ...

    def append(self, entries: Sequence[Entry], hard_state: HardState | None) -> None:
        """In one transaction: drop everything from the first entry's index on, add the entries, set the hard state."""
        ...

    def tidy_due(self) -> bool:
        """Whether `tidy` would do something."""
        ...

    def tidy(self) -> None:
        """Keep the files in shape after appends; may take milliseconds, and promises nothing."""
        ...

    def read(self, first: int, last: int, bytes_max: int) -> list[Entry]:
        """Entries first..last inclusive, at least one, stopping before `bytes_max` is exceeded; checksums checked."""
        ...

    def compact(self, meta: SnapshotMeta) -> None:
        """Drop entries up to and including meta.index, which becomes what stands before the first entry."""
        ...

    def leftovers(self) -> int:
        """Entries that `compact` and `finish_install` have dropped and that still take room; on any thread."""
        ...

    def sweep(self, rows_max: int, bytes_max: int) -> None:
        """Remove some of the leftovers, so many at most; of large ones no more than so many bytes, but one at least."""
        ...

    def free_bytes(self) -> int:
        """Bytes that `give_back` could give back."""
        ...

    def give_back(self, bytes_max: int) -> None:
        """Give unused room back to the file system, so many bytes at most; may take milliseconds."""
        ...

    def begin_install(self, meta: SnapshotMeta, file_name: str) -> None:
        """Remember that this received snapshot file is about to replace `ledger.db`."""
        ...

    def pending_install(self) -> tuple[SnapshotMeta, str] | None:
        """The install that `begin_install` remembered and `finish_install` has not ended."""
        ...

    def cancel_install(self) -> None:
        """Forget the marker: the received file is lost, and nothing has changed."""
        ...

    def finish_install(self, meta: SnapshotMeta) -> None:
        """In one transaction: drop the whole log, let `meta` stand before the first entry, forget the marker."""
        ...

    def size_bytes(self) -> int:
        """Bytes on disk."""
        ...

    def scrub(self) -> Iterator[ScrubSlice]:
        """Read everything that counts back and check it, a slice with each step; see `ScrubSlice`."""
        ...

    def close(self) -> None:
        """Close the files."""
        ...


class LedgerStore(StateView, Protocol):
    """`ledger.db` with the memory in front of it. `take`, `add` and the reads are called on the event loop, `flush`,
    `checkpoint` and `copy_to` on worker threads.
    """

    @property
    def tree(self) -> LedgerTree:
        """What proofs are made of."""
        ...

    def load(self) -> tuple[Summary, bytes]:
        """The summary that is stored and the encoded `SnapshotMeta` beside it (empty when new)."""
        ...

    def prefetch(self, keys: Iterable[str]) -> None:
        """Have the heads of these keys at hand until the next `add`: `head` will be asked for them."""
        ...

    def expect(self, entries: int) -> None:
        """So many more entries wait to be applied: what they may outdate need not be written before them."""
        ...

    def take(self, changes: Changes) -> None:
        """Take one entry's changes into memory: all reads see them from now on, but they are written only with what
        the next `add` brings. Raises nothing, blocks on nothing.
        """
        ...

    def add(self, changes: Sequence[Changes], summary: Summary, meta: bytes) -> None:
        """Take applied changes into memory; from now on all reads see them. The summary stands behind these and
        what was taken before; all of it is written together. Raises nothing, blocks on nothing.
        """
        ...

    def flush(self, index_max: int) -> int:
        """Write pending changes up to a raft index (batches of `add` whose summary does not pass it); answers the
        applied index now in the file (not yet durable).
        """
        ...

    def checkpoint(self) -> int:
        """Move the WAL into the file and sync it; answers the applied index that is durable now."""
        ...

    def pending_bytes(self) -> int:
        """Memory that waits for `flush`."""
        ...

    def cache_bytes(self) -> int:
        """Memory that recently used keys and values take."""
        ...

    def leaf(self, leaf_index: int) -> NewLeaf | None:
        """A stored leaf with salt and value."""
        ...

    def bare_leaf(self, leaf_index: int) -> Leaf | None:
        """What a stored leaf says, without its salt and its value, which are not even read. For walks over many leaves:
        it takes no place among what is kept in memory.
        """
        ...

    def scan(self, prefix: str, after: str, limit: int) -> list[tuple[str, Head]]:
        """Present keys with this prefix that come behind `after`, in the order of their UTF-8 bytes."""
        ...

    def copy_to(self, path: Path) -> tuple[Summary, bytes]:
        """Write a consistent copy of the file's state by one read transaction; answers what the copy holds."""
        ...

    def check(self, path: Path | None = None) -> tuple[Summary, bytes]:
        """Read a file at rest back, all of it, and answer what it holds; without a path, the one that is loaded. Raises
        `DamagedFile` and `StorageError`.
        """
        ...

    def scrub(self) -> Iterator[ScrubSlice]:
        """Read leaves, values, heads and tree back from the file and check them, a slice with each step; see
        `ScrubSlice`. A step and `checkpoint` exclude each other.
        """
        ...

    def discard(self, path: Path) -> None:
        """Remove a copy or a received file, if it is there; what takes long about that goes on behind this."""
        ...

    def free_bytes(self) -> int:
        """Bytes that `give_back` could give back."""
        ...

    def give_back(self, bytes_max: int) -> None:
        """Give unused room back to the file system, so many bytes at most; the file is shorter behind `checkpoint`."""
        ...

    def replace(self, path: Path) -> tuple[Summary, bytes]:
        """Put a received, verified file in the place of `ledger.db` (sync, rename, sync the directory), drop all
        memory, and load it.
        """
        ...

    def size_bytes(self) -> int:
        """Bytes on disk."""
        ...

    def close(self) -> None:
        """Close the files; what was not flushed is dropped (the log has it)."""
        ...


class Clock(Protocol):
    """Wall and monotonic time."""

    def now_us(self) -> int:
        """Unix time in microseconds."""
        ...

    def monotonic_s(self) -> float:
        """Monotonic seconds."""
        ...


class Counter(Protocol):
    """A bound child of a counter."""

    def inc(self, amount: float = 1) -> None:
        """Add."""
        ...


class Gauge(Protocol):
    """A bound child of a gauge."""

    def set(self, value: float) -> None:
        """Set."""
        ...


class Histogram(Protocol):
    """A bound child of a histogram; an exemplar is the trace id of a sampled request."""

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
        """Count a value."""
        ...


class Instruments(Protocol):
    """Metrics of the table `appliance.tables.metrics`, bound once at construction and kept by who uses them.
    A name or a label that is not in the table raises `KeyError`.
    """

    def counter(self, name: str, **labels: str) -> Counter:
        """The counter's child with these labels."""
        ...

    def gauge(self, name: str, **labels: str) -> Gauge:
        """The gauge's child with these labels."""
        ...

    def histogram(self, name: str, **labels: str) -> Histogram:
        """The histogram's child with these labels."""
        ...


class Span(Protocol):
    """A span that is being recorded."""

    traceparent: str

    def end(self, error: str = "") -> None:
        """Finish it now."""
        ...


class Tracer(Protocol):
    """Spans for sampled requests only; everything is a no-op when nothing is exported."""

    def start(self, name: str, traceparent: str, **attributes: str | int) -> Span | None:
        """Start a child of a sampled parent; None when `traceparent` is empty or not sampled."""
        ...

    def record(self, name: str, traceparent: str, start_us: int, end_us: int, **attributes: str | int) -> None:
        """Record a span that is over already."""
        ...


class Log(Protocol):
    """Structured log: an event of the table `appliance.tables.events` and its fields."""

    def debug(self, event: str, **fields: object) -> None:
        """Write at level debug."""
        ...

    def info(self, event: str, **fields: object) -> None:
        """Write at level info."""
        ...

    def warning(self, event: str, **fields: object) -> None:
        """Write at level warning."""
        ...

    def error(self, event: str, **fields: object) -> None:
        """Write at level error."""
        ...
