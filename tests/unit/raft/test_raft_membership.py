"""Changes of the membership, one rule at a time."""

from __future__ import annotations

import msgspec
import pytest

from appliance.raft import membership
from appliance.raft.core import NotLeader, RaftCore
from appliance.raft.membership import ChangeRefused, Refusal, with_member, without_member
from appliance.raft.messages import (
    AppendRequest,
    AppendResponse,
    Configuration,
    EntryKind,
    Heartbeat,
    HeartbeatResponse,
    Member,
    MemberRole,
    Role,
    TimeoutNow,
    VoteRequest,
    VoteResponse,
    make_entry,
)
from appliance.raft.state import decode_configuration, encode_configuration
from tests.unit.raft.core_rig import elect, make_core, says, sent, settle

LEARNER = Member(4, 4, MemberRole.LEARNER, "c4", "r4")


def leader(voters: tuple[int, ...] = (1, 2, 3), alive: tuple[int, ...] = (2, 3)) -> tuple[RaftCore, int]:
    """A leader that has heard of some followers, and has committed its no-op."""
    core = make_core(voters)
    term = elect(core)
    for node_id in alive:
        holds(core, term, node_id)
    return core, term


def holds(core: RaftCore, term: int, node_id: int, incarnation: int | None = None) -> None:
    """A follower has everything."""
    response = says(
        AppendResponse,
        term,
        sender=node_id,
        incarnation=incarnation or node_id,
        success=True,
        index=core.state.log.last_index,
    )
    core.step(response)
    settle(core)


def acting(core: RaftCore) -> Configuration:
    return core.state.configuration


def refused(core: RaftCore, wanted: Configuration) -> Refusal:
    with pytest.raises(ChangeRefused) as caught:
        core.propose_configuration(wanted)
    return caught.value.reason


def test_a_change_acts_at_once_and_is_an_entry() -> None:
    core, term = leader()
    index, _ = core.propose_configuration(with_member(acting(core), LEARNER))
    assert acting(core).member(4) == LEARNER
    assert core.state.configuration_index == index
    appends = [m for m in sent(settle(core)) if isinstance(m, AppendRequest)]
    entry = next(m for m in appends if m.to == 2).entries[-1]
    assert entry.kind == EntryKind.CONFIGURATION
    assert decode_configuration(entry.data).voters() == (1, 2, 3)
    assert 4 in {m.to for m in appends}
    holds(core, term, 2)
    assert core.state.commit_index == index


def test_only_a_leader_changes_the_membership() -> None:
    core = make_core()
    with pytest.raises(NotLeader):
        core.propose_configuration(with_member(acting(core), LEARNER))


def test_nothing_is_changed_before_an_entry_of_the_own_term_is_committed() -> None:
    core, term = leader(alive=())
    assert refused(core, with_member(acting(core), LEARNER)) is Refusal.NOT_READY
    holds(core, term, 2)
    core.propose_configuration(with_member(acting(core), LEARNER))


def test_one_change_at_a_time() -> None:
    core, term = leader()
    core.propose_configuration(with_member(acting(core), LEARNER))
    settle(core)
    assert refused(core, without_member(acting(core), 3)) is Refusal.PENDING
    holds(core, term, 2)
    core.propose_configuration(without_member(acting(core), 3))


def test_one_member_at_a_time() -> None:
    core, _ = leader()
    assert refused(core, acting(core)) is Refusal.STEP
    assert refused(core, without_member(without_member(acting(core), 2), 3)) is Refusal.STEP


def test_the_last_voter_stays() -> None:
    core = make_core((1,))
    core.campaign()
    settle(core)
    assert core.state.role is Role.LEADER
    assert refused(core, without_member(acting(core), 1)) is Refusal.EMPTY


def test_a_live_quorum_is_not_given_away() -> None:
    core, _ = leader(alive=(2,))
    assert refused(core, without_member(acting(core), 2)) is Refusal.QUORUM  # node 3 was never heard
    core.propose_configuration(without_member(acting(core), 3))


def test_who_has_fallen_silent_does_not_count_as_alive() -> None:
    core, term = leader()
    for _ in range(core.state.settings.election_ticks + 1):
        holds(core, term, 2)
        core.tick()
        settle(core)
    assert membership.alive_voters(core.state, acting(core)) == [1, 2]
    assert refused(core, without_member(acting(core), 2)) is Refusal.QUORUM


