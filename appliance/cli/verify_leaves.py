"""Whether each entry follows from those before it, and what all of them together say of the keys.

Where each key stands is kept in a temporary file, so that memory stays bounded however many keys there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

import apsw

from appliance.cli.exits import CliError, finding
from appliance.ledger.encoding import Leaf, LeafError, decode_leaf
from appliance.ledger.keys import check_key_text
from appliance.tables.errors import ApplianceError

CACHE_BYTES: Final = 64 * 1024 * 1024

_SCHEMA: Final = """
CREATE TABLE heads (
  key TEXT PRIMARY KEY, version INTEGER, leaf_index INTEGER, deleted INTEGER, size INTEGER, timestamp_us INTEGER
) STRICT, WITHOUT ROWID;
CREATE TABLE newer (
  leaf_index INTEGER PRIMARY KEY, key TEXT, version INTEGER, deleted INTEGER, size INTEGER, timestamp_us INTEGER
) STRICT;
CREATE INDEX newer_key ON newer (key);
"""


class KeyHead(NamedTuple):
    """Where a key stands by the entries; `deleted` is 1 for a key whose last entry deletes it."""

    key: str
    version: int
    leaf_index: int
    deleted: int
    size: int
    timestamp_us: int


class LeafFacts:
    """Takes the entries in their order. A context manager.

    Args:
        path: the temporary file, which must not be there yet.

    Attributes:
        db: the file, for those who compare with it.
        size: how many entries were taken.
        last_bad: index of the entry that was found wrong, None while none was.
    """

    def __init__(self, path: Path) -> None:
        self.db: Final = apsw.Connection(str(path))
        for pragma, value in (("journal_mode", "off"), ("synchronous", "off"), ("locking_mode", "exclusive")):
            self.db.pragma(pragma, value)  # nobody needs the file after a crash
        self.db.pragma("cache_size", -(CACHE_BYTES // 1024))
        self.db.execute(_SCHEMA)
        self.db.execute("BEGIN")
        self.size = 0
        self._noting = False
        self._previous: Leaf | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.db.close(force=True)

    def note_newer(self) -> None:
        """From now on keep each entry in the table `newer`, too."""
        self._noting = True

    def take(self, entry: bytes) -> None:
        """Take the next entry. Raises `CliError`, `entry_unfounded`, which names it."""
        index = self.size
        try:
            leaf = decode_leaf(entry)
            check_key_text(leaf.key)
        except (LeafError, ApplianceError) as error:
            raise unfounded(index, str(error)) from None
        why = self._batch_fault(index, leaf) or self._key_fault(leaf)
        if why:
            raise unfounded(index, why)
        row = (leaf.key, leaf.version, index, leaf.op == "delete", leaf.value_size, leaf.timestamp_us)
        self.db.execute("INSERT OR REPLACE INTO heads VALUES (?, ?, ?, ?, ?, ?)", row)
        if self._noting:
            self.db.execute(
                "INSERT INTO newer (key, version, leaf_index, deleted, size, timestamp_us) VALUES (?, ?, ?, ?, ?, ?)",
                row,
            )
        self._previous = leaf
        self.size += 1

    def finish(self) -> None:
        """See that the last batch is whole: a checkpoint never cuts one. Raises `CliError`, `entry_unfounded`."""
        last = self._previous
        if last is not None and last.batch_position + 1 != last.batch_count:
            raise unfounded(
                self.size - 1,
                f"it is number {last.batch_position + 1} of a batch of {last.batch_count}, and the last entry",
            )

    def key_count(self) -> int:
        """How many keys are present."""
        count = self.db.execute("SELECT count(*) FROM heads WHERE NOT deleted").get
        assert isinstance(count, int)
        return count

    def present(self) -> Iterator[KeyHead]:
        """The keys that are present, in the order of their UTF-8 bytes."""
        for row in self.db.execute("SELECT * FROM heads WHERE NOT deleted ORDER BY key"):
            yield KeyHead(*row)

    def head(self, key: str) -> KeyHead | None:
        """Where a key stands, None if no entry names it."""
        row = self.db.execute("SELECT * FROM heads WHERE key = ?", (key,)).fetchone()
        return KeyHead(*row) if row else None

    def _batch_fault(self, index: int, leaf: Leaf) -> str:
        before = self._previous
        if leaf.leaf_index != index:
            return f"it says that it is leaf {leaf.leaf_index}"
        if before is None:
            return ""
        if leaf.timestamp_us < before.timestamp_us:
            return f"its time {leaf.timestamp_us} is before that of the entry before it, {before.timestamp_us}"
        begins = before.batch_position + 1 == before.batch_count
        if begins != (leaf.batch_position == 0):
            return (
                "it begins a batch before the last one is whole"
                if leaf.batch_position == 0
                else "its batch is whole already"
            )
        if begins:
            return ""
        same = ("batch_id", "batch_count", "actor", "request_id", "timestamp_us")
        other = [name for name in same if getattr(leaf, name) != getattr(before, name)]
        return f"it has another {other[0]} than the entry before it in the same batch" if other else ""

    def _key_fault(self, leaf: Leaf) -> str:
        head = self.head(leaf.key)
        version, last_index = (head.version, head.leaf_index) if head else (0, None)
        if leaf.version != version + 1:
            return f"it is version {leaf.version} of {leaf.key!r}, and the one before is {version}"
        if leaf.prev_leaf_index != last_index:
            return f"it names leaf {leaf.prev_leaf_index} as the one before on {leaf.key!r}, and that is {last_index}"
        if leaf.op == "delete" and (head is None or head.deleted):
            return f"it deletes {leaf.key!r}, which is not present"
        return ""


def unfounded(index: int, why: str) -> CliError:
    """What an entry that does not follow from those before it ends with."""
    return finding("entry_unfounded", f"entry {index}: {why}")
