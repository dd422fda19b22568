"""What reads back what is stored: for proofs, and to find what has rotted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from msgspec import Struct

from appliance.ledger.state import NewLeaf
from appliance.ledger.tile_paths import TileId


class LedgerTree(Protocol):
    """The tree and the leaves of `ledger.db` as far as they are in the file, for proofs. Everything here reads the disk
    and is called on worker threads, on several at a time.

    All methods raise `StorageError`, and `LeavesUnavailable` when the file does not hold that many leaves.
    """

    def tile(self, tile: TileId) -> bytes:
        """The hashes of a tile, so many as its width says."""
        ...

    def entries(self, first: int, count: int) -> list[bytes]:
        """Leaves first..first+count-1, as they are in the tree."""
        ...

    def leaf(self, leaf_index: int) -> NewLeaf:
        """A leaf with salt and value."""
        ...

    def root(self, tree_size: int) -> bytes:
        """Root of the tree of so many leaves."""
        ...

    def inclusion(self, leaf_index: int, tree_size: int) -> list[bytes]:
        """The inclusion path of a leaf (`appliance.ledger.merkle.inclusion_proof`)."""
        ...

    def consistency(self, first_size: int, second_size: int) -> list[bytes]:
        """The consistency proof of two sizes (`appliance.ledger.merkle.consistency_proof`)."""
        ...

    def recheck(self, first: int, tree_size: int, root: bytes) -> None:
        """Read the leaves from `first` on back, hash them again, and see that they lead to the tiles that stand over
        them, and these to the root of the tree of so many leaves. About 2 us a leaf.

        Raises:
            DamagedFile: they do not; names the first bad tile or leaf.
        """
        ...


class Rot(Struct, frozen=True):
    """Something that is not what was written.

    Attributes:
        detail: what and where, as a sentence without its full stop.
        leaf_index: the leaf whose bytes or value are not to be trusted, if it is that.
    """

    detail: str
    leaf_index: int | None = None


class ScrubSlice(Struct, frozen=True):
    """What one step of a scrub has read: some milliseconds of work, in one read transaction that is over behind it.
    Steps are taken on worker threads, one at a time. A step raises `FileAway` when the file is closed; what cannot be
    read otherwise is rot.

    Attributes:
        bytes_read: from the file, so far as the connection's own small cache did not hold it.
        share: of the file that is done, 0 to 1.
        rotten: what was found.
    """

    bytes_read: int
    share: float
    rotten: tuple[Rot, ...] = ()


class Scrubbed(Protocol):
    """Something that can be scrubbed."""

    def scrub(self) -> Iterator[ScrubSlice]:
        """Read everything back and check it, a slice with each step."""
        ...
