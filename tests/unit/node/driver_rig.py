"""A driver over real stores, whose peers are the test: it says what they send and sees what they are sent."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from appliance.adapters.clock import SystemClock
from appliance.adapters.ed25519 import SigningKey
from appliance.adapters.identity import DataDirectory
from appliance.adapters.ledger_checker import verify_apart
from appliance.adapters.ledger_store import SqliteLedgerStore
from appliance.adapters.log_store import SqliteLogStore
from appliance.adapters.scrubber import SegmentScrub
from appliance.adapters.telemetry.metrics import Registry
from appliance.ledger.commands import SALT_BYTES, Op, Operation, WriteRequest, WriteResult, encode_write
from appliance.ledger.note import SignatureType
from appliance.node.bootstrap import founding_entry
from appliance.node.driver import Driver
from appliance.node.driver_settings import DriverSettings
from appliance.node.handover import UNFITNESS_CALL
from appliance.node.peer_desk import PeerDesk
from appliance.node.peer_ports import PeerEvents, SnapshotFile
from appliance.node.ports import DiskFull, Identity
from appliance.node.publishing import Publishing
from appliance.node.recovery import Opened, recover
from appliance.node.scrubbing import Scrubbing
from appliance.node.service import Service
from appliance.raft.messages import (
    AnyMessage,
    AppendRequest,
    AppendResponse,
    Configuration,
    Entry,
    EntryKind,
    HardState,
    Heartbeat,
    HeartbeatResponse,
    Member,
    MemberRole,
    TimeoutNow,
    VoteRequest,
    VoteResponse,
    make_entry,
)
from appliance.tables.errors import ApplianceError

CLUSTER_ID = "ab" * 16
ME, LEADER = 1, 2
TERM = 2
WAIT_S = 10.0
CONFIGURATION = Configuration(
    tuple(Member(n, n * 10, MemberRole.VOTER, f"127.0.0.1:{n}", f"127.0.0.1:{1000 + n}") for n in (1, 2, 3))
)


class GatedLogStore(SqliteLogStore):
    """A disk that answers when the test says so."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.open = threading.Event()
        self.open.set()
        self.durable_index = 0
        self.full = False

    def append(self, entries: Sequence[Entry], hard_state: HardState | None) -> None:
        assert self.open.wait(WAIT_S)
        if self.full:  # what the real store raises then, and that it keeps nothing, tests/contract shows
            raise DiskFull("no room left")
        super().append(entries, hard_state)
        if entries:
            self.durable_index = entries[-1].index


class FakeNetwork:
    """Stands in for the links: the other nodes of these tests are the tests themselves."""

    def __init__(self) -> None:
        self.sent: list[AnyMessage] = []
        self.snapshots: list[int] = []
        self.redialed: list[int] = []
        self.reachable: set[int] = {2, 3}
        self.unfit: dict[int, str] = {}  # why a node had better not lead, where it has a reason
        self.on_send: Callable[[AnyMessage], None] = lambda message: None

    async def start(self, events: PeerEvents, seeds: Sequence[str]) -> None:
        self.events = events

    def set_peers(self, addresses: dict[int, str]) -> None: ...

    def send(self, message: AnyMessage, traces: Sequence[tuple[int, str]] = ()) -> None:
        self.on_send(message)
        self.sent.append(message)

    async def forward_write(self, node_id: int, request: WriteRequest, timeout_s: float) -> WriteResult:
        raise NotImplementedError

    async def writes_served(self) -> None: ...

    async def call(self, node_id: int, name: str, body: bytes, timeout_s: float) -> bytes:
        if name == UNFITNESS_CALL:
            return msgspec.msgpack.encode(self.unfit.get(node_id, ""))
        return await self.on_call(node_id, name, body)

    @staticmethod
    async def on_call(node_id: int, name: str, body: bytes) -> bytes:
        """Answers a call; tests put another in its place."""
        raise ApplianceError("no_leader", f"there is no link to node {node_id}")

    async def send_snapshot(self, node_id: int, file: SnapshotFile, on_resume: Callable[[int], None]) -> None:
        self.snapshots.append(node_id)
        raise OSError("nobody takes it")

    def redial(self, node_id: int) -> None:
        self.redialed.append(node_id)

    def connected(self) -> dict[int, float]:
        return dict.fromkeys(self.reachable, 0.0)

    async def close(self) -> None: ...


