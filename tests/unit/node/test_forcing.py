"""What `cluster recover` writes, refuses and says."""

from __future__ import annotations

import re
from itertools import count
from typing import Any

import pytest
from msgspec.structs import replace

from appliance.node.forcing import Holding, doubtful, losses, needless, recovered
from appliance.node.peer_ports import Hello
from appliance.node.ports import Identity
from appliance.raft.messages import Configuration, EntryKind, HardState, Member, MemberRole
from appliance.raft.state import decode_configuration

CLUSTER = "ab" * 16
EMPTY = Configuration()


def member(node_id: int, incarnation: int = 0, role: MemberRole = MemberRole.VOTER) -> Member:
    return Member(node_id, incarnation or node_id * 10, role, f"c{node_id}", f"r{node_id}")


def voters(*ids: int) -> Configuration:
    return Configuration(tuple(member(n) for n in ids))


def holding(configuration: Configuration, **changes: Any) -> Holding:
    held = Holding(
        identity=Identity(CLUSTER, 1, 10),
        remembers=True,
        configuration=configuration,
        last_index=100,
        last_term=4,
        term=6,
        commit_index=100,
        applied_index=90,
        tree_size=80,
    )
    return replace(held, **changes)


def hello(
    node_id: int, incarnation: int, configuration: Configuration = EMPTY, last: tuple[int, int] = (0, 0)
) -> Hello:
    identity = Identity(CLUSTER, node_id, incarnation)
    return Hello("0", 1, (), identity, "", "", last[1], configuration, last_term=last[0])


THREE = voters(1, 2, 3)


def test_one_voter_is_left_in_a_new_term_and_nobody_of_before_is_named() -> None:
    numbers = count(1001, 2)
    me = member(1, 99)
    configuration, entry, hard_state = recovered(holding(THREE), me, lambda: next(numbers))
    assert [(m.node_id, m.incarnation, m.role.value) for m in configuration.members] == [
        (1, 99, "voter"),
        (2, 1001, "learner"),
        (3, 1003, "learner"),
    ]
    assert configuration.recoveries == (1005,)
    assert (entry.index, entry.term, entry.kind) == (101, 7, EntryKind.CONFIGURATION)
    assert decode_configuration(entry.data) == configuration
    assert hard_state == HardState(7, 1, 100)
    again, _, _ = recovered(holding(configuration), me, lambda: next(numbers))
    assert again.recoveries == (1005, 1011)


def test_a_node_that_was_no_member_becomes_one() -> None:
    configuration, _, _ = recovered(holding(voters(2, 3)), member(1, 99), lambda: 5)
    assert (configuration.voters(), [m.node_id for m in configuration.members]) == ((1,), [1, 2, 3])


@pytest.mark.parametrize(
    ("held", "peers", "says"),
    [
        pytest.param(holding(THREE), [], "", id="nobody answers"),
        pytest.param(holding(THREE), [hello(2, 21), hello(3, 31)], "", id="the others are empty"),
        pytest.param(
            holding(THREE),
            [hello(2, 20, THREE, (4, 100))],
            "nodes 1, 2 of 3 voters are there .* which is a majority: start this node",
            id="a majority is there",
        ),
        pytest.param(
            holding(THREE, remembers=False),
            [hello(2, 20, THREE, (4, 90)), hello(3, 30, THREE, (4, 90))],
            "nodes 2, 3 of 3 voters are there",
            id="a majority without this one",
        ),
        pytest.param(holding(THREE, remembers=False), [hello(2, 20, THREE, (4, 100))], "", id="both hold the same"),
        pytest.param(
            holding(THREE, remembers=False),
            [hello(2, 21, THREE, (4, 101)), hello(3, 31, THREE, (5, 90))],
            "node 3 holds more, up to entry 90 of term 5",
            id="a later term is more than a longer log",
        ),
        pytest.param(holding(voters(1)), [], "node 1 of 1 voters are there", id="done already"),
        pytest.param(
            holding(THREE),
            [hello(2, 22, Configuration((member(2, 22),), (7,)), (9, 9))],
            "node 2 is of a recovery that this node missed: clear",
            id="another was recovered",
        ),
        pytest.param(
            holding(Configuration((member(1, 99),), (7,)), identity=Identity(CLUSTER, 1, 5)),
            [hello(2, 20, THREE, (9, 999))],
            "",
            id="what those of before hold is no more",
        ),
    ],
)
def test_what_speaks_against_it(held: Holding, peers: list[Hello], says: str) -> None:
    found = needless(held, {peer.identity.node_id: peer for peer in peers})
    assert re.search(says, found) if says else found == ""


@pytest.mark.parametrize(
    ("held", "says"),
    [
        (holding(THREE), ["behind entry 100 of term 4: nodes 2, 3 can have"]),
        (holding(voters(1, 2)), []),
        (holding(voters(1)), []),
        (holding(voters(2, 3)), ["nodes 2, 3 can have"]),
        (holding(voters(1, 2), remembers=False), ["has acknowledged behind entry 100"]),
        (
            holding(THREE, damage="raft.db is damaged: x", remembers=False),
            ["whoever acknowledged it: raft.db is damaged"],
        ),
    ],
    ids=["a majority of others", "no majority without it", "alone", "no voter", "a copy", "from the ledger"],
)
def test_what_may_be_lost_is_said(held: Holding, says: list[str]) -> None:
    found = losses(held)
    assert len(found) == len(says)
    assert all(text in loss for text, loss in zip(says, found, strict=True))


def test_what_is_not_known_to_be_committed_is_said() -> None:
    assert doubtful(holding(THREE)) == ""
    assert doubtful(holding(THREE, commit_index=95)).startswith("entries 96 to 100 are kept")
