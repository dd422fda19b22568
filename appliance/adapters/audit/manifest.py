"""What is sealed of the audit trail: read and written by the worker, read by the node that scrubs it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

MANIFEST: Final = "manifest.json"
MANIFEST_FORMAT: Final = 1


class Segment(Struct, frozen=True):
    """A sealed range of audit rows.

    Attributes:
        file: name in the audit directory.
        index_last: last raft index in it; the range begins behind the segment before it.
        leaf_next: leaf at which the next segment begins.
        rows: rows in it.
        sha256: digest of the file, hex.
        leaf_sha256: digest of the leaf before `leaf_next`, hex: tells whether the ledger still is the one that was
            sealed (a restore may have put another in its place).
    """

    file: str
    index_last: int
    leaf_next: int
    rows: int
    sha256: str
    leaf_sha256: str


class Manifest(Struct, frozen=True):
    """The segments of one ledger, in order."""

    format: int
    cluster_id: str
    segments: tuple[Segment, ...]

    @classmethod
    def read(cls, directory: Path) -> Manifest | None:
        """What is there; None when there is nothing, or nothing that this program understands."""
        try:
            manifest = msgspec.json.decode((directory / MANIFEST).read_bytes(), type=cls)
        except (FileNotFoundError, msgspec.MsgspecError, UnicodeDecodeError):
            return None
        return manifest if manifest.format == MANIFEST_FORMAT else None

    def write(self, directory: Path) -> None:
        """Put it in the place of the one that is there. Raises `OSError`."""
        temporary = directory / f"{MANIFEST}.tmp"
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1))
        temporary.replace(directory / MANIFEST)
