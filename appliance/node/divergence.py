"""Whether the nodes came to the same state. The state hash chains every entry with its outcome, so two nodes that
differ at one index differ at all later ones, and comparing now and then at an index that both have is enough.

Each node remembers its state behind the last entries that are no writes, which come with every checkpoint, and asks
the others once a second for theirs. Who finds that a majority of the voters agrees on another state is wrong, and
takes itself out: it hands over and does not campaign, serves nothing of what it has applied, sends no snapshot, and
goes on storing and acknowledging the log, which is not what is wrong with it. That is noted beside `raft.db`, so that
a restart changes nothing; a snapshot of a good node ends it.

A leader to whom nobody listens leads on: it takes no writes, because what it would answer comes of its state, leaves
those that wait with an unknown outcome, tries again every second to hand over, and gives the others what their reads
need, which is an index of the log.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from msgspec import Meta, Struct

from appliance.ledger.machine import STATES_KEPT, LedgerMachine
from appliance.ledger.state import StateAt
from appliance.node.findings import Finding
from appliance.node.noting import note
from appliance.raft.core import RaftCore
from appliance.raft.messages import MemberRole
from appliance.tables.errors import ApplianceError

if TYPE_CHECKING:
    from appliance.node.driver import Driver

ASK_INTERVAL_S: Final = 1.0
ANSWER_S: Final = 1.0
UNDECIDED_S: Final = 2.0  # a node that lags a little has its say by then
STATES_TOLD_MAX: Final = STATES_KEPT + 1  # the remembered ones and the latest
_SHOWN_DIGITS: Final = 16


class _Told(Struct, frozen=True, array_like=True):
    """What a node says of itself when it is asked.

    Attributes:
        incarnation: of the node; another one's states say nothing about it.
        states: what it remembers, and what it has applied last.
    """

    incarnation: int
    states: Annotated[tuple[StateAt, ...], Meta(max_length=STATES_TOLD_MAX)]


_DECODER: Final = msgspec.msgpack.Decoder(_Told)


class Divergence:
    """Compares states while the node runs; peers may ask for this node's.

    Args:
        driver: the running node.
        on_change: called on the event loop when this node may lead no more, or again; and, while it may not and leads
            all the same, once a second.
    """

    def __init__(self, driver: Driver, on_change: Callable[[], None]) -> None:
        self._driver = driver
        self._on_change = on_change
        self._told: dict[int, _Told] = {}  # what each peer said last; what it was stays true when it is gone
        self._undecided_index = 0  # up to where states are known to differ without a majority for one of them
        self._undecided_since_s: float | None = None
        driver.calls["states"] = self._serve
        if driver.standing.diverged:  # found before the last start: nothing was told in between, nor is now
            driver.quarantine = driver.standing.diverged
            driver.findings.report(Finding.DIVERGED, driver.quarantine)

    async def watch(self) -> None:
        """Look until cancelled."""
        while True:
            await self.look()
            if self._driver.quarantine:
                self._on_change()
            await asyncio.sleep(ASK_INTERVAL_S)

    async def look(self) -> None:
        """Ask all members that there is a link to, and compare."""
        driver = self._driver
        core, machine = driver.core, driver.applier.machine
        if core is None or driver.installing or driver.failure:
            return
        own = {driver.identity.node_id}
        members = {member.node_id for member in core.state.configuration.members} - own - driver.members.parted
        before = machine.state_now()
        await asyncio.gather(*(self._ask(node_id) for node_id in members & driver.network.connected().keys()))
        self._told = {node_id: told for node_id, told in self._told.items() if node_id in members}
        if driver.applier.machine is machine and not driver.failure:
            self._compare(core, machine, before)

    async def _ask(self, node_id: int) -> None:
        try:
            answer = await self._driver.network.call(node_id, "states", b"", ANSWER_S)
            self._told[node_id] = _DECODER.decode(answer)
        except (ApplianceError, msgspec.MsgspecError):
            return  # what it said last still counts

    async def _serve(self, sender_node_id: int, body: bytes) -> bytes:
        driver = self._driver
        machine = driver.applier.machine
        is_told = not driver.installing and not driver.failure  # a failure may have left an entry half applied
        states = (*machine.states, machine.state_now()) if is_told else ()
        return msgspec.msgpack.encode(_Told(driver.identity.incarnation, states))

    # -- what follows

    def _compare(self, core: RaftCore, machine: LedgerMachine, before: StateAt) -> None:
        """See at the latest index at which that can be told whether this node is with the majority."""
        own = {state.raft_index: state.digest for state in (*machine.states, before, machine.state_now())}
        voters = self._states_of_voters(core, own)
        quorum = core.state.configuration.quorum()
        undecided = ""
        for index in sorted(own, reverse=True):
            votes = Counter(states[index] for states in voters.values() if index in states)
            if votes[own[index]] >= quorum:
                self._agreed(index)
                break
            others = [(count, digest) for digest, count in votes.items() if digest != own[index]]
            if not others:
                continue
            count, digest = max(others)
            nodes = [node_id for node_id, states in voters.items() if states.get(index) == digest]
            if count >= quorum:
                self._diverged(_differ(index, own[index], digest, nodes))
                return
            self._undecided_index = max(self._undecided_index, index)
            undecided = undecided or _differ(index, own[index], digest, nodes)
        if undecided:
            self._be_undecided(f"{undecided}, and no state has a majority of {quorum} voters behind it")
        else:
            self._undecided_since_s = None

    def _states_of_voters(self, core: RaftCore, own: dict[int, bytes]) -> dict[int, dict[int, bytes]]:
        """For each voter that has said so: its digests by index."""
        identity = self._driver.identity
        found = {}
        for member in core.state.configuration.members:
            if member.role is not MemberRole.VOTER:
                continue
            if (member.node_id, member.incarnation) == (identity.node_id, identity.incarnation):
                found[member.node_id] = own
                continue
            told = self._told.get(member.node_id)
            if told is not None and told.incarnation == member.incarnation:
                found[member.node_id] = {state.raft_index: state.digest for state in told.states}
        return found

    def _agreed(self, index: int) -> None:
        """A majority has this node's state at an index, so it had at all earlier ones."""
        if index >= self._undecided_index:
            self._undecided_index = 0
            self._driver.findings.withdraw(Finding.DIVERGENCE_SEEN)

    def _be_undecided(self, detail: str) -> None:
        driver, now_s = self._driver, self._driver.clock.monotonic_s()
        if self._undecided_since_s is None:
            self._undecided_since_s = now_s
        is_new = not driver.quarantine and not driver.findings.detail(Finding.DIVERGENCE_SEEN)
        if is_new and now_s - self._undecided_since_s >= UNDECIDED_S:
            driver.findings.report(Finding.DIVERGENCE_SEEN, detail)

    def _diverged(self, detail: str) -> None:
        driver = self._driver
        if driver.quarantine:
            return
        driver.quarantine = detail
        self._note(detail)
        driver.findings.withdraw(Finding.DIVERGENCE_SEEN)
        driver.findings.report(Finding.DIVERGED, detail)
        driver.writes.fail_all("this node came to another state than the others, so that its answer may be wrong")
        driver.snapshots.drop_sent()
        self._on_change()

    def replaced(self) -> None:
        """A leader's snapshot took the place of what this node had applied."""
        driver = self._driver
        self._undecided_index = 0
        driver.findings.renew()
        if driver.quarantine:
            driver.quarantine = ""
            self._note("")
            self._on_change()

    def _note(self, reason: str) -> None:
        """Remember it across a restart; a restarted node finds out again in seconds otherwise."""
        note(self._driver.log, partial(self._driver.standing.note_divergence, reason))


def _differ(index: int, own: bytes, other: bytes, nodes: list[int]) -> str:
    who = f"node{'s' if len(nodes) > 1 else ''} {', '.join(map(str, sorted(nodes)))}"
    return (
        f"behind entry {index} this node's state is {own.hex()[:_SHOWN_DIGITS]} and that of {who} "
        f"{other.hex()[:_SHOWN_DIGITS]}"
    )


def refuse_quarantined(driver: Driver) -> None:
    """Raise `quarantined` on a node whose applied state is wrong: nothing that comes of it may be told."""
    if driver.quarantine:
        node_id = driver.identity.node_id
        raise ApplianceError(
            "quarantined",
            f"Node {node_id} came to another state than the others ({driver.quarantine}). Ask another node; "
            f"`appliance cluster resync {node_id}` brings this one back.",
        )
