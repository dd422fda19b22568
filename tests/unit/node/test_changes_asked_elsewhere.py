"""Changes of the membership asked of a node that does not lead: what it answers when it lags behind what was done."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from driver_rig import CONFIGURATION, LEADER, ME, TERM, WAIT_S, Rig, until
from msgspec.structs import replace

from appliance.raft.membership import with_member, without_member
from appliance.raft.messages import Heartbeat, Member, MemberRole
from appliance.tables.errors import ApplianceError

pytestmark = pytest.mark.anyio

JOINED = Member(4, 40, MemberRole.VOTER, "127.0.0.1:4", "127.0.0.1:1004")


@pytest.fixture
async def follower(rig: Rig) -> Rig:
    """A node that follows, and that hears nothing more of the log."""
    rig.driver.settings = replace(rig.driver.settings, election_timeout_s=1.0, write_timeout_s=0.2)
    rig.heartbeat()
    return rig


def leader_answers(rig: Rig, name: str, *answer: object) -> list[str]:
    """The leader does what it is asked for; answers what that was."""
    calls: list[str] = []

    async def on_call(node_id: int, asked: str, body: bytes) -> bytes:
        if asked == "states":  # which nodes ask each other for all the time
            raise ApplianceError("conflict", "")
        assert (node_id, asked) == (LEADER, name)
        calls.append(asked)
        return msgspec.msgpack.encode(answer)

    rig.network.on_call = on_call
    return calls


def leads(rig: Rig, node_id: int, term: int) -> None:
    rig.desk.on_message(
        Heartbeat(sender=node_id, sender_incarnation=node_id * 10, to=ME, term=term, commit_index=0, round=0)
    )


@pytest.mark.parametrize("node_id", [ME, 3], ids=["itself", "another"])
async def test_a_removal_that_this_node_does_not_come_to_hear_of_is_done_all_the_same(
    follower: Rig, node_id: int
) -> None:
    left = without_member(CONFIGURATION, node_id)
    leader_answers(follower, "member.remove", True, 50, left)
    answer = await asyncio.wait_for(follower.service.remove_member(node_id), WAIT_S)
    assert (answer.role, answer.changed, answer.index) == ("removed", True, 50)
    assert [member.node_id for member in answer.members] == [m.node_id for m in left.members]


async def test_who_was_added_is_not_taken_for_removed_by_a_node_that_lags(follower: Rig) -> None:
    joined = with_member(CONFIGURATION, JOINED)
    leader_answers(follower, "member.add", False, 50, joined)
    adding = follower.service.add_member(4, JOINED.address, JOINED.raft_address, wait=False)
    answer = await asyncio.wait_for(adding, WAIT_S)
    assert (answer.role, answer.changed, len(answer.members)) == ("voter", False, 4)


async def test_an_answer_of_another_version_leaves_the_outcome_unknown(follower: Rig) -> None:
    leader_answers(follower, "member.remove", True, 50)
    with pytest.raises(ApplianceError, match="run the same version on all nodes") as caught:
        await asyncio.wait_for(follower.service.remove_member(3), WAIT_S)
    assert caught.value.code == "outcome_unknown"


async def test_who_leads_after_a_transfer_is_told_once_the_new_leader_is_heard(follower: Rig) -> None:
    """The leader of before answers first, and this node still follows it."""
    calls = leader_answers(follower, "leader.transfer", True, TERM + 1)
    asking = asyncio.create_task(follower.service.transfer_leadership(3))
    await until(lambda: bool(calls), "the leader to be asked")
    await asyncio.sleep(0.2)  # in which an answer would come
    assert not asking.done()
    leads(follower, 3, TERM + 1)
    answer = await asyncio.wait_for(asking, WAIT_S)
    assert (answer.leader_id, answer.term, answer.changed) == (3, TERM + 1, True)


async def test_a_transfer_after_which_somebody_else_leads_is_no_success(follower: Rig) -> None:
    calls = leader_answers(follower, "leader.transfer", True, TERM + 1)
    asking = asyncio.create_task(follower.service.transfer_leadership(3))
    await until(lambda: bool(calls), "the leader to be asked")
    leads(follower, LEADER, TERM + 2)
    with pytest.raises(ApplianceError, match=f"Node {LEADER} has become the leader") as caught:
        await asyncio.wait_for(asking, WAIT_S)
    assert caught.value.code == "conflict"


@pytest.mark.parametrize(
    ("term", "code"), [(TERM, None), (TERM + 1, "outcome_unknown")], ids=["its own term", "a later term"]
)
async def test_a_change_whose_entry_is_compacted_is_known_only_in_the_term_of_its_leader(
    rig: Rig, term: int, code: str | None
) -> None:
    """A leader that was deposed may have got a snapshot in which another entry stood there."""
    rig.append(2, 3, commit=4)
    core = rig.driver.core
    assert core is not None
    await until(lambda: rig.driver.applier.applied_index == 4 and core.state.log.stable_index == 4, "the entries")
    core.compact(4)
    assert core.state.log.term_at(3) is None
    leads(rig, LEADER, term)
    committed = rig.service._membership._committed(3, TERM)
    if code is None:
        await committed
    else:
        with pytest.raises(ApplianceError) as caught:
            await committed
        assert caught.value.code == code
