"""What proofs need from the world: the stored tree, and the key that its states are signed with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from appliance.ledger.note import VerifierKey
from appliance.ledger.state import NewLeaf
from appliance.ledger.tile_paths import TileId


class LeavesUnavailable(LookupError):
    """The ledger file does not hold that many leaves yet."""


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


class LogKey(Protocol):
    """The key that the log's checkpoints are signed with."""

    @property
    def verifier_key(self) -> VerifierKey:
        """Its public half; its name is the log's origin."""
        ...

    def sign(self, message: bytes) -> bytes:
        """Sign a message with Ed25519."""
        ...

    def after(self, recoveries: Sequence[int]) -> LogKey:
        """The key that signs after these recoveries (`Configuration.recoveries`), the same on all nodes."""
        ...
