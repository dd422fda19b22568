"""What has to be finished and checked before a node takes part again."""

from __future__ import annotations

from pathlib import Path

from appliance.node.ports import LedgerStore, Log, LogStore, StorageError, StorageFailed, StoredLog
from appliance.raft.messages import SnapshotMeta


def recover(log_store: LogStore, ledger_store: LedgerStore, directory: Path, log: Log) -> StoredLog:
    """Finish an install that was cut short, then hold the two stores against each other.

    Raises:
        StorageFailed: log and ledger contradict each other; the message says what to do.
        StorageError: a store cannot be read.
    """
    pending = log_store.pending_install()
    if pending is not None:
        meta, name = pending
        _end_install(log_store, ledger_store, meta, directory / name, log)
    stored = log_store.load()
    summary, _ = ledger_store.load()
    if summary.applied_index > stored.last_index:
        raise StorageFailed(
            f"ledger.db is applied up to {summary.applied_index}, but the log in raft.db ends at {stored.last_index}: "
            "the log lost entries that it had acknowledged. Move the data directory away and let the node sync anew."
        )
    if summary.applied_index < stored.snapshot.index:
        raise StorageFailed(
            f"ledger.db is applied up to {summary.applied_index}, but raft.db holds only what comes after "
            f"{stored.snapshot.index}: ledger.db is an older copy. "
            "Move the data directory away and let the node sync anew."
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
