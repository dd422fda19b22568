"""Edges of the core that are easy to get wrong, one at a time."""

from __future__ import annotations

import pytest

from appliance.raft.core import NotLeader, RaftCore
from appliance.raft.elections import RELUCTANT_TIMEOUTS
from appliance.raft.log import ENTRY_OVERHEAD_BYTES, InvariantViolation
from appliance.raft.messages import (
    AppendRequest,
    AppendResponse,
    EntryKind,
    HardState,
    Heartbeat,
    HeartbeatResponse,
    ReadIndexRequest,
    ReadIndexResponse,
    ReadReady,
    Role,
    SnapshotMeta,
    TimeoutNow,
    VoteRequest,
    VoteResponse,
    make_entry,
)
from appliance.raft.state import RaftSettings, encode_configuration
from tests.unit.raft.core_rig import append, elect, make_core, membership, says, sent, settle

# -- one node


def test_a_single_node_elects_itself_and_commits_once_its_disk_has_it() -> None:
    core = make_core((1,))
    core.campaign()
    vote = core.ready()
    assert vote.hard_state == HardState(1, 1, 0)
    assert core.state.role is Role.CANDIDATE, "the own vote does not count before it is durable"
    core.persisted(vote.persist_id)
    assert core.state.role is Role.LEADER
    settle(core)
    index, term = core.propose([b"a"])
    ready = core.ready()
    assert not ready.committed
    core.persisted(ready.persist_id)
    assert [(e.index, e.term) for e in core.ready().committed] == [(index, term)]


def test_a_single_node_serves_reads_without_anybody() -> None:
    core = make_core((1,))
    core.campaign()
    settle(core)
    core.request_read(7)
    assert core.ready().reads == (ReadReady(7, 1),)


# -- starting


def test_a_ledger_ahead_of_the_log_stops_the_start() -> None:
    with pytest.raises(InvariantViolation, match="the log ends at 2"):
        make_core(terms=(1, 1), applied_index=3)


def test_a_log_that_was_compacted_beyond_the_ledger_stops_the_start() -> None:
    with pytest.raises(InvariantViolation, match="begins behind 5"):
        make_core(terms=(1, 1), snapshot_index=5, applied_index=4)


@pytest.mark.parametrize(
    ("hint", "applied", "expected"),
    [
        pytest.param(2, 0, 2, id="hint"),
        pytest.param(9, 0, 3, id="hint-beyond-the-log"),
        pytest.param(0, 2, 2, id="applied-is-committed"),
    ],
)
def test_the_commit_index_after_a_start(hint: int, applied: int, expected: int) -> None:
    core = make_core(terms=(1, 1, 1), hard_state=HardState(1, 0, hint), applied_index=applied)
    assert core.state.commit_index == expected
    assert [e.index for r in settle(core) for e in r.committed] == list(range(applied + 1, expected + 1))


# -- durability


def test_a_promise_waits_for_the_disk() -> None:
    core = make_core()
    core.step(append(1, 0, 0, (1,)))
    ready = core.ready()
    assert [e.index for e in ready.entries] == [1]
    assert not ready.messages
    assert [type(m) for m in ready.messages_after_persist] == [AppendResponse]
    assert core.state.log.stable_index == 0
    core.persisted(ready.persist_id)
    assert core.state.log.stable_index == 1


def test_a_write_that_was_replaced_by_a_later_write_does_not_count() -> None:
    core = make_core()
    core.step(append(1, 0, 0, (1, 1, 1)))
    old = core.ready()
    core.step(append(2, 1, 1, (2,)))
    new = core.ready()
    core.persisted(old.persist_id)
    assert core.state.log.stable_index == 1, "entries 2 and 3 of the old write were replaced"
    core.persisted(new.persist_id)
    assert core.state.log.stable_index == 2


def test_a_write_that_was_replaced_before_the_driver_knew_does_not_count() -> None:
    core = make_core()
    core.step(append(1, 0, 0, (1, 1, 1)))
    old = core.ready()
    core.step(append(2, 1, 1, (2, 2)))
    core.persisted(old.persist_id)  # while entries 2 and 3 of term 2 wait for the next Ready
    assert core.state.log.stable_index == 1


