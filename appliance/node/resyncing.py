"""Giving up what this node holds, and getting it again from the others, because an operator asked for it.

First the leader makes the node a learner of no incarnation. That is an ordinary change of the membership: it is refused
when the voters that are left could not go on, and once it is committed, a majority of these holds all that was
committed before. Only then the data directory is condemned, durably, and the process ends, so that whoever supervises
it starts it again: that start sets the data aside, and the node comes back as a new one, with nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from appliance.node.api import ResyncAnswer
from appliance.node.leader_calls import SURELY_NOT_DONE
from appliance.node.membership import Membership
from appliance.node.ports import DiskFull, StorageError
from appliance.tables.errors import ApplianceError

if TYPE_CHECKING:
    from appliance.node.driver import Driver

_NOT_AGREED: Final = SURELY_NOT_DONE | {"conflict"}  # the leader counts on this node as before
REASON: Final = "an operator has asked for it (`appliance cluster resync`)"


class Resyncing:
    """The call of `NodeService` that gets a node's data again.

    Args:
        driver: the running node.
        membership: has the leader count on this node no more.
        restart: ends the process in good order, with an exit code that says that it is to be started again.
    """

    def __init__(self, driver: Driver, membership: Membership, restart: Callable[[str], None]) -> None:
        self._driver = driver
        self._membership = membership
        self._restart = restart
        self._resyncing = asyncio.Lock()

    async def resync(self, incarnation: int | None) -> ResyncAnswer:
        """See `NodeService.resync`."""
        identity = self._driver.identity
        if incarnation not in {None, identity.incarnation}:
            return ResyncAnswer(identity.node_id, False, identity.incarnation)
        if self._driver.core is None:
            raise ApplianceError("conflict", f"Node {identity.node_id} holds nothing that it could get again.")
        async with self._resyncing:
            if not self._driver.given_up:
                await self._give_up()
        return ResyncAnswer(identity.node_id, True, identity.incarnation)

    async def _give_up(self) -> None:
        driver = self._driver
        driver.giving_up = True
        try:
            await self._membership.step_aside()
            driver.standing.condemn(REASON)
        except (ApplianceError, StorageError) as error:
            if isinstance(error, ApplianceError) and error.code in _NOT_AGREED:
                raise
            for node_id in driver.network.connected():  # the leader hears who this node is, and takes it back
                driver.network.redial(node_id)
            if isinstance(error, ApplianceError):
                raise
            code = "disk_full" if isinstance(error, DiskFull) else "unhealthy"
            raise ApplianceError(code, f"That its data are to be given up cannot be noted: {error}.") from error
        finally:
            driver.giving_up = False
        driver.given_up = True  # what it acknowledged from now on would be set aside, too
        driver.log.warning("node.resyncing", node_id=driver.identity.node_id)
        self._restart(REASON)
