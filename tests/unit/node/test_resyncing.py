"""A node gives up its data only once the others do without it, and says so durably before it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import pytest
from driver_rig import CONFIGURATION, LEADER, ME, TERM, WAIT_S, Peers, Rig, put, until
from msgspec.structs import replace

from appliance.node.ports import DiskFull, StorageFailed
from appliance.node.resyncing import REASON
from appliance.raft.membership import with_member
from appliance.raft.messages import (
    NO_INCARNATION,
    AnyMessage,
    AppendRequest,
    Configuration,
    EntryKind,
    Heartbeat,
    MemberRole,
    TimeoutNow,
    make_entry,
)
from appliance.raft.state import decode_configuration, encode_configuration
from appliance.tables.errors import ApplianceError

pytestmark = pytest.mark.anyio

OWN = ME * 10


async def follow(rig: Rig) -> None:
    rig.take([put(2)], commit=2)
    await until(lambda: rig.driver.applier.applied_index == 2, "the entry to be applied")


def leader_says(rig: Rig, answer: Callable[[], bytes]) -> list[str]:
    """The leader's answers to calls; answers what was asked."""
    asked: list[str] = []

    async def on_call(node_id: int, name: str, body: bytes) -> bytes:
        if name != "member.step_aside":
            raise ApplianceError("conflict", "it does not know the call")
        asked.append(name)
        assert (node_id, msgspec.msgpack.decode(body)) == (LEADER, [ME])
        return answer()

    rig.network.on_call = on_call
    return asked


def stood_aside(incarnation: int = NO_INCARNATION) -> Configuration:
    """The members once this node is a learner of that incarnation."""
    aside = replace(CONFIGURATION.members[ME - 1], incarnation=incarnation, role=MemberRole.LEARNER)
    return with_member(CONFIGURATION, aside)


def agreed() -> bytes:
    return msgspec.msgpack.encode((True, 3, stood_aside()))


async def code_of(rig: Rig, incarnation: int | None = None) -> str:
    with pytest.raises(ApplianceError) as caught:
        await asyncio.wait_for(rig.service.resync(incarnation), WAIT_S)
    return caught.value.code


async def test_a_follower_asks_the_leader_and_is_condemned(rig: Rig) -> None:
    await follow(rig)
    asked = leader_says(rig, agreed)
    answer = await rig.service.resync(OWN)
    assert (answer.node_id, answer.changed, answer.incarnation) == (ME, True, OWN)
    assert rig.data.standing.condemned == REASON
    assert rig.restarts == [REASON]
    assert "node.resyncing" in rig.log.events
    assert (await rig.service.resync(OWN)) == answer
    assert (asked, rig.restarts) == (["member.step_aside"], [REASON]), "twice is the same as once"


async def test_who_was_taken_back_before_it_heard_that_it_may_go_keeps_its_data(rig: Rig) -> None:
    """The leader met it anew in between, and counts on it again."""
    await follow(rig)
    leader_says(rig, agreed)
    changes = [
        make_entry(TERM, index, EntryKind.CONFIGURATION, encode_configuration(configuration))
        for index, configuration in ((3, stood_aside()), (4, stood_aside(OWN)))
    ]
    rig.take(changes, commit=3)
    assert await code_of(rig) == "conflict"
    assert (rig.restarts, rig.data.standing.condemned) == ([], "")


async def test_another_incarnation_is_left_alone(rig: Rig) -> None:
    await follow(rig)
    asked = leader_says(rig, agreed)
    answer = await rig.service.resync(OWN + 1)
    assert (answer.changed, answer.incarnation) == (False, OWN)
    assert (asked, rig.restarts, rig.data.standing.condemned) == ([], [], "")


