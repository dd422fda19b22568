"""Pausing writes: an entry of the log refuses them everywhere, and the ledger files rest, fit to be copied."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct

from appliance.ledger.commands import FEATURE_PAUSES, WriteResult, encode_pause
from appliance.node.api import PauseAnswer
from appliance.node.leader_calls import LeaderCall
from appliance.node.leadership import Leadership
from appliance.node.ports import StorageError
from appliance.node.waiting import settle
from appliance.raft.core import RaftCore
from appliance.tables.errors import ApplianceError

if TYPE_CHECKING:
    from appliance.node.driver import Driver

SETTLE_S: Final = 15.0  # for a node to apply, flush and sync what came before a pause
RETRY_AFTER_S_MAX: Final = 30  # a client that was refused asks again by then: a pause may end early
_US: Final = 1_000_000


class _Pause(Struct, frozen=True, array_like=True):
    """Asks the leader to pause writes for so long, or, with 0, to take them again."""

    ttl_us: int
    actor: str
    request_id: str


class _Settle(Struct, frozen=True, array_like=True):
    """Asks a node to bring its ledger file up to an index, to sync it and to let it rest."""

    index: int


class Pausing:
    """The calls of `NodeService` that pause writes and take them again.

    Args:
        driver: the running node.
        leadership: finds the leader.
        timeout_s: how long the leader is looked for.
    """

    def __init__(self, driver: Driver, leadership: Leadership, timeout_s: float) -> None:
        self._driver = driver
        self._leadership = leadership
        self._timeout_s = timeout_s
        self._decision = LeaderCall(
            driver,
            leadership,
            "pause",
            self._decide,
            asked=_Pause,
            answered=PauseAnswer,
            answer_s=timeout_s + 2 * SETTLE_S,
        )
        driver.calls["settle"] = self._serve_settle

    async def pause(self, ttl_s: float, actor: str, request_id: str) -> PauseAnswer:
        """Refuse writes everywhere for this many seconds. See `NodeService.pause_writes`."""
        return await self._decision.ask(_Pause(max(1, round(ttl_s * _US)), actor, request_id), self._timeout_s)

    async def resume(self, actor: str, request_id: str) -> PauseAnswer:
        """Take writes again. See `NodeService.resume_writes`."""
        return await self._decision.ask(_Pause(0, actor, request_id), self._timeout_s)

    def refusal(self, stamp_us: int) -> ApplianceError:
        """What a write with this stamp is told, while writes are paused."""
        left_s = math.ceil((self._driver.applier.machine.paused_until_us - stamp_us) / _US)
        detail = f"An operator has paused writes, for {left_s} s more at most. Nothing was written; send it again then."
        return ApplianceError("writes_paused", detail, retry_after_s=max(1, min(left_s, RETRY_AFTER_S_MAX)))

    # -- at the leader

    async def _decide(self, ask: _Pause) -> PauseAnswer:
        driver = self._driver
        self._leadership.refuse_without_quorum()
        core = driver.core
        assert core is not None
        if ask.ttl_us:
            self._refuse_beside_old_versions()
        stamp_us = driver.next_stamp_us()
        until_us = stamp_us + ask.ttl_us if ask.ttl_us else 0
        decided: asyncio.Future[WriteResult] = asyncio.get_running_loop().create_future()
        driver.propose(encode_pause(stamp_us, until_us, ask.actor, ask.request_id), "", settle(decided))
        index = (await decided).raft_index
        if not until_us:
            return PauseAnswer(0, index, (), ())
        # Writes that were proposed before the pause was known here are refused by it; their audit rows shall be in
        # the files, too.
        settled, unsettled = await self._settle_all(core, core.state.log.last_index)
        return PauseAnswer(until_us, index, settled, unsettled)

    def _refuse_beside_old_versions(self) -> None:
        """A node that does not know what a pause is would stop at it."""
        driver = self._driver
        for node_id in driver.network.connected():
            hello = driver.members.hellos.get(node_id)
            if hello is not None and FEATURE_PAUSES not in hello.features:
                raise ApplianceError(
                    "conflict",
                    f"Node {node_id} runs version {hello.version}, which knows no pauses and would stop. Upgrade it.",
                )

    async def _settle_all(self, core: RaftCore, index: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        node_ids = sorted(member.node_id for member in core.state.configuration.members)
        done = await asyncio.gather(*(self._settle_one(node_id, index) for node_id in node_ids))
        by_outcome = {
            outcome: tuple(node_id for node_id, ok in zip(node_ids, done, strict=True) if ok is outcome)
            for outcome in (True, False)
        }
        return by_outcome[True], by_outcome[False]

    async def _settle_one(self, node_id: int, index: int) -> bool:
        driver = self._driver
        try:
            if node_id == driver.identity.node_id:
                await self._settle(index)
            else:
                await driver.network.call(node_id, "settle", msgspec.msgpack.encode(_Settle(index)), SETTLE_S)
        except ApplianceError:
            return False
        return True

    # -- at every node

    async def _serve_settle(self, sender_node_id: int, body: bytes) -> bytes:
        await self._settle(msgspec.msgpack.decode(body, type=_Settle).index)
        return b""

    async def _settle(self, index: int) -> None:
        """Apply, flush and sync up to an index; behind it the ledger file rests until writes are taken again."""
        driver = self._driver
        try:
            async with asyncio.timeout(SETTLE_S):
                while driver.applier.applied_index < index:
                    await driver.applied_waiters.add(index)
                if not driver.rest.extend():
                    raise ApplianceError("conflict", "Writes are not paused any more.")
                keeper = driver.keeper
                while await keeper.flushed() < index or keeper.durable_index < index:  # noqa: ASYNC110 - the log is
                    await asyncio.sleep(driver.settings.flush_interval_s)  # synced first, which the keeper is not told
        except TimeoutError:
            raise ApplianceError("unhealthy", f"The ledger file was not settled within {SETTLE_S:g} s.") from None
        except StorageError as error:
            raise ApplianceError("unhealthy", f"The ledger file cannot be settled: {error}") from error
