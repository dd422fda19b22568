"""The last checkpoint that this user has seen of a log, in a file that only its owner can read.

Whatever a log signs later has to continue it. The file holds the signed note, and nothing in it is believed before the
signature was verified again.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from appliance.cli.exits import CliError, finding
from appliance.cli.init_files import PRIVATE_FILE, make_private_dir, write_file
from appliance.cli.output import now_text
from appliance.ledger.checkpoint import Checkpoint, CheckpointError, open_checkpoint
from appliance.ledger.note import Ed25519Verifier, NoteError

FORMAT: Final = 1
FILE_BYTES_MAX: Final = 4 * 1024 * 1024  # a note of 1,000,000 bytes, escaped

_NAME_DIGITS: Final = 32  # of the SHA-256 of the origin


class Seen(NamedTuple):
    """A checkpoint whose signature was verified.

    Attributes:
        checkpoint: what it says.
        note: the signed note, byte for byte.
        url: the node that showed it.
    """

    checkpoint: Checkpoint
    note: bytes
    url: str


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    origin: str
    seen: str  # RFC 3339
    url: str
    note: str


class CheckpointMemory:
    """What is remembered of one log.

    Args:
        directory: where the files of all logs are; it is made when there is something to remember.
        log: the log's key. Its name is the origin that is remembered.
    """

    def __init__(self, directory: Path, log: Ed25519Verifier) -> None:
        self._log = log
        self._name = sha256(log.key.name.encode()).hexdigest()[:_NAME_DIGITS]
        self._directory = directory
        self.path: Final = directory / f"{self._name}.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out: what is compared with the file and then written must be one step."""
        make_private_dir(self._directory)
        handle = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def last(self) -> Seen | None:
        """The checkpoint that is remembered, None before the first one.

        Raises:
            CliError: `memory_unusable`: the file is damaged, or what it holds is not signed by this key. That is no
                reason to begin anew, since whoever can bring it about could hide a fork by it.
        """
        try:
            with self.path.open("rb") as file:
                data = file.read(FILE_BYTES_MAX)
        except FileNotFoundError:
            return None
        try:
            held = msgspec.json.decode(data, type=_File)
            if held.format != FORMAT:
                raise self._unusable(f"its format is {held.format}, and only {FORMAT} is known here")
            note = held.note.encode()
            return Seen(open_checkpoint(note, self._log).checkpoint, note, held.url)
        except (msgspec.MsgspecError, UnicodeError, CheckpointError, NoteError) as error:
            raise self._unusable(str(error)) from None

    def remember(self, seen: Seen) -> None:
        """Put a checkpoint in the place of the last one, whole or not at all; never a smaller one. Only when locked."""
        last = self.last()
        assert last is None or last.checkpoint.size < seen.checkpoint.size
        held = _File(FORMAT, seen.checkpoint.origin, now_text(), seen.url, seen.note.decode())
        write_file(self.path, msgspec.json.format(msgspec.json.encode(held), indent=2) + b"\n")

    def keep_evidence(self, text: str) -> Path:
        """Keep what proves that a log misbehaved; the same text is kept once. Answers its file."""
        alarms = make_private_dir(self._directory / "alarms")
        path = alarms / f"{self._name}-{sha256(text.encode()).hexdigest()[:16]}.txt"
        write_file(path, text.encode())
        return path

    def _unusable(self, why: str) -> CliError:
        return finding(
            "memory_unusable",
            f"the checkpoint that is remembered of {self._log.key.name} cannot be used: {self.path}: {why}",
            hint="find out who changed it; to trust the log anew from now on, move the file away",
        )


def memory_directory(environ: Mapping[str, str]) -> Path:
    """Where checkpoints are remembered: in the user's configuration directory, after the XDG base directories."""
    configured = environ.get("XDG_CONFIG_HOME", "")
    base = Path(configured) if os.path.isabs(configured) else Path.home() / ".config"
    return base / "appliance" / "checkpoints"
