"""What reads back what is stored, to find what has rotted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from msgspec import Struct


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
