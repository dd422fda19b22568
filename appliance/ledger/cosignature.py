"""Cosignatures of witnesses, type 0x04, after c2sp.org/tlog-cosignature: Ed25519 over a time and a checkpoint's text.

One says: at this time, the largest tree that I have seen of this log, and found to continue all before it, is this.
A witness may cosign the same checkpoint again; the two differ in time alone.
"""

from __future__ import annotations

from typing import Final

from appliance.ledger.canonical import DECIMAL_MAX
from appliance.ledger.note import (
    SIGNATURE_BYTES,
    Ed25519Sign,
    Ed25519Verify,
    Signature,
    SignatureType,
    VerifierKey,
    require_type,
)

TIMESTAMP_S_MAX: Final = DECIMAL_MAX

_TIMESTAMP_BYTES: Final = 8  # big-endian, in front of the signature proper


def cosigned_message(checkpoint_text: str, timestamp_s: int) -> bytes:
    """What a witness signs: two lines, then the text of the checkpoint's note, whole.

    Args:
        checkpoint_text: as `format_checkpoint` has it.
        timestamp_s: Unix seconds, 0 to `TIMESTAMP_S_MAX`.
    """
    assert 0 <= timestamp_s <= TIMESTAMP_S_MAX
    return f"cosignature/v1\ntime {timestamp_s}\n{checkpoint_text}".encode()


def cosign(checkpoint_text: str, timestamp_s: int, key: VerifierKey, ed25519_sign: Ed25519Sign) -> Signature:
    """Make a cosignature. Only for a checkpoint that `witnessing.decide` lets pass.

    Args:
        checkpoint_text: the text that was submitted, extension lines included.
        timestamp_s: Unix seconds, now; not 0, which stands for no time.
        key: the witness's, of type 0x04.
        ed25519_sign: its private half.

    Raises:
        VerifierKeyError: the key is of another type.
    """
    require_type(key, SignatureType.COSIGNATURE_V1)
    assert timestamp_s > 0
    signature = ed25519_sign(cosigned_message(checkpoint_text, timestamp_s))
    return Signature(key.name, key.key_id, timestamp_s.to_bytes(_TIMESTAMP_BYTES) + signature)


def timestamp_of(cosignature: Signature) -> int:
    """When a cosignature was made, Unix seconds, as the witness says; only for one that was verified."""
    return int.from_bytes(cosignature.signature[:_TIMESTAMP_BYTES])


class CosignatureVerifier:
    """Signatures of type 0x04. Their time is not judged here: it needs a clock.

    Raises:
        VerifierKeyError: the key is of another type.
    """

    def __init__(self, key: VerifierKey, ed25519_verify: Ed25519Verify) -> None:
        self.key: Final = require_type(key, SignatureType.COSIGNATURE_V1)
        self._ed25519_verify = ed25519_verify

    def verify(self, text: str, signature: bytes) -> bool:
        """Tell whether the witness has cosigned the checkpoint with this text."""
        timestamp_s = int.from_bytes(signature[:_TIMESTAMP_BYTES])
        if len(signature) != _TIMESTAMP_BYTES + SIGNATURE_BYTES or timestamp_s > TIMESTAMP_S_MAX:
            return False
        message = cosigned_message(text, timestamp_s)
        return self._ed25519_verify(self.key.public_key, message, signature[_TIMESTAMP_BYTES:])
