"""Work that takes long: some of it ends with the client's patience, some must be carried out once it was begun."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from appliance.http.exchange import ClientGoneError, Exchange
from appliance.http.limits import ERRANDS_MAX
from appliance.node.ports import Log
from appliance.tables.errors import ApplianceError

T = TypeVar("T")


async def while_client_waits(exchange: Exchange, work: Coroutine[Any, Any, T]) -> T:
    """Do the work, but cancel it when nobody waits for it any more. To be called after the body has been read.

    Raises `ClientGoneError`, or what the work raises.
    """
    task = asyncio.ensure_future(work)
    try:
        await _end_or_gone(exchange, task)
        return task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class Errands:
    """Changes of the cluster or a node: a client that goes away, or a request that is cut short, ends the wait for them
    and not the change. At most `ERRANDS_MAX` are under way.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._under_way: set[asyncio.Task[Any]] = set()

    async def run(self, exchange: Exchange, work: Coroutine[Any, Any, T]) -> T:
        """Do the work to its end. To be called after the body has been read.

        Raises `overloaded` when it was not begun, `ClientGoneError` when it goes on alone, or what the work raises.
        """
        if len(self._under_way) >= ERRANDS_MAX:
            work.close()
            raise ApplianceError(
                "overloaded", f"{ERRANDS_MAX} changes are under way at this node, as many as may; ask again shortly."
            )
        task = asyncio.ensure_future(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        exchange.handed_over = True
        try:
            await _end_or_gone(exchange, task)
        finally:
            if not task.done():
                task.add_done_callback(lambda done: self._ended_alone(exchange, done))
        return task.result()

    def _ended_alone(self, exchange: Exchange, task: asyncio.Task[Any]) -> None:
        """Nobody hears of its end; a fault of ours is logged."""
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, ApplianceError):
            self._log.error(
                "http.error",
                method=exchange.route.method,
                route=exchange.route.path,
                status=500,
                code="internal",
                request_id=exchange.request_id,
                error=error,
            )


async def _end_or_gone(exchange: Exchange, task: asyncio.Task[Any]) -> None:
    """Return when the task is done. Raises `ClientGoneError` when the client went away first."""
    gone = asyncio.ensure_future(exchange.request.body.closed())
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
    if not task.done():
        raise ClientGoneError
