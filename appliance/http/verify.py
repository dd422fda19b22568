"""GET /verify/{key}: the node proves the latest version of a key, from what it stores."""

from __future__ import annotations

from typing import Any, Final

from appliance.http.exchange import Exchange, GatewayResponse
from appliance.http.problems import RefusedError
from appliance.http.query import parse_query
from appliance.http.wire import json_response, safe_integer
from appliance.ledger.commands import Op
from appliance.ledger.encoding import decode_leaf
from appliance.ledger.merkle import sides
from appliance.node.api import InclusionAnswer, NodeService
from appliance.tables.errors import ApplianceError

_UNPROVEN: Final = frozenset({"not_found", "verification_failed"})  # answers that are about the key


class VerifyRoute:
    """What GET /verify/{key} does."""

    def __init__(self, node: NodeService) -> None:
        self._node = node

    async def handle(self, exchange: Exchange) -> GatewayResponse:
        """Answer leaf, path and checkpoint; a key that is absent or deleted, and what does not fit, as a problem that
        has the same members.
        """
        parse_query(exchange.request.query, ())
        try:
            answer = await self._node.prove(exchange.key)
        except ApplianceError as error:
            if error.code not in _UNPROVEN:
                raise
            raise RefusedError(error.code, error.detail, members=_members(exchange.key, None)) from error
        if decode_leaf(answer.leaf).op == Op.DELETE:
            detail = (
                f"The key was deleted by leaf {answer.leaf_index}. GET /log/proof/file/{{key}} proves that it was, and "
                "GET /history/{key} shows its past."
            )
            raise RefusedError("not_found", detail, members=_members(exchange.key, None))
        return json_response({**_members(exchange.key, answer), "error": None})


def _members(key: str, answer: InclusionAnswer | None) -> dict[str, Any]:
    if answer is None:
        nothing = dict.fromkeys(("leaf_index", "tree_size", "leaf", "proof", "checkpoint"))
        return {"key": key, "verified": False, **nothing}
    checkpoint = answer.checkpoint
    return {
        "key": key,
        "verified": True,
        "leaf_index": safe_integer(answer.leaf_index),
        "tree_size": safe_integer(checkpoint.size),
        "leaf": answer.leaf.decode(),
        "proof": {
            "root_hash": checkpoint.root.hex(),
            "siblings": [one.hex() for one in answer.path],
            "directions": sides(answer.leaf_index, checkpoint.size),
        },
        "checkpoint": checkpoint.note.decode(),
    }