def test_entries_that_were_replaced_and_put_back_count_only_when_written_again() -> None:
    core = make_core()
    core.step(append(1, 0, 0, (1, 1)))
    first = core.ready()
    core.step(append(2, 1, 1, (2,)))
    second = core.ready()
    core.step(append(3, 1, 1, (1,)))  # a leader that holds the old entry 2
    third = core.ready()
    core.persisted(first.persist_id)
    assert core.state.log.stable_index == 1
    core.persisted(second.persist_id)
    assert core.state.log.stable_index == 1
    core.persisted(third.persist_id)
    assert core.state.log.stable_index == 2
    assert core.state.log.term_at(2) == 1


def test_the_leader_counts_itself_only_once_its_disk_has_the_entry() -> None:
    core = make_core()
    term = elect(core)
    core.step(says(AppendResponse, term, success=True, index=1))
    settle(core)
    core.propose([b"a"])
    ready = core.ready()
    core.step(says(AppendResponse, term, success=True, index=2))
    assert core.state.commit_index == 1
    core.persisted(ready.persist_id)
    assert core.state.commit_index == 2


# -- messages that come late, twice or from elsewhere


def test_a_repeated_append_changes_nothing() -> None:
    core = make_core()
    message = append(1, 0, 0, (1, 1))
    core.step(message)
    settle(core)
    core.step(message)
    again = settle(core)
    assert not any(r.entries for r in again)
    assert [m.index for m in sent(again) if isinstance(m, AppendResponse)] == [2]


def test_a_late_append_does_not_shorten_the_log() -> None:
    core = make_core()
    core.step(append(1, 0, 0, (1, 1, 1)))
    core.step(append(1, 0, 0, (1,)))
    assert core.state.log.last_index == 3


def test_an_append_behind_the_commit_index_is_taken_from_there_on() -> None:
    core = make_core()
    core.step(append(1, 0, 0, (1, 1), commit_index=2))
    settle(core)
    core.compact(2)
    core.step(append(1, 0, 0, (1, 1, 1)))
    assert core.state.log.last_index == 3


def test_a_conflict_with_a_committed_entry_stops_the_node() -> None:
    core = make_core(terms=(1, 1), hard_state=HardState(1, 0, 1))
    core.state.commit_index = 1
    core.state.log.stable_index = 2
    with pytest.raises(InvariantViolation, match="committed"):
        core.state.truncate_from(1)


def test_a_second_leader_of_a_term_stops_the_node() -> None:
    core = make_core()
    term = elect(core)
    with pytest.raises(InvariantViolation, match=f"leads term {term}"):
        core.step(says(Heartbeat, term, commit_index=0, round=0))


def test_only_the_incarnation_in_the_configuration_counts() -> None:
    core = make_core()
    term = elect(core)
    core.step(says(AppendResponse, term, incarnation=99, success=True, index=1))
    assert core.state.commit_index == 0
    core.step(says(AppendResponse, term, success=True, index=1))
    assert core.state.commit_index == 1


def test_a_vote_of_another_incarnation_does_not_count() -> None:
    core = make_core()
    core.campaign()
    core.step(says(VoteResponse, 1, incarnation=99, granted=True, pre_vote=True))
    assert core.state.role is Role.PRE_CANDIDATE


def test_a_late_vote_does_not_elect() -> None:
    core = make_core()
    core.campaign()
    core.step(says(VoteResponse, 1, granted=True, pre_vote=True))
    settle(core)
    core.step(says(Heartbeat, 2, sender=3, commit_index=0, round=0))
    core.step(says(VoteResponse, 1, granted=True))
    assert (core.state.role, core.state.leader_id) == (Role.FOLLOWER, 3)


def test_a_message_for_somebody_else_is_not_taken() -> None:
    core = make_core()
    core.step(Heartbeat(sender=2, sender_incarnation=2, to=3, term=9, commit_index=0, round=0))
    assert core.state.term == 0


