"""Membership in the simulator: nodes join, leave, lose their disks or get an older copy of them, and come back."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from random import Random
from typing import TYPE_CHECKING

from appliance.ledger.memory import MemoryLedger
from appliance.node.members import forgotten, promises
from appliance.raft import membership
from appliance.raft.core import NotLeader
from appliance.raft.membership import ChangeRefused
from appliance.raft.messages import Configuration, Member, MemberRole, Role

from .plan import TICK
from .state import LedgerState
from .transcript import named

if TYPE_CHECKING:
    from .disk import LogFile
    from .node import SimNode
    from .world import World

ATTEMPTS = 12
ATTEMPT_TICKS = 6
MEETING_TICKS = 4
HELLOS_AWAITED = 10  # by a node whose files were set back


def member(node_id: int, incarnation: int, role: MemberRole) -> Member:
    """A member as this simulator names it."""
    return Member(node_id, incarnation, role, f"node{node_id}:8000", f"node{node_id}:9000")


class Members:
    """Asks for changes of the membership as operators do, and lets nodes meet.

    Attributes:
        past: durable logs of incarnations that are gone, by (node id, incarnation).
        copies: an older copy of a node's files, that may be put back.
        set_backs: stopped nodes whose files were set back in place, and how often each has looked for a leader.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.past: dict[tuple[int, int], LogFile] = {}
        self.copies: dict[int, tuple[LogFile, LedgerState]] = {}
        self.set_backs: dict[int, int] = {}

    def start(self) -> None:
        self.world.after(MEETING_TICKS * TICK, self._let_meet)

    def _let_meet(self) -> None:
        """Hellos: each node hears who the nodes that it can reach are, and who takes part as far as they know."""
        network = self.world.network
        up = [node for node in self.world.nodes.values() if node.core is not None and not node.paused]
        for hearer, teller in permutations(up, 2):
            if not network.reaches(hearer.node_id, teller.node_id):
                continue
            assert hearer.core is not None
            if self.world.resyncs.asking.get(teller.node_id) == hearer.core.state.term:
                continue
            assert teller.core is not None
            told = teller.core.state
            seen = member(teller.node_id, teller.incarnation, MemberRole.VOTER)
            hearer.core.meet(teller.node_id, teller.incarnation, seen.address, seen.raft_address)
            if told.configuration_index <= told.commit_index:
                stood = hearer.core.state.may_stand()
                hearer.core.hear_configuration(told.configuration_index, told.configuration)
                if stood and not hearer.core.state.may_stand():
                    self.world.count("told that they were removed")
                    hearer.drain()
        self.world.after(MEETING_TICKS * TICK, self._let_meet)

    # -- what operators ask for

    def grow(self, node: SimNode) -> None:
        """Start a node that is no member, and add it."""
        if not node.in_service:
            node.in_service = True
            node.start()
        self.ask(
            lambda configuration: (
                configuration
                if configuration.member(node.node_id)
                else membership.with_member(configuration, member(node.node_id, node.incarnation, MemberRole.LEARNER))
            ),
            "grown",
        )

    def shrink(self, node: SimNode) -> None:
        """Remove a node, whatever it is."""
        self.ask(lambda configuration: membership.without_member(configuration, node.node_id), "shrunk")

    def ask(
        self,
        change: Callable[[Configuration], Configuration],
        what: str,
        asked: Callable[[SimNode], None] = lambda leader: None,
        but: SimNode | None = None,
        attempt: int = 1,
    ) -> None:
        """Ask all who think that they lead, `but` one, again and again for a while; `asked` is told of the one that has
        proposed it, or for which it is so already.
        """
        if self.world.faults.over:
            return
        for node in self.world.nodes.values():
            if node is but or node.core is None or node.paused or node.core.state.role is not Role.LEADER:
                continue
            wanted = change(node.core.state.configuration)
            if wanted == node.core.state.configuration:
                asked(node)
                return
            if not self._keeps_majority(wanted):
                self.world.count("changes not asked for: a lost disk is needed")
                continue
            try:
                node.core.propose_configuration(wanted)
            except (NotLeader, ChangeRefused) as refused:
                self.world.count(f"changes refused: {getattr(refused, 'reason', 'not the leader')}")
                continue
            self.world.count(f"changes proposed: {what}")
            asked(node)
            node.drain()
            return
        if attempt < ATTEMPTS:
            self.world.after(ATTEMPT_TICKS * TICK, self.ask, change, what, asked, but, attempt + 1)

    # -- disks that are lost

    def may_lose(self, node: SimNode) -> bool:
        """Whether each membership that any node acts on keeps a majority with its memory when this node loses it."""
        return all(
            self._keeps_majority(configuration, node.node_id)
            for each in self.world.nodes.values()
            for _, configuration in each.all_configurations()
        )

    def _keeps_majority(self, configuration: Configuration, lost: int = 0) -> bool:
        """Whether a majority of the voters has its memory; a node may be taken for one that has lost it, and a learner
        that has lost it for a voter, since the leader may promote it before it hears of that. Without a majority
        nothing can be committed any more, which no rule of the core can mend.
        """
        gone = [m for m in configuration.members if m.node_id == lost or not self._is_intact(m)]
        voters = [m for m in configuration.members if m.role is MemberRole.VOTER]
        intact = [m for m in voters if m not in gone]
        return not voters or 2 * len(intact) > len(voters) + sum(m.role is MemberRole.LEARNER for m in gone)

    def _is_intact(self, voter: Member) -> bool:
        node_id = voter.node_id
        return node_id not in self.set_backs and self.world.nodes[node_id].incarnation == voter.incarnation

    def keep_copy(self, node: SimNode) -> None:
        """Copy a node's files, as a backup of a stopped node does."""
        if node.in_service and node.core is None:
            self.copies[node.node_id] = node.disk.log.copy(), node.disk.checkpointed.copy()

    def lose(self, node: SimNode, chance: Random) -> None:
        """A stopped node is cleared, or an older copy of its files is put back; it will be another incarnation."""
        copied = self.copies.get(node.node_id)
        if copied is not None and chance.random() < 0.6:
            self._keep_past(node)
            self.world.count("disks rolled back")
            node.replace_disk(copied[0].copy(), copied[1].copy())
            self._becomes_another(node, f"what came after entry {copied[0].last_index}")
        else:
            self.world.count("disks cleared")
            self.clear(node)

    def clear(self, node: SimNode) -> None:
        """A stopped node's disk is cleared."""
        self._keep_past(node)
        node.replace_disk(None, LedgerState(MemoryLedger(), Configuration()))
        self._becomes_another(node, "the disk")

    def _becomes_another(self, node: SimNode, what: str) -> None:
        self.set_backs.pop(node.node_id, None)
        node.renounce()
        self.world.trace("lost", what, "of", node.node_id, "which is now", named(node.node_id, node.incarnation))

    def _keep_past(self, node: SimNode) -> None:
        self.past.setdefault((node.node_id, node.incarnation), node.disk.log)  # the first time is the true one

    # -- disks that are set back in place: only the leader can tell

    def set_back(self, node: SimNode) -> None:
        """The files of a stopped node get the content of its copy. It cannot tell, and keeps its incarnation."""
        self._keep_past(node)
        log, ledger = self.copies[node.node_id]
        node.replace_disk(log.copy(), ledger.copy())
        self.set_backs[node.node_id] = 0
        self.world.checker.set_back(node)
        self.world.trace("set-back", node.node_id, "to entry", log.last_index, "and term", log.hard_state.term)

    def may_start(self, node: SimNode) -> bool:
        """Whether a node may start: one that was set back waits for a leader that reaches it and knows better, since
        what happens otherwise cannot be made good by any rule. After a while it is started as a copy is.
        """
        if node.node_id not in self.set_backs or self._who_knows_better(node) is not None:
            return True
        self.set_backs[node.node_id] += 1
        if self.set_backs[node.node_id] <= HELLOS_AWAITED:
            return False
        del self.set_backs[node.node_id]
        self.world.count("disks set back that no leader knew of")
        node.renounce()
        return True

    def started(self, node: SimNode) -> None:
        """A node has started: one that was set back gets the leader's hello first, and is another from then on."""
        if node.node_id not in self.set_backs:
            return
        leader = self._who_knows_better(node)
        assert leader is not None
        assert leader.core is not None
        assert node.core is not None
        del self.set_backs[node.node_id]
        if forgotten(node.core, promises(leader.core)) is not None:
            self.world.count("disks set back in place")
            node.renounce()
            self.world.trace("renounces", node.node_id, "and is now", named(node.node_id, node.incarnation))

    def _who_knows_better(self, node: SimNode) -> SimNode | None:
        """A leader that knows that this stopped node has held more for good than it has now."""
        log = node.disk.log
        for leader in self.world.nodes.values():
            core = leader.core
            if core is None or leader.paused or core.state.role is not Role.LEADER:
                continue
            if not self.world.network.reaches(leader.node_id, node.node_id):
                continue
            for promise in promises(core):
                is_its = (promise.node_id, promise.incarnation) == (node.node_id, node.incarnation)
                if is_its and (log.hard_state.term < promise.term or log.last_index < promise.index):
                    return leader
        return None

    # -- questions

    def log_of(self, voter: Member) -> LogFile:
        """The durable log of a member, as it was when it lost it."""
        node = self.world.nodes[voter.node_id]
        return self.past.get((voter.node_id, voter.incarnation)) or node.disk.log

    def current(self) -> set[int]:
        """Ids of the members as the leader of the highest term has it."""
        leaders = [n.core.state for n in self.world.nodes.values() if n.core and n.core.state.role is Role.LEADER]
        if not leaders:
            return set()
        return {m.node_id for m in max(leaders, key=lambda s: s.term).configuration.members}
