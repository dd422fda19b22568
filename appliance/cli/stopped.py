"""A stopped node's data directory: what it holds, and how it is made the only voter."""

from __future__ import annotations

import os
import secrets
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

from appliance import __version__
from appliance.adapters.identity import DataDirectory
from appliance.adapters.ledger_store import SqliteLedgerStore
from appliance.adapters.log_store import SqliteLogStore
from appliance.adapters.setting_aside import KEPT_PREFIX, set_aside
from appliance.adapters.sqlite import beside, sync_directory
from appliance.cli.exits import CliError, Exit
from appliance.cli.output import say
from appliance.ledger.commands import decode_command
from appliance.ledger.machine import UnknownCommand
from appliance.ledger.state import Summary
from appliance.node.applier import meta_of
from appliance.node.forcing import Holding, recovered
from appliance.node.peer_ports import Hello
from appliance.node.ports import LEDGER_NAME, LOG_NAME, DamagedFile, Identity, IdentityStatus, StorageFailed, StoredLog
from appliance.node.recovery import recover
from appliance.raft.messages import Configuration, Entry, EntryKind, HardState, Member, MemberRole, SnapshotMeta
from appliance.tables.settings import Settings
from appliance.wiring import Place, whose

NEW_LOG_FILE: Final = "raft-recovered.db"
CACHE_BYTES: Final = 16 * 2**20
LOOK_BACK_ENTRIES: Final = 64  # for the last write in the log, among entries of other kinds


class _Said:
    """What a start would log goes to standard error."""

    def info(self, event: str, **fields: object) -> None:
        """Say it."""
        say(f"{event}: " + ", ".join(f"{name} {value}" for name, value in fields.items()))

    debug = warning = error = info


class _Read(NamedTuple):
    """What the files hold."""

    stored: StoredLog | None  # None: the log cannot be used
    summary: Summary
    meta: bytes
    last_write_us: int
    damage: str
    doubt: str = ""
    rotten: str = ""


class Recovery(NamedTuple):
    """What was done.

    Attributes:
        recoveries: the numbers of all recoveries of the cluster, this one's last.
        kept: where a log is that cannot be used; None without one.
    """

    recoveries: tuple[int, ...]
    kept: Path | None


class StoppedNode:
    """A node that does not run.

    Args:
        directory: its data directory, locked by this process.
        settings: its configuration.
        holding: what it holds.
        base: what stands before the first entry of a log that is made anew.
        last_write_us: stamp of the last write that it holds, Unix microseconds; 0 when it is not known.
        doubt: why its ledger file cannot be used, so that the log makes it again; else an empty string.
    """

    def __init__(
        self,
        directory: DataDirectory,
        settings: Settings,
        holding: Holding,
        *,
        base: SnapshotMeta,
        last_write_us: int,
        doubt: str,
    ) -> None:
        self.directory = directory
        self.holding = holding
        self.last_write_us = last_write_us
        self._doubt = doubt
        self._base = base
        self._place = Place.of(settings)

    def hello(self) -> Hello:
        """What it says of itself when it asks the others."""
        place = self._place
        identity = self.holding.identity
        return Hello(__version__, 0, (), identity, place.address, place.raft_address, 0, Configuration(), 0)

    def recover(self) -> Recovery:
        """Make it the only voter. When it is cut short it can be done again. Raises `StorageError`."""
        identity = Identity(self.holding.identity.cluster_id, self.holding.identity.node_id, _chance())
        me = Member(
            identity.node_id, identity.incarnation, MemberRole.VOTER, self._place.address, self._place.raft_address
        )
        configuration, entry, hard_state = recovered(self.holding, me, _chance)
        standing = self.directory.standing
        if standing.diverged:  # nobody is left to whom it could be compared, or who could send a snapshot
            if not self.holding.diverged:
                self.directory.set_aside(standing.diverged, ledger_only=True)
            standing.note_divergence("")
        if self.holding.rotten:
            standing.dispel_doubt()  # what comes of it is known, and wanted
        if self._doubt:
            self.directory.standing.note_doubt(self._doubt)  # a start would not look for what is wrong inside of it
        kept = None
        if self.holding.damage:
            kept = self._make_log(entry, hard_state)
        else:
            with closing(SqliteLogStore(self.directory.path / LOG_NAME)) as log_store:
                log_store.load()
                log_store.append([entry], hard_state)
        self.directory.write(identity)
        self.directory.standing.remember(configuration)
        self.directory.standing.pardon()
        return Recovery(configuration.recoveries, kept)

    def _make_log(self, entry: Entry, hard_state: HardState) -> Path | None:
        """A log that begins behind what `ledger.db` holds takes the place of the one that cannot be used."""
        home = self.directory.path
        made = home / NEW_LOG_FILE
        for stale in (made, *beside(made)):
            stale.unlink(missing_ok=True)
        with closing(SqliteLogStore(made)) as log_store:
            log_store.load()
            log_store.finish_install(self._base)
            log_store.append([entry], hard_state)
        if beside(made)[0].exists():
            raise StorageFailed(f"{made} could not be finished")
        kept = set_aside(home, (LOG_NAME,), self.holding.damage, datetime.now(UTC))
        os.replace(made, home / LOG_NAME)
        sync_directory(home)
        return kept


