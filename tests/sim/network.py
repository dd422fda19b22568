"""The network between the nodes: messages are delayed, lost, repeated, reordered and cut off, one way or both."""

from __future__ import annotations

from typing import TYPE_CHECKING

from appliance.raft.messages import AnyMessage, SnapshotMeta, VoteResponse

from .state import LedgerState
from .transcript import named

if TYPE_CHECKING:
    from .node import SimNode
    from .world import World

SNAPSHOT_TRIES_MAX = 4  # per chunk, before the sender gives up and reports a failure


class Network:
    """Delivers messages; `cut` holds the directed links that carry nothing."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._chance = world.plan.stream("network")
        self._last: dict[tuple[int, int], int] = {}
        self.cut: set[tuple[int, int]] = set()
        self.drop = world.plan.drop
        self.duplicate = world.plan.duplicate
        self.latency = world.plan.latency
        self.ordered = world.plan.ordered_links

    def send(self, message: AnyMessage) -> None:
        world = self._world
        if isinstance(message, VoteResponse) and message.granted and not message.pre_vote:
            voter = named(message.sender, message.sender_incarnation)
            world.trace("votes", voter, "for", message.to, "in term", message.term)
        world.checker.sent(message)
        link = (message.sender, message.to)
        if link in self.cut:
            world.count("messages cut off")
            return
        if self.drop and self._chance.random() < self.drop:
            world.count("messages dropped")
            return
        world.count("messages")
        self._deliver(link, message)
        if self.duplicate and self._chance.random() < self.duplicate:
            world.count("messages duplicated")
            self._deliver(link, message)

    def _deliver(self, link: tuple[int, int], message: AnyMessage) -> None:
        world = self._world
        low, high = self.latency
        at = world.now + low + int(self._chance.random() * (high - low + 1))
        if self.ordered:
            at = self._last[link] = max(at, self._last.get(link, 0))
        world.at(at, self._arrive, message)

    def _arrive(self, message: AnyMessage) -> None:
        if (message.sender, message.to) in self.cut:
            self._world.count("messages cut off")
            return
        self._world.nodes[message.to].on_message(message)

    def reaches(self, sender: int, to: int) -> bool:
        return (sender, to) not in self.cut and (to, sender) not in self.cut

    def split(self, side: set[int], others: set[int], *, one_way: bool) -> set[tuple[int, int]]:
        """Cut all links from `side` to `others`, and back unless `one_way`; answers what was cut by this."""
        links = {(a, b) for a in side for b in others}
        if not one_way:
            links |= {(b, a) for a, b in links}
        links -= self.cut
        self.cut |= links
        self._world.trace("cut", *sorted(side), "can not reach" if one_way else "and", *sorted(others))
        for a, b in sorted(links):
            if self._chance.random() < 0.5:
                self._world.nodes[a].on_unreachable(b)
        return links


class Snapshots:
    """Copies of a node's ledger on their way to another, chunk by chunk; a lost chunk is sent again, for a while."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._chance = world.plan.stream("snapshots")

    def send(self, sender: SimNode, to: int) -> None:
        """Copy what the sender's ledger file holds and stream it."""
        if self._chance.random() < 0.5:
            sender.flush()
        disk = sender.disk
        image = (disk.flushed[-1] if disk.flushed else disk.checkpointed).copy()
        meta = SnapshotMeta(image.applied_index, image.applied_term, image.configuration)
        self._world.count("snapshots sent")
        self._next_chunk(sender, sender.life, to, self._world.nodes[to].life, (meta, image), 1, 0)

    def _next_chunk(
        self,
        sender: SimNode,
        life: int,
        to: int,
        to_life: int,
        what: tuple[SnapshotMeta, LedgerState],
        n: int,
        tries: int,
    ) -> None:
        delay = self._chance.randint(*self._world.network.latency) + self._chance.randint(5, 300)
        self._world.after(delay, self._chunk, sender, life, to, to_life, what, n, tries)

    def _chunk(
        self,
        sender: SimNode,
        life: int,
        to: int,
        to_life: int,
        what: tuple[SnapshotMeta, LedgerState],
        n: int,
        tries: int,
    ) -> None:
        if sender.life != life or sender.core is None:
            return
        world, receiver = self._world, self._world.nodes[to]
        lost = self._chance.random() < world.network.drop
        if receiver.core is None or receiver.paused or lost or not world.network.reaches(sender.node_id, to):
            if tries < SNAPSHOT_TRIES_MAX:
                world.count("snapshot chunks sent again")
                self._next_chunk(sender, life, to, to_life, what, n, tries + 1)
            else:
                world.count("snapshots failed")
                sender.on_snapshot_sent(life, to, 0)
            return
        if receiver.life != to_life:  # what it had received may be gone: from the start
            self._next_chunk(sender, life, to, receiver.life, what, 1, tries)
        elif n < world.plan.snapshot_chunks:
            self._next_chunk(sender, life, to, to_life, what, n + 1, tries)
        else:
            receiver.on_snapshot(*what)
            sender.on_snapshot_sent(life, to, what[0].index)
