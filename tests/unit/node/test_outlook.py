"""What a node without a leader says about whether one can come."""

from __future__ import annotations

from pathlib import Path

import pytest
from driver_rig import CLUSTER_ID, CONFIGURATION, ME, Rig

from appliance.node.bootstrap import Founding
from appliance.node.outlook import ALL_LOST, COMMAND, way_out
from appliance.node.peer_ports import Hello
from appliance.node.ports import Identity
from appliance.raft.messages import Configuration

pytestmark = pytest.mark.anyio
EMPTY = Configuration()


def hello(node_id: int, incarnation: int, configuration: Configuration = EMPTY) -> Hello:
    identity = Identity(CLUSTER_ID, node_id, incarnation)
    return Hello("0", 1, (), identity, f"h:{node_id}", f"h:{1000 + node_id}", 0, configuration)


@pytest.mark.parametrize(
    ("mine", "heard", "reachable", "says"),
    [
        (10, {2: 20, 3: 30}, {2, 3}, ""),
        (10, {2: 20}, {2}, ""),
        (10, {2: 21}, {2, 3}, ""),
        (10, {}, set(), "nodes 2, 3 of 3 voters cannot be reached: start them"),
        (10, {2: 21, 3: 31}, {2, 3}, "nodes 2, 3 of 3 voters lost what they had promised"),
        (11, {2: 21, 3: 30}, {2, 3}, "nodes 1, 2 of 3 voters lost what they had promised"),
        (11, {2: 20}, {2}, "node 3 of 3 voters cannot be reached: start them"),
    ],
    ids=["all there", "one away", "one wiped", "others away", "others wiped", "two restored", "one restored, one away"],
)
async def test_way_out(rig: Rig, mine: int, heard: dict[int, int], reachable: set[int], says: str) -> None:
    rig.driver.identity = Identity(CLUSTER_ID, ME, mine)
    rig.network.reachable = reachable
    for node_id, incarnation in heard.items():
        rig.driver.members.heard(None, hello(node_id, incarnation))
    found = way_out(rig.driver)
    assert found.startswith(says) if says else found == ""
    assert (COMMAND in found) == bool(says)
    reasons = rig.service.health().reasons
    assert reasons[1:] == ((found,) if found else ())
    assert reasons[0] == "no leader is known"


async def test_an_empty_node_says_it_for_a_cluster_that_it_only_hears_of(tmp_path: Path) -> None:
    rig = Rig(tmp_path, founded=False)
    await rig.driver.start()
    try:
        assert way_out(rig.driver) == ""
        rig.desk.on_hello(hello(3, 31))
        rig.desk.on_hello(hello(2, 20, CONFIGURATION))
        rig.driver.identity = Identity(CLUSTER_ID, ME, 11)
        assert way_out(rig.driver).startswith("nodes 1, 3 of 3 voters lost what they had promised")
    finally:
        await rig.driver.stop()


async def test_one_that_has_lost_its_data_says_where_they_are_kept(tmp_path: Path) -> None:
    rig = Rig(tmp_path, founded=False)
    await rig.driver.start()
    try:
        rig.driver.founding = Founding(rig.driver.identity, "h:1", "h:1001", ("h:1002",), founder=True, lost=True)
        assert rig.service.health().reasons[-1] == ALL_LOST
    finally:
        await rig.driver.stop()
