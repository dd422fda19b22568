"""A node's list of keys compared with what the entries say, while writes go on.

The list is younger than the checkpoint. A row whose entry is in the checkpoint's tree has to be exactly what the
entries say. A row of a later entry, and a key that was deleted since, are claims: they are kept, and settled when the
entries up to there are at hand.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from appliance.cli.exits import CliError, Exit, finding
from appliance.cli.progress import Progress
from appliance.cli.verify_checks import stamp_text
from appliance.cli.verify_fetch import ListedKey, LogSource
from appliance.cli.verify_leaves import KeyHead, LeafFacts
from appliance.ledger.keys import check_key_text
from appliance.tables.errors import ApplianceError

CLAIMS_MAX: Final = 10_000_000  # rows of about 100 bytes in the temporary file

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS claims (
  url TEXT, key TEXT, version INTEGER, leaf_index INTEGER, deleted INTEGER, size INTEGER, timestamp TEXT
) STRICT
"""


def compare_list(source: LogSource, facts: LeafFacts) -> int:
    """Compare the whole list of a node with the entries taken so far. Answers how many rows it has.

    Raises:
        CliError: `list_wrong` with the first key that is wrong, or what the node answered.
    """
    return _Comparison(source, facts).run()


def settle_claims(url: str, facts: LeafFacts) -> None:
    """See that the claims of a node are borne out by the entries behind the checkpoint, which `facts` has taken since.

    Raises:
        CliError: `list_wrong` with the first key whose claim is not.
    """
    columns = "claims.key, claims.version, claims.leaf_index, claims.deleted, claims.size, claims.timestamp"
    entry = "newer.key, newer.version, newer.leaf_index, newer.deleted, newer.size, newer.timestamp_us"
    query = f"SELECT {columns}, {entry} FROM claims LEFT JOIN newer USING (leaf_index) WHERE url = ?"  # noqa: S608
    for row in facts.db.execute(query, (url,)):
        key, version, leaf_index, deleted, size, timestamp = row[:6]
        found = KeyHead(*row[6:]) if row[6] is not None else None
        if deleted:
            gone = "SELECT 1 FROM newer WHERE key = ? AND deleted AND leaf_index <= ?"
            fits = facts.db.execute(gone, (key, leaf_index)).fetchone() is not None
            what = "is not listed, and no entry deletes it"
        else:
            fits = found is not None and _fits(ListedKey(key, version, leaf_index, size, timestamp), found)
            what = f"is listed with version {version}, leaf {leaf_index}, and that entry says something else"
        if not fits:
            raise finding("list_wrong", f"the key {key!r} {what}")


def claimed_sizes(facts: LeafFacts) -> dict[str, int]:
    """How many entries have to be at hand to settle the claims of each node that makes any."""
    facts.db.execute(_SCHEMA)
    return {url: last + 1 for url, last in facts.db.execute("SELECT url, max(leaf_index) FROM claims GROUP BY url")}


class _Comparison:
    """Walks through both in the order of keys."""

    def __init__(self, source: LogSource, facts: LeafFacts) -> None:
        self._source = source
        self._facts = facts
        self._heads = facts.present()
        self._claims = 0
        facts.db.execute(_SCHEMA)

    def run(self) -> int:
        rows = 0
        head = next(self._heads, None)
        with Progress(f"listing keys of {self._source.name}", None) as progress:
            for row in self._rows():
                while head is not None and head.key.encode() < row.key.encode():
                    self._missing(head)
                    head = next(self._heads, None)
                known = head if head is not None and head.key == row.key else None
                self._listed(row, known)
                head = next(self._heads, None) if known is not None else head
                rows += 1
                progress.update(done=rows, records=rows)
        while head is not None:
            self._missing(head)
            head = next(self._heads, None)
        return rows

    def _rows(self) -> Iterator[ListedKey]:
        after: str | None = ""
        last = b""
        while after is not None:
            page = self._source.keys(after)
            for row in page.items:
                try:
                    key = check_key_text(row.key).encode()
                except ApplianceError as error:
                    raise finding("list_wrong", f"the list has a key that none can be: {error.detail}") from None
                if key <= last:
                    raise finding("list_wrong", f"the list is out of order at {row.key!r}")
                last = key
                yield row
            if page.next is not None and not page.items:
                raise finding("list_wrong", f"a page of the list is empty, and says that it goes on {page.next!r:.100}")
            after = page.next

    def _listed(self, row: ListedKey, head: KeyHead | None) -> None:
        if row.leaf_index >= self._facts.size:
            self._claim(row, deleted=False)
        elif head is None:
            reason = (
                f"{row.key!r} is listed with version {row.version}, leaf {row.leaf_index}; by the entries it is absent"
            )
            raise finding("list_wrong", reason)
        elif not _fits(row, head):
            raise finding(
                "list_wrong",
                f"{row.key!r} is listed with version {row.version}, leaf {row.leaf_index}, {row.size} bytes, "
                f"{row.timestamp}; by the entries it has version {head.version}, leaf {head.leaf_index}, {head.size} "
                f"bytes, {stamp_text(head.timestamp_us)}",
            )

    def _missing(self, head: KeyHead) -> None:
        try:
            leaf_index = self._source.newest_leaf(head.key)
        except CliError as error:
            if error.exit_code is not Exit.NOT_FOUND:
                raise
            leaf_index = -1
        if leaf_index < self._facts.size:
            reason = f"{head.key!r} is not listed; by the entries it has version {head.version}, leaf {head.leaf_index}"
            raise finding("list_wrong", reason)
        self._claim(ListedKey(head.key, 0, leaf_index, 0, ""), deleted=True)

    def _claim(self, row: ListedKey, *, deleted: bool) -> None:
        if self._claims == CLAIMS_MAX:
            reason = f"more than {CLAIMS_MAX} rows of the list are newer than the checkpoint"
            raise finding("log_behind", reason, hint="try again, perhaps while fewer writes go on")
        values = (self._source.name, row.key, row.version, row.leaf_index, deleted, row.size, row.timestamp)
        self._facts.db.execute("INSERT INTO claims VALUES (?, ?, ?, ?, ?, ?, ?)", values)
        self._claims += 1


def _fits(row: ListedKey, head: KeyHead) -> bool:
    return not head.deleted and (row.key, row.version, row.leaf_index, row.size, row.timestamp) == (
        head.key,
        head.version,
        head.leaf_index,
        head.size,
        stamp_text(head.timestamp_us),
    )