def look(directory: DataDirectory, settings: Settings, *, despite_damage: bool = False) -> StoppedNode:
    """See what a stopped node holds. As every start does, this finishes an install that was cut short; nothing else is
    changed.

    Args:
        directory: its data directory, locked by this process.
        settings: its configuration.
        despite_damage: whether a ledger file that can be opened is good enough, where no log makes it again.

    Raises:
        CliError: it holds nothing.
        StorageError: it is another node's, or what it holds cannot be used.
    """
    check = directory.check()
    cluster_id = whose(directory, settings, check, "")
    read = _read(directory, cluster_id, despite_damage=despite_damage)
    stored, summary = read.stored, read.summary
    if stored is not None:
        base = stored.snapshot
        configuration = stored.configurations[-1][1] if stored.configurations else base.configuration
        last_index = stored.last_index
        last_term = stored.term_starts[-1][1] if stored.term_starts else base.term
        term = max(stored.hard_state.term, last_term)
        commit_index = max(stored.hard_state.commit_index, summary.applied_index, base.index)
    else:
        base = meta_of(summary, read.meta) if read.meta else SnapshotMeta(0, 0, Configuration())
        configuration = base.configuration
        last_index, last_term, term, commit_index = base.index, base.term, base.term, base.index
    if not configuration.members:
        raise _nothing(directory)
    incarnation = check.identity.incarnation if check.identity is not None else 0
    holding = Holding(
        identity=Identity(cluster_id, settings.node.id, incarnation),
        remembers=check.status is IdentityStatus.OK
        and not (read.damage or read.rotten or directory.standing.condemned),
        configuration=configuration,
        last_index=last_index,
        last_term=last_term,
        term=term,
        commit_index=min(commit_index, last_index),
        applied_index=summary.applied_index,
        tree_size=summary.tree_size,
        damage=read.damage,
        rotten=read.rotten,
        diverged=directory.standing.diverged if stored is None or stored.snapshot.index > 0 else "",
    )
    return StoppedNode(directory, settings, holding, base=base, last_write_us=read.last_write_us, doubt=read.doubt)


def _read(directory: DataDirectory, cluster_id: str, *, despite_damage: bool) -> _Read:
    """Read the log and the ledger file; where the log cannot be used, the ledger file alone, all of it."""
    path = directory.path / LOG_NAME
    with closing(SqliteLedgerStore(directory.path / LEDGER_NAME, CACHE_BYTES, cluster_id)) as ledger_store:
        damage = f"{LOG_NAME} is missing"
        if path.exists():
            try:
                with closing(SqliteLogStore(path)) as log_store:
                    return _read_both(directory, log_store, ledger_store, despite_damage=despite_damage)
            except DamagedFile as error:
                if Path(error.path).name.startswith(LEDGER_NAME):
                    raise
                damage = str(error)
        if not (directory.path / LEDGER_NAME).exists():
            raise _nothing(directory)
        summary, meta, rotten = _read_whole(ledger_store, despite_damage=despite_damage)
        return _Read(None, summary, meta, summary.last_timestamp_us, damage, rotten=rotten)


def _read_whole(ledger_store: SqliteLedgerStore, *, despite_damage: bool) -> tuple[Summary, bytes, str]:
    """What the ledger file says of itself, and what is damaged in it, where that is said to be no matter.

    Raises:
        StorageError: it cannot be opened, or is damaged.
    """
    summary, meta = ledger_store.load()
    try:
        ledger_store.check()
    except DamagedFile as error:
        if not despite_damage:
            raise
        return summary, meta, str(error)
    return summary, meta, ""


def _read_both(
    directory: DataDirectory, log_store: SqliteLogStore, ledger_store: SqliteLedgerStore, *, despite_damage: bool
) -> _Read:
    doubt = rotten = ""
    try:
        stored = recover(log_store, ledger_store, directory.path, _Said())
        is_all = stored.snapshot.index > 0  # no log makes it again
        summary, meta, rotten = _read_whole(ledger_store, despite_damage=despite_damage and is_all)
    except DamagedFile as error:
        stored = log_store.load()
        if not Path(error.path).name.startswith(LEDGER_NAME) or stored.snapshot.index > 0:
            raise
        doubt = str(error)
        say(f"{doubt}; the log makes it again at the next start")
        summary, meta = Summary(), b""
    stamp_us = _last_stamp_us(log_store, stored)
    return _Read(stored, summary, meta, stamp_us or summary.last_timestamp_us, "", doubt, rotten)


def _last_stamp_us(log_store: SqliteLogStore, stored: StoredLog) -> int:
    """Stamp of the last write among the last entries of the log; 0 when there is none."""
    first = max(stored.snapshot.index, stored.last_index - LOOK_BACK_ENTRIES) + 1
    for index in range(stored.last_index, first - 1, -1):
        (entry,) = log_store.read(index, index, 1)
        if entry.kind == EntryKind.NORMAL:
            try:
                return decode_command(entry.data).timestamp_us
            except UnknownCommand:
                continue
    return 0


def _nothing(directory: DataDirectory) -> CliError:
    kept: list[Any] = sorted(path.name for path in directory.path.glob(KEPT_PREFIX + "*"))
    hint = "recover the node that holds most"
    if kept:
        hint = (
            f"move the files of {' or '.join(kept)} there, in the place of {LOG_NAME}* and {LEDGER_NAME}*, to see them"
        )
    return CliError(
        Exit.NOT_FOUND, f"{directory.path} holds nothing that a cluster could go on from", hint=hint, code="not_found"
    )


def _chance() -> int:
    return secrets.randbits(63) | 1
