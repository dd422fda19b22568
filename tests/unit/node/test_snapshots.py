"""Copies on their way and received files: what is sent again, what is held, what is removed, and how."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from driver_rig import LEADER, ME, WAIT_S, Peers, Rig, put, until

from appliance.adapters.freeing import FREED_AT_ONCE_BYTES
from appliance.ledger.commands import Op, Operation, WriteRequest
from appliance.ledger.state import Summary
from appliance.node.peer_ports import SnapshotFile, SnapshotRefused
from appliance.node.ports import DiskFull
from appliance.node.snapshots import MARGIN_BYTES
from appliance.raft.messages import Configuration, SnapshotMeta
from tests.unit.adapters.checking import checkers
from tests.unit.adapters.peers.peer_harness import world

pytestmark = pytest.mark.anyio

FOLLOWER = 3
MIB = 2**20
VALUE = os.urandom(100_000)


class Sends:
    """The link to the follower: keeps what it was offered, says what the follower has, and fails or not."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._copy_to = rig.driver.keeper.copy_to
        self.copies = 0
        self.offered: list[SnapshotFile] = []
        self.offset = 0
        self.outcome: Exception | None = OSError("the link was lost")
        self.reports: list[tuple[int, int]] = []
        rig.network.send_snapshot = self._send
        rig.driver.keeper.copy_to = self._count  # type: ignore[method-assign]

    async def _count(self, path: Path) -> tuple[Summary, bytes]:
        self.copies += 1
        return await self._copy_to(path)

    async def _send(self, node_id: int, file: SnapshotFile, on_resume: Callable[[int], None]) -> None:
        self.offered.append(file)
        on_resume(self.offset)
        if self.outcome is not None:
            raise self.outcome

    async def once(self) -> int:
        """One attempt, with the pause behind it; answers what was reported."""
        count = len(self.reports)
        self._rig.driver.snapshots.send(FOLLOWER, lambda node, index: self.reports.append((node, index)))
        await until(lambda: len(self.reports) > count, "the attempt to be over")
        node_id, index = self.reports[-1]
        assert node_id == FOLLOWER
        return index


