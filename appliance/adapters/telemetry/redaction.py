"""The last guard against secrets in logs: known names of secret fields, and `name: value` pairs in free text.

Callers do not log secrets in the first place; this catches the slip.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

REDACTED = "[redacted]"
_DEPTH_MAX = 4

_SECRET_WORDS = (
    "api_key",
    "apikey",
    "x_api_key",
    "authorization",
    "proxy_authorization",
    "cookie",
    "set_cookie",
    "password",
    "passphrase",
    "secret",
    "cluster_secret",
    "token",
    "access_token",
    "private_key",
    "credentials",
)
SECRET_NAMES = frozenset(_SECRET_WORDS)
"""Names of fields whose value is never written; compared in lower case with `_` for `-`."""

_IN_TEXT = re.compile(
    r"(?i)\b((?:[\w-]*(?:"
    + "|".join(word.replace("_", "[_-]?") for word in sorted(_SECRET_WORDS, key=len, reverse=True))
    + r"))[\"']?\s*[:=]\s*)(?:[\"'](?:bearer\s+|basic\s+)?[^\"']+[\"']|(?:bearer\s+|basic\s+)?[^\s,;&\"'}\])]+)"
)
_BEARER = re.compile(r"(?i)\b(bearer\s+)[A-Za-z0-9._~+/=-]{8,}")
_URL_PASSWORD = re.compile(r"(://[^/\s:@]*:)[^/\s@]+(@)")


def is_secret(name: str) -> bool:
    """Whether a field of this name must not be written."""
    return name in SECRET_NAMES or name.lower().replace("-", "_") in SECRET_NAMES


def redact_value(value: object, depth: int = 0) -> object:
    """The value without what stands under a secret name in it, however it is nested (at most four levels)."""
    if isinstance(value, Mapping):
        if depth == _DEPTH_MAX:
            return REDACTED
        return {
            str(name): REDACTED if is_secret(str(name)) else redact_value(item, depth + 1)
            for name, item in value.items()
        }
    if isinstance(value, (list, tuple, set, frozenset)):
        if depth == _DEPTH_MAX:
            return REDACTED
        return [_redact_pair(item, depth + 1) for item in value]
    return value


def _redact_pair(item: object, depth: int) -> object:
    """Headers come as (name, value) pairs too, as text or bytes."""
    if isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], (str, bytes)):
        name = item[0].decode("latin-1") if isinstance(item[0], bytes) else item[0]
        return [name, REDACTED if is_secret(name) else redact_value(item[1], depth)]
    return redact_value(item, depth)


def redact_text(text: str) -> str:
    """Free text (of other libraries, exceptions, stack traces) without the values of `name: value` pairs that name
    a secret, bearer tokens and passwords in URLs.
    """
    text = _IN_TEXT.sub(r"\g<1>" + REDACTED, text)
    text = _BEARER.sub(r"\g<1>" + REDACTED, text)
    return _URL_PASSWORD.sub(r"\g<1>" + REDACTED + r"\g<2>", text)
