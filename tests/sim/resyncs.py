"""Nodes that get their data again in the simulator: the others do without them first, then the disk is cleared.

No rule of this simulator keeps watch here, as it does where a disk is lost: that nothing is lost with what a node gives
up has to follow from the change of the membership that it waits for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from appliance.raft import membership
from appliance.raft.messages import NO_INCARNATION, Configuration, MemberRole, Role

from .plan import TICK

if TYPE_CHECKING:
    from random import Random

    from appliance.raft.core import RaftCore

    from .node import SimNode
    from .world import World

Change = tuple[int, Configuration]  # index of the entry that lets the others do without a node, and what it says
PATIENCE_TICKS = 150  # of an operator's call
ANSWER_TICKS = (1, 4, 60)  # the leader's answer is on its way for so long at most
AWAY_TICKS = 5  # until the node is back


class Resyncs:
    """Asks nodes to give up what they hold, as `appliance.node.resyncing` does.

    Attributes:
        asking: nodes that wait for the leader's agreement, and the term in which it was asked. Their links to that
            leader stand: only another leader meets them anew.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.asking: dict[int, int] = {}

    def begin(self, node: SimNode, chance: Random) -> None:
        """An operator asks for it. One that leads hands over first."""
        others = [n for n in self.world.nodes if n != node.node_id]
        if node.core is not None and node.core.state.role is Role.LEADER and others:
            node.transfer(chance.choice(others))

        def without(configuration: Configuration) -> Configuration:
            member = configuration.member(node.node_id)
            if member is None or member.incarnation == NO_INCARNATION:
                return configuration
            aside = replace(member, incarnation=NO_INCARNATION, role=MemberRole.LEARNER)
            return membership.with_member(configuration, aside)

        def asked(leader: SimNode) -> None:
            assert leader.core is not None
            state = leader.core.state
            self.asking[node.node_id] = state.term
            change = state.configuration_index, state.configuration
            until = self.world.now + PATIENCE_TICKS * TICK
            self._wait(node, node.life, leader, leader.life, change, until, chance)

        self.world.members.ask(without, "stepped aside", asked, but=node)

    def _wait(
        self, node: SimNode, life: int, leader: SimNode, leader_life: int, change: Change, until: int, chance: Random
    ) -> None:
        """The leader waits until the change is committed in its term, and answers then."""
        term, core = self.asking.get(node.node_id), leader.core
        in_vain = (
            node.life != life
            or leader.life != leader_life
            or core is None
            or core.state.term != term
            or self.world.now >= until
            or self.world.faults.over
        )
        if in_vain or core is None:
            self.asking.pop(node.node_id, None)
            self.world.count("resyncs without an answer")
        elif self.is_agreed(core, change[0]):
            delay = chance.randint(1, chance.choice(ANSWER_TICKS) * TICK)
            self.world.after(delay, self._answered, node, life, change)
        else:
            self.world.after(TICK, self._wait, node, life, leader, leader_life, change, until, chance)

    def _answered(self, node: SimNode, life: int, change: Change) -> None:
        """The node hears that the others do without it."""
        self.asking.pop(node.node_id, None)
        if node.life != life or node.core is None or node.paused or self.world.faults.over:
            return
        if self.is_taken_back(node.core, change[0]):
            self.world.count("resyncs of nodes that were taken back first")
            return
        self.world.count("disks given up")
        index, configuration = change
        self.world.checker.check_given_up(node, configuration, index)
        self.world.faults.crash(node, AWAY_TICKS)
        self.world.members.clear(node)

    @staticmethod
    def is_agreed(leader: RaftCore, index: int) -> bool:
        """Whether the others do without a node for good."""
        return leader.state.commit_index >= index

    @staticmethod
    def is_taken_back(core: RaftCore, index: int) -> bool:
        """Whether a node knows that it counts again, since another leader has met it after the change at `index`."""
        state = core.state
        me = state.configuration.member(state.node_id)
        return state.configuration_index > index and me is not None and me.incarnation == state.incarnation
