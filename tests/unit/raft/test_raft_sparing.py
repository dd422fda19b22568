"""With few writes under way, entries go at once to as many followers as commit them, and to others with a tick."""

from appliance.raft.core import RaftCore
from appliance.raft.messages import AppendRequest, AppendResponse, VoteResponse
from appliance.raft.state import RaftSettings
from tests.unit.raft.core_rig import elect, make_core, says, sent, settle

SETTINGS = RaftSettings(election_ticks=10, heartbeat_ticks=4, spare_entries_max=2, spared_entries_max=5)


def leader(voters: tuple[int, ...] = (1, 2, 3)) -> tuple[RaftCore, int]:
    """A leader whose followers all hold its log."""
    core = make_core(voters, settings=SETTINGS)
    term = elect(core) if len(voters) == 3 else _elect_of_five(core)
    for node_id in voters[1:]:
        acknowledge(core, term, node_id)
    core.tick()
    settle(core)
    return core, term


def _elect_of_five(core: RaftCore) -> int:
    core.campaign()
    settle(core)
    term = core.state.term + 1
    for pre_vote in (True, False):
        for sender in (2, 3):
            core.step(says(VoteResponse, term, sender=sender, granted=True, pre_vote=pre_vote))
        settle(core)
    return term


def acknowledge(core: RaftCore, term: int, node_id: int) -> None:
    core.step(says(AppendResponse, term, sender=node_id, success=True, index=core.state.log.last_index))
    settle(core)


def write(core: RaftCore, count: int = 1) -> dict[int, int]:
    """Propose; answers how many entries go to whom at once."""
    core.propose([b"x"] * count)
    return entries_to(core)


def entries_to(core: RaftCore) -> dict[int, int]:
    found: dict[int, int] = {}
    for message in sent(settle(core)):
        if isinstance(message, AppendRequest):
            found[message.to] = found.get(message.to, 0) + len(message.entries)
    return found


def test_one_write_goes_to_a_majority_and_to_the_rest_with_the_next_tick() -> None:
    core, term = leader()
    for _ in range(3):
        assert write(core) == {2: 1}
        acknowledge(core, term, 2)
        assert core.state.commit_index == core.state.log.last_index
    core.tick()
    assert entries_to(core) == {3: 3}


def test_of_five_two_are_spared() -> None:
    core, _ = leader((1, 2, 3, 4, 5))
    assert write(core) == {2: 1, 3: 1}


def test_many_writes_go_to_all() -> None:
    core, _ = leader()
    assert write(core, 3) == {2: 3, 3: 3}


def test_a_backlog_goes_out_without_a_tick() -> None:
    core, term = leader()
    for _ in range(5):
        assert write(core) == {2: 1}
        acknowledge(core, term, 2)
    assert write(core) == {2: 1, 3: 6}


def test_who_does_not_answer_is_waited_for_once() -> None:
    core, term = leader()
    assert write(core) == {2: 1}
    core.tick()
    assert entries_to(core) == {3: 1}
    acknowledge(core, term, 3)
    assert core.state.commit_index == core.state.log.last_index
    assert write(core) == {3: 1}, "the one that answered is ahead now"
    acknowledge(core, term, 3)
    acknowledge(core, term, 2)
    core.tick()
    settle(core)
    acknowledge(core, term, 2)
    assert write(core) == {3: 1}, "and stays the one that is asked first when the other has caught up"


def test_nobody_is_spared_while_a_follower_is_out_of_step() -> None:
    core, _ = leader()
    core.report_unreachable(2)
    settle(core)
    assert write(core)[3] == 1


def test_nobody_is_spared_during_a_handover() -> None:
    core, _ = leader()
    assert write(core) == {2: 1}
    core.transfer_leadership(3)
    core.tick()
    assert entries_to(core) == {3: 1}


def test_by_default_nobody_is_spared() -> None:
    core = make_core()
    term = elect(core)
    for node_id in (2, 3):
        acknowledge(core, term, node_id)
    assert write(core) == {2: 1, 3: 1}


def test_nobody_is_spared_while_the_own_disk_is_behind() -> None:
    core, term = leader()
    core.propose([b"x"])
    ready = core.ready()
    assert [m.to for m in ready.messages] == [2]
    for node_id in (2, 3):  # a majority without this node's disk
        core.step(says(AppendResponse, term, sender=node_id, success=True, index=core.state.log.last_index))
    core.ready()
    core.propose([b"x"])
    assert {m.to for m in core.ready().messages} == {2, 3}
