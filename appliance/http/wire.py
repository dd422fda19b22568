"""How values are written over HTTP: JSON, timestamps, entity tags."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final

import msgspec

from appliance.http.exchange import GatewayResponse
from appliance.tables.errors import ApplianceError

JSON_INTEGER_MAX: Final = 2**53
"""Beyond it a JavaScript number is not exact, so an integer is sent as a string."""

VERSION_MAX: Final = JSON_INTEGER_MAX

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC).replace(tzinfo=None)  # every stamp is UTC
_encode = msgspec.json.Encoder().encode
_STRONG_TAG = re.compile(r'"([1-9][0-9]{0,15})"')


def json_response(content: Any, status: int = 200) -> GatewayResponse:
    """An answer of JSON."""
    return GatewayResponse(status, [(b"content-type", b"application/json")], _encode(content))


def safe_integer(number: int) -> int | str:
    """An integer as JSON clients can take it: a string beyond 2^53."""
    return number if -JSON_INTEGER_MAX <= number <= JSON_INTEGER_MAX else str(number)


def rfc3339(timestamp_us: int) -> str:
    """Unix microseconds as RFC 3339 in UTC, always with six decimals."""
    seconds, microseconds = divmod(timestamp_us, 1_000_000)
    return f"{_second(seconds)}.{microseconds:06d}Z"


@lru_cache(maxsize=64)  # stamps of one moment share their second
def _second(seconds: int) -> str:
    return (_EPOCH + timedelta(seconds=seconds)).isoformat(timespec="seconds")


def etag(version: int) -> bytes:
    """The strong entity tag of a version."""
    return b'"%d"' % version


def version_of_etag(text: str, header: str) -> int:
    """The version that a header's one strong entity tag names. Raises `bad_request` for anything else."""
    match = _STRONG_TAG.fullmatch(text)
    if match is not None and int(match[1]) <= VERSION_MAX:
        return int(match[1])
    if text.startswith("W/"):
        reason = "a weak entity tag never matches here"
    elif "," in text:
        reason = "a list of entity tags is not taken"
    else:
        reason = "that is no version of this ledger"
    raise ApplianceError("bad_request", f'{header}: {reason}; send one version in quotes, as in {header}: "3".')
