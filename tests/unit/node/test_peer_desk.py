"""What a peer asks for by name is carried out by who put the name on the driver's list."""

from __future__ import annotations

from pathlib import Path

import pytest
from driver_rig import CLUSTER_ID, CONFIGURATION, LEADER, ME, Rig, until
from msgspec.structs import replace

from appliance.adapters.standing import StandingFile
from appliance.node.peer_ports import Hello
from appliance.node.ports import DamagedFile, Identity
from appliance.raft.messages import AppendResponse, Configuration, Member, MemberRole, SnapshotMeta
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
