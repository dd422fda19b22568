"""What a node needs of its data directory besides its stores."""

from __future__ import annotations

from typing import Protocol

from appliance.raft.messages import Configuration


class Standing(Protocol):
    """What a node knows of itself beside its `raft.db`, for the time when that cannot be read or must not be used.
    What is noted is durable when the method returns. All raise `StorageError`.
    """

    @property
    def diverged(self) -> str:
        """Why what is applied here must not be told, or an empty string."""
        ...

    def note_divergence(self, reason: str) -> None:
        """Note that what is applied here must not be told, or, with an empty string, that it may again."""
        ...

    def remember(self, configuration: Configuration) -> None:
        """Note who votes."""
        ...

    def note_doubt(self, reason: str) -> None:
        """Let the next start read `ledger.db` back whole before it is used."""
        ...

    def condemn(self, reason: str) -> None:
        """Let the next start treat the data directory as wiped."""
        ...


class Reserve(Protocol):
    """Room on the disk that is held back for the time when there is none."""

    def hold_reserve(self) -> None:
        """Take it, if it is not held. Raises `DiskFull` when there is not enough, `StorageFailed`."""
        ...

    def release_reserve(self) -> bool:
        """Give it free; False when it was not held. Raises `StorageFailed`."""
        ...

    def kept(self) -> int:
        """How many directories are there with damaged data that were set aside. Raises `StorageError`."""
        ...

    def make_room(self) -> None:
        """A leader sends a snapshot: of what was set aside so much is removed, the oldest first, that another copy of
        it has room. Raises `StorageError`.
        """
        ...

    def drop_kept(self) -> None:
        """Remove all that was set aside. Raises `StorageError`."""
        ...
