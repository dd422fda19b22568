"""Changes of the membership as they are asked of a node that leads: what is answered when, and what a refusal says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable

import msgspec
import pytest
from driver_rig import CONFIGURATION, LEADER, ME, WAIT_S, Peers, Rig, until
from msgspec.structs import replace

from appliance.raft.messages import AppendRequest, Configuration, EntryKind, Member, MemberRole, Role, make_entry
from appliance.tables.errors import ApplianceError

pytestmark = pytest.mark.anyio


@pytest.fixture
def leading(rig: Rig, peers: Peers) -> Rig:
    """A leader whose patience with others is short."""
    rig.driver.settings = replace(rig.driver.settings, election_timeout_s=0.3, write_timeout_s=0.5)
    return rig


def acting(rig: Rig) -> Configuration:
    assert rig.driver.core is not None
    return rig.driver.core.state.configuration


async def error_of(asking: Awaitable[object]) -> ApplianceError:
    with pytest.raises(ApplianceError) as caught:
        await asyncio.wait_for(asking, WAIT_S)
    return caught.value


async def refusal(asking: Awaitable[object]) -> str:
    error = await error_of(asking)
    assert error.code == "conflict"
    return error.detail


async def test_what_is_not_committed_yet_is_not_called_done(
    leading: Rig, peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.node.membership.CHANGE_S", 0.5)
    peers.deaf = True
    assert (await error_of(leading.service.remove_member(3))).code == "outcome_unknown"
    assert acting(leading).member(3) is None, "it acts, and may be undone by another leader"
    assert (await error_of(leading.service.remove_member(3))).code == "outcome_unknown"
    monkeypatch.setattr("appliance.node.membership.CHANGE_S", WAIT_S)
    again = asyncio.create_task(leading.service.remove_member(3))
    await asyncio.sleep(0.1)
    assert not again.done()
    peers.listen()
    answer = await asyncio.wait_for(again, WAIT_S)
    assert leading.driver.core is not None
    state = leading.driver.core.state
    assert (answer.changed, answer.role, answer.index) == (False, "removed", state.configuration_index)
    assert answer.index <= state.commit_index
    assert (await leading.service.remove_member(3)).index == answer.index


async def test_a_removal_that_is_rolled_back_while_it_is_asked_for_again_is_asked_of_the_next_leader(
    leading: Rig, peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.node.membership.CHANGE_S", 0.5)
    peers.deaf = True
    assert (await error_of(leading.service.remove_member(3))).code == "outcome_unknown"
    monkeypatch.setattr("appliance.node.membership.CHANGE_S", WAIT_S)

    async def next_leader(node_id: int, name: str, body: bytes) -> bytes:
        raise ApplianceError("conflict", f"node {node_id} was asked for {name}")

    leading.network.on_call = next_leader  # type: ignore[method-assign]
    again = asyncio.create_task(leading.service.remove_member(3))
    await asyncio.sleep(0.1)
    assert leading.driver.core is not None
    state = leading.driver.core.state
    index, term = state.configuration_index, state.term
    leading.desk.on_message(
        AppendRequest(
            sender=LEADER,
            sender_incarnation=LEADER * 10,
            to=ME,
            term=term + 1,
            prev_index=index - 1,
            prev_term=term,
            entries=(make_entry(term + 1, index, EntryKind.NOOP, b""),),
            commit_index=index,
        )
    )
    assert await refusal(again) == f"node {LEADER} was asked for member.remove"
    assert acting(leading).member(3) is not None


async def test_adding_who_is_a_member_waits_for_the_commit_as_well(
    leading: Rig, peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.node.membership.CHANGE_S", 0.5)
    peers.deaf = True
    core = leading.driver.core
    assert core is not None
    joining = Member(4, 40, MemberRole.LEARNER, "127.0.0.1:4", "127.0.0.1:1004")
    core.propose_configuration(Configuration((*acting(leading).members, joining)))
    adding = leading.service.add_member(4, joining.address, joining.raft_address, wait=False)
    assert (await error_of(adding)).code == "outcome_unknown"


async def test_a_refusal_for_the_quorum_names_who_is_silent_and_what_helps(leading: Rig, peers: Peers) -> None:
    peers.silent = {3}
    core = leading.driver.core
    assert core is not None
    await until(lambda: core.state.progress[3].silent_ticks > 10, "node 3 to be silent")
    said = await refusal(leading.service.remove_member(2))
    for part in (
        "would lose its quorum",
        "nothing is heard of node 3",
        "Start node 3 first",
        "`appliance cluster nodes`",
        "`appliance cluster remove 3`",
    ):
        assert part in said


@pytest.mark.parametrize("call", ["member.remove", "member.step_aside"])
async def test_a_loop_that_is_held_up_does_not_let_a_dead_voter_pass_for_alive(
    leading: Rig, peers: Peers, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    monkeypatch.setattr("appliance.node.membership.CHANGE_S", 0.5)
    peers.silent = {3}  # from now on
    asking = asyncio.create_task(leading.desk.on_call(2, call, msgspec.msgpack.encode([2])))
    await asyncio.sleep(0.05)
    time.sleep(0.5)  # noqa: ASYNC251 - longer than the wait for others, by the clock; these ticks are dropped
    assert "nothing is heard of node 3" in await refusal(asking)
    assert acting(leading).member(2) == CONFIGURATION.member(2)


async def test_a_dead_voter_whose_last_message_is_read_late_does_not_pass_for_alive(leading: Rig, peers: Peers) -> None:
    core = leading.driver.core
    assert core is not None
    peers.silent = {3}
    asking = asyncio.create_task(leading.service.remove_member(2))
    await asyncio.sleep(0)  # it is asked for
    ticks = core.state.progress[3].silent_ticks + 2
    await until(lambda: core.state.progress[3].silent_ticks >= ticks, "two ticks")
    peers.hold(3, core.state.commit_index)
    assert "nothing is heard of node 3" in await refusal(asking)


async def test_a_change_at_a_node_that_fails_meanwhile_ends_in_time(leading: Rig) -> None:
    asking = asyncio.create_task(leading.service.remove_member(2))
    await asyncio.sleep(0.05)
    leading.driver.failure = "the disk is gone"  # it ticks no more
    assert (await error_of(asking)).code == "unhealthy"
    assert acting(leading).member(2) is not None


async def test_removing_is_not_advised_where_it_would_be_refused(leading: Rig, peers: Peers) -> None:
    peers.silent = {2, 3}
    core = leading.driver.core
    assert core is not None
    await until(lambda: core.state.progress[2].silent_ticks > 10, "all to be silent")
    said = await refusal(leading.service.remove_member(2))
    assert "Start node 3 first" in said
    assert "cluster remove" not in said


async def test_a_refusal_for_who_is_to_get_a_snapshot_says_to_wait_for_it(leading: Rig) -> None:
    core = leading.driver.core
    assert core is not None
    core.state.progress[2].become_snapshot()
    said = await refusal(leading.service.remove_member(3))
    for part in ("a snapshot is on its way to node 2", "Ask again when", "shows that node 2 has caught up"):
        assert part in said
    assert "Start" not in said


async def test_a_refusal_for_a_change_under_way_says_which(leading: Rig, peers: Peers) -> None:
    peers.deaf = True
    core = leading.driver.core
    assert core is not None
    joining = Member(4, 40, MemberRole.LEARNER, "127.0.0.1:4", "127.0.0.1:1004")
    index, _ = core.propose_configuration(Configuration((*acting(leading).members, joining)))
    said = await refusal(leading.service.remove_member(3))
    assert f"the change in entry {index} is not committed yet" in said
    assert "`appliance cluster nodes`" in said


@pytest.mark.parametrize(
    ("target", "says"),
    [
        (9, ("is no member", "`appliance cluster nodes`")),
        (4, ("is a learner", "caught up", "`appliance cluster nodes`")),
        (3, ("cannot be reached", "Start it first")),
        (2, ("the disk of node 2 is full", "`appliance cluster transfer`")),
    ],
    ids=["no member", "a learner", "not connected", "not fit"],
)
async def test_a_transfer_that_is_refused_says_why_and_what_helps(
    leading: Rig, target: int, says: tuple[str, ...]
) -> None:
    core = leading.driver.core
    assert core is not None
    leading.network.reachable = {2}
    leading.network.unfit = {2: "the disk of node 2 is full"}
    joining = Member(4, 40, MemberRole.LEARNER, "127.0.0.1:4", "127.0.0.1:1004")
    core.propose_configuration(Configuration((*acting(leading).members, joining)))
    said = await refusal(leading.service.transfer_leadership(target))
    for part in says:
        assert part in said


async def test_a_transfer_to_nobody_in_particular_that_finds_nobody_says_so(leading: Rig) -> None:
    leading.network.reachable = set()
    said = await refusal(leading.service.transfer_leadership(None))
    assert "No other voter took over, and node 1 leads on" in said


async def test_a_transfer_that_ends_with_no_leader_names_a_term_that_is_yet_to_come(leading: Rig, peers: Peers) -> None:
    """It gives up leading because nobody is heard any more: who asked must not take it for the leader still."""
    core = leading.driver.core
    assert core is not None
    core.state.settings = leading.driver.settings.raft()
    term = core.state.term
    peers.silent = peers.unwilling = {2, 3}
    answer = await asyncio.wait_for(leading.desk.on_call(2, "leader.transfer", msgspec.msgpack.encode([0])), WAIT_S)
    assert (core.state.role, core.state.term) == (Role.FOLLOWER, term)
    assert msgspec.msgpack.decode(answer) == [True, term + 1]


async def test_a_leader_that_nobody_relieves_is_removed_all_the_same(leading: Rig, peers: Peers) -> None:
    assert leading.driver.core is not None
    leading.driver.core.state.settings = leading.driver.settings.raft()  # it, too, gives a handover up early
    peers.unwilling = {2, 3}
    leading.network.unfit = {2: "the disk of node 2 is full"}  # node 3 may lead, and does not in time
    answer = await asyncio.wait_for(leading.service.remove_member(ME), WAIT_S)
    assert (answer.changed, [member.node_id for member in answer.members]) == (True, [2, 3])


async def test_a_leader_is_not_removed_from_among_those_that_are_not_fit_to_lead(leading: Rig) -> None:
    leading.network.unfit = {2: "the disk of node 2 is full", 3: "node 3 is quarantined"}
    said = await refusal(leading.service.remove_member(ME))
    assert "no other voter is fit to: the disk of node 2 is full; node 3 is quarantined." in said
    assert acting(leading).member(ME) is not None
