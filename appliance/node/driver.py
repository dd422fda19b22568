"""The driver: feeds the Raft core with ticks, messages and proposals, and carries out each `Ready` in order.

Everything here runs on the event loop; files are written on the threads of `LogWriter` and `LedgerKeeper`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from random import Random

from appliance.ledger.commands import WriteRequest, WriteResult
from appliance.ledger.state import Summary
from appliance.node.applier import Applier
from appliance.node.apply_queue import ApplyQueue
from appliance.node.bootstrap import Founding, founding_entry
from appliance.node.compaction import plan_compaction
from appliance.node.directory_ports import Reserve, Standing
from appliance.node.driver_settings import DriverSettings
from appliance.node.findings import Findings
from appliance.node.fitness import Fitness
from appliance.node.handover import hand_over
from appliance.node.holds import Holds
from appliance.node.keeper import LedgerKeeper
from appliance.node.log_writer import Job, LogWriter, Saving
from appliance.node.members import Members
from appliance.node.noting import note
from appliance.node.peer_desk import PeerDesk
from appliance.node.peer_ports import PeerNetwork
from appliance.node.ports import (
    Clock,
    DamagedFile,
    DiskFull,
    Identity,
    Instruments,
    Log,
    StoredLog,
    Tracer,
)
from appliance.node.recovery import Opened
from appliance.node.rest import LedgerRest
from appliance.node.snapshots import Snapshots
from appliance.node.terms import Terms
from appliance.node.traces import WriteTraces
from appliance.node.waiting import ReadBatches, WaitingIndexes, WaitingWrites, WriteWaiter
from appliance.raft.core import RaftCore
from appliance.raft.messages import (
    NOBODY,
    Configuration,
    HardState,
    Ready,
    Role,
    SnapshotMeta,
)


class Driver:
    """A running node.

    Args:
        settings: see `DriverSettings`.
        identity: who the data directory belongs to.
        renew_identity: gives the data directory a new incarnation, durably.
        opened: both stores; see `appliance.node.recovery`.
        standing: what is known beside `raft.db`.
        network: the links to the peers.
        reserve: room on the disk that is held back.
        verify_snapshot: reads a received ledger file back and checks it; must not keep the event loop busy.
        clock: wall and monotonic time.
        random: the only source of chance of the core.
        instruments: metrics.
        log: structured log.
        tracer: spans of sampled writes.
        on_fatal: called once when the node cannot go on, with the reason; the process should end.
    """

    def __init__(
        self,
        *,
        settings: DriverSettings,
        identity: Identity,
        renew_identity: Callable[[], Identity],
        opened: Opened,
        standing: Standing,
        network: PeerNetwork,
        reserve: Reserve,
        verify_snapshot: Callable[[Path], Awaitable[tuple[Summary, bytes]]],
        clock: Clock,
        random: Random,
        instruments: Instruments,
        log: Log,
        tracer: Tracer,
        on_fatal: Callable[[str], None],
    ) -> None:
        self.settings = settings
        self.identity = identity
        self._renew_identity = renew_identity
        self.network = network
        self.clock = clock
        self.ledger_store = ledger_store = opened.ledger_store
        self.log_store = log_store = opened.log_store
        self.standing = standing
        self._random = random
        self.log = log
        self._on_fatal = on_fatal
        self.failure = ""
        self.quarantine = ""  # why what this node has applied is not to be told; see `divergence`
        self.stopping = False
        self.core: RaftCore | None = None
        self.founding: Founding | None = None
        self.members = Members(identity.node_id, network, standing, log)
        self.installing = False
        self.installed_index = 0  # of the last snapshot that was installed while this node ran
        self.giving_up = False  # the leader is being asked to do without what it holds
        self.given_up = False  # its data are condemned, and it is about to end: it takes no part any more
        self.when_replaced: list[Callable[[], None]] = []  # called then
        self.serve_write: Callable[[WriteRequest], Awaitable[WriteResult]] | None = None
        self.calls: dict[str, Callable[[int, bytes], Awaitable[bytes]]] = {}  # what peers may ask for, by name
        self.traces = WriteTraces(tracer, clock, identity.node_id)
        self.writes = WaitingWrites(settings.write_timeout_s, instruments.histogram("scribe_raft_commit_seconds"))
        self.reads = ReadBatches(settings.election_timeout_s)
        self.applied_waiters = WaitingIndexes()
        self.published_waiters = WaitingIndexes()  # for sizes of the tree that are published
        self.findings = Findings(instruments, log)
        self.leader_changed = asyncio.Event()
        self.last_stamp_us = 0
        self.fitness = Fitness(self, reserve, log)
        self.room, self.clocks = self.fitness.room, self.fitness.clocks
        self._stored, self._lost = opened.stored, opened.lost
        self.applier = Applier(ledger_store, settings.idempotency_keys)
        self.rest = LedgerRest(self.applier, clock)
        self.keeper = LedgerKeeper(
            ledger_store,
            flush_interval_s=settings.flush_interval_s,
            stable_index=self._synced_index,
            rest_index=self.rest.index,
            on_durable=self._on_durable,
            on_failed=self.fail,
            on_full=self.room.report_full,
            flush_seconds=instruments.histogram("scribe_storage_flush_seconds"),
            log=log,
        )
        self.writer = LogWriter(
            log_store,
            on_saved=self._on_saved,
            on_failed=self.fail,
            on_full=self.room.report_full,
            log=log,
            fsync_seconds=instruments.histogram("scribe_raft_fsync_seconds"),
            batch_entries=instruments.histogram("scribe_raft_append_batch_entries"),
            quick_s=settings.quick_append_s,
            disk_busy=self.keeper.is_checkpointing,
        )
        self.holds = Holds(log_store.size_bytes, settings.tick_s, settings.compact_log_entries)
        self.snapshots = Snapshots(
            directory=settings.directory,
            keeper=self.keeper,
            network=network,
            holds=self.holds,
            ledger_bytes=ledger_store.size_bytes,
            log_start=lambda: self.core.state.log.snapshot_index if self.core is not None else 0,
            verify=verify_snapshot,
            may_send=lambda: not self.quarantine,
            instruments=instruments,
            log=log,
        )
        self._terms = Terms(identity.node_id, self.leader_changed, instruments, log)
        self._apply_queue = ApplyQueue(self)
        self._pump_wanted = False
        self._tasks: list[asyncio.Task[None]] = []

    # -- life

    async def start(self) -> None:
        """Start to take part."""
        stored = self._stored
        if stored.last_index > 0 or stored.hard_state.term > 0:
            self._make_core(stored)
        else:
            s = self.settings
            self.founding = Founding(
                self.identity, s.address, s.raft_address, s.seeds, founder=s.founder, lost=self._lost
            )
            alone = self.founding.alone()
            if alone is not None:
                self.found(alone)
        desk = PeerDesk(self, self.log)
        await self.network.start(desk, self.settings.seeds)
        works = (self._tick_forever(), self.keeper.run(), self.fitness.watch(), desk.ask_again())
        self._tasks = [asyncio.create_task(work) for work in works]

    async def stop(self) -> None:
        """Hand over leadership if there is any, answer the writes that were proposed here, write what is applied, and
        close the stores.
        """
        self.stopping = True
        await hand_over(self)
        await self._answer_writes()
        self.writes.fail_all("this node was shut down")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.snapshots.stop()
        await self.network.close()
        await asyncio.to_thread(self.writer.stop)
        if not self.failure and self.core is not None:
            with contextlib.suppress(DiskFull):  # the log has what the ledger file lacks
                await self.keeper.finish()
        self.keeper.close()
        self.ledger_store.close()
        self.log_store.close()

    async def _answer_writes(self) -> None:
        """Wait for what became of the writes that were proposed here, most of which other nodes have handed over: who
        leads now commits them, and says so with its next heartbeat. Each has its time-out, so that this has the same.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.settings.write_timeout_s):
                await self.writes.emptied()
                await self.network.writes_served()

    def fail(self, error: Exception | str) -> None:
        """The node cannot go on: take no part any more, and say why."""
        if self.failure:
            return
        self.failure = str(error) or type(error).__name__
        self.log.error("node.failed", reason=self.failure, error=error)
        if isinstance(error, DamagedFile):  # of the ledger a start reads all only for a reason
            note(self.log, partial(self.standing.note_doubt, str(error)))
        self.writes.fail_all("this node failed")
        self._on_fatal(self.failure)

    # -- time

    async def _tick_forever(self) -> None:
        tick_s = self.settings.tick_s
        next_s = self.clock.monotonic_s() + tick_s
        while True:
            await asyncio.sleep(max(0.0, next_s - self.clock.monotonic_s()))
            now_s = self.clock.monotonic_s()
            # A loop that was held up ticks once, not once for each tick missed: time that this node could not
            # hear anything is no silence of the leader.
            next_s = max(next_s + tick_s, now_s)
            self.writes.expire(now_s)
            lost_reads = self.reads.expire(now_s)
            if self.core is not None and not self.failure:
                try:
                    for context in lost_reads:
                        self.core.forget_read(context)
                    self.core.tick()
                except Exception as error:
                    self.fail(error)
                self.pump_soon()

    # -- the pump

    def pump_soon(self) -> None:
        """Carry out what the core wants at the end of this turn of the loop, once for all inputs of the turn."""
        if not self._pump_wanted:
            self._pump_wanted = True
            asyncio.get_running_loop().call_soon(self.pump)

    def pump(self) -> None:
        """Carry out what the core wants."""
        self._pump_wanted = False
        core = self.core
        if core is None or self.failure:
            return
        try:
            while core.has_ready():
                self._carry_out(core.ready())
        except Exception as error:
            self.fail(error)
            return
        self.members.follow(core)
        self._terms.look(core)

    def _carry_out(self, ready: Ready) -> None:
        for message in ready.messages:
            self.network.send(message, self.traces.to_send(message))
        if ready.snapshot is not None:
            self._install(ready.snapshot)
        if ready.persist_id:
            self.writer.submit(Saving(ready.persist_id, ready.entries, ready.hard_state, ready.messages_after_persist))
        for node_id in ready.snapshots_to_send:
            self.snapshots.send(node_id, self._report_snapshot)
        if ready.committed:
            self._apply_queue.extend(ready.committed)
            self._apply_queue.run()
        for read in ready.reads:
            self.reads.ready(read.context, read.index)
        for context in ready.reads_failed:
            self.reads.failed(context)

    def _on_saved(self, savings: list[Saving]) -> None:
        core = self.core
        if core is None or self.failure:
            return
        try:
            for saving in savings:
                self.traces.saved(saving.entries)
                for message in saving.messages:
                    if message.sender_incarnation == core.state.incarnation:  # else it was renounced meanwhile
                        self.network.send(message)
            core.persisted(savings[-1].persist_id)
        except Exception as error:
            self.fail(error)
            return
        self.pump_soon()

    def _synced_index(self) -> int:
        """Up to where `raft.db` surely is synced. Nothing while a snapshot is about to take the log's place: the core
        counts from its index already, and what is applied may be ahead of the disk.
        """
        core = self.core
        if core is None or self.installing or core.state.unsaved_snapshot is not None:
            return 0
        return core.state.log.stable_index

    # -- proposals

    def can_propose(self) -> bool:
        """Whether this node leads, is not handing over, and knows the last stamp in its log (its term's no-op is
        applied).
        """
        core = self.core
        return (
            core is not None
            and core.state.role is Role.LEADER
            and core.state.transfer_target == NOBODY
            and self.applier.applied_index >= core.state.term_start_index
        )

    def propose(self, data: bytes, traceparent: str, waiter: WriteWaiter) -> None:
        """Propose a command; `waiter` is told what became of it. Raises `NotLeader`."""
        core = self.core
        assert core is not None
        index, term = core.propose((data,))
        self.writes.add(index, term, self.clock.monotonic_s(), waiter)
        self.traces.proposed(index, traceparent)
        if traceparent:  # its context goes with the message, and is forgotten when it is applied here
            core.spare_nobody()
        self.pump_soon()

    def next_stamp_us(self) -> int:
        """The stamp of the next write: now, but never earlier than the last one in the log."""
        last = max(self.last_stamp_us, self.applier.machine.last_timestamp_us)
        self.last_stamp_us = max(self.clock.now_us(), last)
        return self.last_stamp_us

    # -- snapshots and compaction

    def _install(self, meta: SnapshotMeta) -> None:
        self.installing = True
        self._apply_queue.clear()
        path = self.settings.installing_path

        def run() -> None:
            self.writer.until_room(lambda: self.log_store.begin_install(meta, path.name))
            self._installed = self.keeper.replace(path)
            self.writer.until_room(lambda: self.log_store.finish_install(meta))

        self.writer.submit(Job(run, lambda: self._on_installed(meta)))

    def _on_installed(self, meta: SnapshotMeta) -> None:
        try:
            self.applier.reload(*self._installed)
        except Exception as error:
            self.fail(error)
            return
        self.keeper.durable_index = meta.index
        self.installing = False
        self.installed_index = meta.index
        self.writes.skip_to(meta.index)
        self.applied_waiters.reach(meta.index)
        self.published_waiters.reach(self.applier.machine.published.tree_size)
        self.fitness.divergence.replaced()
        for tell in self.when_replaced:
            tell()
        self.log.info("snapshot.installed", index=meta.index, term=meta.term)
        self._apply_queue.run_more()

    def _report_snapshot(self, node_id: int, index: int) -> None:
        if self.core is not None:
            self.core.report_snapshot(node_id, index)
            self.pump_soon()

    def _on_durable(self, index: int) -> None:
        """The ledger file holds everything up to `index`: drop what nobody needs any more from the log."""
        core = self.core
        if core is None or self.installing or self.failure:
            return
        held_index = self.holds.index(core.state)
        meta = plan_compaction(core.state, self.settings, index, self.network.connected(), held_index)
        if meta is None:
            return
        core.compact(meta.index)
        self.writer.submit(
            Job(
                lambda: self.writer.until_room(lambda: self.log_store.compact(meta)),
                lambda: self.log.info("raft.compacted", index=meta.index, term=meta.term),
            )
        )

    # -- founding

    def _make_core(self, stored: StoredLog) -> None:
        self.core = RaftCore(
            node_id=self.identity.node_id,
            incarnation=self.identity.incarnation,
            settings=self.settings.raft(),
            reader=self.log_store,
            hard_state=stored.hard_state,
            snapshot=stored.snapshot,
            last_index=stored.last_index,
            term_starts=stored.term_starts,
            configurations=stored.configurations,
            applied_index=self.applier.applied_index,
            random=self._random,
        )
        self.members.follow(self.core)
        self.fitness.judge()
        self.pump_soon()

    def found(self, configuration: Configuration) -> None:
        """Write the founding entry; it is committed by construction."""
        self.log_store.append([founding_entry(configuration)], HardState(term=1, commit_index=1))
        self.founding = None
        members = [m.node_id for m in configuration.members]
        self.log.info("cluster.founded", cluster_id=self.identity.cluster_id, members=members)
        self._make_core(self.log_store.load())

    def renounce(self) -> None:
        """Go on as another incarnation, because this one has forgotten what it promised; tell the peers."""
        assert self.core is not None
        self.identity = self._renew_identity()
        self.core.renounce(self.identity.incarnation)
        for node_id in self.network.connected():
            self.network.redial(node_id)

    def join(self) -> None:
        """Take part in a cluster that knows this node: the leader sends the log from its beginning, or a snapshot."""
        self.founding = None
        self.log.info("cluster.joined", cluster_id=self.identity.cluster_id)
        self._make_core(self.log_store.load())
