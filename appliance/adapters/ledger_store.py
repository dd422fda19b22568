"""`ledger.db` with the memory in front of it: reads see everything applied at once, the file follows in bulk.

Threads. The event loop owns the memory (`LedgerMemory`), the answer stamps and one reading connection; a worker owns
the writing connection. They meet in three places only: `_inbox`, where the loop puts immutable batches and the worker
takes them out; `_file_index`, which the worker raises after a commit and by which the loop knows what the memory may
let go of; and `_flushed_bytes`. Each has one writing thread, so none is locked. `_write_lock` orders worker calls
among themselves. A read looks into the memory, then the file: what the memory has let go of is committed, so it is
found.

Durability. A commit is not synced (synchronous=NORMAL); only a checkpoint that moved the whole WAL makes the applied
index in the file durable, and `checkpoint` answers nothing else. After a crash the file holds the state after some
earlier batch, data and summary together, and the log brings the rest.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Final, cast

import apsw
import msgspec

from appliance.adapters.freeing import discard
from appliance.adapters.ledger_cache import AnswerStamps
from appliance.adapters.ledger_leaves import stored_bare_leaf, stored_leaf
from appliance.adapters.ledger_memory import LedgerMemory
from appliance.adapters.ledger_rows import (
    ANSWER_BY_KEY,
    HEAD_BY_KEY,
    HEADS_BY_KEYS,
    LEAVES_FROM,
    LEDGER_FORMAT,
    PRESENT_KEYS,
    Batch,
    answer_from_row,
    head_from_leaf,
    head_from_row,
    head_from_text,
    make_tables,
    prefix_end,
    stored_summary,
    upgrade_tables,
    write_batches,
)
from appliance.adapters.ledger_snapshot import Copier, install_file
from appliance.adapters.ledger_tiles import Edge
from appliance.adapters.ledger_tree import LedgerTree
from appliance.adapters.ledger_verify import check_content, read_contents, read_leaf, verify_copy
from appliance.adapters.scrubber import SCRUB_CACHE_BYTES, LedgerScrub
from appliance.adapters.shared_reader import SharedReader
from appliance.adapters.sqlite import PAGE_BYTES, Reader, StepHook, Writer, file_bytes, no_hook, sync_directory
from appliance.adapters.wal_scan import scan_wal
from appliance.ledger.encoding import Leaf
from appliance.ledger.state import Changes, Head, NewLeaf, StoredAnswer, Summary
from appliance.node.check_ports import ScrubSlice
from appliance.node.ports import DamagedFile

ROWS_PER_TRANSACTION_MAX: Final = 1_024  # a batch is never split, so one large batch may pass it
WAL_PAGES_MAX: Final = 8_192  # 32 MB: a flush makes a checkpoint on its own beyond this
WRITER_CACHE_BYTES: Final = (
    8 * 2**20
)  # a transaction dirties half of it at most; the kernel caches the rest of the file
READER_CACHE_BYTES: Final = 4 * 2**20  # dropped with every commit of the worker, so more of it serves nothing


class SqliteLedgerStore:
    """`LedgerStore` on SQLite (WAL, synchronous=NORMAL).

    Nothing is opened before `load` or `replace`, so that a pending install can be finished first.

    Args:
        path: `ledger.db`.
        cache_bytes: bound on the cache of recently used heads and values.
        cluster_id: of this node; a file of another cluster is refused.
        copy_bytes_per_s: pace of `copy_to`; 0 sets none.
        vfs: name of the SQLite VFS to go through; tests inject faults with it.
        step: called before each step of `replace` with its name; tests stop there.
    """

    def __init__(
        self,
        path: Path,
        cache_bytes: int,
        cluster_id: str,
        *,
        copy_bytes_per_s: int = 0,
        vfs: str | None = None,
        step: StepHook = no_hook,
    ) -> None:
        self._path = path
        self._cache_bytes_max = cache_bytes
        self._cluster_id = cluster_id
        self._copy_bytes_per_s = copy_bytes_per_s
        self._vfs = vfs
        self._step = step
        self._writer: Writer | None = None
        self._reader: Reader | None = None
        self._write_lock = Lock()
        self._copier = self._make_copier()
        self.tree = LedgerTree(path, vfs)
        self._scrubbed = SharedReader(path, SCRUB_CACHE_BYTES, vfs)
        self._forget_memory()

    def _make_copier(self) -> Copier:
        return Copier(self._path, self._cluster_id, self._vfs, self._copy_bytes_per_s)

    def _forget_memory(self) -> None:
        self._latest = (Summary(), b"")
        self._memory = LedgerMemory(self._cache_bytes_max)
        self._stamps = AnswerStamps(array("q"))
        self._absent: set[str] = set()  # keys of the last `prefetch` that the file lacks, until the next `add`
        self._forgotten_before_us = 0  # the file may still hold answers stamped earlier
        self._added_bytes = 0
        self._edge: Edge | None = None  # the worker's own; None when it has to be read first
        self._inbox: deque[Batch] = deque()
        self._todo: deque[Batch] = deque()  # the worker's own: taken from the inbox, not yet committed
        self._flushed_bytes = 0
        self._file_index = 0
        self._durable_index = 0

    def load(self) -> tuple[Summary, bytes]:
        """Open the file, make its tables when it is new, and answer its summary and snapshot meta (empty when new).

        Called again, it answers the last summary and meta that were loaded or added.

        A WAL in which frames are missing in the middle may have been moved into the file in part, so then all
        content is checked before it is used.

        Raises:
            DamagedFile: the file is no ledger, belongs to another cluster, or its content does not fit together.
            StorageError: it cannot be opened.
        """
        if self._writer is None:
            try:
                self._latest = self._open()
            except BaseException:
                self._close_files()
                raise
        return self._latest

    def _open(self) -> tuple[Summary, bytes]:
        suspicion = scan_wal(self._path).damage
        self._writer = Writer(
            self._path,
            synchronous="normal",
            cache_bytes=WRITER_CACHE_BYTES,
            wal_bytes_max=2 * WAL_PAGES_MAX * 4096,
            vfs=self._vfs,
        )
        if not self._writer.has_table("meta"):
            with self._writer.transaction() as db:
                make_tables(db, self._cluster_id)
            sync_directory(self._path.parent)
        self._reader = Reader(self._path, cache_bytes=READER_CACHE_BYTES, vfs=self._vfs)
        if suspicion:
            check_content(self._reader, self._cluster_id)
        contents = read_contents(self._reader, self._cluster_id)
        if contents.format != LEDGER_FORMAT:
            with self._writer.transaction() as db:
                upgrade_tables(db, contents.format, contents.summary.tree_size)
        self._memory = LedgerMemory(self._cache_bytes_max, contents.heads_leaf_next)
        self._restore_heads(self._reader, contents.heads_leaf_next)
        rows = self._reader.rows_lazily("SELECT timestamp_us FROM answers ORDER BY timestamp_us")
        self._stamps = AnswerStamps(array("q", (cast(int, row[0]) for row in rows)))
        self._file_index = contents.summary.applied_index
        return contents.summary, contents.meta

    def _restore_heads(self, reader: Reader, heads_leaf_next: int) -> None:
        """Find the heads that the file's table lacks in the leaves behind its mark."""
        try:
            for leaf_index, leaf in reader.rows_lazily(LEAVES_FROM, (heads_leaf_next,)):
                self._memory.restore(*head_from_leaf(cast(int, leaf_index), cast(bytes, leaf)))
        except msgspec.MsgspecError as error:
            raise DamagedFile(str(self._path), f"a leaf from {heads_leaf_next} on cannot be read: {error}") from error

    def add(self, changes: Sequence[Changes], summary: Summary, meta: bytes) -> None:
        """Take applied changes into memory; they and all that was taken since the last `add` are written together."""
        for change in changes:
            self.take(change)
        self._absent.clear()
        self._memory.retire(self._file_index)
        batch = self._memory.seal(summary, meta)
        self._added_bytes += batch.size_bytes
        self._latest = (summary, meta)
        self._inbox.append(batch)

    def take(self, changes: Changes) -> None:
        """Take one entry's changes into memory; from now on all reads see them. The next `add` gives the summary."""
        self._memory.take(changes)
        if changes.forget_answers_before_us > self._forgotten_before_us:
            self._forgotten_before_us = changes.forget_answers_before_us
            self._stamps.forget_before(changes.forget_answers_before_us)
        if changes.answer is not None:
            self._stamps.add(changes.answer.timestamp_us)

    def head(self, key: str) -> Head | None:
        """The head of a key, or None if it was never written. Raises `StorageError`."""
        memory = self._memory
        head = memory.changed.get(key) or memory.heads.get(key) or memory.writing.get(key) or memory.loaded.get(key)
        if head is None:
            if key in self._absent:
                return None
            row = self._open_reader().row(HEAD_BY_KEY, (key,))
            if row is not None:
                with self._readable(f"the head of {key!r}"):
                    head = head_from_row(row)
                memory.keep_head(key, head)
        return head

    def prefetch(self, keys: Iterable[str]) -> None:
        """Read the heads that `head` will be asked for next, many with one query. Raises `StorageError`."""
        memory = self._memory
        wanted = memory.unknown(dict.fromkeys(keys))
        self._absent = absent = set()
        at, left = 0, len(wanted)
        with self._readable("the head of a key"):
            for count, statement in HEADS_BY_KEYS:
                while left >= count:
                    keys = wanted[at : at + count]
                    for key, text in zip(keys, self._open_reader().rows(statement, keys)[0], strict=True):
                        if text is None:
                            absent.add(key)
                        else:
                            memory.keep_head(key, head_from_text(cast(str, text)))
                    at, left = at + count, left - count

    @contextmanager
    def _readable(self, what: str) -> Iterator[None]:
        """What cannot be decoded is damage of the file."""
        try:
            yield
        except ValueError as error:
            raise DamagedFile(str(self._path), f"{what} cannot be read: {error}") from error

    def expect(self, entries: int) -> None:
        """So many more entries wait to be applied: what they may outdate need not be written before them."""
        self._memory.leaves_expected = entries

    def leaf(self, leaf_index: int) -> NewLeaf | None:
        """A stored leaf with salt and value, or None. What is read from the file is checked against the hash in the
        leaf, so that no value is answered that was not written. Raises `StorageError`, `DamagedFile` among them.
        """
        leaf = self._memory.fresh.get(leaf_index) or self._memory.leaves.get(leaf_index)
        if leaf is None:
            leaf = stored_leaf(self._open_reader(), leaf_index)
            if leaf is not None:
                self._memory.keep_leaf(leaf)
        return leaf

    def bare_leaf(self, leaf_index: int) -> Leaf | None:
        """What a stored leaf says, without salt and value, or None. Not cached: who walks over a key's past
        would drive out what others read. Raises `StorageError`, `DamagedFile` among them.
        """
        leaf = self._memory.fresh.get(leaf_index) or self._memory.leaves.get(leaf_index)
        return stored_bare_leaf(self._open_reader(), leaf_index) if leaf is None else read_leaf(leaf.leaf)

    def answer(self, actor: str, idempotency_key: str) -> StoredAnswer | None:
        """The stored first answer to an idempotency key, or None. Raises `StorageError`."""
        answer = self._memory.answers.get((actor, idempotency_key))
        if answer is None:
            row = self._open_reader().row(ANSWER_BY_KEY, (actor, idempotency_key))
            if row is None:
                return None
            with self._readable(f"the answer kept for {idempotency_key!r}"):
                answer = answer_from_row(row)
        return None if answer.timestamp_us < self._forgotten_before_us else answer

    def answers_before(self, timestamp_us: int) -> int:
        """How many stored answers have a stamp earlier than this."""
        return self._stamps.count_before(timestamp_us)

    def scan(self, prefix: str, after: str, limit: int) -> list[tuple[str, Head]]:
        """Present keys with this prefix behind `after`, in the order of their UTF-8 bytes. Raises `StorageError`."""
        memory = self._memory
        memory.retire(self._file_index)
        found = memory.scan(prefix, after, limit)
        end = prefix_end(prefix)
        bounds = (max(after, prefix), after, b"" if end is None else end)  # a blob lies behind every text
        from_file = 0
        for row in self._open_reader().rows_lazily(PRESENT_KEYS, bounds):
            if from_file == limit:
                break
            key = cast(str, row[0])
            if not memory.is_newer(key):
                found.append((key, head_from_row(row[1:])))
                from_file += 1
        found.sort(key=lambda item: item[0])
        return found[:limit]

    def flush(self, index_max: int) -> int:
        """Write pending batches whose summary does not pass the raft index; answers the applied index in the file.

        Raises:
            DiskFull: what was not written stays pending and is written by a later call.
            StorageError: this store writes nothing any more.
        """
        with self._write_lock:
            writer = self._open_writer()
            while self._inbox:
                self._todo.append(self._inbox.popleft())
            while batches := self._next_batches(index_max):
                edge, self._edge = self._edge, None
                with writer.transaction() as db:
                    edge = edge or self._read_edge(db)
                    write_batches(db, batches, edge)
                self._edge = edge
                for _ in batches:
                    self._todo.popleft()
                self._flushed_bytes += sum(batch.size_bytes for batch in batches)
                self._file_index = batches[-1].summary.applied_index
            if writer.wal_pages >= WAL_PAGES_MAX:
                with self._scrubbed.excluded():
                    writer.checkpoint_if_room()
            return self._file_index

    def _read_edge(self, db: apsw.Connection) -> Edge:
        try:
            return Edge.of(db, stored_summary(db).tree_size)
        except ValueError as error:
            raise DamagedFile(str(self._path), f"its tree cannot go on: {error}") from error

    def _next_batches(self, index_max: int) -> list[Batch]:
        batches: list[Batch] = []
        row_count = 0
        for batch in self._todo:
            if batch.summary.applied_index > index_max or (batches and row_count >= ROWS_PER_TRANSACTION_MAX):
                break
            batches.append(batch)
            row_count += batch.row_count()
        return batches

    def checkpoint(self) -> int:
        """Move the WAL into the file and sync it; answers the applied index that is durable now. When a reader of
        an older state (a copy, an audit query) keeps frames back, that is the earlier one.

        Raises:
            StorageError: as `flush`.
        """
        with self._write_lock, self._scrubbed.excluded():
            file_index = self._file_index
            if self._open_writer().checkpoint(truncate=True):
                self._durable_index = file_index
            return self._durable_index

    def free_bytes(self) -> int:
        """Bytes that `give_back` could give back; none in a file that an earlier version has made."""
        with self._write_lock:
            return self._open_writer().free_bytes()

    def give_back(self, bytes_max: int) -> None:
        """Make the file shorter, by so much at most, behind the next checkpoint. In one transaction, on a worker
        thread. Raises as `flush`.
        """
        with self._write_lock:
            self._open_writer().give_back(bytes_max // PAGE_BYTES)

    def pending_bytes(self) -> int:
        """Estimated memory that waits for `flush`; may be called on any thread."""
        return self._added_bytes - self._flushed_bytes

    def cache_bytes(self) -> int:
        """Estimated memory of the cache."""
        return self._memory.size_bytes()

    def size_bytes(self) -> int:
        """Bytes on disk, the WAL included."""
        return file_bytes(self._path)

    def copy_to(self, path: Path) -> tuple[Summary, bytes]:
        """Write a consistent copy, one synced file without a WAL; answers what it holds. On a worker thread.

        Neither `flush` nor reads wait for it; but while it runs, `checkpoint` cannot pass the state being copied.

        Raises:
            StorageError: the copy failed, or `replace` or `close` stopped it; there is nothing under `path`.
        """
        return self._copier.copy(path)

    def check(self, path: Path | None = None) -> tuple[Summary, bytes]:
        """Read a ledger file at rest back, all of it, and answer what it holds; without a path, the loaded one. Raises
        as `verify_copy`.
        """
        if path is None:
            return check_content(self._open_reader(), self._cluster_id)
        return verify_copy(path, self._cluster_id)

    def scrub(self) -> Iterator[ScrubSlice]:
        """Read what the file holds back and check it, a slice with each step, on worker threads."""
        return LedgerScrub(self._scrubbed, self.tree, self._cluster_id).slices()

    def discard(self, path: Path) -> None:
        """Remove a copy or a received file: its name at once, its room in steps that go on behind this."""
        discard(path)

    def replace(self, path: Path) -> tuple[Summary, bytes]:
        """Put a received, verified file in the place of `ledger.db`, drop all memory, and load it.

        On any thread; no other call may run at the same time, except `copy_to`, which is stopped. May be called
        instead of `load`.

        Raises:
            StorageError: as `install_file` and `load`.
        """
        with self._write_lock:
            self._close_files()
            install_file(path, self._path, self._step)
            self._forget_memory()
            self._copier = self._make_copier()
            for file in (self.tree.file, self._scrubbed):
                file.reopen()
            loaded = self.load()
            self._durable_index = self._file_index
            return loaded

    def close(self) -> None:
        """Close the file; what was not flushed is dropped (the log has it)."""
        with self._write_lock:
            self._close_files()

    def _close_files(self) -> None:
        self._copier.stop()
        for file in (self.tree.file, self._scrubbed):
            file.close()
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _open_reader(self) -> Reader:
        assert self._reader is not None, "the store is not open"
        return self._reader

    def _open_writer(self) -> Writer:
        assert self._writer is not None, "the store is not open"
        return self._writer
