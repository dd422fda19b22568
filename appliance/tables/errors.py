"""The one table of errors: every refusal and failure that a user can meet, with its HTTP status.

`ApplianceError` carries a row of the table; the HTTP floor turns it into `application/problem+json`,
the CLI into a message and an exit code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ErrorRow:
    """One kind of error.

    Attributes:
        code: stable machine name, in the problem document as `code`.
        status: HTTP status.
        title: what went wrong, in a few words that do not vary.
        retryable: whether the same request may succeed when it is sent again unchanged.
        retry_after_s: seconds for the `Retry-After` header, or None for no header.
        outcome_known: False when the request may or may not have taken effect.
    """

    code: str
    status: int
    title: str
    retryable: bool = False
    retry_after_s: int | None = None
    outcome_known: bool = True


ERRORS: Mapping[str, ErrorRow] = {
    row.code: row
    for row in (
        ErrorRow("bad_request", 400, "The request cannot be understood"),
        ErrorRow("bad_key", 400, "The key is not acceptable"),
        ErrorRow("bad_query", 400, "The SQL is not acceptable"),
        ErrorRow("leaf_out_of_range", 400, "The leaf lies beyond the tree"),
        ErrorRow("unauthenticated", 401, "No API key, or one that is not known"),
        ErrorRow("forbidden", 403, "The API key's role does not allow this"),
        ErrorRow("not_found", 404, "There is no such thing"),
        ErrorRow("method_not_allowed", 405, "The method is not allowed here"),
        ErrorRow("conflict", 409, "The request conflicts with the state of the cluster"),
        ErrorRow("value_retired", 410, "The value was retired by a retention rule"),
        ErrorRow("condition_failed", 412, "The condition of the request does not hold"),
        ErrorRow("too_large", 413, "The request is too large"),
        ErrorRow("idempotency_mismatch", 422, "The idempotency key was used for another request"),
        ErrorRow("rate_limited", 429, "Too many requests", retryable=True, retry_after_s=1),
        ErrorRow("internal", 500, "The node failed to answer"),
        ErrorRow("verification_failed", 500, "What the node stores does not match its proof"),
        ErrorRow("not_published", 503, "The checkpoint is not there yet", retryable=True, retry_after_s=1),
        ErrorRow("no_log_key", 503, "The node has no key to sign checkpoints with"),
        ErrorRow("quarantined", 503, "The node came to another state than the others", retryable=True, retry_after_s=5),
        ErrorRow("no_quorum", 503, "There is no contact with a majority", retryable=True, retry_after_s=1),
        ErrorRow("no_leader", 503, "The cluster has no leader at the moment", retryable=True, retry_after_s=1),
        ErrorRow("not_committed", 503, "Another entry took the write's place", retryable=True, retry_after_s=1),
        ErrorRow("writes_paused", 503, "Writes are paused", retryable=True, retry_after_s=5),
        ErrorRow("disk_full", 503, "The disk is full", retryable=True, retry_after_s=30),
        ErrorRow("overloaded", 503, "The node has all the work it can hold", retryable=True, retry_after_s=1),
        ErrorRow("idempotency_full", 503, "No more idempotency keys can be held", retryable=True, retry_after_s=60),
        ErrorRow("shutting_down", 503, "The node is shutting down", retryable=True, retry_after_s=1),
        ErrorRow("unhealthy", 503, "The node cannot serve linearizable reads", retryable=True, retry_after_s=1),
        ErrorRow("query_timeout", 503, "The audit query took too long"),
        ErrorRow("query_memory", 503, "The audit query needed too much memory"),
        ErrorRow("read_timeout", 503, "The read was not confirmed in time", retryable=True, retry_after_s=1),
        ErrorRow("outcome_unknown", 504, "It is not known whether the write took effect", outcome_known=False),
    )
}


class ApplianceError(Exception):
    """An error of the table, with what is particular to this case.

    Args:
        code: a key of `ERRORS`.
        detail: one or two sentences: what is wrong with this request, and what to do about it.
        retry_after_s: overrides the row's figure.
    """

    def __init__(self, code: str, detail: str, *, retry_after_s: int | None = None) -> None:
        self.row = ERRORS[code]
        self.detail = detail
        self.retry_after_s = self.row.retry_after_s if retry_after_s is None else retry_after_s
        super().__init__(f"{code}: {detail}")

    @property
    def code(self) -> str:
        """The stable machine name of the error."""
        return self.row.code