def test_who_has_to_get_a_snapshot_first_does_not_count() -> None:
    """It lives, and could not take the entry by which the change would be committed."""
    core, term = leader()
    core.state.progress[2].become_snapshot()
    with pytest.raises(ChangeRefused) as caught:
        core.propose_configuration(without_member(acting(core), 3))
    assert (caught.value.reason, caught.value.silent, caught.value.behind) == (Refusal.QUORUM, (), (2,))
    assert "1 of the 2 voters" in str(caught.value)
    assert "a snapshot is on its way to node 2" in str(caught.value)
    core.propose([b"x"])
    settle(core)
    for node_id in (2, 3):
        holds(core, term, node_id)
    core.propose_configuration(without_member(acting(core), 3))


def test_who_has_to_get_a_snapshot_may_be_removed_itself() -> None:
    core, _ = leader()
    core.state.progress[2].become_snapshot()
    core.propose_configuration(without_member(acting(core), 2))


def test_a_learner_is_promoted_once_it_keeps_up() -> None:
    core, term = leader()
    core.propose_configuration(with_member(acting(core), LEARNER))
    settle(core)
    holds(core, term, 2)
    core.tick()
    settle(core)
    assert acting(core).voters() == (1, 2, 3), "it has not answered yet"
    for _ in range(4):
        for node_id in (2, 4):
            holds(core, term, node_id)
        core.tick()
        settle(core)
    assert acting(core).voters() == (1, 2, 3, 4)


def test_a_learner_that_lags_is_not_promoted() -> None:
    core, term = leader()
    core.propose_configuration(with_member(acting(core), LEARNER))
    settle(core)
    for _ in range(5 * core.state.settings.election_ticks):
        core.propose([b"x"])
        settle(core)
        core.step(says(AppendResponse, term, sender=4, success=True, index=2))
        for node_id in (2, 3):
            holds(core, term, node_id)
        core.tick()
        settle(core)
    assert acting(core).voters() == (1, 2, 3)


def test_a_learner_that_has_fallen_silent_is_not_promoted() -> None:
    core, term = leader()
    core.propose_configuration(with_member(acting(core), LEARNER))
    settle(core)
    holds(core, term, 4)
    core.tick()  # its first round begins
    settle(core)
    holds(core, term, 4)
    for _ in range(membership.ALIVE_HEARTBEATS * core.state.settings.heartbeat_ticks + 1):
        core.tick()
        settle(core)
    assert core.state.progress[4].caught_up
    for node_id in (2, 3):  # only now is the change that made it a learner committed
        holds(core, term, node_id)
    core.tick()
    settle(core)
    assert acting(core).voters() == (1, 2, 3), "nothing is new, so it lacks nothing, and nobody knows whether it lives"
    holds(core, term, 4)
    core.tick()
    assert acting(core).voters() == (1, 2, 3, 4)


def test_a_voter_that_comes_back_as_another_is_a_learner_until_it_has_caught_up() -> None:
    core, term = leader()
    core.meet(3, 33, "c3", "r3")
    core.tick()
    settle(core)
    back = acting(core).member(3)
    assert back == Member(3, 33, MemberRole.LEARNER, "c3", "r3")
    assert core.state.progress[3].match_index == 0
    holds(core, term, 3)  # the old one: nobody
    assert core.state.commit_index < core.state.log.last_index
    holds(core, term, 2)
    for _ in range(4):
        holds(core, term, 2)
        holds(core, term, 3, incarnation=33)
        core.tick()
        settle(core)
    assert acting(core).member(3) == Member(3, 33, MemberRole.VOTER, "c3", "r3")


def test_a_commit_index_that_was_meant_for_an_earlier_incarnation_is_not_taken() -> None:
    core = make_core(terms=(1, 1, 1))
    core.step(says(Heartbeat, 1, commit_index=3, round=0, to_incarnation=99))
    assert core.state.commit_index == 0, "what is committed there may be another entry than this node's"
    core.step(says(Heartbeat, 1, commit_index=3, round=0, to_incarnation=1))
    assert core.state.commit_index == 3


