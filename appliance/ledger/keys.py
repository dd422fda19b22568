"""What the gateway accepts as key and idempotency key. Behind it, they are trusted."""

from __future__ import annotations

import re
from typing import Final

from appliance.ledger.commands import IDEMPOTENCY_KEY_BYTES_MAX, KEY_BYTES_MAX
from appliance.tables.errors import ApplianceError

_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f]")  # C0, DEL and C1: Unicode's category Cc


def check_key(key: bytes) -> str:
    """Decode a key: 1 to `KEY_BYTES_MAX` bytes of UTF-8 without control characters; nothing is normalised.

    Raises:
        ApplianceError: `bad_key`.
    """
    return _check(key, KEY_BYTES_MAX, "bad_key", "The key")


def check_key_text(key: str) -> str:
    """Check a key that came as text, in JSON for example. Raises `ApplianceError` with `bad_key`."""
    return _check_text(key, KEY_BYTES_MAX, "bad_key", "The key")


def check_idempotency_key(idempotency_key: bytes) -> str:
    """Decode an idempotency key: 1 to `IDEMPOTENCY_KEY_BYTES_MAX` bytes. Raises `ApplianceError`, `bad_request`."""
    return _check(idempotency_key, IDEMPOTENCY_KEY_BYTES_MAX, "bad_request", "The idempotency key")


def _check_text(text: str, bytes_max: int, code: str, what: str) -> str:
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        raise ApplianceError(
            code, f"{what} holds half of a surrogate pair at character {error.start}; send complete Unicode characters."
        ) from error
    return _check(data, bytes_max, code, what)


def _check(data: bytes, bytes_max: int, code: str, what: str) -> str:
    if not data:
        raise ApplianceError(code, f"{what} is empty; give it 1 to {bytes_max} bytes.")
    if len(data) > bytes_max:
        raise ApplianceError(code, f"{what} has {len(data)} bytes in UTF-8; shorten it to at most {bytes_max}.")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise ApplianceError(
            code,
            f"{what} is not UTF-8 at byte {error.start}; encode it as UTF-8 (in a path, percent-encode the bytes).",
        ) from error
    control = _CONTROL.search(text)
    if control is not None:
        raise ApplianceError(
            code,
            f"{what} holds the control character U+{ord(control[0]):04X} at character {control.start()}; remove it.",
        )
    return text
