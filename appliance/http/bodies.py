"""Bodies of JSON with a few fields, under any Content-Type or none: what is not known is refused by name."""

from __future__ import annotations

from typing import TypeVar

import msgspec
from msgspec import Struct

from appliance.http.exchange import Exchange
from appliance.http.limits import CHANGE_BYTES_MAX
from appliance.tables.errors import ApplianceError

T = TypeVar("T", bound=Struct)


class Nothing(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a request that asks for nothing in particular."""


async def read_fields(exchange: Exchange, shape: type[T]) -> T:
    """The body as a `shape`; an empty one counts as `{}`. Raises `bad_request` that names the field, `too_large`."""
    body = await exchange.read_body(CHANGE_BYTES_MAX, "bytes of such a request")
    try:
        return msgspec.json.decode(body or b"{}", type=shape)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        takes = ", ".join(shape.__struct_fields__) or "no fields"
        raise ApplianceError("bad_request", f"The body cannot be read: {error}. It is JSON with {takes}.") from error
