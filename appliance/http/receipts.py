"""Receipts: a write's proof of inclusion and the checkpoint that covers it, in the answer to the write."""

from __future__ import annotations

import asyncio
from typing import Any

from appliance.http.exchange import Exchange
from appliance.http.wire import safe_integer
from appliance.ledger.commands import WriteResult
from appliance.node.api import InclusionAnswer, NodeService
from appliance.node.ports import Clock, Log
from appliance.tables.errors import ApplianceError


class Receipts:
    """Waits for the checkpoint that covers a write.

    Args:
        node: proves.
        clock: tells how long it took.
        log: is told of a fault of ours.
    """

    def __init__(self, node: NodeService, clock: Clock, log: Log) -> None:
        self._node = node
        self._clock = clock
        self._log = log

    async def members(self, exchange: Exchange, result: WriteResult) -> dict[str, Any]:
        """What the answer to a write that is done has besides: its receipt, or why there is none, and where to get the
        proof later. Raises nothing, not even when it is cancelled: the write is done, whatever becomes of its receipt.
        """
        first_leaf = result.results[0].leaf_index
        begun_s = self._clock.monotonic_s()
        try:
            proofs = await self._node.receipt(first_leaf, len(result.results))
        except ApplianceError as error:
            missing = error
        except asyncio.CancelledError:
            missing = ApplianceError("shutting_down", "The node is shutting down. Ask another node for the proof.")
        except Exception as error:
            self._log.error(
                "http.error",
                method=exchange.route.method,
                route=exchange.route.path,
                status=200,
                code="internal",
                request_id=exchange.request_id,
                error=error,
            )
            missing = ApplianceError("internal", "The node failed to prove the write, which is done.")
        else:
            return {"receipt": _receipt(proofs)}
        finally:
            exchange.waited_s = self._clock.monotonic_s() - begun_s
        url = f"/log/proof/inclusion?leaf={first_leaf}"
        return {"receipt": None, "receipt_error": {"code": missing.code, "detail": missing.detail, "url": url}}


def _receipt(proofs: list[InclusionAnswer]) -> dict[str, Any]:
    checkpoint = proofs[0].checkpoint
    return {
        "tree_size": safe_integer(checkpoint.size),
        "root_hash": checkpoint.root.hex(),
        "checkpoint": checkpoint.note.decode(),
        "inclusion": [
            {
                "leaf_index": safe_integer(proof.leaf_index),
                "leaf": proof.leaf.decode(),
                "siblings": [one.hex() for one in proof.path],
            }
            for proof in proofs
        ],
    }
