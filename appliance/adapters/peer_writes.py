"""What one node asks another for over its link and waits for: writes that a follower hands to the leader, and calls."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import Any, Final

from msgspec import Struct

from appliance.adapters.peer_link import Link
from appliance.adapters.peer_protocol import Call, Failure, Kind, Result, Return, Write, encode_frame
from appliance.ledger.commands import WriteRequest, WriteResult
from appliance.node.ports import Log
from appliance.tables.errors import ERRORS, ApplianceError

CALLS_MAX: Final = 64  # under way at once, sent and served; they come from operators and from what operators began


class _Waiting(Struct, frozen=True):
    """A request without an answer; `place` is the link's `queued` when it was taken."""

    link: Link
    place: int
    answer: asyncio.Future[Any]


class _NotHandedOver(Exception):
    """The request surely did not leave this node."""


class _Unanswered(Exception):
    """The request left, and no answer came; its text says how the other node came to be silent."""


class SentRequests:
    """The side that asks.

    Args:
        writes_max: forwarded writes that may wait for their answers.
        frame_bytes_max: largest request.
    """

    def __init__(self, writes_max: int, frame_bytes_max: int) -> None:
        self._writes_max = writes_max
        self._frame_bytes_max = frame_bytes_max
        self._numbers = itertools.count(1)
        self._writes: dict[int, _Waiting] = {}
        self._calls: dict[int, _Waiting] = {}

    async def write(self, link: Link | None, node_id: int, request: WriteRequest, timeout_s: float) -> WriteResult:
        """Send a write over a link and wait for what became of it.

        Raises:
            ApplianceError: the leader's; `no_leader` when the write surely was not handed over; `outcome_unknown` when
                it was and no answer came; `overloaded` and `too_large` before anything is sent.
        """
        if len(self._writes) >= self._writes_max:
            raise ApplianceError("overloaded", f"{self._writes_max} writes wait at the leader; send fewer at once")
        number = next(self._numbers)
        frame = encode_frame(Kind.WRITE, Write(number, request))
        if len(frame) > self._frame_bytes_max:
            raise ApplianceError("too_large", f"the write has {len(frame)} bytes; split the batch")
        try:
            answer: WriteResult = await self._exchange(self._writes, link, number, frame, timeout_s)
        except _NotHandedOver:
            detail = f"there is no link to the leader, node {node_id}; the write was not sent"
            raise ApplianceError("no_leader", detail) from None
        except _Unanswered as how:
            raise ApplianceError(
                "outcome_unknown",
                f"the write was handed to the leader, node {node_id}, which {how}; read the key to see what became of "
                "it, or send it again with an Idempotency-Key",
            ) from None
        return answer

    async def call(self, link: Link | None, node_id: int, name: str, body: bytes, timeout_s: float) -> bytes:
        """Send a call over a link and wait for its answer. Raises `ApplianceError` as `write` does."""
        if len(self._calls) >= CALLS_MAX:
            raise ApplianceError("overloaded", f"{CALLS_MAX} calls to other nodes are under way; wait for them")
        number = next(self._numbers)
        frame = encode_frame(Kind.CALL, Call(number, name, body))
        if len(frame) > self._frame_bytes_max:
            raise ApplianceError("too_large", f"the call {name} has {len(frame)} bytes, and no frame holds it")
        try:
            answer: bytes = await self._exchange(self._calls, link, number, frame, timeout_s)
        except _NotHandedOver:
            raise ApplianceError("no_leader", f"there is no link to node {node_id}; {name} was not sent") from None
        except _Unanswered as how:
            detail = f"{name} was handed to node {node_id}, which {how}; look at the cluster to see what became of it"
            raise ApplianceError("outcome_unknown", detail) from None
        return answer

    async def _exchange(
        self, table: dict[int, _Waiting], link: Link | None, number: int, frame: bytearray, timeout_s: float
    ) -> Any:
        if link is None or not link.send(frame):
            raise _NotHandedOver
        waiting = _Waiting(link, link.queued, asyncio.get_running_loop().create_future())
        table[number] = waiting
        try:
            async with asyncio.timeout(timeout_s):
                return await waiting.answer
        except TimeoutError:
            raise _Unanswered(f"did not answer within {timeout_s:g} s") from None
        except ConnectionError:
            if link.queued_unwritten(waiting.place):
                raise _NotHandedOver from None
            raise _Unanswered("was lost before it answered") from None
        finally:
            del table[number]

    def on_answer(self, link: Link, value: Result | Return | Failure) -> None:
        """Hand an answer to who waits for it; one that comes too late is dropped."""
        if isinstance(value, Result):
            waiting = self._writes.get(value.number)
        elif isinstance(value, Return):
            waiting = self._calls.get(value.number)
        else:
            waiting = self._writes.get(value.number) or self._calls.get(value.number)
        if waiting is None or waiting.link is not link or waiting.answer.done():
            return
        if isinstance(value, Result):
            waiting.answer.set_result(value.result)
        elif isinstance(value, Return):
            waiting.answer.set_result(value.body)
        elif value.code in ERRORS:
            waiting.answer.set_exception(ApplianceError(value.code, value.detail, retry_after_s=value.retry_after_s))
        else:  # a newer node's error: all that is known is that there was one
            waiting.answer.set_exception(ApplianceError("outcome_unknown", f"{value.code}: {value.detail}"))

    def on_lost(self, link: Link) -> None:
        """The link is gone, and with it the answers."""
        for waiting in itertools.chain(self._writes.values(), self._calls.values()):
            if waiting.link is link and not waiting.answer.done():
                waiting.answer.set_exception(ConnectionResetError())


