"""The faults of a plan: what each kind does, and how it ends."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from appliance.raft.messages import Role

from .plan import ELECTION_TICKS, TICK, Fault
from .transcript import named

HELLO_TICKS = 2  # how often a node that may not start yet looks for a leader

if TYPE_CHECKING:
    from .node import SimNode
    from .world import World


class Faults:
    """Carries out the faults of the plan, each from its own stream of chance."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.count = 0
        self.over = False
        self._ambush: Random | None = None  # while reigns are to be short
        self._ambush_until = 0

    def schedule(self) -> None:
        for fault in self.world.plan.faults:
            self.world.at(fault.at * TICK, self._begin, fault)

    def _begin(self, fault: Fault) -> None:
        if self.over:
            return
        action: Callable[[Fault, Random], None] = getattr(self, f"_do_{fault.kind}")
        self.count += 1
        self.world.count(f"fault {fault.kind}")
        self.world.trace("fault", fault.number, fault.kind, "for", fault.ticks)
        action(fault, self.world.plan.stream(f"fault{fault.number}"))

    def _later(self, fault: Fault, action: Callable[..., None], *arguments: object) -> None:
        self.world.after(fault.ticks * TICK, action, *arguments)

    def _any_node(self, chance: Random) -> SimNode:
        return self.world.nodes[chance.randint(1, len(self.world.nodes))]

    def _leader(self, chance: Random) -> SimNode:
        """The leader of the highest term, or anybody."""
        leaders = [n for n in self.world.nodes.values() if n.core is not None and n.core.state.role is Role.LEADER]
        if not leaders:
            return self._any_node(chance)
        return max(leaders, key=lambda n: n.core.state.term if n.core is not None else 0)

    # -- nodes

    def crash(self, node: SimNode, ticks: int) -> None:
        """A node dies, and is started again after a while."""
        if node.core is not None:
            self.world.trace("crash", node.node_id)
            node.stop()
            self.world.after(ticks * TICK, self._restart, node, node.life)

    def _restart(self, node: SimNode, life: int) -> None:
        if node.life == life and node.core is None and node.in_service:
            if not self.world.members.may_start(node):
                self.world.after(HELLO_TICKS * TICK, self._restart, node, life)
                return
            self.world.count("restarts")
            self.world.trace("restart", named(node.node_id, node.incarnation))
            node.disk.fsync_fails = False
            node.start()
            self.world.members.started(node)

    def disk_failed(self, node: SimNode) -> None:
        """A write could not be made durable: the node stops, and does not try again."""
        self.world.count("nodes stopped by their disk")
        self.crash(node, 20)

    def _do_crash(self, fault: Fault, chance: Random) -> None:
        self.crash(self._any_node(chance), fault.ticks)

    def _do_crash_leader(self, fault: Fault, chance: Random) -> None:
        self.crash(self._leader(chance), fault.ticks)

    def _do_power_loss(self, fault: Fault, chance: Random) -> None:
        for node in self.world.nodes.values():
            if chance.random() < 0.8:
                self.crash(node, chance.randint(1, fault.ticks))

    def _blink(self, node: SimNode, chance: Random) -> None:
        """Crash and be back before anybody notices."""
        if node.core is not None:
            self.world.trace("blink", node.node_id)
            node.stop()
            self.world.after(chance.randint(0, TICK // 2), self._restart, node, node.life)

    def _do_blink(self, fault: Fault, chance: Random) -> None:
        for _ in range(chance.randint(1, 3)):
            self.world.after(chance.randrange(3 * TICK), self._blink, self._any_node(chance), chance)

    # -- elections under attack

    def _do_contested_election(self, fault: Fault, chance: Random) -> None:
        """The leader falls silent, several nodes campaign in the same tick, and those who vote crash and come back."""
        self._cut(fault, {self._leader(chance).node_id}, one_way=False)
        self.world.network.latency = (1, 2 * TICK)
        self._later(fault, self._usual_network)
        for wave in range(3):
            start = (ELECTION_TICKS + 6 * wave) * TICK
            for node in self.world.nodes.values():
                if chance.random() < 0.7:
                    self.world.after(start + chance.randrange(TICK), self._campaign, node)
                for _ in range(2):
                    if chance.random() < 0.5:
                        self.world.after(start + chance.randrange(6 * TICK), self._blink, node, chance)

    def _campaign(self, node: SimNode) -> None:
        if node.core is not None and not node.paused and not self.over:
            node.core.campaign()
            node.drain()

    def _do_short_reigns(self, fault: Fault, chance: Random) -> None:
        """For a while, whoever is elected is cut off or crashes, at the latest when it commits something."""
        self._ambush = chance
        self._ambush_until = self.world.now + (60 + 3 * fault.ticks) * TICK

    def on_leader(self, node: SimNode) -> None:
        """A node was elected; called at once."""
        chance = self._ambush
        if chance is None or self.over or self.world.now > self._ambush_until:
            return
        others = set(self.world.nodes) - {node.node_id}
        fate = chance.random()
        if fate < 0.6:
            spared = chance.sample(sorted(others), min(len(others), chance.choice((0, 0, 1, 2))))
            links = self.world.network.split({node.node_id}, others - set(spared), one_way=chance.random() < 0.3)
            self.world.after(chance.randint(5, 25) * TICK, self._join, links)
        if fate > 0.4:
            self.world.after(chance.randint(1, 4 * TICK), self.crash, node, chance.randint(2, 20))

    def on_commit(self, node: SimNode) -> None:
        """A node is the first to see something committed; called in the middle of that event."""
        index, (term, _) = len(self.world.checker.committed) - 1, self.world.checker.committed[-1]
        self.world.trace("commits", node.node_id, "entry", index, "of term", term)
        chance = self._ambush
        if chance is not None and not self.over and self.world.now <= self._ambush_until and chance.random() < 0.5:
            self.world.after(0, self.crash, node, chance.randint(2, 20))

    def _do_drowsy_leader(self, fault: Fault, chance: Random) -> None:
        """A leader that is cut off from all but its clients, and whose clock is so slow that it does not notice."""
        leader = self._leader(chance)
        leader.tick_units = TICK * chance.choice((4, 6))
        others = set(self.world.nodes) - {leader.node_id}
        links = self.world.network.split({leader.node_id}, others, one_way=chance.random() < 0.2)
        self.world.after((30 + fault.ticks) * TICK, self._join, links)

    def _pause(self, node: SimNode, fault: Fault) -> None:
        if node.core is not None and not node.paused:
            node.paused = True
            self.world.trace("pause", node.node_id)
            self._later(fault, self._wake, node, node.life)

    def _wake(self, node: SimNode, life: int) -> None:
        if node.life == life and node.paused:
            self.world.trace("wake", node.node_id)
            node.resume()

    def _do_pause(self, fault: Fault, chance: Random) -> None:
        self._pause(self._any_node(chance), fault)

    def _do_pause_leader(self, fault: Fault, chance: Random) -> None:
        self._pause(self._leader(chance), fault)

    def _do_skew(self, fault: Fault, chance: Random) -> None:
        self._any_node(chance).tick_units = chance.choice((TICK // 3, TICK // 2, TICK * 3 // 2, TICK * 3))

    def _do_transfer(self, fault: Fault, chance: Random) -> None:
        leader = self._leader(chance)
        others = [n for n in self.world.nodes if n != leader.node_id]
        if others:
            leader.transfer(chance.choice(others))

    def _do_compact(self, fault: Fault, chance: Random) -> None:
        for node in self.world.nodes.values():
            if chance.random() < 0.6:
                node.flush()
                node.checkpoint()
                node.compact(chance.choice((0, 0, 1, 5)))

    def _do_unfit(self, fault: Fault, chance: Random) -> None:
        """A node, or each, is not fit to lead, for a while or for good: it hands over if it leads."""
        nodes = list(self.world.nodes.values()) if chance.random() < 0.3 else [self._any_node(chance)]
        for node in nodes:
            self._judge(node, False)
            others = [n for n in self.world.nodes if n != node.node_id]
            if others:
                node.transfer(chance.choice(others))
        if chance.random() < 0.6:
            for node in nodes:
                self._later(fault, self._judge, node, True)

    @staticmethod
    def _judge(node: SimNode, fit: bool) -> None:
        node.fit = fit
        if node.core is not None:
            node.core.set_may_campaign(fit)

    # -- members

    def _do_grow(self, fault: Fault, chance: Random) -> None:
        members = self.world.members.current()
        others = [n for n in self.world.nodes.values() if n.node_id not in members]
        if others:
            self.world.members.grow(chance.choice(others))

    def _do_shrink(self, fault: Fault, chance: Random) -> None:
        members = sorted(self.world.members.current())
        if len(members) > 1:
            self.world.members.shrink(self.world.nodes[chance.choice(members)])

    def _do_shrink_leader(self, fault: Fault, chance: Random) -> None:
        if len(self.world.members.current()) > 1:
            self.world.members.shrink(self._leader(chance))

    def _do_copy_disk(self, fault: Fault, chance: Random) -> None:
        """A node stops, its files are copied, and it starts again."""
        node = self._any_node(chance)
        self.crash(node, fault.ticks)
        self.world.members.keep_copy(node)

    def _do_lose_disk(self, fault: Fault, chance: Random) -> None:
        """A node stops and starts again without its files, or with older ones."""
        node = self._any_node(chance)
        if node.in_service and self.world.members.may_lose(node):
            self.crash(node, fault.ticks)
            if node.core is None:
                self.world.members.lose(node, chance)

    def _do_set_back(self, fault: Fault, chance: Random) -> None:
        """A node stops, and its files get an older content in place."""
        copied = sorted(self.world.members.copies)
        if not copied:
            return
        node = self.world.nodes[chance.choice(copied)]
        if node.in_service and self.world.members.may_lose(node):
            self.crash(node, fault.ticks)
            if node.core is None:
                self.world.members.set_back(node)

    def _do_resync(self, fault: Fault, chance: Random) -> None:
        """An operator has a node get its data again, perhaps twice in a row."""
        node = self._any_node(chance)
        if node.in_service and node.core is not None:
            self.world.resyncs.begin(node, chance)
            if chance.random() < 0.3:
                self._later(fault, self.world.resyncs.begin, node, chance)

    # -- disks

    def _do_slow_disk(self, fault: Fault, chance: Random) -> None:
        node = self._any_node(chance)
        node.disk.slowness = chance.choice((5, 20, 100))
        self._later(fault, self._fast_disk, node)

    def _fast_disk(self, node: SimNode) -> None:
        node.disk.slowness = 1
        node.hurry_disk()

    def _do_fsync_failure(self, fault: Fault, chance: Random) -> None:
        self._any_node(chance).disk.fsync_fails = True

    def _do_disk_full(self, fault: Fault, chance: Random) -> None:
        """For a while there is no room on a disk; the node finds that out when it writes."""
        node = self._any_node(chance)
        node.disk.full = True
        self._later(fault, node.make_room)

    # -- network

    def _cut(self, fault: Fault, side: set[int], *, one_way: bool) -> None:
        links = self.world.network.split(side, set(self.world.nodes) - side, one_way=one_way)
        self._later(fault, self._join, links)

    def _join(self, links: set[tuple[int, int]]) -> None:
        self.world.network.cut -= links

    def _some_side(self, chance: Random) -> set[int]:
        ids = list(self.world.nodes)
        return set(chance.sample(ids, chance.randint(1, max(1, len(ids) - 1))))

    def _do_partition(self, fault: Fault, chance: Random) -> None:
        self._cut(fault, self._some_side(chance), one_way=False)

    def _do_one_way(self, fault: Fault, chance: Random) -> None:
        self._cut(fault, self._some_side(chance), one_way=True)

    def _do_isolate_leader(self, fault: Fault, chance: Random) -> None:
        leader = self._leader(chance).node_id
        if chance.random() < 0.3:
            self._cut(fault, set(self.world.nodes) - {leader}, one_way=True)
        else:
            self._cut(fault, {leader}, one_way=chance.random() < 0.4)

    def _do_loss(self, fault: Fault, chance: Random) -> None:
        self.world.network.drop = chance.choice((0.2, 0.5, 0.9))
        self._later(fault, self._usual_network)

    def _do_duplicates(self, fault: Fault, chance: Random) -> None:
        self.world.network.duplicate = 0.5
        self._later(fault, self._usual_network)

    def _do_delays(self, fault: Fault, chance: Random) -> None:
        self.world.network.latency = (1, chance.choice((300, 1000, 3000)))
        self._later(fault, self._usual_network)

    def _usual_network(self) -> None:
        network, plan = self.world.network, self.world.plan
        if not self.over:
            network.drop, network.duplicate, network.latency = plan.drop, plan.duplicate, plan.latency

    # -- the end of them

    def heal(self) -> None:
        """End all faults: whole network, working disks, every node up and awake, clocks that run true. Who is not fit
        to lead is not fit after that either, and a leader has to be found all the same.
        """
        self.over = True
        world = self.world
        network = world.network
        network.cut.clear()
        network.drop = network.duplicate = 0.0
        network.latency = (1, 20)
        for node in world.nodes.values():
            node.tick_units = TICK
            node.disk.slowness = 1
            node.disk.fsync_fails = False
            node.make_room()
            if node.core is None:
                self._restart(node, node.life)
            elif node.paused:
                node.resume()
            node.hurry_disk()