class MovableClock(SystemClock):
    """The real time, and what a test adds to it."""

    ahead_us = 0
    ahead_s = 0.0  # of the monotonic time

    def now_us(self) -> int:
        return super().now_us() + self.ahead_us

    def monotonic_s(self) -> float:
        return super().monotonic_s() + self.ahead_s


class SilentLog:
    """Keeps the names of events."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def debug(self, event: str, **fields: Any) -> None:
        self.events.append(event)

    info = warning = error = debug


class NoTracer:
    def start(self, name: str, traceparent: str, **attributes: Any) -> None:
        return None

    def record(self, name: str, traceparent: str, start_us: int, end_us: int, **attributes: Any) -> None: ...


class Rig:
    """A follower, node 1 of three, and its parts."""

    def __init__(
        self,
        directory: Path,
        *,
        founded: bool = True,
        write_timeout_s: float = 5.0,
        compact_log_entries: int = 1000,
    ) -> None:
        self.directory = directory
        self.data = DataDirectory(directory, reserve_bytes=4096)
        self.log_store = GatedLogStore(directory / "raft.db")
        if founded and not self.log_store.load().last_index:
            self.log_store.append([founding_entry(CONFIGURATION)], HardState(1, 0, 1))
        self.ledger_store = SqliteLedgerStore(directory / "ledger.db", 2**20, CLUSTER_ID)
        self.network = FakeNetwork()
        self.clock = MovableClock()
        self.log = SilentLog()
        stored = recover(self.log_store, self.ledger_store, directory, self.log)
        registry = Registry(ME)
        self.fatal: list[str] = []
        self.restarts: list[str] = []
        settings = DriverSettings(
            address="127.0.0.1:1",
            raft_address="127.0.0.1:1001",
            seeds=("127.0.0.1:1002", "127.0.0.1:1003"),
            founder=True,
            directory=directory,
            version="0",
            election_timeout_s=60.0,  # the test decides who leads
            heartbeat_timeout_s=0.1,
            write_timeout_s=write_timeout_s,
            flush_interval_s=0.01,
            batch_size=64,
            idempotency_keys=100,
            compact_log_entries=compact_log_entries,
            keep_log_entries=0,
            quick_append_s=0.0,  # the disks of these tests wait for the test, which the event loop must not
        )
        self.driver = Driver(
            settings=settings,
            identity=Identity(CLUSTER_ID, ME, ME * 10),
            renew_identity=lambda: Identity(CLUSTER_ID, ME, ME * 10 + 1),
            opened=Opened(self.log_store, self.ledger_store, stored, lost=False),
            standing=self.data.standing,
            network=self.network,
            reserve=self.data,
            verify_snapshot=lambda path: verify_apart(path, CLUSTER_ID),
            clock=self.clock,
            random=Random(1),
            instruments=registry,
            log=self.log,
            tracer=NoTracer(),
            on_fatal=self.fatal.append,
        )
        self.log_key = SigningKey(f"scribe-ledger/{CLUSTER_ID}/1", SignatureType.ED25519, bytes(range(32)))
        self.publishing = Publishing(self.driver, self.log_key, 1.0, 5.0)
        self.scrubbing = Scrubbing(
            self.driver,
            (self.ledger_store, self.log_store, SegmentScrub(directory / "audit")),
            rate=0,
            interval_s=60.0,
            instruments=registry,
            log=self.log,
        )
        self.service = Service(
            self.driver,
            ledger_path=directory / "ledger.db",
            capacity_keys=100,
            idempotency_keys=100,
            concurrency_max=100,
            write_timeout_s=5.0,
            publishing=self.publishing,
            scrubbing=self.scrubbing,
            restart=self.restarts.append,
            instruments=registry,
        )

    @property
    def desk(self) -> PeerDesk:
        desk = self.network.events
        assert isinstance(desk, PeerDesk)
        return desk

    @property
    def stable_index(self) -> int:
        """Up to where the node knows that its log is synced; the store is ahead until the event loop hears of it."""
        assert self.driver.core is not None
        return self.driver.core.state.log.stable_index

    def append(self, first: int, count: int, *, commit: int) -> None:
        """The leader sends puts `first` to `first + count - 1`."""
        self.take([put(first + n) for n in range(count)], commit=commit)

    def take(self, entries: Sequence[Entry], *, commit: int) -> None:
        """The leader sends entries."""
        first = entries[0].index
        self.desk.on_message(
            AppendRequest(
                sender=LEADER,
                sender_incarnation=LEADER * 10,
                to=ME,
                term=TERM,
                prev_index=first - 1,
                prev_term=1 if first == 2 else TERM,
                entries=tuple(entries),
                commit_index=commit,
            )
        )

    def heartbeat(self) -> None:
        """The leader lives."""
        self.desk.on_message(
            Heartbeat(sender=LEADER, sender_incarnation=LEADER * 10, to=ME, term=TERM, commit_index=0, round=0)
        )


class Peers:
    """The other two nodes of a rig: they vote for it, live, and take entries while they are not `deaf`; those of them
    that are `behind` say that they live, and take nothing; those that are `unwilling`
    do not take over when they are told to.
    """

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._desk = rig.desk
        self.deaf = False
        self.silent: set[int] = set()  # these say nothing at all
        self.behind: set[int] = set()
        self.unwilling: set[int] = set()
        self._unanswered: list[AppendRequest] = []
        rig.network.on_send = self._on_send

    async def elect(self) -> None:
        """Make the rig's node the leader of these."""
        self._desk.on_message(TimeoutNow(sender=LEADER, sender_incarnation=LEADER * 10, to=ME, term=TERM))
        await until(self._rig.driver.can_propose, "this node leads")

    def _on_send(self, message: AnyMessage) -> None:
        if message.to in self.silent:
            return
        match message:
            case Heartbeat():
                self._answer(HeartbeatResponse(round=message.round, **_back(message)))
            case TimeoutNow() if message.to in self.unwilling:
                pass
            case TimeoutNow():  # the rig stops, and hands over
                self._answer(Heartbeat(commit_index=0, round=0, **{**_back(message), "term": message.term + 1}))
            case VoteRequest():
                self._answer(VoteResponse(granted=True, pre_vote=message.pre_vote, **_back(message)))
            case AppendRequest() if message.to in self.behind:
                pass
            case AppendRequest() if self.deaf:
                self._unanswered.append(message)
            case AppendRequest():
                index = message.prev_index + len(message.entries)
                self._answer(AppendResponse(success=True, index=index, **_back(message)))

    def _answer(self, message: AnyMessage) -> None:
        asyncio.get_running_loop().call_soon(self._desk.on_message, message)

    def hold(self, node_id: int, index: int) -> None:
        """A node says that it holds the log up to here."""
        assert self._rig.driver.core is not None
        term = self._rig.driver.core.state.term
        self._answer(
            AppendResponse(success=True, index=index, sender=node_id, sender_incarnation=node_id * 10, to=ME, term=term)
        )

    def listen(self) -> None:
        """Take everything that was sent meanwhile."""
        self.deaf = False
        unanswered, self._unanswered = self._unanswered, []
        for message in unanswered:
            self._on_send(message)


def _back(message: AnyMessage) -> dict[str, int]:
    return {"sender": message.to, "sender_incarnation": message.to * 10, "to": ME, "term": message.term}


def put(index: int, value: bytes = b"v") -> Entry:
    """The leader's entry at this index."""
    request = WriteRequest((Operation(Op.PUT, f"k{index}", value),), "tester", f"r{index}")
    return make_entry(TERM, index, EntryKind.NORMAL, encode_write(request, index, bytes(SALT_BYTES), 100))


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait until the condition holds."""
    try:
        async with asyncio.timeout(WAIT_S):
            while not condition():  # noqa: ASYNC110 - what is awaited happens on threads of the real stores
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"waited {WAIT_S:.0f} s in vain for: {what}") from None
