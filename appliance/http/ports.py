"""What the HTTP floor needs from the world besides `NodeService`; adapters implement these by shape alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from appliance.node.api import AuditAnswer
from appliance.node.ports import Span, Tracer

RenderMetrics = Callable[[str], tuple[bytes, str]]
"""Render the Prometheus exposition for an `Accept` header: body and `Content-Type`. Called on a worker thread."""


class GatewayTracer(Tracer, Protocol):
    """A tracer that also decides which requests to trace that came without a trace context."""

    def root(self, name: str, **attributes: str | int) -> Span | None:
        """Start a new trace for the share of requests that is sampled; None for the others."""
        ...


class AuditEngine(Protocol):
    """SQL over the audit tables, in a process of its own."""

    async def query(self, sql: str, params: list[Any] | dict[str, Any] | None, fmt: str, limit: int) -> AuditAnswer:
        """Answer at most `limit` rows of one SELECT in `fmt` (`json`, `csv`, `arrow` or `parquet`).

        Cancelling the awaiting task cancels the query. Raises `ApplianceError`: `bad_query`, `query_timeout`,
        `query_memory`, `overloaded`.
        """
        ...
