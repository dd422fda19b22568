"""What all writes have in common: conditions, idempotency, and what an outcome answers."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from hashlib import sha256
from typing import Any, Final

import msgspec

from appliance.http.exchange import Exchange, GatewayResponse, Headers, Settled
from appliance.http.problems import RefusedError
from appliance.http.query import flag, parse_query
from appliance.http.receipts import Receipts
from appliance.http.wire import json_response, version_of_etag
from appliance.ledger.commands import MUST_BE_ABSENT, Operation, Outcome, WriteRequest, WriteResult
from appliance.ledger.keys import check_idempotency_key
from appliance.node.api import NodeService
from appliance.tables.errors import ApplianceError

REPLAYED: Final = (b"idempotency-replayed", b"true")


def put_condition(exchange: Exchange) -> int | None:
    """`if_version` of a PUT: from `If-Match: "<version>"`, or `If-None-Match: *` for a key that must be absent."""
    if b"if-none-match" not in exchange.head:
        return match_condition(exchange)
    if b"if-match" in exchange.head:
        raise ApplianceError("bad_request", "If-Match and If-None-Match contradict each other; send one of them.")
    if exchange.once(b"if-none-match") != "*":
        raise ApplianceError(
            "bad_request", "A PUT takes If-None-Match only as `If-None-Match: *`: write only when the key is absent."
        )
    return MUST_BE_ABSENT


def delete_condition(exchange: Exchange) -> int | None:
    """`if_version` of a DELETE: from `If-Match: "<version>"`."""
    if b"if-none-match" in exchange.head:
        raise ApplianceError("bad_request", 'A DELETE takes no If-None-Match; send If-Match: "<version>" or nothing.')
    return match_condition(exchange)


def match_condition(exchange: Exchange) -> int | None:
    """`if_version` from `If-Match`, or None without it."""
    text = exchange.once(b"if-match")
    return None if text is None else version_of_etag(text, "If-Match")


def write_request(
    exchange: Exchange, path: bytes, operations: tuple[Operation, ...], body: bytes, *, batch: bool
) -> WriteRequest:
    """The write that an exchange asks for; `path` is decoded, so that both forms of a key are one request."""
    idempotency_key = request_hash = None
    if b"idempotency-key" in exchange.head:
        exchange.once(b"idempotency-key")
        idempotency_key = check_idempotency_key(exchange.head[b"idempotency-key"])
        request_hash = fingerprint(
            (
                exchange.request.method.encode(),
                path,
                exchange.head.get(b"if-match", b""),
                exchange.head.get(b"if-none-match", b""),
                body,
            )
        )
    return WriteRequest(
        operations=operations,
        actor=exchange.actor,
        request_id=exchange.request_id,
        batch=batch,
        idempotency_key=idempotency_key,
        request_hash=request_hash or b"",
        traceparent=exchange.traceparent,
    )


def fingerprint(parts: Iterable[bytes]) -> bytes:
    """SHA-256 over the parts, each behind its length in eight bytes, so that no two lists of parts are one text."""
    digest = sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()


class WriteRoute:
    """A route that writes. What differs is given by the subclasses: what the head asks for, the request that the body
    makes of it, and the answer; what is the same for all, with a task and without one, is here.

    Args:
        node: carries out.
        receipts: proves what was written; None for a route whose writes have no receipt.
        body_bytes_max: bound of the body; 0 for a route that has none, whose body is not looked at.
        limit_name: what the bound is called in an error.
    """

    def __init__(self, node: NodeService, receipts: Receipts | None, body_bytes_max: int, limit_name: str) -> None:
        self._node = node
        self._receipts = receipts
        self._query = ("receipt",) if receipts is not None else ()
        self._body_bytes_max = body_bytes_max
        self._limit_name = limit_name

    def condition(self, exchange: Exchange) -> int | None:
        """Check the head before a body is read; answers `if_version`. Raises `bad_request`."""
        raise NotImplementedError

    def request(self, exchange: Exchange, if_version: int | None, body: bytes) -> WriteRequest:
        """Make the request. Raises what makes it a bad one."""
        raise NotImplementedError

    def content(self, request: WriteRequest, result: WriteResult) -> Any:
        """Tell of a result that is OK: what becomes JSON."""
        raise NotImplementedError

    async def handle(self, exchange: Exchange) -> GatewayResponse:
        """Serve a request whose body may still be coming in (a `Handler`)."""
        with_receipt = self._asks_receipt(exchange)
        if_version = self.condition(exchange)
        body = b""
        if self._body_bytes_max:
            body = await exchange.read_body(self._body_bytes_max, self._limit_name)
        return await self._wait(exchange, self.request(exchange, if_version, body), with_receipt)

    def start(
        self, exchange: Exchange, body: bytes, done: Callable[[Settled], None]
    ) -> Coroutine[Any, Any, GatewayResponse] | None:
        """Serve a request whose body is here, without a task if this node leads (a `Starter`)."""
        with_receipt = self._asks_receipt(exchange)
        if_version = self.condition(exchange)
        if self._body_bytes_max:
            body = exchange.held_body(body, self._body_bytes_max, self._limit_name)
        request = self.request(exchange, if_version, body)
        exchange.handed_over = True
        if not with_receipt and self._node.write_now(request, partial(self._settle, request, done)):
            return None
        return self._wait(exchange, request, with_receipt)

    def _asks_receipt(self, exchange: Exchange) -> bool:
        query = exchange.request.query
        return bool(query) and flag(parse_query(query, self._query), "receipt", default=False)

    async def _wait(self, exchange: Exchange, request: WriteRequest, with_receipt: bool) -> GatewayResponse:
        exchange.handed_over = True
        result = await self._node.write(request)
        if not with_receipt or result.outcome is not Outcome.OK:
            return self._respond(request, result)
        assert self._receipts is not None, "only a route that has them knows the parameter"
        return self._respond(request, result, await self._receipts.members(exchange, result))

    def _settle(
        self, request: WriteRequest, done: Callable[[Settled], None], result: WriteResult | ApplianceError
    ) -> None:
        outcome: Settled
        try:
            outcome = self._respond(request, result) if isinstance(result, WriteResult) else result
        except Exception as error:  # also a fault of ours, which is no reason for the node to fail
            outcome = error
        done(outcome)

    def _respond(
        self, request: WriteRequest, result: WriteResult, receipt: dict[str, Any] | None = None
    ) -> GatewayResponse:
        """The answer, with the members of a receipt. Raises what a result that is not OK means."""
        if result.outcome is not Outcome.OK:
            raise _refusal(request, result)
        content = self.content(request, result)
        response = json_response(content if receipt is None else {**msgspec.to_builtins(content), **receipt})
        if result.replayed:
            response.headers.append(REPLAYED)
        return response


def _refusal(request: WriteRequest, result: WriteResult) -> ApplianceError:
    headers: Headers = [REPLAYED] if result.replayed else []
    where = _where(request, result.failed_position)
    match result.outcome:
        case Outcome.NOT_FOUND:
            return RefusedError("not_found", f"{where} is absent; nothing was deleted.", headers=headers)
        case Outcome.CONDITION_FAILED:
            now = f"is at version {result.current_version}" if result.current_version else "is absent"
            return RefusedError(
                "condition_failed",
                f"{where} {now}; read it again and decide anew.",
                headers=headers,
                members={"current_version": result.current_version},
            )
        case Outcome.IDEMPOTENCY_MISMATCH:
            return ApplianceError(
                "idempotency_mismatch", "This Idempotency-Key came with another request before; use a new one."
            )
        case Outcome.IDEMPOTENCY_FULL:
            return ApplianceError(
                "idempotency_full",
                "The ledger holds as many idempotency keys as it may ([storage] idempotency_keys); they expire after "
                "24 h. Nothing was written.",
            )
        case Outcome.WRITES_PAUSED:
            return ApplianceError("writes_paused", "An operator has paused writes; nothing was written.")
        case other:
            raise AssertionError(f"a write cannot come back as {other}")


def _where(request: WriteRequest, position: int) -> str:
    """The key that refused a write, and in a batch its place."""
    place = position if 0 <= position < len(request.operations) else 0
    key = f"The key {request.operations[place].key!r}"
    return f"{key} (operation {place} of the batch, which changed nothing)" if request.batch else key
