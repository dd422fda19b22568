"""A cluster is founded once, by all of its seeds, and never by a node that only lost its memory."""

import msgspec
import pytest

from appliance.node.bootstrap import Founding, founding_entry
from appliance.node.peer_ports import Hello
from appliance.node.ports import Identity
from appliance.raft.messages import Configuration, Member, MemberRole
from appliance.raft.state import decode_configuration

CLUSTER = "ab" * 16
EMPTY = Configuration()


def hello(node_id: int, incarnation: int, configuration: Configuration = EMPTY) -> Hello:
    return Hello(
        version="0",
        protocol=1,
        features=(),
        identity=Identity(CLUSTER, node_id, incarnation),
        address=f"c{node_id}",
        raft_address=f"r{node_id}",
        last_index=0,
        configuration=configuration,
    )


def member(node_id: int, incarnation: int) -> Member:
    return Member(node_id, incarnation, MemberRole.VOTER, f"c{node_id}", f"r{node_id}")


def founding(node_id: int, incarnation: int) -> Founding:
    identity = Identity(CLUSTER, node_id, incarnation)
    seeds = tuple(f"r{n}" for n in (1, 2, 3) if n != node_id)
    return Founding(identity, f"c{node_id}", f"r{node_id}", seeds, founder=node_id in {1, 2, 3})


def test_all_founders_write_the_same_first_entry() -> None:
    written = set()
    for me in (1, 2, 3):
        found = founding(me, me * 10)
        heard = [found.hear(hello(n, n * 10)) for n in (3, 2, 1) if n != me]
        assert heard[0] is None
        assert heard[1] is not None
        written.add(founding_entry(heard[1]).data)
    assert len(written) == 1
    assert decode_configuration(written.pop()).voters() == (1, 2, 3)


def test_a_node_that_is_no_seed_founds_nothing_however_early_it_comes() -> None:
    found = founding(1, 10)
    assert found.hear(hello(2, 20)) is None
    assert found.hear(hello(4, 40)) is None
    assert found.waiting() == "1 of its seeds were not heard, and network.seed_peers does not name node 4 at r4"
    configuration = found.hear(hello(3, 30))
    assert configuration is not None
    assert configuration.voters() == (1, 2, 3)


def test_only_one_of_its_own_seeds_founds_even_when_all_of_them_are_empty() -> None:
    joiner = founding(4, 40)
    assert joiner.alone() is None
    for heard in (1, 2, 3):
        assert joiner.hear(hello(heard, heard * 10)) is None
    assert joiner.missing() == 0
    assert "peer address r4 is not among its network.seed_peers" in joiner.refusal
    assert "appliance cluster add 4" in joiner.refusal
    configuration = Configuration((member(1, 10), member(2, 20), member(3, 30)))
    assert joiner.hear(hello(1, 10, configuration)) is None
    assert "says that the cluster exists" in joiner.refusal


@pytest.mark.parametrize("founder", [True, False])
def test_a_node_without_seeds_founds_alone_only_if_it_is_one(founder: bool) -> None:
    alone = Founding(Identity(CLUSTER, 1, 10), "c1", "r1", (), founder=founder).alone()
    assert alone == (Configuration((member(1, 10),)) if founder else None)


def test_a_node_that_was_added_takes_part_though_it_founds_nothing() -> None:
    joiner = founding(4, 40)
    known = hello(1, 10, Configuration((member(1, 10), member(4, 40))))
    assert joiner.hear(msgspec.structs.replace(known, configuration_index=7)) is None
    assert joiner.admitted


def test_who_missed_the_founding_founds_no_second_cluster_with_a_seed_that_was_cleared() -> None:
    late = founding(2, 20)
    assert late.hear(hello(1, 10)) is None  # then 1 and 3 found the cluster, and 3 loses its directory
    late.cluster_exists()  # messages of node 1 come in
    assert late.hear(hello(3, 31)) is None
    configuration = Configuration((member(1, 10), member(2, 20), member(3, 30)))
    assert late.hear(hello(1, 10, configuration)) == configuration


def test_hearing_one_twice_is_not_hearing_two() -> None:
    found = founding(1, 10)
    assert found.hear(hello(2, 20)) is None
    assert found.hear(hello(2, 20)) is None
    assert found.missing() == 1


def test_a_seed_that_was_founded_with_this_node_decides() -> None:
    configuration = Configuration((member(1, 10), member(2, 20), member(3, 30)))
    assert founding(1, 10).hear(hello(2, 20, configuration)) == configuration


@pytest.mark.parametrize(
    ("known", "says"),
    [
        pytest.param(member(1, 99), "take it back", id="wiped"),
        pytest.param(member(4, 40), "appliance cluster add", id="stranger"),
    ],
)
def test_an_empty_node_of_an_old_cluster_founds_nothing(known: Member, says: str) -> None:
    found = founding(1, 10)
    assert found.hear(hello(2, 20, Configuration((known, member(2, 20))))) is None
    assert says in found.refusal
    assert found.hear(hello(3, 30)) is None  # not even when the rest is as empty as this node


def lost(node_id: int, incarnation: int) -> Hello:
    return msgspec.structs.replace(hello(node_id, incarnation), lost=True)


def test_who_has_lost_its_data_founds_nothing_even_when_all_others_are_empty() -> None:
    identity = Identity(CLUSTER, 1, 11)
    found = Founding(identity, "c1", "r1", ("r2", "r3"), founder=True, lost=True)
    assert found.hear(hello(2, 20)) is None
    assert found.hear(hello(3, 30)) is None
    assert "has held data of its cluster and lost them" in found.refusal
    assert Founding(identity, "c1", "r1", (), founder=True, lost=True).alone() is None
    configuration = Configuration((member(1, 11), member(2, 20)))
    assert found.hear(msgspec.structs.replace(hello(2, 20, configuration), configuration_index=9)) is None
    assert found.admitted, "but it joins where it is known"


def test_nothing_is_founded_with_who_has_lost_its_data() -> None:
    found = founding(1, 10)
    assert found.hear(lost(2, 21)) is None
    assert found.hear(hello(3, 30)) is None
    assert found.waiting() == "node 2 had data of it and lost them, so that it is not founded anew"
    configuration = found.hear(hello(2, 22))  # an operator has cleared it
    assert configuration is not None
    assert configuration.voters() == (1, 2, 3)


def test_who_loses_its_data_while_the_others_are_waited_for_is_no_founder_any_more() -> None:
    found = founding(1, 10)
    assert found.hear(hello(2, 20)) is None
    assert found.hear(lost(2, 21)) is None
    assert found.hear(hello(3, 30)) is None
    assert found.missing() == 1
