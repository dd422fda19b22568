"""What the HTTP floor needs from the world besides `NodeService`; adapters implement these by shape alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

RenderMetrics = Callable[[str], tuple[bytes, str]]
"""Render the Prometheus exposition for an `Accept` header: body and `Content-Type`. Called on a worker thread."""


class AuditAnswer(Protocol):
    """The answer to an audit query.

    For format `json` the columns and rows are set (values are what DuckDB gives Python); for `csv`, `arrow` and
    `parquet` the body and its media type are. `truncated` tells that rows beyond the limit were left out.
    """

    @property
    def columns(self) -> Sequence[str]:
        """Names of the columns, in order; empty unless the format is `json`."""
        ...

    @property
    def rows(self) -> Sequence[Sequence[Any]]:
        """Rows, each as long as `columns`; empty unless the format is `json`."""
        ...

    @property
    def truncated(self) -> bool:
        """Whether the limit cut rows off."""
        ...

    @property
    def media_type(self) -> str:
        """Media type of `body`."""
        ...

    @property
    def body(self) -> bytes:
        """The encoded answer; empty when the format is `json`."""
        ...


class AuditEngine(Protocol):
    """SQL over the audit tables, in a process of its own."""

    async def query(self, sql: str, params: list[Any] | dict[str, Any] | None, fmt: str, limit: int) -> AuditAnswer:
        """Answer at most `limit` rows of one SELECT in `fmt` (`json`, `csv`, `arrow` or `parquet`).

        Cancelling the awaiting task cancels the query. Raises `ApplianceError`: `bad_query`, `query_timeout`,
        `query_memory`, `overloaded`.
        """
        ...
