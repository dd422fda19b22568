"""After a recovery: whose log may meet whose, and who was left behind."""

from __future__ import annotations

import pytest

from appliance.node.lineage import Relation, is_parted, left_behind, relation
from appliance.node.peer_ports import Hello
from appliance.node.ports import Identity
from appliance.raft.messages import Configuration, Member, MemberRole

CLUSTER = "ab" * 16
V, L = MemberRole.VOTER, MemberRole.LEARNER


def configuration(*members: tuple[int, int, MemberRole], recoveries: tuple[int, ...] = ()) -> Configuration:
    return Configuration(tuple(Member(n, i, role, f"c{n}", f"r{n}") for n, i, role in members), recoveries)


BEFORE = configuration((1, 10, V), (2, 20, V), (3, 30, V))
ONCE = configuration((1, 11, V), (2, 29, L), (3, 39, L), recoveries=(7,))
TAKEN_IN = configuration((1, 11, V), (2, 21, L), (3, 39, L), recoveries=(7,))
TWICE = configuration((2, 22, V), recoveries=(7, 8))
OTHER = configuration((3, 33, V), recoveries=(9,))
EMPTY = Configuration()


def hello(node_id: int, incarnation: int, acting: Configuration) -> Hello:
    return Hello("0", 1, (), Identity(CLUSTER, node_id, incarnation), f"c{node_id}", f"r{node_id}", 9, acting)


@pytest.mark.parametrize(
    ("own", "other", "found"),
    [
        (BEFORE, BEFORE, Relation.SAME),
        (ONCE, TAKEN_IN, Relation.SAME),
        (EMPTY, ONCE, Relation.SAME),
        (ONCE, EMPTY, Relation.SAME),
        (ONCE, BEFORE, Relation.BEHIND),
        (BEFORE, ONCE, Relation.AHEAD),
        (TWICE, BEFORE, Relation.BEHIND),
        (ONCE, TWICE, Relation.AHEAD),
        (ONCE, OTHER, Relation.FORKED),
        (TWICE, OTHER, Relation.FORKED),
    ],
)
def test_relation(own: Configuration, other: Configuration, found: Relation) -> None:
    assert relation(own, other) is found


@pytest.mark.parametrize(
    ("own", "me", "peer", "parted", "behind"),
    [
        pytest.param(BEFORE, (2, 20), hello(3, 30, BEFORE), False, False, id="without a recovery"),
        pytest.param(BEFORE, (2, 20), hello(1, 11, ONCE), True, True, id="a member of before meets the recovered one"),
        pytest.param(ONCE, (1, 11), hello(2, 20, BEFORE), True, False, id="and the other way round"),
        pytest.param(BEFORE, (2, 21), hello(1, 11, ONCE), True, True, id="one whose copy was restored"),
        pytest.param(BEFORE, (2, 21), hello(1, 11, TAKEN_IN), False, False, id="one that was taken in and lags"),
        pytest.param(TAKEN_IN, (1, 11), hello(2, 21, BEFORE), False, False, id="the leader meets one that lags"),
        pytest.param(BEFORE, (2, 21), hello(3, 39, ONCE), True, False, id="a learner does not know who else is in"),
        pytest.param(EMPTY, (2, 22), hello(1, 11, ONCE), False, False, id="an empty node"),
        pytest.param(ONCE, (1, 11), hello(3, 33, OTHER), True, False, id="two that were each made the only voter"),
    ],
)
def test_who_is_parted_and_who_was_left_behind(
    own: Configuration, me: tuple[int, int], peer: Hello, parted: bool, behind: bool
) -> None:
    identity = Identity(CLUSTER, *me)
    assert is_parted(own, identity, peer) is parted
    assert left_behind(own, identity, peer) is behind