class ServedRequests:
    """The side that carries out what is asked.

    Args:
        on_write: `PeerEvents.on_write`.
        on_call: `PeerEvents.on_call`.
        writes_max: how many writes may be under way; beyond it `overloaded`.
        log: for errors that are bugs of ours.
    """

    def __init__(
        self,
        on_write: Callable[[WriteRequest], Awaitable[WriteResult]],
        on_call: Callable[[int, str, bytes], Awaitable[bytes]],
        writes_max: int,
        log: Log,
    ) -> None:
        self._on_write = on_write
        self._on_call = on_call
        self._writes_max = writes_max
        self._log = log
        self._writes: set[asyncio.Task[None]] = set()
        self._calls: set[asyncio.Task[None]] = set()

    def write(self, link: Link, value: Write) -> None:
        """Carry out one write; its answer goes back over the same link."""
        if len(self._writes) >= self._writes_max:
            _fail(link, value, "overloaded", f"the leader has {self._writes_max} forwarded writes under way")
            return
        task = asyncio.get_running_loop().create_task(self._write(link, value))
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)

    def call(self, link: Link, node_id: int, value: Call) -> None:
        """Carry out one call of a node; its answer goes back over the same link."""
        if len(self._calls) >= CALLS_MAX:
            _fail(link, value, "overloaded", f"the node that was asked has {CALLS_MAX} calls under way")
            return
        task = asyncio.get_running_loop().create_task(self._call(link, node_id, value))
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    async def _write(self, link: Link, value: Write) -> None:
        try:
            result = await self._on_write(value.request)
        except ApplianceError as error:
            _fail(link, value, error.code, error.detail, error.retry_after_s)
        except Exception as error:  # the write may have been proposed, so it must not be called failed
            self._log.error("peer.write_failed", request_id=value.request.request_id, error=error)
            _fail(link, value, "outcome_unknown", "the leader failed while it carried out the write")
        else:
            link.send(encode_frame(Kind.RESULT, Result(value.number, result)), always=True)

    async def _call(self, link: Link, node_id: int, value: Call) -> None:
        try:
            body = await self._on_call(node_id, value.name, value.body)
        except ApplianceError as error:
            _fail(link, value, error.code, error.detail, error.retry_after_s)
        except Exception as error:
            self._log.error("peer.call_failed", name=value.name, error=error)
            _fail(link, value, "outcome_unknown", f"the node that was asked failed while it carried out {value.name}")
        else:
            link.send(encode_frame(Kind.RETURN, Return(value.number, body)), always=True)

    async def writes_answered(self) -> None:
        """Wait until the writes that are under way now are answered."""
        if self._writes:
            await asyncio.wait(self._writes)

    async def close(self) -> None:
        """Stop what is under way; its senders learn that the outcome is unknown."""
        tasks = [*self._writes, *self._calls]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _fail(link: Link, value: Write | Call, code: str, detail: str, retry_after_s: int | None = None) -> None:
    link.send(encode_frame(Kind.FAILURE, Failure(value.number, code, detail, retry_after_s)), always=True)