def test_an_old_leader_is_told_the_term() -> None:
    core = make_core(hard_state=HardState(5, 0, 0))
    core.step(append(3, 0, 0, (3,)))
    answers = sent(settle(core))
    assert [(type(m), m.term) for m in answers] == [(HeartbeatResponse, 5)]
    assert core.state.log.last_index == 0


# -- votes


def test_one_vote_a_term() -> None:
    core = make_core()
    core.step(says(VoteRequest, 4, sender=2, last_log_index=0, last_log_term=0))
    core.step(says(VoteRequest, 4, sender=3, last_log_index=9, last_log_term=3))
    core.step(says(VoteRequest, 4, sender=2, last_log_index=0, last_log_term=0))
    answers = [(m.to, m.granted) for m in sent(settle(core)) if isinstance(m, VoteResponse)]
    assert answers == [(2, True), (3, False), (2, True)]


def test_a_vote_survives_a_restart() -> None:
    core = make_core(hard_state=HardState(4, 2, 0))
    core.step(says(VoteRequest, 4, sender=3, last_log_index=9, last_log_term=3))
    assert [m.granted for m in sent(settle(core)) if isinstance(m, VoteResponse)] == [False]


def test_a_pre_vote_binds_nobody() -> None:
    core = make_core()
    for sender in (2, 3):
        core.step(says(VoteRequest, 4, sender=sender, last_log_index=0, last_log_term=0, pre_vote=True))
    answers = [m for m in sent(settle(core)) if isinstance(m, VoteResponse)]
    assert [m.granted for m in answers] == [True, True]
    assert (core.state.term, core.state.vote) == (0, 0)


def test_a_node_that_may_not_campaign_does_not_when_asked_to() -> None:
    core = make_core()
    core.step(says(Heartbeat, 3, commit_index=0, round=0))
    core.set_may_campaign(False)
    core.step(says(TimeoutNow, 3))
    assert core.state.role is Role.FOLLOWER
    core.set_may_campaign(True)
    core.step(says(TimeoutNow, 3))
    assert core.state.role is Role.CANDIDATE


def timeouts_until_it_campaigns(core: RaftCore, timeouts_max: int = 20) -> int:
    """How many election time-outs pass in silence before this node campaigns."""
    for number in range(1, timeouts_max + 1):
        for _ in range(core.state.timeout_ticks - core.state.elapsed_ticks):
            core.tick()
        if core.state.role is not Role.FOLLOWER:
            return number
    raise AssertionError("it never campaigned")


def test_a_node_that_had_better_not_lead_campaigns_when_nobody_else_does() -> None:
    core = make_core()
    assert timeouts_until_it_campaigns(core) == 1
    core = make_core()
    core.set_may_campaign(False)
    assert timeouts_until_it_campaigns(core) == RELUCTANT_TIMEOUTS
    core.step(says(Heartbeat, 1, sender=2, commit_index=0, round=0))
    assert timeouts_until_it_campaigns(core) == RELUCTANT_TIMEOUTS, "a leader was there meanwhile"


def test_a_node_that_does_not_campaign_lets_others_when_the_leader_is_silent() -> None:
    core = make_core()
    core.set_may_campaign(False)
    core.step(says(Heartbeat, 1, sender=2, commit_index=0, round=0))
    for _ in range(core.state.timeout_ticks):
        core.tick()
    assert core.state.leader_id == 0
    settle(core)
    core.step(says(VoteRequest, 2, sender=3, last_log_index=0, last_log_term=0, pre_vote=True))
    assert [m.granted for m in sent(settle(core)) if isinstance(m, VoteResponse)] == [True]


def test_a_vote_for_another_is_no_leader() -> None:
    core = make_core()
    core.set_may_campaign(False)
    for term in range(1, RELUCTANT_TIMEOUTS + 1):
        core.step(says(VoteRequest, term, last_log_index=0, last_log_term=0))
        for _ in range(core.state.timeout_ticks):
            core.tick()
    assert core.state.role is Role.PRE_CANDIDATE, "the others campaign, and none of them is elected"


