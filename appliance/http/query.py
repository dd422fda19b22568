"""Query parameters, strictly: what is not known is refused by name rather than ignored."""

from __future__ import annotations

from functools import lru_cache
from typing import Final
from urllib.parse import parse_qsl

from appliance.http.limits import PAGE_DEFAULT, PAGE_MAX
from appliance.http.wire import JSON_INTEGER_MAX
from appliance.ledger.commands import KEY_BYTES_MAX
from appliance.tables.errors import ApplianceError

PARAMETERS_MAX: Final = 16
KEPT_BYTES_MAX: Final = 64
CONSISTENCIES: Final = ("linearizable", "stale")


def parse_query(raw: bytes, known: tuple[str, ...]) -> dict[str, str]:
    """The parameters of a query. Raises `bad_request` that names a parameter unknown, repeated or undecodable."""
    if not raw:
        return {}
    if len(raw) <= KEPT_BYTES_MAX:
        return dict(_parse_kept(raw, known))
    return _parse(raw, known)


def _parse(raw: bytes, known: tuple[str, ...]) -> dict[str, str]:
    try:
        pairs = parse_qsl(
            raw.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=True,
            encoding="utf-8",
            errors="strict",
            max_num_fields=PARAMETERS_MAX,
        )
    except ValueError as error:
        raise ApplianceError(
            "bad_request", "The query is not of the form name=value&name=value in percent-encoded UTF-8."
        ) from error
    parameters: dict[str, str] = {}
    for name, value in pairs:
        if name not in known:
            takes = ", ".join(known) if known else "none"
            raise ApplianceError("bad_request", f"The query parameter {name[:64]!r} is not known here; known: {takes}.")
        if name in parameters:
            raise ApplianceError("bad_request", f"The query parameter {name!r} came more than once.")
        parameters[name] = value
    return parameters


_parse_kept = lru_cache(maxsize=256)(_parse)  # clients ask with few queries, and parsing one costs as much as a read


def linearizable(parameters: dict[str, str]) -> bool:
    """Whether `consistency` asks for a linearizable read, which is the default."""
    value = parameters.get("consistency", "linearizable")
    if value not in CONSISTENCIES:
        raise ApplianceError(
            "bad_request", f"The query parameter consistency is {' or '.join(CONSISTENCIES)}, not {value[:64]!r}."
        )
    return value == "linearizable"


def page_size(parameters: dict[str, str]) -> int:
    """The `limit` of a page."""
    found = integer(parameters, "limit", 1, PAGE_MAX)
    return PAGE_DEFAULT if found is None else found


def integer(parameters: dict[str, str], name: str, least: int = 0, most: int = JSON_INTEGER_MAX) -> int | None:
    """A decimal integer within bounds, or None when it was not given."""
    text = parameters.get(name)
    if text is None:
        return None
    if text.isascii() and text.isdecimal() and len(text) <= 20 and least <= int(text) <= most:
        return int(text)
    raise ApplianceError(
        "bad_request", f"The query parameter {name} is an integer from {least} to {most}, not {text[:64]!r}."
    )


def needed_integer(parameters: dict[str, str], name: str) -> int:
    """A decimal integer that has to be given."""
    found = integer(parameters, name)
    if found is None:
        raise ApplianceError("bad_request", f"The query parameter {name} is missing.")
    return found


def flag(parameters: dict[str, str], name: str, *, default: bool) -> bool:
    """`true` or `false`."""
    text = parameters.get(name, "true" if default else "false")
    if text not in ("true", "false"):
        raise ApplianceError("bad_request", f"The query parameter {name} is true or false, not {text[:64]!r}.")
    return text == "true"


def key_text(parameters: dict[str, str], name: str) -> str:
    """A key or the beginning of one, possibly empty."""
    text = parameters.get(name, "")
    if len(text.encode()) > KEY_BYTES_MAX:
        raise ApplianceError("bad_request", f"The query parameter {name} is longer than {KEY_BYTES_MAX} bytes.")
    return text
