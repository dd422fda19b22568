"""POST /audit/query: SQL over the audit tables, cancelled when the client goes away."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import Struct

from appliance.http.errands import while_client_waits
from appliance.http.exchange import Exchange, GatewayResponse
from appliance.http.limits import AUDIT_BYTES_MAX
from appliance.http.ports import AuditEngine
from appliance.http.query import parse_query
from appliance.tables.errors import ApplianceError

Format = Literal["json", "csv", "arrow", "parquet"]


class AuditQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of POST /audit/query."""

    sql: str
    params: list[Any] | dict[str, Any] | None = None
    format: Format = "json"
    limit: int | None = None


_decode = msgspec.json.Decoder(AuditQuery).decode


class AuditRoutes:
    """What POST /audit/query does."""

    def __init__(self, engine: AuditEngine, rows_max: int) -> None:
        self._engine = engine
        self._rows_max = rows_max

    async def query(self, exchange: Exchange) -> GatewayResponse:
        """Answer one SELECT."""
        parse_query(exchange.request.query, ())
        asked = self._asked(await exchange.read_body(AUDIT_BYTES_MAX, "bytes of an audit query"))
        limit = self._rows_max if asked.limit is None else asked.limit
        work = self._engine.query(asked.sql, asked.params, asked.format, limit)
        answer = await while_client_waits(exchange, work)
        headers = [
            (b"content-type", answer.media_type.encode()),
            (b"scribe-truncated", b"true" if answer.truncated else b"false"),
        ]
        return GatewayResponse(200, headers, answer.body)

    def _asked(self, body: bytes) -> AuditQuery:
        try:
            asked = _decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise ApplianceError("bad_request", f"The query cannot be read: {error}.") from error
        if not asked.sql.strip():
            raise ApplianceError("bad_request", "sql is empty; send one SELECT over the tables audit and current.")
        if asked.limit is not None and not 1 <= asked.limit <= self._rows_max:
            raise ApplianceError("bad_request", f"limit is from 1 to {self._rows_max} ([audit] max_rows).")
        return asked
