"""Applies committed entries: the state machine in memory, its changes to the store, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from itertools import zip_longest
from typing import Final

import msgspec

from appliance.ledger.commands import Command, WriteResult, decode_command
from appliance.ledger.encoding import LeafError
from appliance.ledger.machine import LedgerMachine, UnknownCommand
from appliance.ledger.state import Changes, Summary
from appliance.node.ports import LEDGER_NAME, DamagedFile, LedgerStore
from appliance.raft.log import InvariantViolation
from appliance.raft.messages import Configuration, Entry, EntryKind, SnapshotMeta
from appliance.raft.state import decode_configuration

_NORMAL: Final = int(EntryKind.NORMAL)


class Applier:
    """The ledger of this node as far as it is applied.

    Args:
        store: keeps what is applied, in memory at once and on disk later.
        answers_max: idempotency keys held at most where a command names no limit.
    """

    def __init__(self, store: LedgerStore, answers_max: int) -> None:
        self._store = store
        self._answers_max = answers_max
        self._load(*store.load())

    def _load(self, summary: Summary, meta: bytes) -> None:
        self.machine = LedgerMachine(self._store, summary, self._answers_max)
        self._meta = meta
        self.configuration = decode_meta(meta).configuration if meta else Configuration()

    @property
    def applied_index(self) -> int:
        """Last applied index."""
        return self.machine.applied_index

    def reload(self, summary: Summary, meta: bytes) -> None:
        """Another ledger file took the store's place."""
        self._load(summary, meta)

    def apply(self, entry: Entry) -> WriteResult | None:
        """Apply one committed entry; answers what its writer is told, None for entries that are no writes.

        Raises:
            UnknownCommand: the entry is of a version that this program does not know; the node must stop.
            InvariantViolation: the entry does not follow the last one.
            DamagedFile: what the store holds of a key cannot be; the node must stop, and doubt the file.
        """
        return self.apply_run((entry,))[0]

    def apply_run(self, entries: Sequence[Entry]) -> list[WriteResult | None]:
        """Apply committed entries in their order; answers what `apply` would answer for each.

        The store gets one summary for the whole run, so the ledger file holds all of it or nothing.

        Raises:
            UnknownCommand: as `apply`; what came before that entry is applied.
            InvariantViolation: as `apply`; what came before that entry is applied.
            DamagedFile: what the store holds of a key cannot be; nothing of the run reaches the file.
        """
        results: list[WriteResult | None] = []
        commands = self._look_ahead(entries) if len(entries) > 1 else ()
        apply, take, expected_index = self.machine.apply, self._store.take, self.machine.applied_index + 1
        try:
            for entry, command in zip_longest(entries, commands):
                index = entry.index
                if index != expected_index:
                    raise InvariantViolation(f"entry {index} cannot be applied after {expected_index - 1}")
                if entry.kind == _NORMAL:
                    changes = apply(index, entry.term, entry.data, command)
                else:
                    changes = self._pass_over(entry)
                expected_index += 1
                take(changes)
                results.append(changes.result)
        except (UnknownCommand, InvariantViolation):
            self._seal(results)
            raise
        except LeafError as error:
            raise DamagedFile(LEDGER_NAME, f"entry {expected_index} cannot be applied: {error}") from error
        self._seal(results)
        return results

    def _look_ahead(self, entries: Sequence[Entry]) -> list[Command | None]:
        """What the entries say, up to the first that nobody knows; the heads they need are read together."""
        commands: list[Command | None] = []
        keys: list[str] = []
        with suppress(UnknownCommand):  # whoever applies it comes upon it again
            for entry in entries:
                if entry.kind != _NORMAL:
                    commands.append(None)
                    continue
                command = decode_command(entry.data)
                commands.append(command)
                for operation in command.operations:
                    keys.append(operation.key)
        self._store.prefetch(keys)
        return commands

    def _pass_over(self, entry: Entry) -> Changes:
        """Apply an entry that is no command."""
        changes = self.machine.advance(entry.index, entry.term)
        if entry.kind == EntryKind.CONFIGURATION:
            configuration = decode_configuration(entry.data)
            if configuration.recoveries != self.configuration.recoveries:
                self.machine.forget_cosignatures()  # they are of the log of before, which has another name
            self.configuration = configuration
            self._meta = encode_meta(SnapshotMeta(entry.index, entry.term, self.configuration))
        return changes

    def _seal(self, results: Sequence[WriteResult | None]) -> None:
        if results:
            self._store.add((), self.machine.summary(), self._meta)


def encode_meta(meta: SnapshotMeta) -> bytes:
    """What `ledger.db` keeps beside the summary: the configuration as of the applied index, and its place."""
    return msgspec.msgpack.encode(meta)


def decode_meta(data: bytes) -> SnapshotMeta:
    """The inverse of `encode_meta`."""
    return msgspec.msgpack.decode(data, type=SnapshotMeta)


def meta_of(summary: Summary, meta: bytes) -> SnapshotMeta:
    """What a copy of the ledger file with this summary covers."""
    return SnapshotMeta(summary.applied_index, summary.applied_term, decode_meta(meta).configuration)
