"""Single leaves of `ledger.db`, whole or without salt and value. What is read is checked as far as it was read."""

from __future__ import annotations

from typing import cast

from appliance.adapters.ledger_rows import BARE_LEAF_BY_INDEX, LEAF_BY_INDEX, leaf_from_row
from appliance.adapters.ledger_verify import check_leaf, read_leaf
from appliance.adapters.sqlite import Reader
from appliance.ledger.encoding import Leaf, LeafError
from appliance.ledger.state import NewLeaf
from appliance.node.ports import DamagedFile


def stored_leaf(reader: Reader, leaf_index: int) -> NewLeaf | None:
    """A leaf with salt and value, held against the hash in it, so that no value is answered that was not written.
    Raises `StorageError`, `DamagedFile` among them.
    """
    row = reader.row(LEAF_BY_INDEX, (leaf_index,))
    if row is None:
        return None
    leaf = leaf_from_row(row)
    try:
        check_leaf(leaf_index, leaf.leaf, leaf.salt, leaf.value)
    except LeafError as error:
        raise _damaged(reader, leaf_index, error) from error
    return leaf


def stored_bare_leaf(reader: Reader, leaf_index: int) -> Leaf | None:
    """What a leaf says; of its salt and its value SQLite reads no page here. Raises as `stored_leaf`."""
    row = reader.row(BARE_LEAF_BY_INDEX, (leaf_index,))
    if row is None:
        return None
    try:
        said = read_leaf(cast(bytes, row[0]))
        if said.leaf_index != leaf_index:
            raise LeafError(f"it says that it is leaf {said.leaf_index}")
    except LeafError as error:
        raise _damaged(reader, leaf_index, error) from error
    return said


def _damaged(reader: Reader, leaf_index: int, error: LeafError) -> DamagedFile:
    return DamagedFile(str(reader.path), f"leaf {leaf_index}: {error}")
