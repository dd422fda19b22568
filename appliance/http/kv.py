"""Single keys: write, read, delete, list, history."""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from appliance.http.exchange import Exchange, GatewayResponse
from appliance.http.query import integer, key_text, linearizable, page_size, parse_query
from appliance.http.routes import HISTORY_ROUTES, KV_ROUTES, PLAIN_ROUTES, Route
from appliance.http.wire import etag, json_response, rfc3339, safe_integer
from appliance.http.writes import carry_out, delete_condition, put_condition, replayed, write_request
from appliance.ledger.commands import Op, Operation, WriteResult
from appliance.ledger.encoding import decode_leaf
from appliance.ledger.keys import check_key
from appliance.ledger.state import NewLeaf
from appliance.node.api import NodeService
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


class KeyRoutes:
    """What the routes of single keys do. An exchange's `key` is set before `put`, `get`, `delete`, `history`."""

    def __init__(self, node: NodeService, value_bytes_max: int) -> None:
        self._node = node
        self._value_bytes_max = value_bytes_max

    async def put(self, exchange: Exchange) -> GatewayResponse:
        """Write the body as the key's value."""
        parse_query(exchange.request.query, ())
        if_version = put_condition(exchange)
        value = await exchange.read_body(self._value_bytes_max, "[storage] max_value_size")
        return await self._write(exchange, Operation(Op.PUT, exchange.key, value, if_version))

    async def delete(self, exchange: Exchange) -> GatewayResponse:
        """Write a tombstone."""
        parse_query(exchange.request.query, ())
        return await self._write(exchange, Operation(Op.DELETE, exchange.key, b"", delete_condition(exchange)))

    async def _write(self, exchange: Exchange, operation: Operation) -> GatewayResponse:
        path = b"/kv/" + operation.key.encode()
        request = write_request(exchange, path, (operation,), operation.value, batch=False)
        result = await carry_out(self._node, exchange, request)
        return replayed(json_response(_written(result)), result)

    async def get(self, exchange: Exchange) -> GatewayResponse:
        """Answer the key's value."""
        parameters = parse_query(exchange.request.query, _QUERY["get_key"])
        answer = await self._node.read(
            exchange.key, linearizable=linearizable(parameters), at_leaf=integer(parameters, "at_leaf")
        )
        headers = [
            *_VALUE_HEADERS,
            (b"etag", etag(answer.head.version)),
            (b"scribe-leaf-index", b"%d" % answer.head.leaf_index),
            (b"scribe-salt", answer.salt.hex().encode()),
        ]
        return GatewayResponse(200, headers, answer.value)

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


def _written(result: WriteResult) -> dict[str, Any]:
    (one,) = result.results
    return {
        "status": "ok",
        "key": one.key,
        "version": safe_integer(one.version),
        "index": safe_integer(result.raft_index),
        "term": safe_integer(result.raft_term),
        "leaf_index": safe_integer(one.leaf_index),
        "timestamp": rfc3339(result.timestamp_us),
    }


def _version(stored: NewLeaf) -> dict[str, Any]:
    leaf = decode_leaf(stored.leaf)
    return {
        "version": safe_integer(leaf.version),
        "leaf_index": safe_integer(stored.leaf_index),
        "timestamp": rfc3339(leaf.timestamp_us),
        "actor": leaf.actor,
        "op": leaf.op,
        "value_hash": leaf.value_hash,
        "size": leaf.value_size,
    }
