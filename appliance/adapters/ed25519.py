"""Ed25519 (RFC 8032) for signed notes, and the files that private keys are kept in.

A private key is one line of text, as Go's sumdb/note writes it: `PRIVATE+KEY+<name>+<key id>+<type and seed>`.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from appliance.adapters.sqlite import sync_directory
from appliance.ledger.canonical import read_base64, write_base64
from appliance.ledger.checkpoint import RECOVERED
from appliance.ledger.note import SignatureType, VerifierKey, VerifierKeyError, make_verifier_key

SEED_BYTES: Final = 32
KEY_FILE_BYTES_MAX: Final = 4096

_TEXT_START: Final = "PRIVATE+KEY+"
_RECOVERY_BYTES: Final = 8
_RECOVERY_INFO: Final = b"scribe-ledger: key of a log that was recovered\0"


class SigningKeyError(Exception):
    """A private key, or the file that it is kept in, cannot be used; the message never holds the key."""


class SigningKey:
    """A private key for notes or cosignatures."""

    __slots__ = ("_private_key", "verifier_key")

    def __init__(self, name: str, signature_type: int, seed: bytes) -> None:
        """Make the key of a seed of `SEED_BYTES`. Raises `VerifierKeyError`: its name or type cannot be."""
        self._private_key = Ed25519PrivateKey.from_private_bytes(seed)
        public_key = self._private_key.public_key().public_bytes_raw()
        self.verifier_key: VerifierKey = make_verifier_key(name, signature_type, public_key)

    def __repr__(self) -> str:
        return f"<SigningKey of {self.verifier_key.name} {self.verifier_key.key_id.hex()}>"

    def sign(self, message: bytes) -> bytes:
        """Sign a message: an `Ed25519Sign`."""
        return self._private_key.sign(message)

    def after(self, recoveries: Sequence[int]) -> SigningKey:
        """The key of the log that this one became by recoveries; this key itself without any.

        Whoever has this key comes to the same one: its seed is HKDF-SHA256 (RFC 5869) of this one's, and nobody can
        tell from the one what the other is. Its name is this one's, and how many recoveries of which there were.

        Args:
            recoveries: the numbers that stand for them (`Configuration.recoveries`), oldest first.
        """
        if not recoveries:
            return self
        numbers = b"".join(number.to_bytes(_RECOVERY_BYTES) for number in recoveries)
        seed = HKDF(SHA256(), SEED_BYTES, salt=None, info=_RECOVERY_INFO + numbers)
        mark = hashlib.sha256(numbers).hexdigest()[: 2 * _RECOVERY_BYTES]
        return SigningKey(
            f"{self.verifier_key.name}{RECOVERED}{len(recoveries)}-{mark}",
            self.verifier_key.signature_type,
            seed.derive(self._private_key.private_bytes_raw()),
        )

    def to_text(self) -> str:
        """The private key as text, without a newline. Whoever has it can sign."""
        key = self.verifier_key
        encoded = write_base64(bytes([key.signature_type]) + self._private_key.private_bytes_raw())
        return f"{_TEXT_START}{key.name}+{key.key_id.hex()}+{encoded}"


def generate_key(name: str, signature_type: SignatureType) -> SigningKey:
    """Make a new key of the system's random bytes. Raises `VerifierKeyError`: no key can have this name."""
    return SigningKey(name, signature_type, Ed25519PrivateKey.generate().private_bytes_raw())


def verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Tell whether the signature is right: an `Ed25519Verify`."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except InvalidSignature:
        return False
    return True


def parse_signing_key(text: str) -> SigningKey:
    """Read what `SigningKey.to_text` wrote.

    Raises:
        SigningKeyError: it is no private key, or its name, id and seed do not belong together.
    """
    name, id_hex, encoded = [*text.removeprefix(_TEXT_START).split("+", 2), "", ""][:3]
    data = read_base64(encoded)
    if not text.startswith(_TEXT_START) or data is None or len(data) != 1 + SEED_BYTES:
        raise SigningKeyError("this is no private key: PRIVATE+KEY+ and then name, key id and base64, with + between")
    try:
        key = SigningKey(name, data[0], data[1:])
    except VerifierKeyError as error:
        raise SigningKeyError(str(error)) from error
    if key.verifier_key.key_id.hex() != id_hex:
        raise SigningKeyError(f"the private key of {name!r:.100} is not the one that its key id says")
    return key


def write_key_file(path: Path, key: SigningKey) -> None:
    """Write a private key into a new file, mode 0600 from its first byte: whole and durable, or not at all.

    Raises:
        SigningKeyError: a file is there already, which is never replaced, or it cannot be written.
        StorageFailed: it is written, and its name may not be durable.
    """
    try:
        handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # with mode 0600
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(key.to_text().encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            os.link(part, path)  # unlike a rename, refuses to replace
        finally:
            os.unlink(part)
    except FileExistsError as error:
        raise SigningKeyError(f"{path} exists already; a log's key is never replaced: move the file away") from error
    except OSError as error:
        raise SigningKeyError(f"{path} cannot be written: {error}") from error
    sync_directory(path.parent)


def read_key_file(path: Path) -> SigningKey:
    """Read a private key, of a file that only its owner can read.

    Raises:
        SigningKeyError: the file cannot be read, is open to others, or holds no private key.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            data = file.read(KEY_FILE_BYTES_MAX)
    except OSError as error:
        raise SigningKeyError(f"{path} cannot be read: {error}") from error
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        mode = stat.S_IMODE(status.st_mode)
        raise SigningKeyError(f"{path} is open to others than its owner (mode {mode:04o}); run: chmod 600 {path}")
    try:
        return parse_signing_key(data.decode().removesuffix("\n"))
    except UnicodeDecodeError as error:
        raise SigningKeyError(f"{path} holds no private key: it is not text") from error
    except SigningKeyError as error:
        raise SigningKeyError(f"{path}: {error}") from error
