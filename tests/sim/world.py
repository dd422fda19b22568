"""The simulated world: virtual time, the events in it, and the two phases of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

from appliance.ledger.memory import MemoryLedger
from appliance.raft.log import InvariantViolation
from appliance.raft.messages import Configuration, MemberRole, Message, Role

from .checker import Checker, Violation
from .clients import Clients
from .exercised import Exercised
from .faults import Faults
from .members import Members, member
from .network import Network, Snapshots
from .node import SimNode
from .plan import (
    ELECTION_TICKS,
    EVENTS_MIN,
    FAULTS_MIN,
    OPERATIONS_MIN,
    SAFETY_TICKS_MAX,
    TICK,
    Plan,
)
from .resyncs import Resyncs
from .state import LedgerState
from .transcript import describe

LEADER_TICKS_MAX = 12 * ELECTION_TICKS  # after everything is healed
CONVERGE_TICKS_MAX = 40 * ELECTION_TICKS


class EndOfEvents(Exception):
    """The plan's bound on events is reached."""


class World:
    """One run of one plan.

    Attributes:
        now: virtual time; `TICK` units are a tick of a true clock.
        events: events so far.
        totals: what happened, counted by kind.
        lines: the transcript, when it is asked for.
    """

    def __init__(self, plan: Plan, *, traced: bool = False) -> None:
        self.plan = plan
        self.now = 0
        self.events = 0
        self.totals: Counter[str] = Counter()
        self.exercised = Exercised(self.totals)
        self.lines: list[str] | None = [] if traced else None
        self._heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._sequence = 0
        self.nodes: dict[int, SimNode] = {}
        self.faults = Faults(self)
        self.members = Members(self)
        self.resyncs = Resyncs(self)
        self.checker = Checker(self.members.log_of, self.faults.on_commit)
        self.network = Network(self)
        self.snapshots = Snapshots(self)
        self.clients = Clients(self)
        self._chance = plan.stream("world")
        founders = Configuration(tuple(member(n, 1000 + n, MemberRole.VOTER) for n in range(1, plan.nodes + 1)))
        for n in range(1, plan.nodes + plan.spares + 1):
            configuration = founders if n <= plan.nodes else Configuration()
            self.nodes[n] = SimNode(self, n, 1000 + n, LedgerState(MemoryLedger(), configuration))

    # -- time

    def at(self, time: int, action: Callable[..., None], *arguments: Any) -> None:
        """Let something happen at a time; what is due at the same time happens in the order of these calls."""
        self._sequence += 1
        heappush(self._heap, (time, self._sequence, action, arguments))

    def after(self, delay: int, action: Callable[..., None], *arguments: Any) -> None:
        self.at(self.now + delay, action, *arguments)

    def count(self, kind: str) -> None:
        self.totals[kind] += 1

    def trace(self, *what: object) -> None:
        if self.lines is not None:
            words = (describe(one) if isinstance(one, Message) else str(one) for one in what)
            self.lines.append(f"{self.events:6} {self.now / TICK:8.2f}  " + " ".join(words))

    def _step(self) -> None:
        self.now, _, action, arguments = heappop(self._heap)
        self.events += 1
        action(*arguments)
        if self.events == self.plan.events_max:
            raise EndOfEvents

    # -- the phases

    def run(self) -> None:
        """A phase with faults, then one without in which everything has to come right. Raises `Violation`."""
        try:
            self._safety_phase()
            self._liveness_phase()
            self.clients.history.judge()
        except EndOfEvents:
            self.clients.history.judge()
        except InvariantViolation as broken:
            raise Violation("the core's own assertion", str(broken)) from broken

    def _safety_phase(self) -> None:
        for node in self.nodes.values():
            if node.node_id <= self.plan.nodes:
                node.in_service = True
                node.start()
        if self.plan.spares:
            self.members.start()
        self.faults.schedule()
        self.clients.start()
        self.after(TICK, self._housekeeping)
        while self.now < SAFETY_TICKS_MAX * TICK:
            enough = self.faults.count >= min(FAULTS_MIN, len(self.plan.faults))
            if enough and self.events >= EVENTS_MIN and self.clients.operations >= OPERATIONS_MIN:
                break
            self._step()

    def _housekeeping(self) -> None:
        """Flushes, checkpoints and compactions at their own pace."""
        chance = self._chance
        node = self.nodes[chance.randint(1, len(self.nodes))]
        if chance.random() < 0.7:
            node.flush()
        if chance.random() < 0.4:
            node.checkpoint()
        if chance.random() < 0.1 and node.core is not None:
            node.compact(chance.choice((0, 3, 20)))
            if node.core is not None and not node.paused:
                node.drain()
        self.after(chance.randint(1, 8) * TICK, self._housekeeping)

    def _liveness_phase(self) -> None:
        self.trace("heal")
        self.faults.heal()
        self._until(self._has_leader, LEADER_TICKS_MAX, "a leader after everything is healed")
        self.clients.stopped = True
        writer = self.clients.clients[0]
        deadline = self.now + CONVERGE_TICKS_MAX * TICK
        written = 0
        while written < 3:
            self._until(lambda: writer.current is None, CONVERGE_TICKS_MAX, "a client's operation ends")
            if self.now > deadline:
                raise Violation("liveness", f"no write within {CONVERGE_TICKS_MAX} ticks: {writer.last_outcome}")
            self.clients.put_now(writer)
            self._until(lambda: writer.current is None, CONVERGE_TICKS_MAX, "a write ends after healing")
            written += writer.last_outcome.startswith("put ok")
        self._until(self._converged, CONVERGE_TICKS_MAX, "all nodes hold the same state")
        self.checker.check_converged(self._members())

    def _until(self, condition: Callable[[], bool], ticks_max: int, what: str) -> None:
        deadline = self.now + ticks_max * TICK
        while not condition():
            if self.now > deadline:
                raise Violation("liveness", f"not within {ticks_max} ticks: {what}")
            self._step()

    def _has_leader(self) -> bool:
        members = self._members()
        states = [n.core.state for n in members if n.core is not None]
        leaders = [s for s in states if s.role is Role.LEADER]
        return (
            len(leaders) == 1
            and len(states) == len(members)
            and all(s.leader_id == leaders[0].node_id and s.term == leaders[0].term for s in states)
        )

    def _converged(self) -> bool:
        members = self._members()
        cores = [n.core for n in members]
        if not members or any(c is None for c in cores):
            return False
        last = max(c.state.log.last_index for c in cores if c is not None)
        voters = [m for m in members if m.core is not None and m.core.state.is_voter()]
        return len(voters) == len(members) and all(n.state.applied_index == last for n in members)

    def _members(self) -> list[SimNode]:
        """The members as the newest leader has it; none without a leader."""
        return [self.nodes[n] for n in sorted(self.members.current())]
