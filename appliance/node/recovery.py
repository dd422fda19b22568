"""What has to be finished, checked and given up before a node takes part again.

What is damaged is never used and never deleted. `raft.db` damaged, missing, or shorter than what it had acknowledged,
or a `ledger.db` whose beginning no log brings again: all data are set aside, and the node is a new one that the others
bring up to date. `ledger.db` alone, with a log that begins at 1: only that is set aside, and the log is replayed. The
only voter of a cluster has nobody to bring it up to date, so there the start is refused and nothing is touched.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from appliance.node.ports import (
    LEDGER_NAME,
    LOG_NAME,
    DamagedFile,
    LedgerStore,
    Log,
    LogStore,
    StorageError,
    StorageFailed,
    StoredLog,
)
from appliance.raft.messages import SnapshotMeta


class SetAside(Protocol):
    """Moves `ledger.db`, or all data, out of the way."""

    def __call__(self, reason: str, *, ledger_only: bool) -> Path | None:
        """Answers where they are kept, None when nothing is there. Raises `StorageError`."""
        ...


class Opened(NamedTuple):
    """The stores of a node that may take part.

    Attributes:
        log_store: `raft.db`.
        ledger_store: `ledger.db`, loaded.
        stored: what the log holds.
        lost: whether the directory held data before and holds none now: the node is a new one, and founds nothing.
    """

    log_store: LogStore
    ledger_store: LedgerStore
    stored: StoredLog
    lost: bool


@dataclass(frozen=True, slots=True)
class Opening:
    """How a start comes by its stores.

    Attributes:
        directory: the data directory.
        open_log: opens `raft.db`, and makes it when it is missing.
        open_ledger: opens `ledger.db` likewise.
        set_aside: moves what is damaged out of the way.
        has_held: whether this directory has held data of a cluster before.
        alone: whether no other voter of the cluster is known, so that nobody could bring this node up to date.
        doubt: why `ledger.db` has to be read back whole, or an empty string.
        log: structured log.
    """

    directory: Path
    open_log: Callable[[], LogStore]
    open_ledger: Callable[[], LedgerStore]
    set_aside: SetAside
    has_held: bool
    alone: bool
    doubt: str
    log: Log

    def open(self, loss: str) -> Opened:
        """Open both stores, or new ones where those that are there are damaged.

        Args:
            loss: why the data are lost or must not be used whatever they are, or an empty string.

        Raises:
            StorageFailed: they are damaged, and nobody could bring them again; the message says what to do.
            StorageError: they cannot be opened for another reason.
        """
        if loss:
            self._give_up(loss)
            return self._open(has_held=True)
        try:
            return self._open(has_held=self.has_held)
        except DamagedFile as error:
            self._give_up(str(error))
        return self._open(has_held=True)

    def _give_up(self, reason: str) -> None:
        """Set all data aside. Raises `StorageFailed` when nobody else has them."""
        if self.alone:
            raise StorageFailed(
                f"{reason.rstrip('.')}. This node is the only voter of its cluster, so that nobody could bring its "
                "data again, and nothing was touched. Put a whole copy of the data directory in its place; or see what "
                "`appliance cluster recover --config FILE`, with this node's configuration, can save."
            )
        kept = self.set_aside(reason, ledger_only=False)
        if kept is not None:
            self.log.error("node.set_aside", reason=reason.rstrip("."), kept=str(kept))

    def _open(self, *, has_held: bool) -> Opened:
        log_store = self.open_log()
        try:
            ledger_store, stored = self._open_ledger(log_store)
        except BaseException:
            log_store.close()
            raise
        is_empty = stored.last_index == 0 and stored.hard_state.term == 0
        return Opened(log_store, ledger_store, stored, lost=has_held and is_empty)

    def _open_ledger(self, log_store: LogStore) -> tuple[LedgerStore, StoredLog]:
        ledger_store = self.open_ledger()
        try:
            is_pending = log_store.pending_install() is not None
            if self.doubt and not is_pending:
                ledger_store.load()
                ledger_store.check()
            stored = recover(log_store, ledger_store, self.directory, self.log)
            if self.doubt and is_pending:
                ledger_store.check()
            return ledger_store, stored
        except DamagedFile as error:
            ledger_store.close()
            if not Path(error.path).name.startswith(LEDGER_NAME) or log_store.load().snapshot.index > 0:
                raise
            kept = self.set_aside(str(error), ledger_only=True)
            self.log.error("node.ledger_set_aside", reason=str(error), kept=str(kept))
        except BaseException:
            ledger_store.close()
            raise
        ledger_store = self.open_ledger()
        try:
            return ledger_store, recover(log_store, ledger_store, self.directory, self.log)
        except BaseException:
            ledger_store.close()
            raise


def recover(log_store: LogStore, ledger_store: LedgerStore, directory: Path, log: Log) -> StoredLog:
    """Finish an install that was cut short, then hold the two stores against each other.

    Raises:
        DamagedFile: log and ledger contradict each other; it names the one that lacks something.
        StorageError: a store cannot be read.
    """
    pending = log_store.pending_install()
    if pending is not None:
        meta, name = pending
        _end_install(log_store, ledger_store, meta, directory / name, log)
    stored = log_store.load()
    summary, _ = ledger_store.load()
    if summary.applied_index > stored.last_index:
        raise DamagedFile(
            str(directory / LOG_NAME),
            f"its log ends at {stored.last_index}, but {LEDGER_NAME} is applied up to {summary.applied_index}: it lost "
            "entries that it had acknowledged",
        )
    if summary.applied_index < stored.snapshot.index:
        raise DamagedFile(
            str(directory / LEDGER_NAME),
            f"it is applied up to {summary.applied_index}, but {LOG_NAME} holds only what comes after "
            f"{stored.snapshot.index}: it is an older copy, or was lost",
        )
    return stored


def _end_install(log_store: LogStore, ledger_store: LedgerStore, meta: SnapshotMeta, path: Path, log: Log) -> None:
    """Finish an install, or, when its file is lost or damaged, forget it: nobody was told of it before it was finished,
    so that the node is where it was, and the leader sends the snapshot again.
    """
    reason = _replace(ledger_store, path) or f"{path} is missing"
    summary, _ = ledger_store.load()
    if summary.applied_index == meta.index:
        log_store.finish_install(meta)
        log.info("snapshot.install_finished", index=meta.index, term=meta.term)
    else:
        ledger_store.check()  # an attempt before may have taken its WAL away already
        log_store.cancel_install()
        log.error("snapshot.install_dropped", index=meta.index, applied_index=summary.applied_index, reason=reason)


def _replace(ledger_store: LedgerStore, path: Path) -> str:
    """Put a received file that is still there in its place, if it is whole; why it is not, otherwise. A file that was
    damaged since it was received is found out before the one that it was to replace is touched.
    """
    if not path.exists():
        return ""
    try:
        ledger_store.check(path)
    except StorageError as error:
        ledger_store.discard(path)
        return str(error)
    ledger_store.replace(path)
    return ""
