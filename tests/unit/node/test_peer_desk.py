"""What a peer asks for by name is carried out by who put it on the driver's list; what it says of itself is heard."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
from driver_rig import CLUSTER_ID, CONFIGURATION, LEADER, ME, TERM, WAIT_S, Rig, until
from msgspec.structs import replace

from appliance.adapters.standing import StandingFile
from appliance.node.peer_ports import Hello
from appliance.node.ports import DamagedFile, Identity
from appliance.raft.messages import (
    AppendResponse,
    Configuration,
    EntryKind,
    Member,
    MemberRole,
    SnapshotMeta,
    make_entry,
)
from appliance.raft.state import encode_configuration
from appliance.tables.errors import ApplianceError

pytestmark = pytest.mark.anyio


async def test_a_call_goes_to_who_serves_its_name(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    await rig.driver.start()

    async def serve(sender_node_id: int, body: bytes) -> bytes:
        return b"%d %b" % (sender_node_id, body)

    rig.driver.calls["one"] = serve
    try:
        assert await rig.desk.on_call(2, "one", b"x") == b"2 x"
        with pytest.raises(ApplianceError, match="Node 1 does not know the call 'two'") as caught:
            await rig.desk.on_call(2, "two", b"x")
        assert caught.value.code == "conflict"
    finally:
        await rig.driver.stop()


def hello_of(node_id: int, *, index: int, committed: int, members: tuple[int, ...]) -> Hello:
    """What a node says of itself that takes part with these."""
    return Hello(
        "0",
        1,
        (),
        Identity(CLUSTER_ID, node_id, node_id * 10),
        f"127.0.0.1:{node_id}",
        f"127.0.0.1:{1000 + node_id}",
        index,
        Configuration(tuple(m for m in CONFIGURATION.members if m.node_id in members)),
        index,
        commit_index=committed,
    )


def health(rig: Rig) -> tuple[str, tuple[str, ...]]:
    said = rig.service.health()
    return said.role, said.reasons


async def test_a_hello_tells_a_node_that_it_was_removed(rig: Rig) -> None:
    core = rig.driver.core
    assert core is not None
    rig.desk.on_hello(hello_of(3, index=7, committed=6, members=(2, 3)))
    assert core.state.may_stand(), "it may not come to be"
    assert health(rig) == ("follower", ("no leader is known",))
    rig.desk.on_hello(hello_of(3, index=7, committed=7, members=(2, 3)))
    assert not core.state.may_stand()
    assert "cluster.removed" in rig.log.events
    role, (reason,) = health(rig)
    assert role == "outsider"
    assert "removed from the cluster by entry 7, says node 3" in reason
    assert "stop it, or add it again with `appliance cluster add`" in reason
    rig.desk.on_hello(hello_of(2, index=9, committed=9, members=(1, 2, 3)))
    assert core.state.may_stand()
    assert health(rig) == ("follower", ("no leader is known",))


async def test_a_leader_that_is_heard_is_believed_more_than_who_told_of_a_removal(rig: Rig) -> None:
    rig.desk.on_hello(hello_of(3, index=7, committed=7, members=(2, 3)))
    rig.heartbeat()
    assert health(rig) == ("follower", ())


async def test_a_node_that_finds_no_leader_asks_for_hellos_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.node.peer_desk.ASK_INTERVAL_S", 0.02)
    rig = Rig(tmp_path)
    asked = []
    answers = {
        2: msgspec.msgpack.encode(hello_of(3, index=9, committed=9, members=(2, 3))),  # not of node 2
        3: b"\xc1 no hello",
    }

    async def answer(node_id: int, name: str, body: bytes) -> bytes:
        if name != "hello":
            raise ApplianceError("conflict", "no such call")
        asked.append(node_id)
        return answers[node_id]

    rig.network.on_call = answer
    await rig.driver.start()
    core = rig.driver.core
    assert core is not None
    speaks = {"protocol": 3, "protocol_min": 2, "features": ("checkpoints",)}
    linked = msgspec.structs.replace(hello_of(3, index=1, committed=1, members=(1, 2, 3)), **speaks)
    rig.driver.members.hellos[3] = linked
    await until(lambda: len(asked) >= 4, "both to be asked twice")
    assert core.state.may_stand()
    answers[3] = msgspec.msgpack.encode(hello_of(3, index=9, committed=9, members=(2, 3)))
    await until(lambda: not core.state.may_stand(), "it to hear that it was removed")
    hello = rig.driver.members.hellos[3]
    assert {name: getattr(hello, name) for name in speaks} == speaks, "as its link said"
    rig.heartbeat()
    await asyncio.sleep(0.1)  # what was asked before is answered
    count = len(asked)
    await asyncio.sleep(0.1)
    assert len(asked) == count, "a leader is known"
    await asyncio.wait_for(rig.driver.stop(), WAIT_S)


async def test_a_node_that_keeps_its_data_though_it_was_to_give_them_up_is_heard_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked to get its data again, it did not hear that the leader agreed, and goes on: it must not stay left out."""
    monkeypatch.setattr("appliance.node.peer_desk.ASK_INTERVAL_S", 0.02)
    rig = Rig(tmp_path)
    await rig.driver.start()
    rig.append(2, 1, commit=2)
    aside = [msgspec.structs.replace(m, incarnation=0) if m.node_id == ME else m for m in CONFIGURATION.members]
    change = encode_configuration(Configuration(tuple(aside)))
    rig.take([make_entry(TERM, 3, EntryKind.CONFIGURATION, change)], commit=3)
    for done in ("giving_up", "given_up"):
        await until(lambda: LEADER in rig.network.redialed, "the leader to be met anew")
        setattr(rig.driver, done, True)
        rig.network.redialed.clear()
        await asyncio.sleep(0.1)
        assert not rig.network.redialed, "one that gives them up waits for the agreement, and for its end"
        rig.driver.giving_up = False
    await asyncio.wait_for(rig.driver.stop(), WAIT_S)


