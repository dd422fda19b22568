"""POST /admin/...: pausing writes everywhere, giving back the space of one node, reading back what it stores."""

from __future__ import annotations

import re
from typing import Final

from msgspec import Struct

from appliance.http.bodies import Nothing, read_fields
from appliance.http.errands import Errands
from appliance.http.exchange import Exchange, GatewayResponse
from appliance.http.limits import (
    PAUSE_TTL_DEFAULT_S,
    PAUSE_TTL_MAX_S,
    SCRUB_RATE_DEFAULT,
    SCRUB_RATE_MAX,
    SCRUB_RATE_MIN,
)
from appliance.http.query import flag, parse_query
from appliance.http.status import scrub_content
from appliance.http.wire import json_response, rfc3339, safe_integer
from appliance.node.api import NodeService, PauseAnswer
from appliance.tables.errors import ApplianceError

_INCARNATION: Final = re.compile("[0-9a-f]{16}")


class Pause(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of POST /admin/pause-writes."""

    ttl_seconds: float = PAUSE_TTL_DEFAULT_S


class Scrub(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of POST /admin/scrub."""

    rate: int = SCRUB_RATE_DEFAULT


class Resync(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of POST /admin/resync."""

    incarnation: str | None = None


class AdminRoutes:
    """What the routes under /admin do."""

    def __init__(self, node: NodeService, errands: Errands) -> None:
        self._node = node
        self._errands = errands

    async def pause(self, exchange: Exchange) -> GatewayResponse:
        """Refuse writes everywhere until they are resumed, or the time is over."""
        parse_query(exchange.request.query, ())
        ttl_s = (await read_fields(exchange, Pause)).ttl_seconds
        if not 1 <= ttl_s <= PAUSE_TTL_MAX_S:
            raise ApplianceError("bad_request", f"ttl_seconds is from 1 to {PAUSE_TTL_MAX_S}, not {ttl_s:g}.")
        work = self._node.pause_writes(ttl_s, exchange.actor, exchange.request_id)
        return _paused(await self._errands.run(exchange, work))

    async def resume(self, exchange: Exchange) -> GatewayResponse:
        """Take writes again."""
        parse_query(exchange.request.query, ())
        await read_fields(exchange, Nothing)
        work = self._node.resume_writes(exchange.actor, exchange.request_id)
        return _paused(await self._errands.run(exchange, work))

    async def compact(self, exchange: Exchange) -> GatewayResponse:
        """Compact this node."""
        parse_query(exchange.request.query, ())
        await read_fields(exchange, Nothing)
        done = await self._errands.run(exchange, self._node.compact())
        content = {
            "status": "ok",
            "snapshot_index": safe_integer(done.snapshot_index),
            "entries_dropped": safe_integer(done.entries_dropped),
            "log_bytes_before": safe_integer(done.log_bytes_before),
            "log_bytes_after": safe_integer(done.log_bytes_after),
            "ledger_bytes_before": safe_integer(done.ledger_bytes_before),
            "ledger_bytes_after": safe_integer(done.ledger_bytes_after),
            "seconds": round(done.seconds, 3),
        }
        return json_response(content)

    async def scrub(self, exchange: Exchange) -> GatewayResponse:
        """Read back what this node stores; `?wait=false` answers as soon as that has begun."""
        wait = flag(parse_query(exchange.request.query, ("wait",)), "wait", default=True)
        rate = (await read_fields(exchange, Scrub)).rate
        if not SCRUB_RATE_MIN <= rate <= SCRUB_RATE_MAX:
            raise ApplianceError("bad_request", f"rate is from {SCRUB_RATE_MIN} to {SCRUB_RATE_MAX} bytes a second.")
        figures = await self._errands.run(exchange, self._node.scrub(rate, wait=wait))
        return json_response({"status": "ok", **scrub_content(figures)})

    async def resync(self, exchange: Exchange) -> GatewayResponse:
        """Get this node's data again from the others; it ends, to be started again."""
        parse_query(exchange.request.query, ())
        asked = (await read_fields(exchange, Resync)).incarnation
        if asked is not None and not _INCARNATION.fullmatch(asked):
            raise ApplianceError("bad_request", "incarnation is 16 hex digits, as GET /cluster/info shows it.")
        work = self._node.resync(None if asked is None else int(asked, 16))
        answer = await self._errands.run(exchange, work)
        content = {
            "status": "ok",
            "node_id": answer.node_id,
            "changed": answer.changed,
            "incarnation": f"{answer.incarnation:016x}",
        }
        return json_response(content)


def _paused(answer: PauseAnswer) -> GatewayResponse:
    until_us = answer.paused_until_us
    content = {
        "status": "ok",
        "paused": until_us > 0,
        "paused_until": rfc3339(until_us) if until_us > 0 else None,
        "index": safe_integer(answer.index),
        "settled": list(answer.settled),
        "unsettled": list(answer.unsettled),
    }
    return json_response(content)
