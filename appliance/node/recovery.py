"""What has to be finished and checked before a node takes part again."""

from __future__ import annotations

from pathlib import Path

from appliance.node.ports import LedgerStore, Log, LogStore, StorageFailed, StoredLog


def recover(log_store: LogStore, ledger_store: LedgerStore, directory: Path, log: Log) -> StoredLog:
    """Finish an install that was cut short, then hold the two stores against each other.

    Raises:
        StorageFailed: log and ledger contradict each other; the message says what to do.
        StorageError: a store cannot be read.
    """
    pending = log_store.pending_install()
    if pending is not None:
        meta, name = pending
        if (directory / name).exists():
            ledger_store.replace(directory / name)
        log_store.finish_install(meta)
        log.info("snapshot.install_finished", index=meta.index, term=meta.term)
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
