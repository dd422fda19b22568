"""Nodes compare their states: who is in the minority takes itself out, and who cannot know says that states differ."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import msgspec
import pytest
from driver_rig import LEADER, ME, TERM, WAIT_S, Peers, Rig, put, until

from appliance.ledger.commands import Op, Operation, WriteRequest, encode_checkpoint
from appliance.ledger.machine import STATES_KEPT
from appliance.ledger.state import StateAt
from appliance.ledger.tile_paths import BundleId, TileId
from appliance.node.divergence import UNDECIDED_S
from appliance.node.handover import UNFITNESS_CALL
from appliance.node.publishing import UNSEEN_S_MAX
from appliance.node.view import health_of
from appliance.raft.messages import Entry, EntryKind, TimeoutNow, make_entry
from appliance.tables.errors import ApplianceError

pytestmark = pytest.mark.anyio

States = Mapping[int, bytes]
FIRST, MARK = 2, 3  # the founding entry is the first one


def mark(index: int) -> Entry:
    return make_entry(TERM, index, EntryKind.NORMAL, encode_checkpoint(index))


def own(rig: Rig) -> dict[int, bytes]:
    machine = rig.driver.applier.machine
    return {state.raft_index: state.digest for state in (*machine.states, machine.state_now())}


def other(states: States, since: int = 0, salt: bytes = b"") -> dict[int, bytes]:
    """The states of a node that differs from an index on."""
    return {index: (digest[::-1] + salt)[-32:] if index >= since else digest for index, digest in states.items()}


def peers_say(rig: Rig, said: Mapping[int, States], *, incarnations: Mapping[int, int] | None = None) -> None:
    """What peers answer; those that are missing do not."""

    async def answer(node_id: int, name: str, body: bytes) -> bytes:
        if name != "states" or node_id not in said:
            raise ApplianceError("conflict", "it does not know the call")
        states = [StateAt(index, digest) for index, digest in said[node_id].items()]
        incarnation = (incarnations or {}).get(node_id, node_id * 10)
        return msgspec.msgpack.encode((incarnation, states))

    rig.network.on_call = answer


async def applied(rig: Rig, *entries: Entry) -> None:
    rig.take(entries, commit=entries[-1].index)
    await until(lambda: rig.driver.applier.applied_index == entries[-1].index, "the entries to be applied")


async def look(rig: Rig, *, after_s: float = 0.0) -> tuple[str, ...]:
    rig.clock.ahead_s += after_s
    await rig.driver.fitness.divergence.look()
    return health_of(rig.driver).alarms


async def quarantine(rig: Rig) -> None:
    peers_say(rig, dict.fromkeys((2, 3), other(own(rig))))
    assert await look(rig) == ("diverged",)


async def code_of(work: Awaitable[object]) -> str:
    with pytest.raises(ApplianceError) as caught:
        await asyncio.wait_for(work, WAIT_S)
    return caught.value.code


async def test_a_node_remembers_its_state_behind_what_is_no_write(rig: Rig) -> None:
    await applied(rig, put(FIRST), mark(MARK), put(4))
    machine = rig.driver.applier.machine
    assert [state.raft_index for state in machine.states] == [1, MARK]
    later = [mark(index) for index in range(5, 5 + STATES_KEPT)]
    await applied(rig, *later)
    assert [state.raft_index for state in machine.states] == [entry.index for entry in later]
    assert len({state.digest for state in machine.states}) == STATES_KEPT
    answer = await rig.desk.on_call(LEADER, "states", b"")
    incarnation, states = msgspec.msgpack.decode(answer, type=tuple[int, list[StateAt]])
    assert incarnation == ME * 10
    assert states == [*machine.states, machine.state_now()]


CASES = {
    "all agree": (lambda mine: {2: mine, 3: mine}, ()),
    "one differs, and is in the minority itself": (lambda mine: {2: mine, 3: other(mine)}, ()),
    "the others agree on another state": (lambda mine: {2: other(mine), 3: other(mine)}, ("diverged",)),
    "they do since an entry that this node has passed": (
        lambda mine: {2: other(mine, MARK), 3: other({MARK: mine[MARK]}, MARK)},
        ("diverged",),
    ),
    "they were told at other indexes": (lambda mine: {2: {MARK: mine[MARK]}, 3: {1: mine[1]}}, ()),
    "they have nothing in common": (lambda mine: {2: {98: bytes(32)}, 3: {99: bytes(32)}}, ()),
    "nobody answers": (lambda mine: {}, ()),
    "three states": (lambda mine: {2: other(mine), 3: other(mine, salt=b"x")}, ("divergence_seen",)),
    "one differs, the other is silent": (lambda mine: {2: other(mine)}, ("divergence_seen",)),
    "one differs, the other lags": (lambda mine: {2: other(mine, MARK), 3: {1: mine[1]}}, ("divergence_seen",)),
}


@pytest.mark.parametrize("name", CASES)
async def test_the_majority_of_the_voters_decides(name: str, rig: Rig) -> None:
    await applied(rig, put(FIRST), mark(MARK), put(4))
    said, alarms = CASES[name]
    peers_say(rig, said(own(rig)))
    first = await look(rig)
    assert first == (alarms if alarms == ("diverged",) else ()), "what is not decided may only not be told yet"
    assert await look(rig, after_s=UNDECIDED_S) == alarms
    assert ("ledger.integrity" in rig.log.events) == bool(alarms)
    assert health_of(rig.driver).healthy == (alarms != ("diverged",))
    assert any("quarantined" in reason for reason in health_of(rig.driver).reasons) == (alarms == ("diverged",))


async def test_another_incarnation_has_no_vote(rig: Rig) -> None:
    await applied(rig, put(FIRST), mark(MARK))
    wrong = other(own(rig))
    peers_say(rig, {2: wrong, 3: wrong}, incarnations={3: 31})
    assert await look(rig, after_s=UNDECIDED_S) == ()
    assert await look(rig, after_s=UNDECIDED_S) == ("divergence_seen",)
    peers_say(rig, {2: wrong, 3: wrong})
    assert await look(rig) == ("diverged",)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\xc1",
        msgspec.msgpack.encode((20, True)),
        msgspec.msgpack.encode((20, True, [(1, "text")])),
        msgspec.msgpack.encode((20, True, [(n, bytes(32)) for n in range(STATES_KEPT + 2)])),
    ],
)
async def test_an_answer_that_cannot_be_read_says_nothing(answer: bytes, rig: Rig) -> None:
    async def junk(node_id: int, name: str, body: bytes) -> bytes:
        return answer

    rig.network.on_call = junk
    assert await look(rig, after_s=UNDECIDED_S) == ()
    assert not rig.fatal


async def test_what_was_seen_is_withdrawn_once_a_majority_is_back(rig: Rig) -> None:
    await applied(rig, put(FIRST), mark(MARK))
    told = own(rig)
    peers_say(rig, {2: other(told, MARK)})
    await look(rig)
    assert await look(rig, after_s=UNDECIDED_S) == ("divergence_seen",)
    peers_say(rig, {3: {1: told[1]}})
    assert await look(rig) == ("divergence_seen",), "what node 2 said is true though it is gone, and 3 lags"
    peers_say(rig, {3: told})
    assert await look(rig) == ()


READS: dict[str, Callable[[Rig], Awaitable[object]]] = {
    "read": lambda rig: rig.service.read("k2", linearizable=False),
    "linearizable read": lambda rig: rig.service.read("k2", linearizable=True),
    "read of the past": lambda rig: rig.service.read("k2", linearizable=False, at_leaf=0),
    "scan": lambda rig: rig.service.scan("", "", 9, linearizable=False),
    "history": lambda rig: rig.service.history("k2", None, 9, linearizable=False),
    "checkpoint": lambda rig: rig.service.checkpoint(),
    "tile": lambda rig: rig.service.tile(TileId(0, 0, 1)),
    "entries": lambda rig: rig.service.entries(BundleId(0, 1)),
    "inclusion": lambda rig: rig.service.inclusion(0, 1),
    "consistency": lambda rig: rig.service.consistency(1, 1),
    "proof": lambda rig: rig.service.prove("k2"),
    "receipt": lambda rig: rig.service.receipt(0, 1),
    "audit query": lambda rig: rig.service.settle(),
}


@pytest.mark.parametrize("name", READS)
async def test_nothing_of_a_wrong_state_is_told(name: str, rig: Rig, peers: Peers) -> None:
    """The node leads, so that every read would be answered otherwise."""
    await write(rig, "k2")
    rig.clock.ahead_us += 2_000_000
    rig.publishing.publish_if_due()
    await until(lambda: rig.driver.applier.machine.published.tree_size == 1, "the tree to be published")
    await asyncio.wait_for(READS[name](rig), WAIT_S)
    await quarantine(rig)
    assert await code_of(READS[name](rig)) == "quarantined"


async def write(rig: Rig, key: str) -> None:
    await rig.service.write(WriteRequest((Operation(Op.PUT, key, b"v"),), "tester", "r"))


async def test_it_goes_on_storing_acknowledging_and_applying(rig: Rig) -> None:
    await applied(rig, put(FIRST), mark(MARK))
    await quarantine(rig)
    await applied(rig, put(4), put(5))
    await until(lambda: rig.stable_index == 5, "the log to be stored")
    acknowledged = [message for message in rig.network.sent if getattr(message, "success", False)]
    assert acknowledged[-1].index == 5
    assert not rig.fatal


async def test_it_never_campaigns(rig: Rig) -> None:
    await applied(rig, put(FIRST), mark(MARK))
    await quarantine(rig)
    core = rig.driver.core
    assert core is not None
    rig.desk.on_message(TimeoutNow(sender=LEADER, sender_incarnation=LEADER * 10, to=ME, term=TERM))
    assert core.state.elections_started == 0
    assert "is not that of the others" in msgspec.msgpack.decode(await rig.desk.on_call(LEADER, UNFITNESS_CALL, b""))


async def test_a_leader_hands_over_to_one_that_would_lead(rig: Rig, peers: Peers) -> None:
    wrong = other(own(rig))
    peers_say(rig, {2: wrong, 3: wrong})
    rig.network.unfit = {3: "the disk of node 3 is full"}
    assert await look(rig) == ("diverged",)

    def asked() -> list[int]:
        return [message.to for message in rig.network.sent if isinstance(message, TimeoutNow)]

    await until(lambda: bool(asked()), "this node to hand over")
    assert asked() == [2], "node 3 has as much, and the higher number"


async def test_a_leader_that_nobody_follows_leads_on_takes_no_writes_and_tries_again(rig: Rig, peers: Peers) -> None:
    """Reads of good nodes go on then: they ask it for nothing but an index."""
    told: list[object] = []
    peers.deaf = True
    rig.service.write_now(WriteRequest((Operation(Op.PUT, "a", b"v"),), "tester", "r"), told.append)
    wrong = other(own(rig))
    peers_say(rig, {2: wrong, 3: wrong})
    await look(rig)
    (outcome,) = told
    assert isinstance(outcome, ApplianceError)
    assert outcome.code == "outcome_unknown", "it may be committed, and what this node makes of it is not to be told"
    core = rig.driver.core
    assert core is not None
    await until(lambda: core.state.transfer_target != 0, "this node to try to hand over")
    core.state.transfer_target = 0  # as the core does when nobody takes over in time
    rig.clock.ahead_s += rig.driver.settings.election_timeout_s
    assert await code_of(write(rig, "b")) == "quarantined"
    sent = len(rig.network.sent)
    peers.listen()
    await until(lambda: any(isinstance(m, TimeoutNow) for m in rig.network.sent[sent:]), "another try")


async def test_it_sends_no_snapshot(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.node.snapshots.RETRY_S_MIN", 0.01)
    await applied(rig, put(FIRST), mark(MARK))
    await until(lambda: rig.stable_index == MARK, "the log to be stored")
    assert await rig.driver.keeper.flushed() == MARK
    reports: list[tuple[int, int]] = []
    held = asyncio.Event()

    async def send_snapshot(*_: object) -> None:
        rig.network.snapshots.append(3)
        await held.wait()

    monkeypatch.setattr(rig.network, "send_snapshot", send_snapshot)
    rig.driver.snapshots.send(3, lambda node, index: reports.append((node, index)))
    await until(lambda: rig.network.snapshots == [3], "a snapshot to be on its way")
    await quarantine(rig)
    await until(lambda: reports == [(3, 0)], "it to be dropped")
    rig.driver.snapshots.send(3, lambda node, index: reports.append((node, index)))
    await until(lambda: len(reports) == 2, "the next one to be put off")
    assert rig.network.snapshots == [3]


async def test_a_snapshot_of_a_good_node_ends_it(rig: Rig) -> None:
    await applied(rig, put(FIRST), mark(MARK))
    await quarantine(rig)
    core = rig.driver.core
    assert core is not None
    rig.driver.fitness.divergence.replaced()
    assert health_of(rig.driver).alarms == ()
    assert core.state.may_campaign
    assert (await rig.service.read("k2", linearizable=False)).value == b"v"


async def test_a_state_that_the_others_do_not_share_is_not_signed(rig: Rig) -> None:
    """Though nobody had looked since it was applied."""
    await applied(rig, put(FIRST), mark(MARK))
    peers_say(rig, dict.fromkeys((2, 3), other(own(rig))))
    assert await code_of(rig.service.checkpoint()) == "quarantined"


async def test_the_leader_gives_an_index_to_compare_at_when_writes_leave_no_leaf(rig: Rig, peers: Peers) -> None:
    refused = WriteRequest((Operation(Op.DELETE, "absent"),), "tester", "r")
    machine = rig.driver.applier.machine
    await rig.service.write(refused)
    core = rig.driver.core
    assert core is not None
    last_index = core.state.log.last_index
    rig.publishing.publish_if_due()
    assert core.state.log.last_index == last_index, "it is too early"
    assert machine.states[-1].raft_index < machine.applied_index
    rig.clock.ahead_s += UNSEEN_S_MAX
    for _ in range(2):  # the second finds nothing new
        rig.publishing.publish_if_due()
        await until(lambda: machine.states[-1].raft_index == machine.applied_index, "an entry to compare at")
        rig.clock.ahead_s += UNSEEN_S_MAX
    assert machine.published.tree_size == 0
    assert core.state.log.last_index == machine.applied_index


async def test_a_restart_changes_nothing(tmp_path: Path) -> None:
    """It is noted beside the log, so that nothing is told before the others were asked."""
    rig = Rig(tmp_path)
    await rig.driver.start()
    await applied(rig, put(FIRST), mark(MARK))
    await quarantine(rig)
    detail = rig.driver.quarantine
    assert rig.data.standing.diverged == detail
    await asyncio.wait_for(rig.driver.stop(), WAIT_S)
    rig.data.close()
    again = Rig(rig.directory)
    await again.driver.start()
    try:
        assert again.driver.quarantine == detail
        assert health_of(again.driver).alarms == ("diverged",)
        assert again.driver.core is not None
        assert not again.driver.core.state.may_campaign
        assert await code_of(again.service.read("k2", linearizable=False)) == "quarantined"
        again.driver.fitness.divergence.replaced()
        assert again.data.standing.diverged == ""
    finally:
        await asyncio.wait_for(again.driver.stop(), WAIT_S)
