"""What each file says first: the format that it is written in."""

from __future__ import annotations

from pathlib import Path

from appliance.node.ports import StorageError


class NewerFormat(StorageError):
    """A file is of a format that a later version of this program writes. It is whole, and is not touched."""


def refuse_newer(path: Path, found: int, known: int) -> None:
    """See that a file is not of a later format than this version knows. Raises `NewerFormat`."""
    if found > known:
        raise NewerFormat(
            f"{path} is of format {found}, which a later version of this program has written; this version knows "
            f"formats up to {known}. Start the later version again. Or move the data directory away: the node then "
            "syncs anew from the others."
        )