async def test_a_node_says_hello_when_it_is_asked(rig: Rig) -> None:
    rig.append(2, 1, commit=2)
    said = msgspec.msgpack.decode(await rig.desk.on_call(2, "hello", b""), type=Hello)
    assert said == rig.desk.hello()
    assert (said.identity.node_id, said.configuration, said.commit_index) == (ME, CONFIGURATION, 2)


def hello(node_id: int, incarnation: int, configuration: Configuration, index: int = 1) -> Hello:
    identity = Identity(CLUSTER_ID, node_id, incarnation)
    return Hello("0", 1, (), identity, f"h:{node_id}", f"h:{1000 + node_id}", 9, configuration, index)


def recovered(*, mine: int = 5) -> Configuration:
    """The configuration after node 2 was made the only voter; it waits for this node under an incarnation."""
    return Configuration(
        (
            Member(ME, mine, MemberRole.LEARNER, "h:1", "h:1001"),
            Member(2, 29, MemberRole.VOTER, "h:2", "h:1002"),
        ),
        (7,),
    )


async def test_a_member_of_before_a_recovery_stops_and_keeps_what_it_holds(rig: Rig) -> None:
    rig.desk.on_hello(hello(2, 29, recovered(), 101))
    assert "clear this node's data directory" in rig.fatal[0]
    assert "cluster.left_behind" in rig.log.events
    assert StandingFile(rig.directory).condemned == ""


async def test_a_copy_that_counts_for_nothing_is_condemned(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.driver.identity = Identity(CLUSTER_ID, ME, 17)  # its configuration knows it by another incarnation
    await rig.driver.start()
    try:
        rig.desk.on_hello(hello(2, 29, recovered(), 101))
        assert "Its next start sets that aside" in rig.fatal[0]
        assert "recovered without what this node holds" in StandingFile(tmp_path).condemned
    finally:
        await rig.driver.stop()


async def test_one_that_the_recovered_cluster_took_in_goes_on(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.driver.identity = Identity(CLUSTER_ID, ME, 17)
    await rig.driver.start()
    try:
        rig.desk.on_hello(hello(2, 29, recovered(mine=17), 101))
        assert rig.fatal == []
        assert rig.driver.members.parted == frozenset()
    finally:
        await rig.driver.stop()


async def test_what_one_says_whose_log_is_of_another_recovery_does_not_count(rig: Rig) -> None:
    """Both were made the only voter: neither follows the other, and both raise the alarm."""
    core = rig.driver.core
    assert core is not None
    core.state.configurations[-1] = (1, replace(CONFIGURATION, recoveries=(8,)))
    rig.desk.on_hello(hello(LEADER, LEADER * 10, recovered(), 101))
    assert (rig.driver.members.parted, rig.fatal) == (frozenset({LEADER}), [])
    assert rig.service.health().alarms == ("cluster_forked",)
    assert rig.log.events.count("cluster.forked") == 1
    rig.append(2, 3, commit=4)
    rig.heartbeat()
    rig.driver.pump()
    assert (core.state.log.last_index, core.state.leader_id) == (1, 0)
    rig.desk.on_hello(hello(LEADER, LEADER * 10, core.state.configuration))
    rig.append(2, 3, commit=4)
    await until(lambda: any(isinstance(m, AppendResponse) for m in rig.network.sent), "it to follow again")


async def test_a_snapshot_of_before_a_recovery_is_refused(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    core = rig.driver.core
    assert core is not None
    core.state.configurations[-1] = (1, recovered())

    async def whole(meta: SnapshotMeta, path: Path) -> None: ...

    monkeypatch.setattr(rig.driver.snapshots, "check", whole)
    with pytest.raises(OSError, match="of before the cluster was recovered"):
        await rig.desk.on_snapshot(SnapshotMeta(50, 2, CONFIGURATION), rig.directory / "snapshot")


async def test_damage_that_is_met_while_running_lets_the_next_start_look(rig: Rig) -> None:
    rig.driver.fail(DamagedFile(str(rig.directory / "ledger.db"), "leaf 7 cannot be read"))
    assert rig.fatal == [f"{rig.directory / 'ledger.db'} is damaged: leaf 7 cannot be read"]
    assert "leaf 7" in StandingFile(rig.directory).doubt
