"""The one error shape on the wire: `application/problem+json` (RFC 9457) from a row of the table of errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from appliance.http.exchange import GatewayResponse, Headers
from appliance.tables.errors import ApplianceError

PROBLEM_TYPE: Final = b"application/problem+json"
TYPE_PREFIX: Final = "urn:scribe-ledger:error:"


class RefusedError(ApplianceError):
    """An error of the table that brings headers or further members of the problem document along."""

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        headers: Headers | None = None,
        members: Mapping[str, Any] | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(code, detail, retry_after_s=retry_after_s)
        self.headers = headers or []
        self.members = members or {}


def problem(error: ApplianceError, request_id: str) -> GatewayResponse:
    """The answer that tells of `error`. Members of a `RefusedError` never replace those of every problem."""
    row = error.row
    members: dict[str, Any] = {}
    headers: Headers = [(b"content-type", PROBLEM_TYPE)]
    if isinstance(error, RefusedError):
        members.update(error.members)
        headers += error.headers
    members.update(
        type=TYPE_PREFIX + row.code,
        title=row.title,
        status=row.status,
        detail=error.detail,
        code=row.code,
        retryable=row.retryable,
        request_id=request_id,
        error=error.detail,
    )
    if error.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % error.retry_after_s))
    return GatewayResponse(row.status, headers, msgspec.json.encode(members), row.code)


def method_not_allowed(method: str, allowed: tuple[str, ...]) -> RefusedError:
    """405, with the methods that are allowed."""
    names = ", ".join(allowed)
    return RefusedError(
        "method_not_allowed", f"{method} is not allowed here; use {names}.", headers=[(b"allow", names.encode())]
    )