# -- leaving office


def test_no_proposals_while_handing_over() -> None:
    core = make_core()
    elect(core)
    core.transfer_leadership(2)
    with pytest.raises(NotLeader) as refusal:
        core.propose([b"a"])
    assert refusal.value.leader_id == 0, "who leads next is not known yet"
    for _ in range(10):
        core.step(says(HeartbeatResponse, core.state.term, round=0))
        core.tick()
    core.propose([b"a"])


@pytest.mark.parametrize("heard_at", [0, 4, 9])
def test_a_leader_steps_down_an_election_timeout_after_it_heard_from_a_majority(heard_at: int) -> None:
    core = make_core()
    elect(core)
    for _ in range(heard_at):
        core.tick()
    core.step(says(HeartbeatResponse, core.state.term, round=0))
    ticks = 0
    while core.state.role is Role.LEADER:
        core.step(says(HeartbeatResponse, core.state.term, sender=4, round=0))  # of no member
        core.tick()
        ticks += 1
    assert ticks == core.state.settings.election_ticks


def test_a_new_leader_has_an_election_timeout_to_be_heard() -> None:
    core = make_core()
    for _ in range(9):
        core.tick()
    elect(core)
    for _ in range(9):
        core.tick()
    assert core.state.role is Role.LEADER
    core.step(says(HeartbeatResponse, core.state.term, round=0))
    core.tick()
    assert core.state.role is Role.LEADER


def test_only_another_voter_can_be_handed_to() -> None:
    core = make_core()
    elect(core)
    for target in (1, 9):
        with pytest.raises(ValueError, match="no other voter"):
            core.transfer_leadership(target)


def test_reads_fail_when_the_leader_changes() -> None:
    core = make_core()
    core.step(says(Heartbeat, 3, sender=2, commit_index=0, round=0))
    core.request_read(11)
    settle(core)
    core.step(says(Heartbeat, 4, sender=3, commit_index=0, round=0))
    assert [r.reads_failed for r in settle(core) if r.reads_failed] == [(11,)]
    core.step(says(ReadIndexResponse, 4, sender=3, context=core.state.read_epoch | 11, index=9))
    assert not [r for r in settle(core) if r.reads], "an answer that nobody waits for"


def test_an_answer_to_an_earlier_life_is_not_taken_for_this_one() -> None:
    questions = []
    for life in (1, 2):
        core = make_core(random_seed=life)
        core.step(says(Heartbeat, 3, sender=2, commit_index=0, round=0))
        core.request_read(1)
        questions += [m.context for m in sent(settle(core)) if isinstance(m, ReadIndexRequest)]
    core.step(says(ReadIndexResponse, 3, context=questions[0], index=5))
    assert not [r for r in settle(core) if r.reads]
    core.step(says(ReadIndexResponse, 3, context=questions[1], index=9))
    assert [r.reads for r in settle(core)] == [(ReadReady(1, 9),)]


def test_a_leader_that_steps_down_fails_its_own_reads() -> None:
    core = make_core()
    term = elect(core)
    core.request_read(11)
    core.step(says(HeartbeatResponse, term + 1, round=0))
    assert [r.reads_failed for r in settle(core) if r.reads_failed] == [(11,)]


def test_an_older_heartbeat_answer_does_not_confirm_a_read() -> None:
    core = make_core()
    term = elect(core)
    core.step(says(AppendResponse, term, success=True, index=1))
    before = core.state.round
    settle(core)
    core.request_read(11)
    core.step(says(HeartbeatResponse, term, round=before))
    assert not [r for r in settle(core) if r.reads]
    core.step(says(HeartbeatResponse, term, round=core.state.round))
    assert [r.reads for r in settle(core) if r.reads] == [(ReadReady(11, 1),)]


def test_a_leader_that_installs_a_snapshot_does_not_follow_itself() -> None:
    core = make_core()
    elect(core)
    assert core.restore(SnapshotMeta(50, 9, membership(1, 2, 3)))
    assert (core.state.role, core.state.leader_id) == (Role.FOLLOWER, 0)
    settle(core)
    core.request_read(1)
    assert core.ready().reads_failed == (1,)


