"""What a driver promises around its threads: nothing before it is durable, nobody left waiting, no error swallowed."""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest
from driver_rig import CLUSTER_ID, CONFIGURATION, LEADER, ME, TERM, WAIT_S, Peers, Rig, put, until

from appliance.ledger.commands import Op, Operation, Outcome, WriteRequest, WriteResult
from appliance.node.peer_ports import Hello, Promise, SnapshotFile
from appliance.node.ports import Identity
from appliance.raft.messages import (
    AnyMessage,
    AppendRequest,
    AppendResponse,
    Entry,
    EntryKind,
    Heartbeat,
    HeartbeatResponse,
    SnapshotMeta,
    make_entry,
)
from appliance.tables.errors import ApplianceError

pytestmark = pytest.mark.anyio


async def commit_what_is_not_synced(rig: Rig) -> None:
    """Entries 2 to 4 are synced; 5 to 9 are committed and applied, and their sync hangs."""
    rig.append(2, 3, commit=4)
    await until(lambda: rig.stable_index == 4, "the first entries on disk")
    rig.log_store.open.clear()
    rig.append(5, 5, commit=9)
    await until(lambda: rig.driver.applier.applied_index == 9, "all applied")


async def test_the_ledger_file_never_passes_the_synced_log(rig: Rig) -> None:
    await commit_what_is_not_synced(rig)
    assert await rig.driver.keeper.flushed() <= 4
    assert await rig.driver.keeper.flushed() == 4


async def test_nor_when_a_snapshot_is_about_to_take_the_logs_place(rig: Rig) -> None:
    await commit_what_is_not_synced(rig)
    core = rig.driver.core
    assert core is not None
    await rig.driver.keeper.flushed()
    assert core.restore(SnapshotMeta(20, TERM, CONFIGURATION))
    assert await rig.driver.keeper.flushed() == 4
    core.state.unsaved_snapshot = None  # there is no such file; what counts was seen


async def test_who_waits_for_the_ledger_file_is_told_when_the_node_fails(rig: Rig) -> None:
    await commit_what_is_not_synced(rig)
    settling = asyncio.create_task(rig.service.settle())
    await asyncio.sleep(0.05)
    assert not settling.done(), "entries 5 to 9 are in no file yet"
    rig.driver.fail("the disk is gone")
    with pytest.raises(ApplianceError, match="the disk is gone") as caught:
        await asyncio.wait_for(settling, WAIT_S)
    assert caught.value.code == "unhealthy"