@pytest.fixture
def sends(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> Sends:
    monkeypatch.setattr("appliance.node.snapshots.RETRY_S_MIN", 0.001)
    return Sends(rig)


async def write(rig: Rig, first: int, count: int, value: bytes = b"v") -> int:
    """The leader sends entries, and they come into the ledger file; answers the last one's index."""
    last = first + count - 1
    rig.take([put(n, value) for n in range(first, last + 1)], commit=last)
    core = rig.driver.core
    assert core is not None
    await until(lambda: core.state.log.stable_index == last and rig.driver.applier.applied_index == last, "all of it")
    assert await rig.driver.keeper.flushed() == last
    return last


def outgoing(rig: Rig) -> list[str]:
    return sorted(path.name for path in rig.directory.glob("snapshot-outgoing-*"))


async def test_a_cut_costs_what_was_under_way_though_writes_go_on(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over real links: the second attempt does not begin at byte 0."""
    monkeypatch.setattr("appliance.node.snapshots.RETRY_S_MIN", 0.001)
    last = await write(rig, 2, 80, VALUE)
    links = tmp_path / "links"
    links.mkdir()
    async with world(links) as nodes:
        receiver = await nodes.node(FOLLOWER).start()
        proxy = await nodes.proxy(receiver.raft_address)
        sender = await nodes.node(ME).start(proxy.address)
        await until(lambda: sender.links_to(FOLLOWER), "a link")
        rig.network.send_snapshot = sender.network.send_snapshot
        reports: list[int] = []
        proxy.cut_after = 5 * MIB
        rig.driver.snapshots.send(FOLLOWER, lambda _node, index: reports.append(index))
        await until(lambda: reports == [0], "the cut")
        await until(lambda: bool(receiver.log.of("snapshot.receive_failed")), "the receiver to see it")
        await write(rig, last + 1, 5, VALUE)
        proxy.cut_after = None
        rig.driver.snapshots.send(FOLLOWER, lambda _node, index: reports.append(index))
        await until(lambda: reports == [0, last], "the rest")
        whole, rest = receiver.offers
        assert MIB < whole - rest < 5 * MIB
        ((meta, content),) = receiver.snapshots
        assert (meta.index, len(content)) == (last, whole)
    assert rig.log.events.count("snapshot.resumed") == 1
    assert not outgoing(rig)


async def test_the_same_file_is_offered_until_it_is_taken(rig: Rig, sends: Sends) -> None:
    last = await write(rig, 2, 10)
    assert await sends.once() == 0
    await write(rig, last + 1, 10)
    assert await sends.once() == 0
    assert outgoing(rig) == ["snapshot-outgoing-3.db"]
    sends.outcome = None
    assert await sends.once() == last
    assert (len(sends.offered), sends.copies) == (3, 1)
    assert not outgoing(rig)
    assert await sends.once() == last + 10, "one that is asked for later is another"


async def test_a_copy_that_the_log_does_not_continue_is_made_anew(rig: Rig, sends: Sends) -> None:
    await write(rig, 2, 10)
    assert await sends.once() == 0
    last = await write(rig, 12, 10)
    core = rig.driver.core
    assert core is not None
    core.compact(last)
    sends.outcome = None
    assert await sends.once() == last
    assert [file.meta.index for file in sends.offered] == [11, last]


async def test_a_copy_that_was_refused_as_a_whole_is_made_anew(rig: Rig, sends: Sends) -> None:
    last = await write(rig, 2, 10)
    sends.outcome = SnapshotRefused("its tree does not come out")
    assert await sends.once() == 0
    assert not outgoing(rig)
    assert held(rig) is None
    sends.outcome = None
    assert await sends.once() == last
    assert sends.copies == 2


def held(rig: Rig) -> int | None:
    assert rig.driver.core is not None
    return rig.driver.holds.index(rig.driver.core.state)


async def test_a_copy_that_nobody_takes_is_dropped_after_a_while_and_the_log_with_it(
    rig: Rig, sends: Sends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.node.snapshots.PATIENCE_S", 2.0)
    last = await write(rig, 2, 10)
    assert await sends.once() == 0
    assert outgoing(rig)
    assert held(rig) == last
    rig.network.reachable = {LEADER}
    assert await sends.once() == 0, "it cannot be reached"
    await until(lambda: not outgoing(rig), "the copy to be dropped")
    assert held(rig) is None


async def test_a_stop_leaves_no_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.node.snapshots.RETRY_S_MIN", 0.001)
    rig = Rig(tmp_path)
    await rig.driver.start()
    await write(rig, 2, 10)
    assert await Sends(rig).once() == 0
    assert outgoing(rig)
    await asyncio.wait_for(rig.driver.stop(), WAIT_S)
    assert not outgoing(rig)


async def test_pauses_grow_up_to_a_bound_while_nothing_comes_over(
    rig: Rig, sends: Sends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.node.snapshots.RETRY_S_MAX", 0.005)
    await write(rig, 2, 10)
    seen = []
    for offset in (0, 0, 100, 200, 200, 200, 200, 200, 0, 100):
        sends.offset = offset
        await sends.once()
        seen.append(rig.driver.snapshots._deliveries[FOLLOWER].pause_s)
    assert seen == [0.001, 0.002, 0.001, 0.001, 0.002, 0.004, 0.005, 0.005, 0.005, 0.001]


def with_free_bytes(monkeypatch: pytest.MonkeyPatch, free_bytes: int) -> None:
    monkeypatch.setattr("appliance.node.snapshots.shutil.disk_usage", lambda _path: SimpleNamespace(free=free_bytes))


async def test_no_copy_is_made_without_room_for_it(rig: Rig, sends: Sends, monkeypatch: pytest.MonkeyPatch) -> None:
    last = await write(rig, 2, 10)
    size_bytes = rig.ledger_store.size_bytes()
    with_free_bytes(monkeypatch, size_bytes + MARGIN_BYTES - 1)
    assert await sends.once() == 0
    assert (sends.offered, outgoing(rig), held(rig)) == ([], [], None)
    assert rig.log.events.count("snapshot.no_room") == 1
    assert "snapshot.send_failed" not in rig.log.events
    with_free_bytes(monkeypatch, size_bytes + MARGIN_BYTES)
    sends.outcome = None
    assert await sends.once() == last


async def test_an_offer_is_refused_without_room_for_it(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    with_free_bytes(monkeypatch, 10 * MIB + MARGIN_BYTES)
    await rig.desk.on_offer(10 * MIB)
    with pytest.raises(DiskFull, match=f"it needs {10 * MIB + 1} bytes"):
        await rig.desk.on_offer(10 * MIB + 1)
    rig.driver.installing = True
    with pytest.raises(OSError, match="cannot install a snapshot now"):
        await rig.desk.on_offer(1)
    rig.driver.installing = False


async def test_the_log_goes_on_where_the_snapshot_of_a_leader_under_load_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when far more is written meanwhile than is kept for those that lag: one snapshot is enough."""
    monkeypatch.setattr("appliance.node.keeper.CHECKPOINT_INTERVAL_S", 0.01)
    rig = Rig(tmp_path, compact_log_entries=10)
    await rig.driver.start()
    peers = Peers(rig)
    sends = Sends(rig)
    peers.behind, rig.network.reachable = {FOLLOWER}, {LEADER}
    await peers.elect()
    core = rig.driver.core
    assert core is not None
    await load(rig, 30)
    await until(lambda: core.state.log.snapshot_index > 2, "a compaction")
    on_their_way = asyncio.Event()

    async def take(node_id: int, file: SnapshotFile, on_resume: Callable[[int], None]) -> None:
        sends.offered.append(file)
        on_their_way.set()
        await load(rig, 40)

    rig.network.send_snapshot = take
    rig.network.reachable = {LEADER, FOLLOWER}
    await asyncio.wait_for(on_their_way.wait(), WAIT_S)
    (file,) = sends.offered
    await until(lambda: "snapshot.sent" in rig.log.events, "the snapshot to be taken")
    await load(rig, 40)
    assert core.state.log.snapshot_index <= file.meta.index
    peers.hold(FOLLOWER, file.meta.index)
    await load(rig, 40)
    assert core.state.log.snapshot_index <= file.meta.index
    peers.behind = set()
    await until(lambda: core.state.progress[FOLLOWER].match_index == core.state.log.last_index, "the rest of the log")
    await load(rig, 40)
    await until(lambda: core.state.log.snapshot_index > file.meta.index + 80, "a compaction")
    assert len(sends.offered) == 1
    await asyncio.wait_for(rig.driver.stop(), WAIT_S)


async def load(rig: Rig, count: int) -> None:
    """So many writes, and a checkpoint that covers them."""
    core = rig.driver.core
    assert core is not None
    for number in range(count):
        await rig.service.write(WriteRequest((Operation(Op.PUT, f"k{number}", b"v"),), "tester", "r"))
    last = core.state.log.last_index
    await until(lambda: rig.driver.keeper.durable_index >= last, "a checkpoint")


async def test_a_refused_file_loses_its_name_at_once_and_its_room_soon(rig: Rig) -> None:
    path = rig.driver.settings.incoming_path
    path.write_bytes(bytes(2 * FREED_AT_ONCE_BYTES + 1))
    with path.open("rb") as held:
        with pytest.raises(OSError, match="snapshot refused"):
            await rig.driver.snapshots.check(SnapshotMeta(7, 1, Configuration()), path)
        assert not path.exists()
        await until(lambda: os.fstat(held.fileno()).st_size == 0, "the room to be given back")


async def test_a_check_that_is_killed_refuses_the_file_and_the_node_goes_on(rig: Rig) -> None:
    path = rig.driver.settings.incoming_path
    os.mkfifo(path)  # nobody writes to it, so the check does not end
    checking = asyncio.ensure_future(rig.driver.snapshots.check(SnapshotMeta(7, 1, Configuration()), path))
    await until(lambda: bool(checkers(path)), "the check to run")
    os.kill(checkers(path)[0], signal.SIGKILL)
    with pytest.raises(OSError, match=r"snapshot refused: .* the process ended with -9"):
        await asyncio.wait_for(checking, WAIT_S)
    assert not path.exists()
    assert "snapshot.refused" in rig.log.events
    rig.append(2, 3, commit=4)
    await until(lambda: rig.driver.applier.applied_index == 4, "the log to go on")
    assert not rig.fatal
