"""Writes that a follower hands to the leader over its link, and their answers."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable

from msgspec import Struct

from appliance.adapters.peer_link import Link
from appliance.adapters.peer_protocol import Failure, Kind, Result, Write, encode_frame
from appliance.ledger.commands import WriteRequest, WriteResult
from appliance.node.ports import Log
from appliance.tables.errors import ERRORS, ApplianceError


class _Waiting(Struct, frozen=True):
    """A forwarded write without an answer; `place` is the link's `queued` when it was taken."""

    link: Link
    place: int
    answer: asyncio.Future[WriteResult]


class ForwardedWrites:
    """The side that forwards.

    Args:
        writes_max: forwarded writes that may wait for their answers.
        frame_bytes_max: largest request.
    """

    def __init__(self, writes_max: int, frame_bytes_max: int) -> None:
        self._writes_max = writes_max
        self._frame_bytes_max = frame_bytes_max
        self._numbers = itertools.count(1)
        self._waiting: dict[int, _Waiting] = {}

    async def forward(self, link: Link | None, node_id: int, request: WriteRequest, timeout_s: float) -> WriteResult:
        """Send a write over a link and wait for what became of it.

        Raises:
            ApplianceError: the leader's; `no_leader` when the write surely was not handed over; `outcome_unknown` when
                it was and no answer came; `overloaded` and `too_large` before anything is sent.
        """
        if len(self._waiting) >= self._writes_max:
            raise ApplianceError("overloaded", f"{self._writes_max} writes wait at the leader; send fewer at once")
        number = next(self._numbers)
        frame = encode_frame(Kind.WRITE, Write(number, request))
        if len(frame) > self._frame_bytes_max:
            raise ApplianceError("too_large", f"the write has {len(frame)} bytes; split the batch")
        if link is None or not link.send(frame):
            raise _not_handed_over(node_id)
        answer: asyncio.Future[WriteResult] = asyncio.get_running_loop().create_future()
        self._waiting[number] = _Waiting(link, link.queued, answer)
        try:
            async with asyncio.timeout(timeout_s):
                return await answer
        except TimeoutError:
            raise _unknown(node_id, f"did not answer within {timeout_s:g} s") from None
        except ConnectionError:
            if link.queued_unwritten(self._waiting[number].place):
                raise _not_handed_over(node_id) from None
            raise _unknown(node_id, "was lost before it answered") from None
        finally:
            del self._waiting[number]

    def on_answer(self, link: Link, value: Result | Failure) -> None:
        """Hand an answer to who waits for it; one that comes too late is dropped."""
        waiting = self._waiting.get(value.number)
        if waiting is None or waiting.link is not link or waiting.answer.done():
            return
        if isinstance(value, Result):
            waiting.answer.set_result(value.result)
        elif value.code in ERRORS:
            waiting.answer.set_exception(ApplianceError(value.code, value.detail, retry_after_s=value.retry_after_s))
        else:  # a newer leader's error: all that is known is that there was one
            waiting.answer.set_exception(ApplianceError("outcome_unknown", f"{value.code}: {value.detail}"))

    def on_lost(self, link: Link) -> None:
        """The link is gone, and with it the answers."""
        for waiting in self._waiting.values():
            if waiting.link is link and not waiting.answer.done():
                waiting.answer.set_exception(ConnectionResetError())


class ServedWrites:
    """The side that carries forwarded writes out.

    Args:
        write: `PeerEvents.on_write`.
        writes_max: how many may be under way; beyond it `overloaded`.
        log: for errors that are bugs of ours.
    """

    def __init__(self, write: Callable[[WriteRequest], Awaitable[WriteResult]], writes_max: int, log: Log) -> None:
        self._write = write
        self._writes_max = writes_max
        self._log = log
        self._tasks: set[asyncio.Task[None]] = set()

    def serve(self, link: Link, value: Write) -> None:
        """Carry out one write; its answer goes back over the same link."""
        if len(self._tasks) >= self._writes_max:
            failure = Failure(
                value.number, "overloaded", f"the leader has {self._writes_max} forwarded writes under way"
            )
            link.send(encode_frame(Kind.FAILURE, failure), always=True)
            return
        task = asyncio.get_running_loop().create_task(self._serve(link, value))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, link: Link, value: Write) -> None:
        try:
            frame = encode_frame(Kind.RESULT, Result(value.number, await self._write(value.request)))
        except ApplianceError as error:
            failure = Failure(value.number, error.code, error.detail, error.retry_after_s)
            frame = encode_frame(Kind.FAILURE, failure)
        except Exception as error:  # the write may have been proposed, so it must not be called failed
            self._log.error("peer.write_failed", request_id=value.request.request_id, error=error)
            failure = Failure(value.number, "outcome_unknown", "the leader failed while it carried out the write")
            frame = encode_frame(Kind.FAILURE, failure)
        link.send(frame, always=True)

    async def close(self) -> None:
        """Stop what is under way; its senders learn that the outcome is unknown."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _not_handed_over(node_id: int) -> ApplianceError:
    return ApplianceError("no_leader", f"there is no link to the leader, node {node_id}; the write was not sent")


def _unknown(node_id: int, what: str) -> ApplianceError:
    return ApplianceError(
        "outcome_unknown",
        f"the write was handed to the leader, node {node_id}, which {what}; read the key to see what became of it, "
        "or send it again with an Idempotency-Key",
    )
