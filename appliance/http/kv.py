"""Single keys: write, read, delete, list, history."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from msgspec import Struct

from appliance.http.exchange import Exchange, GatewayResponse, Settled
from appliance.http.query import integer, key_text, linearizable, page_size, parse_query
from appliance.http.receipts import Receipts
from appliance.http.route import Route
from appliance.http.routes import HISTORY_ROUTES, KV_ROUTES, PLAIN_ROUTES
from appliance.http.wire import etag, json_response, rfc3339, safe_integer
from appliance.http.writes import WriteRoute, delete_condition, put_condition, write_request
from appliance.ledger.commands import Op, Operation, WriteRequest, WriteResult
from appliance.ledger.encoding import Leaf
from appliance.ledger.keys import check_key
from appliance.node.api import NodeService, ReadAnswer
from appliance.tables.errors import ApplianceError

_BROKEN_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_VALUE_HEADERS: Final = [
    (b"content-type", b"application/octet-stream"),
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),  # a value is whatever a client wrote; no browser may guess at it
]
_QUERY: Final = {route.name: route.query for route in (*KV_ROUTES, *HISTORY_ROUTES, *PLAIN_ROUTES)}


def decode_key(raw: bytes) -> str:
    """The key that stands percent-encoded in a raw path. Raises `bad_key`."""
    if b"%" in raw:
        if _BROKEN_ESCAPE.search(raw):
            raise ApplianceError(
                "bad_key", "The path has a % that no two hex digits follow; write a percent sign in a key as %25."
            )
        raw = unquote_to_bytes(raw)
    return check_key(raw)


class Written(Struct, frozen=True, gc=False):
    """The answer to a write of one key; `/openapi.json` has the words."""

    status: str
    key: str
    version: int | str
    index: int | str
    term: int | str
    leaf_index: int | str
    timestamp: str


class PutRoute(WriteRoute):
    """PUT: the body becomes the key's value."""

    def __init__(self, node: NodeService, receipts: Receipts, value_bytes_max: int) -> None:
        super().__init__(node, receipts, value_bytes_max, "[storage] max_value_size")

    def condition(self, exchange: Exchange) -> int | None:
        """From If-Match or If-None-Match."""
        return put_condition(exchange)

    def request(self, exchange: Exchange, if_version: int | None, body: bytes) -> WriteRequest:
        """One put."""
        return _single(exchange, Operation(Op.PUT, exchange.key, body, if_version))

    def content(self, request: WriteRequest, result: WriteResult) -> Written:
        """Where the value went."""
        return _written(result)


class DeleteRoute(WriteRoute):
    """DELETE: a tombstone."""

    def __init__(self, node: NodeService) -> None:
        super().__init__(node, None, 0, "")

    def condition(self, exchange: Exchange) -> int | None:
        """From If-Match."""
        return delete_condition(exchange)

    def request(self, exchange: Exchange, if_version: int | None, body: bytes) -> WriteRequest:
        """One delete."""
        return _single(exchange, Operation(Op.DELETE, exchange.key, b"", if_version))

    def content(self, request: WriteRequest, result: WriteResult) -> Written:
        """Where the tombstone went."""
        return _written(result)


class KeyRoutes:
    """What the routes that read do. An exchange's `key` is set before `get` and `history`."""

    def __init__(self, node: NodeService) -> None:
        self._node = node

    async def get(self, exchange: Exchange) -> GatewayResponse:
        """Answer the key's value."""
        parameters = parse_query(exchange.request.query, _QUERY["get_key"])
        answer = await self._node.read(
            exchange.key, linearizable=linearizable(parameters), at_leaf=integer(parameters, "at_leaf")
        )
        return _value(answer)

    def start_get(
        self, exchange: Exchange, body: bytes, done: Callable[[Settled], None]
    ) -> Coroutine[Any, Any, GatewayResponse] | None:
        """The same without a task (a `Starter`), for a read of the present."""
        parameters = parse_query(exchange.request.query, _QUERY["get_key"])
        if "at_leaf" in parameters:
            return self.get(exchange)

        def settle(answer: ReadAnswer | Exception) -> None:
            done(_value(answer) if isinstance(answer, ReadAnswer) else answer)

        self._node.read_now(exchange.key, settle, linearizable=linearizable(parameters))
        return None

    async def list_keys(self, exchange: Exchange) -> GatewayResponse:
        """Answer a page of keys."""
        parameters = parse_query(exchange.request.query, _QUERY["list_keys"])
        page = await self._node.scan(
            key_text(parameters, "prefix"),
            key_text(parameters, "after"),
            page_size(parameters),
            linearizable=linearizable(parameters),
        )
        items = [
            {
                "key": key,
                "version": safe_integer(head.version),
                "leaf_index": safe_integer(head.leaf_index),
                "size": head.size,
                "timestamp": rfc3339(head.timestamp_us),
            }
            for key, head in page.items
        ]
        return json_response({"items": items, "next": page.next})

    async def history(self, exchange: Exchange) -> GatewayResponse:
        """Answer a page of the key's versions, newest first; `next` is the `from` of the next page."""
        parameters = parse_query(exchange.request.query, _QUERY["get_history"])
        page = await self._node.history(
            exchange.key, integer(parameters, "from"), page_size(parameters), linearizable=linearizable(parameters)
        )
        versions = [_version(leaf) for leaf in page.leaves]
        return json_response({"key": exchange.key, "versions": versions, "next": page.next})


def key_of(route: Route, raw_path: bytes) -> str:
    """The key in the raw path of a keyed route. Raises `bad_key`."""
    return decode_key(raw_path[len(route.path) - len("{key}") :])


def _single(exchange: Exchange, operation: Operation) -> WriteRequest:
    path = b"/kv/" + operation.key.encode()
    return write_request(exchange, path, (operation,), operation.value, batch=False)


def _written(result: WriteResult) -> Written:
    (one,) = result.results
    return Written(
        "ok",
        one.key,
        safe_integer(one.version),
        safe_integer(result.raft_index),
        safe_integer(result.raft_term),
        safe_integer(one.leaf_index),
        rfc3339(result.timestamp_us),
    )


def _value(answer: ReadAnswer) -> GatewayResponse:
    head = answer.head
    headers = [
        *_VALUE_HEADERS,
        (b"etag", etag(head.version)),
        (b"scribe-leaf-index", b"%d" % head.leaf_index),
        (b"scribe-salt", answer.salt.hex().encode()),
    ]
    return GatewayResponse(200, headers, answer.value)


def _version(leaf: Leaf) -> dict[str, Any]:
    return {
        "version": safe_integer(leaf.version),
        "leaf_index": safe_integer(leaf.leaf_index),
        "timestamp": rfc3339(leaf.timestamp_us),
        "actor": leaf.actor,
        "op": leaf.op,
        "value_hash": leaf.value_hash,
        "size": leaf.value_size,
    }
