"""The ledger as a transparency log for anyone's tools: checkpoints, tiles and entry bundles after c2sp.org/tlog-tiles,
proofs of RFC 9162 as JSON, and proof files after c2sp.org/tlog-proof.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Final

import msgspec

from appliance.http.caching import GZIP, IDENTITY, IMMUTABLE, cacheable, compress, takes_gzip
from appliance.http.exchange import Exchange, GatewayResponse
from appliance.http.query import integer, needed_integer, parse_query
from appliance.http.routes import CONSISTENCY_ROUTE, INCLUSION_ROUTE
from appliance.http.wire import safe_integer
from appliance.ledger.bundles import encode_bundle
from appliance.ledger.merkle import sides
from appliance.ledger.note import parse_verifier_key
from appliance.ledger.proof_extra import ProofExtra, encode_extra
from appliance.ledger.proof_file import ProofFile, format_proof
from appliance.ledger.tile_paths import BundleId, TileId, TilePathError, parse_path
from appliance.node.api import NodeService
from appliance.tables.errors import ApplianceError

LOG_PREFIX: Final = b"/log/"  # a C2SP client is given the URL up to here

_TEXT: Final = b"text/plain; charset=utf-8"
_BYTES: Final = b"application/octet-stream"
_JSON: Final = b"application/json"
_MUTABLE: Final = b"no-cache"
_FILE_NAME_CHARS_MAX: Final = 64
_NOT_FOR_A_FILE_NAME: Final = re.compile("[^A-Za-z0-9._-]+")


class LogRoutes:
    """What the routes under /log do.

    Args:
        node: has the log.
        public: whether anyone may read it, and so any cache keep it.
    """

    def __init__(self, node: NodeService, *, public: bool) -> None:
        self._node = node
        self._immutable = (b"public, " if public else b"private, ") + IMMUTABLE

    async def checkpoint(self, exchange: Exchange) -> GatewayResponse:
        """The latest checkpoint."""
        parse_query(exchange.request.query, ())
        return cacheable(exchange, _TEXT, _MUTABLE, (await self._node.checkpoint()).note)

    async def tile(self, exchange: Exchange) -> GatewayResponse:
        """A tile: hashes side by side."""
        tile = _resource(exchange)
        assert isinstance(tile, TileId), "paths of bundles have a route of their own"
        return cacheable(exchange, _BYTES, self._immutable, await self._node.tile(tile))

    async def entries(self, exchange: Exchange) -> GatewayResponse:
        """An entry bundle: leaves, each behind its length; compressed for who takes that."""
        bundle = _resource(exchange)
        assert isinstance(bundle, BundleId), "paths of tiles have a route of their own"
        entries = await self._node.entries(bundle)
        if not takes_gzip(exchange):
            return cacheable(exchange, _BYTES, self._immutable, encode_bundle(entries), IDENTITY)
        body = await asyncio.to_thread(lambda: compress(encode_bundle(entries)))
        return cacheable(exchange, _BYTES, self._immutable, body, GZIP)

    async def inclusion(self, exchange: Exchange) -> GatewayResponse:
        """An inclusion path; without a size, to the latest checkpoint, which comes along."""
        parameters = parse_query(exchange.request.query, INCLUSION_ROUTE.query)
        leaf_index, size = needed_integer(parameters, "leaf"), integer(parameters, "size")
        latest = await self._node.checkpoint(leaf_index + 1) if size is None else None
        tree_size = latest.size if latest is not None else size or 0
        path = await self._node.inclusion(leaf_index, tree_size)
        content = {
            "leaf_index": safe_integer(leaf_index),
            "tree_size": safe_integer(tree_size),
            "siblings": [one.hex() for one in path],
            "directions": sides(leaf_index, tree_size),
            "checkpoint": latest.note.decode() if latest is not None else None,
        }
        return self._proof(exchange, content, lasting=latest is None)

    async def consistency(self, exchange: Exchange) -> GatewayResponse:
        """A consistency proof; without `to`, to the latest checkpoint, which comes along."""
        parameters = parse_query(exchange.request.query, CONSISTENCY_ROUTE.query)
        first_size, second = needed_integer(parameters, "from"), integer(parameters, "to")
        latest = await self._node.checkpoint(first_size) if second is None else None
        second_size = latest.size if latest is not None else second or 0
        path = await self._node.consistency(first_size, second_size)
        content = {
            "from": safe_integer(first_size),
            "to": safe_integer(second_size),
            "path": [one.hex() for one in path],
            "checkpoint": latest.note.decode() if latest is not None else None,
        }
        return self._proof(exchange, content, lasting=latest is None)

    def _proof(self, exchange: Exchange, content: Mapping[str, object], *, lasting: bool) -> GatewayResponse:
        """A proof as JSON; one whose sizes were all given lasts for ever."""
        return cacheable(exchange, _JSON, self._immutable if lasting else _MUTABLE, msgspec.json.encode(content))

    async def proof_file(self, exchange: Exchange) -> GatewayResponse:
        """A proof of the latest operation on a key, as a file that is checked offline. Who shows no key gets no salt: a
        value that the public may not read must not be guessed from its hash either.
        """
        parse_query(exchange.request.query, ())
        answer = await self._node.prove(exchange.key)
        key_history = tuple(map(parse_verifier_key, self._node.cluster().key_history))
        extra = encode_extra(ProofExtra(answer.leaf, answer.salt if exchange.actor else b"", key_history))
        body = format_proof(ProofFile(answer.leaf_index, answer.path, answer.checkpoint.note, extra))
        headers = [
            (b"content-type", _TEXT),
            (b"cache-control", b"no-store"),
            (b"content-disposition", b'attachment; filename="%s.tlog-proof"' % _file_name(exchange.key)),
            (b"x-content-type-options", b"nosniff"),
        ]
        return GatewayResponse(200, headers, body)


def _resource(exchange: Exchange) -> TileId | BundleId:
    parse_query(exchange.request.query, ())
    path = exchange.request.raw_path[len(LOG_PREFIX) :].decode("latin-1")
    try:
        return parse_path(path)
    except TilePathError as error:
        raise ApplianceError("bad_request", f"{error}.") from error


def _file_name(key: str) -> bytes:
    """A name that is harmless on any system, and reminds of the key."""
    name = _NOT_FOR_A_FILE_NAME.sub("_", key)[:_FILE_NAME_CHARS_MAX].strip("._-")
    return (name or "proof").encode("ascii")
