"""What a peer asks for by name is carried out by who put it on the driver's list; what it says of itself is heard."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
from driver_rig import CLUSTER_ID, CONFIGURATION, ME, WAIT_S, Rig, until

from appliance.node.peer_ports import Hello
from appliance.node.ports import Identity
from appliance.raft.messages import Configuration
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
    await until(lambda: len(asked) >= 4, "both to be asked twice")
    assert core.state.may_stand()
    answers[3] = msgspec.msgpack.encode(hello_of(3, index=9, committed=9, members=(2, 3)))
    await until(lambda: not core.state.may_stand(), "it to hear that it was removed")
    rig.heartbeat()
    await asyncio.sleep(0.1)  # what was asked before is answered
    count = len(asked)
    await asyncio.sleep(0.1)
    assert len(asked) == count, "a leader is known"
    await asyncio.wait_for(rig.driver.stop(), WAIT_S)


async def test_a_node_says_hello_when_it_is_asked(rig: Rig) -> None:
    rig.append(2, 1, commit=2)
    said = msgspec.msgpack.decode(await rig.desk.on_call(2, "hello", b""), type=Hello)
    assert said == rig.desk.hello()
    assert (said.identity.node_id, said.configuration, said.commit_index) == (ME, CONFIGURATION, 2)