@pytest.mark.parametrize(
    ("code", "redialed"),
    [
        pytest.param("conflict", set(), id="a refusal changes nothing, and cuts no link"),
        pytest.param("outcome_unknown", {2, 3}, id="a change whose answer was lost is undone"),
    ],
)
async def test_without_an_agreement_nothing_is_given_up(rig: Rig, code: str, redialed: set[int]) -> None:
    await follow(rig)

    def refuse() -> bytes:
        raise ApplianceError(code, "The cluster would lose its quorum.")

    leader_says(rig, refuse)
    assert await code_of(rig) == code
    assert (rig.restarts, rig.data.standing.condemned) == ([], "")
    assert set(rig.network.redialed) == redialed


@pytest.mark.parametrize(("error", "code"), [(DiskFull("no room"), "disk_full"), (StorageFailed("x"), "unhealthy")])
async def test_what_cannot_be_noted_is_not_done(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, error: Exception, code: str
) -> None:
    await follow(rig)
    leader_says(rig, agreed)

    def condemn(reason: str) -> None:
        raise error

    monkeypatch.setattr(rig.data.standing, "condemn", condemn)
    assert await code_of(rig) == code
    assert rig.restarts == []
    assert set(rig.network.redialed) == {2, 3}, "the leader takes it back"


async def test_the_leader_makes_it_a_learner_of_no_incarnation(rig: Rig, peers: Peers) -> None:
    await rig.desk.on_call(3, "member.step_aside", msgspec.msgpack.encode([3]))
    core = rig.driver.core
    assert core is not None
    member = core.state.configuration.member(3)
    assert member is not None
    assert (member.incarnation, member.role.value) == (0, "learner")
    assert core.state.commit_index >= core.state.configuration_index, "the voters that are left hold what there is"
    index = core.state.configuration_index
    await rig.desk.on_call(3, "member.step_aside", msgspec.msgpack.encode([3]))
    assert core.state.configuration_index == index, "twice is the same as once"


async def test_what_the_leader_has_not_committed_is_not_agreed_to_when_it_is_asked_again(
    rig: Rig, peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.node.membership.CHANGE_S", 0.3)
    peers.deaf = True
    for _ in range(2):
        with pytest.raises(ApplianceError) as caught:
            await rig.desk.on_call(3, "member.step_aside", msgspec.msgpack.encode([3]))
        assert caught.value.code == "outcome_unknown"
    peers.listen()
    await rig.desk.on_call(3, "member.step_aside", msgspec.msgpack.encode([3]))


async def test_the_leader_refuses_where_too_few_would_be_left(rig: Rig, peers: Peers) -> None:
    """Node 2 is silent, so that without node 3 there would be one of two."""
    send = rig.network.on_send

    def without_node_2(message: AnyMessage) -> None:
        if message.to != 2:
            send(message)

    rig.network.on_send = without_node_2
    rig.driver.settings = replace(rig.driver.settings, election_timeout_s=0.2)  # so long it would wait for node 2
    core = rig.driver.core
    assert core is not None
    await until(lambda: core.state.progress[2].silent_ticks > 10, "node 2 not to be counted on")
    with pytest.raises(ApplianceError) as caught:
        await asyncio.wait_for(rig.desk.on_call(3, "member.step_aside", msgspec.msgpack.encode([3])), WAIT_S)
    assert caught.value.code == "conflict"
    assert "quorum" in caught.value.detail


async def test_a_leader_hands_over_first(rig: Rig, peers: Peers) -> None:
    """The test's next leader does the rest."""
    resyncing = asyncio.create_task(rig.service.resync(None))
    await until(lambda: any(isinstance(m, TimeoutNow) for m in rig.network.sent), "it to hand over")
    await until(lambda: not rig.driver.can_propose(), "another to lead")
    leader_says(rig, agreed)
    rig.desk.on_message(
        Heartbeat(sender=LEADER, sender_incarnation=LEADER * 10, to=ME, term=TERM + 9, commit_index=0, round=0)
    )
    assert (await asyncio.wait_for(resyncing, WAIT_S)).changed
    appended = [e for m in rig.network.sent if isinstance(m, AppendRequest) for e in m.entries]
    changes = [decode_configuration(e.data) for e in appended if e.kind == EntryKind.CONFIGURATION]
    assert changes == [], "it does not demote itself"
