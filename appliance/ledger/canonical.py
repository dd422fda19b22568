"""Text with one spelling only: decimals without leading zeros and padded base64 (RFC 4648, sections 3.5 and 4).

What is signed or compared must not have a second spelling, so these readers answer None for whatever their writers
would not have written. Standard library only.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from typing import Final

from appliance.ledger.merkle import HASH_BYTES

DECIMAL_MAX: Final = 2**63 - 1  # Go's tlog counts in int64; and 63 lines of proof reach no further

_DECIMAL: Final = re.compile("0|[1-9][0-9]{0,18}")


def read_decimal(text: str) -> int | None:
    """The integer 0 to `DECIMAL_MAX` that this text is the ASCII decimal of."""
    if _DECIMAL.fullmatch(text) is None:
        return None
    number = int(text)
    return number if number <= DECIMAL_MAX else None


def write_base64(data: bytes) -> str:
    """Base64 with its padding."""
    return b64encode(data).decode("ascii")


def read_base64(text: str) -> bytes | None:
    """The bytes that `write_base64` makes this text of."""
    try:
        data = b64decode(text, validate=True)
    except ValueError:
        return None
    return data if write_base64(data) == text else None


def read_hash(text: str) -> bytes | None:
    """The SHA-256 hash, `HASH_BYTES` long, that this text is the base64 of."""
    data = read_base64(text)
    return data if data is not None and len(data) == HASH_BYTES else None
