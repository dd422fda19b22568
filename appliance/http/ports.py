"""What the HTTP floor needs from the world besides `NodeService`; adapters implement these by shape alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from appliance.node.api import AuditAnswer

RenderMetrics = Callable[[str], tuple[bytes, str]]
"""Render the Prometheus exposition for an `Accept` header: body and `Content-Type`. Called on a worker thread."""


class AuditEngine(Protocol):
    """SQL over the audit tables, in a process of its own."""

    async def query(self, sql: str, params: list[Any] | dict[str, Any] | None, fmt: str, limit: int) -> AuditAnswer:
        """Answer at most `limit` rows of one SELECT in `fmt` (`json`, `csv`, `arrow` or `parquet`).

        Cancelling the awaiting task cancels the query. Raises `ApplianceError`: `bad_query`, `query_timeout`,
        `query_memory`, `overloaded`.
        """
        ...