def test_a_member_that_has_moved_keeps_its_role() -> None:
    core, _ = leader()
    core.meet(3, 3, "new", "place")
    core.tick()
    assert acting(core).member(3) == Member(3, 3, MemberRole.VOTER, "new", "place")


def test_who_is_no_member_is_not_made_one_by_a_hello() -> None:
    core, _ = leader()
    core.meet(7, 70, "c7", "r7")
    core.tick()
    assert acting(core).member(7) is None


def test_a_removed_node_is_told_and_then_forgotten() -> None:
    core, term = leader()
    index, _ = core.propose_configuration(without_member(acting(core), 3))
    told = [m for m in sent(settle(core)) if isinstance(m, AppendRequest) and m.to == 3]
    assert told[-1].entries[-1].index == index
    holds(core, term, 2)
    assert core.state.commit_index == index
    assert 3 not in core.status().peers
    for _ in range(2 * core.state.settings.election_ticks):
        holds(core, term, 2)
        core.tick()
        settle(core)
    assert 3 not in core.state.progress


def test_one_that_was_leaving_and_is_added_again_gets_the_snapshot_that_it_needs() -> None:
    core, term = leader()
    core.propose_configuration(with_member(acting(core), LEARNER))
    settle(core)
    for node_id in (2, 3):
        holds(core, term, node_id)
    last = core.state.log.last_index
    core.applied(last)
    core.compact(last)
    core.propose_configuration(without_member(acting(core), 4))
    settle(core)
    for node_id in (2, 3):
        holds(core, term, node_id)
    core.step(says(HeartbeatResponse, term, sender=4, round=0))
    core.step(says(AppendResponse, term, sender=4, success=False, index=last, hint_index=0, hint_term=0))
    settle(core)
    core.propose_configuration(with_member(acting(core), LEARNER))
    settle(core)
    wanted: list[int] = []
    for index in (core.state.log.last_index, last):
        core.step(says(AppendResponse, term, sender=4, success=False, index=index, hint_index=0, hint_term=0))
        wanted += [node_id for ready in settle(core) for node_id in ready.snapshots_to_send]
    assert wanted == [4]


def test_a_removed_leader_leads_until_that_is_committed_and_hands_over() -> None:
    core, term = leader()
    core.propose_configuration(without_member(acting(core), 1))
    settle(core)
    holds(core, term, 2)
    assert core.state.role is Role.LEADER, "its own copy does not count any more"
    core.step(says(AppendResponse, term, sender=3, success=True, index=core.state.log.last_index))
    messages = sent(settle(core))
    assert core.state.role is Role.FOLLOWER
    assert [m.to for m in messages if isinstance(m, TimeoutNow)] == [3]
    for _ in range(5 * core.state.settings.election_ticks):
        core.tick()
    assert core.state.role is Role.FOLLOWER, "a removed node does not campaign"


def test_a_leader_that_lost_its_place_before_its_removal_was_committed_still_stands() -> None:
    core, term = leader((1, 2))
    core.propose_configuration(without_member(acting(core), 1))
    settle(core)
    core.step(says(Heartbeat, term + 1, commit_index=0, round=0))
    settle(core)
    assert core.state.role is Role.FOLLOWER
    core.campaign()
    asked = [m for m in sent(settle(core)) if isinstance(m, VoteRequest)]
    assert [m.to for m in asked] == [2], "node 2 lacks the last entry, so it cannot be elected itself"
    core.step(says(VoteResponse, term + 2, granted=True, pre_vote=True))
    settle(core)
    core.step(says(VoteResponse, term + 2, granted=True))
    settle(core)
    assert core.state.role is Role.LEADER


def without_me(index: int) -> tuple[int, Configuration]:
    return index, Configuration(tuple(Member(n, n, MemberRole.VOTER, "", "") for n in (2, 3, 4)))


def campaigns(core: RaftCore) -> bool:
    for _ in range(2 * core.state.settings.election_ticks):
        core.tick()
    settle(core)
    return core.state.role is not Role.FOLLOWER


def test_a_node_that_hears_that_it_was_removed_does_not_campaign() -> None:
    core = make_core(terms=(1, 1))
    assert campaigns(core)
    core.hear_configuration(*without_me(9))
    assert core.state.role is Role.FOLLOWER, "the election that it was in is over for it"
    assert not campaigns(core)
    core.campaign()
    core.step(says(TimeoutNow, core.state.term))
    assert core.state.role is Role.FOLLOWER