async def test_waiting_for_the_ledger_file_is_not_spinning(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await commit_what_is_not_synced(rig)
    flushes = 0
    flush: Callable[[int], int] = rig.ledger_store.flush

    def counted(index_max: int) -> int:
        nonlocal flushes
        flushes += 1
        return flush(index_max)

    monkeypatch.setattr(rig.ledger_store, "flush", counted)
    settling = asyncio.create_task(rig.service.settle())
    began_s = time.monotonic()
    await asyncio.sleep(0.5)
    seen, intervals = flushes, (time.monotonic() - began_s) / 0.01
    rig.log_store.open.set()
    await asyncio.wait_for(settling, WAIT_S)
    assert seen <= 4 * intervals, "the keeper's own flush and one of who waits, in each interval; 3,700 when it spun"
    assert rig.ledger_store.flush(0) == 9


async def test_who_waits_for_the_ledger_file_is_told_when_the_node_stops(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    await rig.driver.start()
    await commit_what_is_not_synced(rig)
    settling = asyncio.create_task(rig.service.settle())
    await asyncio.sleep(0.05)
    rig.log_store.open.set()
    await asyncio.wait_for(rig.driver.stop(), WAIT_S)
    done, _ = await asyncio.wait([settling], timeout=WAIT_S)
    assert done, "it waits for ever"
    assert settling.exception() is None or isinstance(settling.exception(), ApplianceError)
    with pytest.raises(ApplianceError):
        await asyncio.wait_for(rig.service.settle(), WAIT_S)


async def test_a_node_that_stops_answers_the_writes_that_others_forwarded(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    await rig.driver.start()
    peers = Peers(rig)
    await peers.elect()
    core = rig.driver.core
    assert core is not None
    await until(lambda: core.state.commit_index == core.state.log.last_index, "all committed")
    peers.deaf = True
    request = WriteRequest((Operation(Op.PUT, "k", b"v"),), "tester", "r1")
    writing = asyncio.create_task(rig.desk.on_write(request))
    await until(lambda: not rig.driver.writes.is_empty(), "the write in the log")
    term, index = core.state.term, core.state.log.last_index
    stopping = asyncio.create_task(rig.driver.stop())
    await asyncio.sleep(0)
    with pytest.raises(ApplianceError) as refused:
        await rig.desk.on_write(request)
    assert refused.value.code == "no_leader", "who forwarded it looks for another leader"
    new = {"sender": LEADER, "sender_incarnation": LEADER * 10, "to": ME, "term": term + 1}
    rig.desk.on_message(Heartbeat(commit_index=0, round=0, **new))
    await asyncio.wait([writing], timeout=0.1)
    assert not writing.done(), "it will be committed, but this node does not know yet"
    noop = make_entry(term + 1, index + 1, EntryKind.NOOP, b"")
    rig.desk.on_message(AppendRequest(prev_index=index, prev_term=term, entries=(noop,), commit_index=index + 1, **new))
    answer = await asyncio.wait_for(writing, WAIT_S)
    assert (answer.outcome, answer.raft_index, answer.raft_term) == (Outcome.OK, index, term)
    await asyncio.wait_for(stopping, WAIT_S)


async def test_a_node_that_stops_waits_for_writes_no_longer_than_they_do(tmp_path: Path) -> None:
    rig = Rig(tmp_path, write_timeout_s=1.0)
    await rig.driver.start()
    peers = Peers(rig)
    await peers.elect()
    peers.deaf = True
    core = rig.driver.core
    assert core is not None
    request = WriteRequest((Operation(Op.PUT, "k", b"v"),), "tester", "r1")
    writing = asyncio.create_task(rig.desk.on_write(request))
    await until(lambda: not rig.driver.writes.is_empty(), "the write in the log")
    stopping = asyncio.create_task(rig.driver.stop())
    new = {"sender": LEADER, "sender_incarnation": LEADER * 10, "to": ME, "term": core.state.term + 1}
    rig.desk.on_message(Heartbeat(commit_index=0, round=0, **new))
    await asyncio.wait_for(stopping, WAIT_S)
    with pytest.raises(ApplianceError) as unknown:
        await writing
    assert unknown.value.code == "outcome_unknown"


async def test_who_missed_the_founding_asks_a_founder_for_its_hello(tmp_path: Path) -> None:
    rig = Rig(tmp_path, founded=False)
    await rig.driver.start()
    assert rig.driver.core is None
    rig.heartbeat()
    assert rig.network.redialed == [LEADER]
    assert rig.service.health().reasons == (
        "the cluster is not founded yet: others have founded it, and have not said with whom",
    )
    identity = Identity(CLUSTER_ID, LEADER, LEADER * 10)
    rig.desk.on_hello(Hello("0", 1, (), identity, "127.0.0.1:2", "127.0.0.1:1002", 1, CONFIGURATION))
    assert rig.driver.core is not None
    assert rig.driver.core.state.configuration == CONFIGURATION
    await asyncio.wait_for(rig.driver.stop(), WAIT_S)


@pytest.mark.parametrize(("term", "index"), [(TERM + 1, 1), (TERM, 20)], ids=["term", "entry"])
async def test_a_node_that_is_told_of_a_promise_it_has_forgotten_is_another_one(
    rig: Rig, term: int, index: int
) -> None:
    rig.append(2, 3, commit=4)
    await until(lambda: rig.stable_index == 4, "the entries on disk")
    leader = Identity(CLUSTER_ID, LEADER, LEADER * 10)
    kept = Promise(ME, ME * 10, TERM, 4)
    hello = Hello("0", 1, (), leader, "127.0.0.1:2", "127.0.0.1:1002", 1, CONFIGURATION, promises=(kept,))
    rig.desk.on_hello(hello)
    assert rig.driver.identity.incarnation == ME * 10
    rig.desk.on_hello(msgspec.structs.replace(hello, promises=(Promise(ME, ME * 10, term, index),)))
    assert rig.driver.core is not None
    assert rig.driver.identity.incarnation == rig.driver.core.state.incarnation == ME * 10 + 1
    assert rig.network.redialed == [2, 3]
    assert not rig.driver.core.state.may_stand()
    rig.desk.on_hello(msgspec.structs.replace(hello, promises=(Promise(ME, ME * 10, term, index),)))
    assert rig.driver.identity.incarnation == ME * 10 + 1, "the promise of another incarnation"


async def test_what_was_promised_under_an_incarnation_that_is_renounced_is_not_sent(rig: Rig) -> None:
    rig.log_store.open.clear()
    rig.append(2, 3, commit=1)
    await asyncio.sleep(0.05)  # the write is under way, and with it the acknowledgement that waits for it
    assert not [m for m in rig.network.sent if isinstance(m, AppendResponse)]
    rig.driver.renounce()
    rig.log_store.open.set()
    await until(lambda: rig.log_store.durable_index == 4, "the entries on disk")
    rig.append(5, 1, commit=1)
    await until(lambda: any(isinstance(m, AppendResponse) for m in rig.network.sent), "an acknowledgement")
    assert {m.sender_incarnation for m in rig.network.sent} == {ME * 10 + 1}


async def test_a_checkpoint_that_a_reader_held_back_is_made_up_for(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.node.keeper.CHECKPOINT_INTERVAL_S", 0.02)
    await until(lambda: rig.driver.keeper.durable_index == 1, "the founding entry in the file")
    reader = apsw.Connection(str(rig.directory / "ledger.db"))
    reader.execute("BEGIN; SELECT * FROM meta").fetchall()
    rig.append(2, 3, commit=4)
    await until(lambda: rig.stable_index == 4, "the log synced: the ledger file never passes it")
    await until(lambda: rig.driver.applier.applied_index == 4, "all applied")
    assert await rig.driver.keeper.flushed() == 4
    await asyncio.sleep(0.1)
    assert rig.driver.keeper.durable_index == 1
    reader.close()
    await until(lambda: rig.driver.keeper.durable_index == 4, "what was held back, though nothing is written any more")


async def test_an_error_while_promises_are_sent_stops_the_node(rig: Rig) -> None:
    def fail(message: AnyMessage) -> None:
        if isinstance(message, AppendResponse):
            raise RuntimeError("it cannot be encoded")

    rig.network.on_send = fail
    rig.append(2, 3, commit=4)
    await until(lambda: bool(rig.fatal), "the node to say that it cannot go on")
    assert rig.fatal == ["it cannot be encoded"]


async def test_no_copy_is_made_for_a_node_that_cannot_be_reached(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    reports: list[tuple[int, int]] = []
    monkeypatch.setattr("appliance.node.snapshots.RETRY_S_MIN", 0.01)
    rig.network.reachable = {2}
    rig.driver.snapshots.send(3, lambda node, index: reports.append((node, index)))
    assert not rig.driver.snapshots.is_sending(), "nothing is on its way, so nothing holds the log"
    await until(lambda: bool(reports), "the core to hear that there was no snapshot")
    assert reports == [(3, 0)]
    assert "snapshot.sending" not in rig.log.events
    assert await rig.driver.keeper.flushed() == 1, "something to copy"
    rig.network.reachable = {2, 3}
    rig.driver.snapshots.send(3, lambda node, index: reports.append((node, index)))
    await until(lambda: len(reports) == 2, "the copy to be refused")
    assert rig.network.snapshots == [3]


async def test_what_a_crash_left_of_snapshots_takes_no_room(tmp_path: Path) -> None:
    left = ("snapshot-outgoing-3.db", "snapshot-outgoing-3.db.part", "snapshot-incoming.db", "snapshot-installing.db")
    resumable = ("snapshot-incoming.db.part", "snapshot-incoming.db.part.sha256")
    for name in (*left, *resumable):
        (tmp_path / name).write_bytes(b"x")
    rig = Rig(tmp_path)
    found = sorted(name for name in os.listdir(tmp_path) if name.startswith("snapshot-"))
    assert found == sorted(resumable)
    await rig.driver.start()
    await asyncio.wait_for(rig.driver.stop(), WAIT_S)


async def test_no_snapshot_is_begun_while_the_node_stops(rig: Rig) -> None:
    started = asyncio.Event()

    async def never(node_id: int, file: SnapshotFile, on_resume: Callable[[int], None]) -> None:
        started.set()
        await asyncio.Event().wait()

    rig.network.send_snapshot = never
    await until(lambda: rig.driver.applier.applied_index == 1, "something to copy")
    assert await rig.driver.keeper.flushed() == 1
    again = rig.driver.snapshots.send
    again(3, lambda node, _index: again(node, lambda _node, _index: None))  # what the core asks for after a report
    await asyncio.wait_for(started.wait(), WAIT_S)
    started.clear()
    await rig.driver.snapshots.stop()
    await asyncio.sleep(0.05)
    assert not started.is_set()
    assert not rig.driver.snapshots.is_sending()


async def test_large_entries_are_applied_a_few_at_a_time(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.node.apply_queue.SLICE_BYTES", 2 * len(put(2).data))
    await until(lambda: rig.driver.applier.applied_index == 1, "the founding entry to be applied")
    runs: list[int] = []
    apply_run = rig.driver.applier.apply_run

    def watched(entries: Sequence[Entry]) -> list[WriteResult | None]:
        runs.append(len(entries))
        return apply_run(entries)

    monkeypatch.setattr(rig.driver.applier, "apply_run", watched)
    rig.append(2, 7, commit=8)
    await until(lambda: rig.driver.applier.applied_index == 8, "all to be applied")
    assert sum(runs) == 7
    assert max(runs) == 2


async def test_a_replay_is_no_faster_than_the_ledger_file_follows(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    bound_bytes, slice_bytes = 2_000, 2 * 1_000
    monkeypatch.setattr("appliance.node.apply_queue.PENDING_BYTES_MAX", bound_bytes)
    monkeypatch.setattr("appliance.node.apply_queue.SLICE_ENTRIES", 2)
    store, may_flush, most_bytes = rig.ledger_store, threading.Event(), 0
    add: Callable[..., None] = store.add
    flush: Callable[[int], int] = store.flush

    def watched(*args: Any) -> None:
        nonlocal most_bytes
        add(*args)
        most_bytes = max(most_bytes, store.pending_bytes())

    def held_back(index_max: int) -> int:
        assert may_flush.wait(WAIT_S)
        return flush(index_max)

    monkeypatch.setattr(store, "add", watched)
    monkeypatch.setattr(store, "flush", held_back)
    rig.append(2, 60, commit=61)
    await until(lambda: store.pending_bytes() > bound_bytes, "the bound to be passed")
    held_at = rig.driver.applier.applied_index
    rig.heartbeat()
    await until(lambda: any(isinstance(m, HeartbeatResponse) for m in rig.network.sent), "the heartbeat's answer")
    assert rig.driver.applier.applied_index == held_at < 61
    may_flush.set()
    await until(lambda: rig.driver.applier.applied_index == 61, "the rest to be applied")
    assert most_bytes < bound_bytes + slice_bytes
