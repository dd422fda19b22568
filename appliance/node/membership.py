"""Adding and removing members and handing leadership over: carried out by the leader, asked of any node."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from appliance.node.api import ChangeAnswer, TransferAnswer
from appliance.node.driver import Driver
from appliance.node.handover import hand_over, hand_over_to, unfitness_of
from appliance.node.leader_calls import LeaderCall
from appliance.node.leadership import Leadership
from appliance.node.peer_ports import Hello
from appliance.node.view import member_infos
from appliance.raft import membership
from appliance.raft.core import NotLeader, RaftCore
from appliance.raft.membership import ChangeRefused, Refusal
from appliance.raft.messages import NO_INCARNATION, Configuration, Member, MemberRole, Role
from appliance.raft.state import RaftState
from appliance.tables.errors import ApplianceError

CHANGE_S: Final = 15.0  # for one change to be proposed and committed, a handover before it included
PROMOTION_S: Final = 600.0  # for a new member to catch up; then the caller hears that it is still a learner
RAFT_PORT_ABOVE: Final = 1000

_T = TypeVar("_T")


class _Add(Struct, frozen=True, array_like=True):
    """Asks the leader to add a member."""

    node_id: int
    address: str
    raft_address: str


class _Remove(Struct, frozen=True, array_like=True):
    """Asks the leader to remove a member."""

    node_id: int


class _Transfer(Struct, frozen=True, array_like=True):
    """Asks the leader to hand over, to `node_id` or, when that is 0, to whoever is furthest along."""

    node_id: int


class _StepAside(Struct, frozen=True, array_like=True):
    """Asks the leader to count on a member no more, because its node is about to give up what it holds."""

    node_id: int


class _Changed(Struct, frozen=True, array_like=True):
    """What the leader answers: whether anything was changed, the index of the committed entry by which it is as it was
    asked to be, and the members by then.
    """

    changed: bool
    index: int
    configuration: Configuration


class _Transferred(Struct, frozen=True, array_like=True):
    """What the leader of before answers: whether it led and does no more, and the term in which somebody leads then, at
    the earliest.
    """

    changed: bool
    term: int


class Membership:
    """The calls of `NodeService` that change who takes part and who leads.

    Args:
        driver: the running node.
        leadership: finds the leader.
    """

    def __init__(self, driver: Driver, leadership: Leadership) -> None:
        self._driver = driver
        self._leadership = leadership
        self._changing = asyncio.Lock()
        leader_call = partial(LeaderCall, driver, leadership, answer_s=CHANGE_S)
        self._adding = leader_call("member.add", self._add, asked=_Add, answered=_Changed)
        self._removing = leader_call("member.remove", self._remove, asked=_Remove, answered=_Changed)
        self._transferring = leader_call("leader.transfer", self._transfer, asked=_Transfer, answered=_Transferred)
        self._stepping_aside = leader_call("member.step_aside", self._step_aside, asked=_StepAside, answered=_Changed)

    async def add(self, node_id: int, address: str, raft_address: str, *, wait: bool) -> ChangeAnswer:
        """Make a node a member. See `NodeService.add_member`."""
        answer = await self._adding.ask(_Add(node_id, address, raft_address), CHANGE_S)
        await self._see(answer.index)
        if wait:
            await self._promoted(node_id, answer)
        member = self._acting(answer).member(node_id)
        return self._answer(node_id, member.role.value if member is not None else "removed", answer)

    async def remove(self, node_id: int) -> ChangeAnswer:
        """Remove a member. See `NodeService.remove_member`."""
        answer = await self._removing.ask(_Remove(node_id), CHANGE_S)
        await self._see(answer.index)
        return self._answer(node_id, "removed", answer)

    async def transfer(self, node_id: int | None) -> TransferAnswer:
        """Let another voter lead. See `NodeService.transfer_leadership`."""
        answer = await self._transferring.ask(_Transfer(node_id or 0), CHANGE_S)
        await self._leadership.wait(self._driver.clock.monotonic_s() + CHANGE_S, answer.term)
        leader_id = self._leadership.leader_id()
        if node_id and leader_id != node_id:
            raise _conflict(f"Node {leader_id} has become the leader meanwhile, and not node {node_id}. Ask again.")
        return TransferAnswer(leader_id, self._core().state.term, answer.changed)

    async def step_aside(self) -> None:
        """Have the leader count on this node no more: it becomes a learner of no incarnation, which no node is, until
        it comes back as a new one. Once that is committed, a majority of the voters that are left holds everything
        that was committed before, so that nothing is lost with this node. Raises `conflict` when that cannot be.
        """
        identity = self._driver.identity
        answer = await self._stepping_aside.ask(_StepAside(identity.node_id), CHANGE_S)
        me = self._acting(answer).member(identity.node_id)
        if me is not None and me.incarnation == identity.incarnation:
            raise _conflict("The leader, to which a link was made anew meanwhile, has taken this node back. Ask again.")

    # -- afterwards

    async def _see(self, index: int) -> None:
        """Wait until this node knows what the leader did, so that whoever asks it next sees that, too. It may never:
        who is removed while it has to get a snapshot gets none. Done it is all the same.
        """
        driver = self._driver
        if self._core().state.commit_index < index or driver.applier.applied_index < index:
            with suppress(TimeoutError):
                await asyncio.wait_for(driver.applied_waiters.add(index), driver.settings.write_timeout_s)

    async def _promoted(self, node_id: int, answer: _Changed) -> None:
        """Wait until a member is a voter or none any more, at most `PROMOTION_S`."""
        driver = self._driver
        deadline_s = driver.clock.monotonic_s() + PROMOTION_S
        while driver.clock.monotonic_s() < deadline_s and not driver.stopping and not driver.failure:
            state, member = self._core().state, self._acting(answer).member(node_id)
            if member is None or (member.role is MemberRole.VOTER and state.configuration_index <= state.commit_index):
                return
            await asyncio.sleep(driver.settings.tick_s)

    def _acting(self, answer: _Changed) -> Configuration:
        """The members, as this node or, while it has not come that far, the leader knows them."""
        state = self._core().state
        return state.configuration if state.configuration_index >= answer.index else answer.configuration

    def _answer(self, node_id: int, role: str, answer: _Changed) -> ChangeAnswer:
        members = member_infos(self._driver, self._acting(answer))
        return ChangeAnswer(node_id, role, answer.changed, answer.index, members)

    # -- at the leader

    async def _add(self, request: _Add) -> _Changed:
        async with self._changing:
            known = self._core().state.configuration.member(request.node_id)
            if known is not None:
                self._refuse_moved(known, request)
                return await self._unchanged()
            self._refuse_taken(request.node_id, request.address, request.raft_address)
            hello = await self._meet(request)
            joining = Member(
                request.node_id, hello.identity.incarnation, MemberRole.LEARNER, hello.address, hello.raft_address
            )
            self._refuse_taken(joining.node_id, joining.address, joining.raft_address)
            return await self._change(lambda configuration: membership.with_member(configuration, joining))

    def _refuse_moved(self, known: Member, request: _Add) -> None:
        if request.address != known.address or request.raft_address not in {"", known.raft_address}:
            raise ApplianceError(
                "conflict",
                f"Node {known.node_id} is a member at {known.address} (peers: {known.raft_address}). To move it, "
                f"`appliance cluster replace {known.node_id} {request.address}`.",
            )

    async def _meet(self, request: _Add) -> Hello:
        """Who is at the address; a node that has this cluster among its seeds has said so already."""
        driver = self._driver
        hello = driver.members.hellos.get(request.node_id)
        if hello is None or request.node_id not in driver.network.connected():
            raft_address = request.raft_address or _raft_address_of(request.address)
            hello = await driver.network.meet(raft_address)
        met = hello.identity
        if met.node_id != request.node_id:
            raise ApplianceError(
                "conflict", f"{request.address} is node {met.node_id}, not node {request.node_id}. Correct one of them."
            )
        for said, told, key in (
            (hello.address, request.address, "address"),
            (hello.raft_address, request.raft_address or hello.raft_address, "peer address"),
        ):
            if said != told:
                raise ApplianceError(
                    "conflict",
                    f"Node {met.node_id} says that its {key} is {said}, not {told}. Add it with that one, or change "
                    "the node's configuration and start it again.",
                )
        return hello

    def _refuse_taken(self, node_id: int, address: str, raft_address: str) -> None:
        for member in self._core().state.configuration.members:
            if member.node_id != node_id and (address == member.address or raft_address == member.raft_address):
                raise ApplianceError(
                    "conflict",
                    f"That is node {member.node_id}, a member at {member.address} (peers: {member.raft_address}), not "
                    f"node {node_id}. Correct the address, or `appliance cluster remove {member.node_id}` first, if it "
                    "is gone.",
                )

    async def _remove(self, request: _Remove) -> _Changed:
        async with self._changing:
            state = self._core().state
            node_id = request.node_id
            if state.configuration.member(node_id) is None:
                return await self._unchanged()
            if node_id == state.node_id and len(state.voters) > 1:
                await self._refuse_unsafe(lambda configuration: membership.without_member(configuration, node_id))
                await hand_over(self._driver)
                if state.role is not Role.LEADER:
                    raise NotLeader(state.leader_id)  # the next one removes this node
                await self._refuse_to_leave_none_fit()
            return await self._change(lambda configuration: membership.without_member(configuration, node_id))

    async def _step_aside(self, request: _StepAside) -> _Changed:
        async with self._changing:
            state = self._core().state
            node_id = request.node_id
            member = state.configuration.member(node_id)
            if member is None or member.incarnation == NO_INCARNATION:
                return await self._unchanged()  # what the others hold is sure only when that is committed
            if state.voters == (node_id,):
                raise ApplianceError(
                    "conflict",
                    f"Node {node_id} is the only voter, so that nobody could bring its data again. Add a node first: "
                    "`appliance cluster add`.",
                )
            aside = replace(member, incarnation=NO_INCARNATION, role=MemberRole.LEARNER)

            def change(configuration: Configuration) -> Configuration:
                return membership.with_member(configuration, aside)

            if node_id == state.node_id:
                await self._refuse_unsafe(change)
                if not await hand_over(self._driver):
                    reasons = [reason for reason in await self._unfitness_of_others() if reason]
                    raise _conflict(
                        f"Node {node_id} leads, and nobody took over within an election time-out"
                        f"{''.join(f'; {reason}' for reason in reasons)}. `appliance health` and `appliance cluster "
                        "nodes` show what keeps them; ask again then."
                    )
                raise NotLeader(state.leader_id)  # the next one does it
            return await self._change(change)

    async def _refuse_to_leave_none_fit(self) -> None:
        """A leader that nobody relieved in time may go all the same, unless all that are left say that they had better
        not lead: one that is quarantined would be left alone with what is wrong. Raises `NotLeader` when somebody took
        over meanwhile.
        """
        reasons = await self._unfitness_of_others()
        state = self._core().state
        if state.role is not Role.LEADER:
            raise NotLeader(state.leader_id)
        if reasons and all(reasons):
            raise _conflict(
                f"Node {state.node_id} leads, and no other voter is fit to: {'; '.join(reasons)}. Mend one of them "
                "first; `appliance health` says more."
            )

    async def _unfitness_of_others(self) -> list[str]:
        """For each other voter why it had better not lead; empty where it may."""
        state = self._core().state
        others = [node_id for node_id in state.voters if node_id != state.node_id]
        return await asyncio.gather(*(unfitness_of(self._driver, node_id) for node_id in others))

    async def _transfer(self, request: _Transfer) -> _Transferred:
        core, driver = self._core(), self._driver
        state, target, term = core.state, request.node_id, core.state.term
        if target == state.node_id:
            return _Transferred(False, state.term)
        if target and state.configuration.member(target) is None:
            raise _conflict(f"Node {target} is no member, so it cannot lead. `appliance cluster nodes` shows who is.")
        if target and target not in state.voters:
            raise _conflict(
                f"Node {target} is a learner, so it cannot lead. It becomes a voter by itself when it has caught up: "
                "`appliance cluster nodes` shows how far it is."
            )
        if len(state.voters) == 1:
            raise _conflict("There is no other voter that could lead. Add a node first: `appliance cluster add`.")
        if target and target not in driver.network.connected():
            raise _conflict(
                f"Node {target} cannot be reached, so it cannot lead. Start it first; `appliance cluster nodes` shows "
                "who is connected."
            )
        if target:
            await self._transfer_to(target)
        elif not await hand_over(driver):
            raise _conflict(
                f"No other voter took over, and node {state.node_id} leads on. `appliance cluster nodes` shows who is "
                "connected and how far behind; a voter that is down, or whose disk is full or clock off, cannot lead."
            )
        return _Transferred(True, max(state.term, term + 1))  # who leads next does so in a later term

    async def _transfer_to(self, target: int) -> None:
        unfitness = await unfitness_of(self._driver, target)
        if unfitness:
            raise _conflict(
                f"Node {target} had better not lead: {unfitness}. Mend that, or name another; `appliance cluster "
                "transfer` without a name lets the best one lead."
            )
        if not await hand_over_to(self._driver, target):
            raise _conflict(
                f"Node {target} did not take over within an election time-out, and node {self._core().state.node_id} "
                "leads on. Ask again when `appliance cluster nodes` shows that it does not lag, or name another."
            )

    async def _refuse_unsafe(self, change: Callable[[Configuration], Configuration]) -> None:
        """Wait until the change could be proposed. Raises `ApplianceError` when it must not be."""
        await self._attempt(lambda core: membership.refuse_change(core.state, change(core.state.configuration)))

    async def _change(self, change: Callable[[Configuration], Configuration]) -> _Changed:
        """Propose a change and wait until it is committed. Raises `NotLeader` and `ApplianceError`."""
        index, term = await self._attempt(lambda core: core.propose_configuration(change(core.state.configuration)))
        self._driver.pump_soon()
        await self._committed(index, term)
        return self._changed(True, index)

    async def _unchanged(self) -> _Changed:
        """It is already as it was asked to be; not for sure before the change that made it so is committed. Raises
        `NotLeader` and `ApplianceError`.
        """
        state = self._core().state
        if state.role is not Role.LEADER:
            raise NotLeader(state.leader_id)
        index = state.configuration_index
        if index > state.commit_index:
            await self._committed(index, state.term)
        return self._changed(False, index)

    def _changed(self, changed: bool, index: int) -> _Changed:
        return _Changed(changed, index, self._core().state.configuration)

    async def _committed(self, index: int, term: int) -> None:
        """Wait until a change that this node proposed in this term is committed. Raises `ApplianceError`."""
        driver, core = self._driver, self._core()
        deadline_s = driver.clock.monotonic_s() + CHANGE_S
        while core.state.commit_index < index:
            if driver.clock.monotonic_s() >= deadline_s or core.state.log.term_at(index) != term:
                raise _outcome_unknown(index)
            await asyncio.sleep(driver.settings.tick_s)
        committed_term = core.state.log.term_at(index)
        if committed_term is None and core.state.term != term:  # compacted, or a snapshot took the place of it
            raise _outcome_unknown(index)
        if committed_term not in {term, None}:
            raise ApplianceError("no_leader", "Another leader was elected before the change was committed.")

    async def _attempt(self, act: Callable[[RaftCore], _T]) -> _T:
        """Do what needs the last change to be committed, and voters that were heard after it was asked for; waits for
        that. Raises `NotLeader` and `ApplianceError`.
        """
        driver, settings = self._driver, self._driver.settings
        now_s = driver.clock.monotonic_s()
        ends_s = {
            Refusal.PENDING: now_s + settings.write_timeout_s,
            Refusal.NOT_READY: now_s + settings.write_timeout_s,
            Refusal.QUORUM: now_s + settings.election_timeout_s,
        }
        # One more, so that who is dead already is not counted on either when its last message is read a little later.
        await self._leadership.count_heartbeats(membership.ALIVE_HEARTBEATS + 1)
        while True:
            core = self._core()
            if core.state.role is not Role.LEADER:
                raise NotLeader(core.state.leader_id)
            try:
                return act(core)
            except ChangeRefused as refused:
                if driver.clock.monotonic_s() >= ends_s.get(refused.reason, now_s):
                    raise _conflict(_advice(core.state, refused)) from refused
            await asyncio.sleep(settings.tick_s)

    def _core(self) -> RaftCore:
        core = self._driver.core
        if core is None:
            raise ApplianceError("no_quorum", "This node belongs to no cluster yet.")
        return core


def _conflict(detail: str) -> ApplianceError:
    return ApplianceError("conflict", detail)


def _outcome_unknown(index: int) -> ApplianceError:
    return ApplianceError(
        "outcome_unknown",
        f"The change of the membership (entry {index}) was proposed, and it is not known whether it was committed. "
        "Look at `appliance cluster nodes` before you ask again; asking again does no harm.",
    )


def _advice(state: RaftState, refused: ChangeRefused) -> str:
    """Why a change was refused, and what helps."""
    if refused.reason is Refusal.QUORUM:
        return f"The cluster would lose its quorum: {refused}. {_ways_to_a_quorum(state, refused)}"
    if refused.reason is Refusal.EMPTY:
        return "The last voter cannot be removed: nobody would hold the ledger. `appliance down` stops it."
    if refused.reason is Refusal.PENDING:
        return (
            f"Another change of the membership is under way: {refused}. Ask again when it is; if it stays so, too few "
            "voters answer, and `appliance cluster nodes` shows which ones."
        )
    return f"The membership cannot be changed now: {refused}. Ask again in a moment."


def _ways_to_a_quorum(state: RaftState, refused: ChangeRefused) -> str:
    """What would let a change be made that was refused because these voters are silent, or not caught up."""
    if not refused.silent:
        waits = " and ".join(f"node {n}" for n in refused.behind)
        return f"Ask again when `appliance cluster nodes` shows that {waits} has caught up."
    silent = refused.silent
    start = f"Start {' and '.join(f'node {n}' for n in silent)} first; `appliance cluster nodes` shows who is connected"
    removable = [n for n in silent if _may_remove(state, n)]
    if not removable:
        return f"{start}."
    return f"{start}. If it is gone for good, remove it first: `appliance cluster remove {removable[0]}`."


def _may_remove(state: RaftState, node_id: int) -> bool:
    try:
        membership.refuse_change(state, membership.without_member(state.configuration, node_id))
    except ChangeRefused:
        return False
    return True


def _raft_address_of(address: str) -> str:
    """Where a node's peer port is by convention. Raises `ApplianceError` when the address has no port."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ApplianceError("bad_request", f"address: {address!r} is not of the form host:port.")
    return f"{host}:{int(port) + RAFT_PORT_ABOVE}"
