"""What only the leader can do, asked of any node: carried out here when this node leads, else by a call to who does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import msgspec

from appliance.node.leadership import Leadership
from appliance.raft.core import NotLeader
from appliance.tables.errors import ApplianceError

if TYPE_CHECKING:
    from appliance.node.driver import Driver

SURELY_NOT_DONE: Final = frozenset({"no_leader", "not_committed"})  # may be tried again without a second thought

Asked = TypeVar("Asked")
Answered = TypeVar("Answered")


class LeaderCall(Generic[Asked, Answered]):
    """One thing that the leader does. Peers may ask for it from now on.

    Args:
        driver: the running node.
        leadership: finds the leader.
        name: of the call between nodes.
        here: does it on a node that leads; raises `NotLeader` when it does so no more and nothing was done.
        asked: type of what it takes.
        answered: type of what it answers.
        answer_s: how long the leader may take beyond the time in which it is looked for.
    """

    def __init__(
        self,
        driver: Driver,
        leadership: Leadership,
        name: str,
        here: Callable[[Asked], Awaitable[Answered]],
        *,
        asked: type[Asked],
        answered: type[Answered],
        answer_s: float,
    ) -> None:
        self._driver = driver
        self._leadership = leadership
        self._name = name
        self._here = here
        self._answer_s = answer_s
        self._asked = msgspec.msgpack.Decoder(asked)
        self._answered = msgspec.msgpack.Decoder(answered)
        driver.calls[name] = self._serve

    async def ask(self, what: Asked, timeout_s: float) -> Answered:
        """Have the leader do it, whoever that is at the moment. Only what surely was not done is tried again.

        Raises:
            ApplianceError: the leader's; `no_leader` or `no_quorum` when none was found within `timeout_s`;
                `outcome_unknown` when it was asked and did not answer.
        """
        driver = self._driver
        deadline_s = driver.clock.monotonic_s() + timeout_s
        body = msgspec.msgpack.encode(what)
        while True:
            await self._leadership.wait(deadline_s)
            try:
                if driver.can_propose():
                    return await self._here(what)
                left_s = deadline_s - driver.clock.monotonic_s() + self._answer_s
                leader_id = self._leadership.leader_id()
                return self._read(leader_id, await driver.network.call(leader_id, self._name, body, left_s))
            except NotLeader:
                pass
            except ApplianceError as error:
                if error.code not in SURELY_NOT_DONE or driver.clock.monotonic_s() >= deadline_s:
                    raise
            await asyncio.sleep(driver.settings.tick_s)  # the leader is being replaced

    def _read(self, leader_id: int, answer: bytes) -> Answered:
        try:
            return self._answered.decode(answer)
        except msgspec.MsgspecError:
            raise ApplianceError(
                "outcome_unknown",
                f"Node {leader_id}, which leads, has answered what this version does not understand. `appliance "
                "cluster nodes` shows what is; run the same version on all nodes.",
            ) from None

    async def _serve(self, sender_node_id: int, body: bytes) -> bytes:
        what = self._asked.decode(body)
        try:
            if self._driver.can_propose():
                return msgspec.msgpack.encode(await self._here(what))
        except NotLeader:
            pass
        raise ApplianceError("no_leader", "The node that was asked does not lead at the moment. Send it again.")