# -- snapshots


def test_nothing_is_applied_between_a_snapshot_and_its_installation() -> None:
    core = make_core()
    core.step(append(3, 0, 0, (1, 1)))
    settle(core)
    assert core.restore(SnapshotMeta(20, 3, membership(1, 2, 3)))
    core.step(append(3, 20, 3, (3,), commit_index=21))
    ready = core.ready()
    assert ready.snapshot is not None
    assert ready.snapshot.index == 20
    assert [e.index for e in ready.entries] == [21]
    assert not ready.committed
    assert [e.index for e in core.ready().committed] == [21]


@pytest.mark.parametrize(
    ("index", "term", "commit_index"),
    [
        pytest.param(1, 1, 2, id="older-than-what-is-committed"),
        pytest.param(3, 1, 3, id="held-already"),
    ],
)
def test_a_snapshot_that_is_not_needed(index: int, term: int, commit_index: int) -> None:
    core = make_core()
    core.step(append(1, 0, 0, (1, 1, 1), commit_index=2))
    settle(core)
    assert not core.restore(SnapshotMeta(index, term, membership(1, 2, 3)))
    assert core.state.commit_index == commit_index
    assert core.state.log.last_index == 3


def test_a_full_window_over_a_compacted_place_leads_to_a_snapshot() -> None:
    core = make_core()
    term = elect(core)
    core.step(says(AppendResponse, term, success=True, index=1))
    core.step(says(AppendResponse, term, sender=3, success=True, index=1))
    settle(core)
    for n in range(2, 2 + 70):  # more messages than may be in flight to node 3, which never answers
        core.propose([b"a"])
        settle(core)
        core.step(says(AppendResponse, term, success=True, index=n))
        settle(core)
    core.compact(71)
    core.step(says(HeartbeatResponse, term, sender=3, round=0))
    assert [r.snapshots_to_send for r in settle(core) if r.snapshots_to_send] == [(3,)]


def test_a_failed_snapshot_is_asked_for_again() -> None:
    core = make_core(terms=(1, 1), snapshot_index=5, applied_index=7, hard_state=HardState(1, 0, 7))
    term = elect(core)
    core.compact(7)
    core.step(says(AppendResponse, term, success=False, index=7, hint_index=0, hint_term=0))
    assert [r.snapshots_to_send for r in settle(core) if r.snapshots_to_send] == [(2,)]
    core.report_snapshot(2, 0)
    assert [r.snapshots_to_send for r in settle(core) if r.snapshots_to_send] == [(2,)]


def test_no_more_is_handed_out_than_a_driver_can_hold() -> None:
    """After a long stop everything that is committed would otherwise be read into memory at once."""
    settings = RaftSettings(committed_bytes_max=1, unapplied_bytes_max=2 * (1 + ENTRY_OVERHEAD_BYTES) + 1)
    core = make_core(terms=(1,) * 9, hard_state=HardState(1, 0, 9), settings=settings)
    handed: list[int] = []
    while core.has_ready():
        handed += [e.index for e in core.ready().committed]
    assert handed == [1, 2, 3]
    core.applied(2)
    while core.has_ready():
        handed += [e.index for e in core.ready().committed]
    assert handed == [1, 2, 3, 4, 5]


# -- configurations


def test_a_configuration_acts_when_appended_and_is_undone_when_truncated() -> None:
    core = make_core()
    five = encode_configuration(membership(1, 2, 3, 4, 5))
    entry = make_entry(1, 1, EntryKind.CONFIGURATION, five)
    core.step(says(AppendRequest, 1, prev_index=0, prev_term=0, entries=(entry,), commit_index=0))
    assert core.state.configuration.voters() == (1, 2, 3, 4, 5)
    settle(core)
    core.step(append(2, 0, 0, (2,)))
    assert core.state.configuration.voters() == (1, 2, 3)
