"""`standing.json`: what a node has to know of itself when its `raft.db` cannot be read, or must not be used.

The file is made when the node first takes part in a cluster, so that its being there says one thing more: this
directory has held data. When the log is empty all the same, they are lost, and the node founds nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from appliance.adapters.formats import refuse_newer
from appliance.adapters.whole_file import from_os_error, write_whole
from appliance.raft.messages import Configuration

STANDING_FILE: Final = "standing.json"
STANDING_FORMAT: Final = 1


class _Format(Struct, frozen=True):
    """What the file of every version, past and future, begins with."""

    format: int


class _Content(Struct, frozen=True, forbid_unknown_fields=True):
    """The file."""

    format: int = STANDING_FORMAT
    voters: tuple[int, ...] = ()
    doubt: str = ""
    condemned: str = ""
    diverged: str = ""


class StandingFile:
    """The file as a value that is written through. One that is damaged says nothing but that it is there.

    Args:
        directory: the data directory.

    Attributes:
        has_held: whether this directory has held data of a cluster.

    Raises:
        NewerFormat: a later version has written it.
        StorageFailed: it cannot be read.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / STANDING_FILE
        self.has_held = True
        self._content = _Content()
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            self.has_held = False
            return
        except OSError as error:
            raise from_os_error(self._path, error) from error
        try:
            refuse_newer(self._path, msgspec.json.decode(data, type=_Format).format, STANDING_FORMAT)
            self._content = msgspec.json.decode(data, type=_Content)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return

    @property
    def voters(self) -> tuple[int, ...]:
        """Ids of the voters of the last configuration that acted here; empty when it is not known."""
        return self._content.voters

    @property
    def doubt(self) -> str:
        """Why `ledger.db` has to be read back whole before it is used again, or an empty string."""
        return self._content.doubt

    @property
    def condemned(self) -> str:
        """Why nothing in this directory may be used again, or an empty string."""
        return self._content.condemned

    @property
    def diverged(self) -> str:
        """Why what is applied here must not be told, or an empty string."""
        return self._content.diverged

    def note_divergence(self, reason: str) -> None:
        """Note that what is applied here must not be told, or, with an empty string, that it may. Raises
        `StorageError`.
        """
        self._write(replace(self._content, diverged=reason))

    def remember(self, configuration: Configuration) -> None:
        """Note who votes. Raises `StorageError`."""
        self._write(replace(self._content, voters=configuration.voters()))

    def note_doubt(self, reason: str) -> None:
        """Let the next start read `ledger.db` back whole. Raises `StorageError`."""
        self._write(replace(self._content, doubt=reason))

    def condemn(self, reason: str) -> None:
        """Let the next start treat the directory as wiped. Raises `StorageError`."""
        self._write(replace(self._content, condemned=reason))

    def note_loss(self) -> None:
        """What was held is about to be set aside: note that there was something. Raises `StorageError`."""
        self._write(self._content)

    def pardon(self) -> None:
        """What was condemned is gone, or is to be used all the same. Raises `StorageError`."""
        if self.condemned:
            self._write(replace(self._content, condemned=""))

    def dispel_doubt(self) -> None:
        """What was doubted is checked, or gone. Raises `StorageError`."""
        if self.doubt:
            self._write(replace(self._content, doubt=""))

    def _write(self, content: _Content) -> None:
        if self.has_held and content == self._content:
            return
        write_whole(self._path, msgspec.json.format(msgspec.json.encode(content)) + b"\n")
        self._content, self.has_held = content, True