def test_a_node_that_was_removed_still_votes() -> None:
    core = make_core(terms=(1, 1))
    core.hear_configuration(*without_me(9))
    core.step(says(VoteRequest, 5, last_log_index=2, last_log_term=1))
    assert [m.granted for m in sent(settle(core)) if isinstance(m, VoteResponse)] == [True]


def test_another_incarnation_in_its_place_is_no_removal() -> None:
    core = make_core()
    members = (Member(1, 77, MemberRole.VOTER, "", ""), *without_me(9)[1].members)
    core.hear_configuration(9, Configuration(members))
    assert not core.state.is_told_removed()


def test_what_is_older_than_what_was_told_says_nothing() -> None:
    core = make_core()
    core.hear_configuration(*without_me(9))
    core.hear_configuration(5, acting(core))
    assert core.state.is_told_removed()
    core.hear_configuration(11, acting(core))
    assert not core.state.is_told_removed()
    assert campaigns(core)


def test_a_node_that_belongs_to_no_cluster_tells_nothing() -> None:
    core = make_core()
    core.hear_configuration(9, Configuration())
    assert not core.state.is_told_removed()


def test_what_was_told_holds_until_the_own_log_knows_more() -> None:
    core = make_core(terms=(1,))
    index, removal = without_me(2)
    again = with_member(removal, Member(1, 1, MemberRole.VOTER, "", ""))
    removed, added = (
        make_entry(1, at, EntryKind.CONFIGURATION, encode_configuration(what))
        for at, what in ((index, removal), (index + 1, again))
    )
    core.step(says(AppendRequest, 1, prev_index=1, prev_term=1, entries=(removed,), commit_index=0))
    assert core.state.may_stand(), "its removal may not be committed"
    core.hear_configuration(index, removal)
    assert not core.state.may_stand(), "it is, and nobody else might ever have told"
    core.step(says(AppendRequest, 1, prev_index=index, prev_term=1, entries=(added,), commit_index=0))
    assert core.state.may_stand(), "it was added again"


def test_a_change_that_never_came_to_be_does_not_hide_a_removal() -> None:
    """Its own log ends with a change that it proposed as the leader of an older term, behind the removal's place."""
    core, term = leader()
    core.propose([b"x"] * 3)
    core.propose_configuration(with_member(acting(core), LEARNER))
    settle(core)
    index = core.state.configuration_index
    core.step(says(HeartbeatResponse, term + 1, round=0))
    core.hear_configuration(*without_me(index - 1))
    assert core.state.is_told_removed()


def test_a_change_that_is_truncated_is_undone() -> None:
    core, term = leader()
    core.propose_configuration(with_member(acting(core), LEARNER))
    settle(core)
    last = core.state.log.last_index
    prev_term = core.state.log.term_at(last - 1)
    other = says(AppendRequest, term + 1, prev_index=last - 1, prev_term=prev_term, entries=(), commit_index=last - 1)
    core.step(other)
    settle(core)
    assert acting(core).member(4) == LEARNER, "a longer log is no conflict by itself"
    noop = core.state.log.slice(1, 1, 1 << 20, 1)[0]
    entry = make_entry(term + 1, last, noop.kind, noop.data)
    core.step(
        says(AppendRequest, term + 1, prev_index=last - 1, prev_term=prev_term, entries=(entry,), commit_index=last - 1)
    )
    assert acting(core).member(4) is None


def test_changes_keep_the_recoveries() -> None:
    """Else a node of before a recovery would meet the cluster's log again behind the next change."""
    once = Configuration((Member(1, 1, MemberRole.VOTER, "c1", "r1"),), (7,))
    grown = with_member(once, LEARNER)
    assert (grown.recoveries, without_member(grown, 4)) == ((7,), once)
    assert decode_configuration(encode_configuration(grown)) == grown


def test_without_recoveries_an_entry_is_the_bytes_that_earlier_versions_write() -> None:
    """All founders write the same first entry, also while some are of an earlier version."""
    members = (Member(1, 1, MemberRole.VOTER, "c1", "r1"),)
    assert encode_configuration(Configuration(members)) == msgspec.msgpack.encode({"members": members})
