"""One simulated node: the driver that carries out what the real core asks for, as `Ready` states it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from appliance.ledger.commands import decode_command
from appliance.node.compaction import configuration_at
from appliance.raft.core import NotLeader, RaftCore
from appliance.raft.messages import AnyMessage, Configuration, Entry, EntryKind, ReadReady, Ready, Role, SnapshotMeta
from appliance.raft.state import RaftSettings, decode_configuration

from .disk import Disk, LogFile, Write
from .plan import ELECTION_TICKS, HEARTBEAT_TICKS, TICK
from .state import LedgerState
from .transcript import describe_members, named

if TYPE_CHECKING:
    from .clients import Attempt
    from .world import World


class SimNode:
    """A node with its disk. `core` is None while it is down; `life` counts its starts."""

    def __init__(self, world: World, node_id: int, incarnation: int, ledger: LedgerState) -> None:
        self.world = world
        self.node_id = node_id
        self.incarnation = incarnation
        self.disk = Disk(ledger)
        self.chance = world.plan.stream(f"node{node_id}")
        self.life = 0
        self.in_service = False
        self.fit = True
        self.core: RaftCore | None = None
        self.state = ledger
        self.paused = False
        self.deferred: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self.tick_units = TICK
        self.stamp_us = 0
        self.role = Role.FOLLOWER  # as it was seen last
        self.installs_pending = 0
        self.received: LedgerState | None = None  # content of the snapshot that the core was told of
        self.disk_busy = False
        self.fsyncs = 0
        self.has_room = True  # as far as it has noticed
        self.to_apply: deque[Entry] = deque()
        self.apply_scheduled = False
        self.waiting: dict[int, list[tuple[int, Attempt]]] = {}  # index -> (term, attempt)
        self.asked: dict[int, Attempt] = {}  # read context -> attempt
        self.reads_asked = 0
        self.confirmed: list[tuple[int, Attempt]] = []  # (read index, attempt)
        self.sending_to: set[int] = set()

    # -- life

    def start(self) -> None:
        """Start from what is on disk."""
        plan, log = self.world.plan, self.disk.log
        self.life += 1
        self.state = self.disk.checkpointed.copy()
        assert self.state.applied_index >= log.snapshot.index, "the log was compacted beyond the durable ledger"
        self.core = RaftCore(
            node_id=self.node_id,
            incarnation=self.incarnation,
            settings=RaftSettings(
                election_ticks=ELECTION_TICKS,
                heartbeat_ticks=HEARTBEAT_TICKS,
                append_entries_max=plan.append_entries_max,
                append_bytes_max=plan.append_bytes_max,
                inflight_messages_max=plan.inflight_messages_max,
                inflight_bytes_max=plan.inflight_bytes_max,
                committed_bytes_max=plan.committed_bytes_max,
                log_window_bytes_max=plan.window_bytes_max,
                spare_entries_max=plan.spare_entries_max,
            ),
            reader=log,
            hard_state=log.stored_hard_state(),
            snapshot=log.snapshot,
            last_index=log.last_index,
            term_starts=log.term_starts(),
            configurations=log.configurations(),
            applied_index=self.state.applied_index,
            random=plan.stream(f"node{self.node_id}.{self.life}"),
        )
        self.core.set_may_campaign(self.fit)
        self.world.checker.started(self)
        self.world.exercised.started(self.core.state)
        self.world.after(self.chance.randrange(1, self.tick_units), self.on_tick, self.life)
        self.drain()

    def replace_disk(self, log: LogFile | None, ledger: LedgerState) -> None:
        """Other content takes the place of this stopped node's files, or none."""
        assert self.core is None
        self.disk = Disk(ledger)
        if log is not None:
            self.disk.log = log

    def renounce(self) -> None:
        """Go on as another incarnation: this one has forgotten what it promised."""
        self.incarnation += 1000
        if self.core is not None:
            self.core.renounce(self.incarnation)
            self.drain()

    def all_configurations(self) -> list[tuple[int, Configuration]]:
        """What this node acts on, or may act on again: with the one before it for the case that it is taken back."""
        if self.core is not None:
            return self.core.state.configurations[-2:]
        return [(self.disk.log.snapshot.index, self.disk.log.snapshot.configuration), *self.disk.log.configurations()][
            -2:
        ]

    def stop(self) -> None:
        """Die at once; what was not synced may be lost."""
        self.core = None
        self.disk.crash(self.chance)
        self.paused = self.disk_busy = self.apply_scheduled = False
        self.role, self.has_room = Role.FOLLOWER, True
        self.installs_pending = 0
        self.deferred.clear()
        self.to_apply.clear()
        self.waiting.clear()
        self.asked.clear()
        self.confirmed.clear()
        self.sending_to.clear()
        self.stamp_us = self.reads_asked = 0

    def resume(self) -> None:
        """Wake up from a pause: what came in meanwhile is worked off in order."""
        self.paused = False
        deferred, self.deferred = self.deferred, []
        for action, arguments in deferred:
            self.world.after(0, action, *arguments)

    def _asleep(self, action: Callable[..., None], *arguments: Any) -> bool:
        if self.paused:
            self.deferred.append((action, arguments))
        return self.paused

    # -- inputs

    def on_tick(self, life: int) -> None:
        if life != self.life or self.core is None or self._asleep(self.on_tick, life):
            return
        self.core.tick()
        self.world.after(self.tick_units, self.on_tick, life)
        self.drain()

    def on_message(self, message: AnyMessage) -> None:
        if self.core is None or self._asleep(self.on_message, message):
            return
        self.world.trace("deliver", message)
        self.world.exercised.stepped(self.core.state, message)
        self.core.step(message)
        self.drain()

    def on_unreachable(self, node_id: int) -> None:
        if self.core is not None and not self.paused:
            self.core.report_unreachable(node_id)
            self.drain()

    def propose(self, attempt: Attempt) -> None:
        """Take a write; when this node does not lead, the attempt learns who does."""
        if self.core is None or self._asleep(self.propose, attempt):
            return
        if not attempt.open:
            return
        if not self.has_room:
            self.world.clients.failed(attempt)
            return
        clock_us = (self.world.now + self.node_id * 37) * 10
        self.stamp_us = max(self.stamp_us + 1, clock_us, self.state.last_timestamp_us)
        try:
            index, term = self.core.propose([attempt.encode(self.stamp_us)])
        except NotLeader as refusal:
            self.world.clients.redirect(attempt, refusal.leader_id)
            return
        attempt.proposed = (index, term)
        self.waiting.setdefault(index, []).append((term, attempt))
        self.drain()

    def read(self, attempt: Attempt) -> None:
        """Take a linearizable read."""
        if self.core is None or self._asleep(self.read, attempt):
            return
        if not attempt.open:
            return
        self.reads_asked += 1  # from 1 after each start, as a driver's counter would be
        attempt.read_context = self.reads_asked
        self.asked[attempt.read_context] = attempt
        self.core.request_read(attempt.read_context)
        self.drain()

    def forget_read(self, attempt: Attempt) -> None:
        if self.core is not None and self.asked.get(attempt.read_context) is attempt:
            del self.asked[attempt.read_context]
            self.core.forget_read(attempt.read_context)

    def transfer(self, target: int) -> None:
        core = self.core
        if core is not None and not self.paused and core.state.role is Role.LEADER:
            if target in core.state.voters and target in core.state.progress:
                core.transfer_leadership(target)
            self.drain()

    def on_snapshot(self, meta: SnapshotMeta, image: LedgerState) -> None:
        """A snapshot came in completely."""
        assert self.core is not None
        self.world.trace("received a snapshot", self.node_id, "up to entry", meta.index, "of term", meta.term)
        if self.core.restore(meta):
            self.received = image
        self.drain()

    def on_snapshot_sent(self, life: int, to: int, index: int) -> None:
        """What became of a snapshot that this node sent; index 0 when it failed."""
        if life != self.life or self.core is None or self._asleep(self.on_snapshot_sent, life, to, index):
            return
        self.sending_to.discard(to)
        self.core.report_snapshot(to, index)
        self.drain()

    # -- the ledger's files and the log's length

    def flush(self) -> None:
        if self.core is None or self.paused or self.installs_pending:
            return
        if self.disk.full:
            self._find_no_room()
            return
        if self.state.applied_index <= self.core.status().stable_index:
            self.world.checker.flushed(self)
            self.disk.flush(self.state)

    def checkpoint(self) -> None:
        if self.core is not None and not self.paused and not self.disk.full:
            self.disk.checkpoint()

    def compact(self, keep: int) -> None:
        """Drop log entries behind the durable ledger, but for the last `keep`."""
        core = self.core
        if core is None or self.paused or self.installs_pending:
            return
        index = min(self.disk.checkpointed.applied_index, core.status().applied_index) - keep
        if index <= core.status().snapshot_index:
            return
        term = core.state.log.term_at(index)
        assert term is not None
        self.world.count("compactions")
        self.submit(Write(compact_to=SnapshotMeta(index, term, configuration_at(core.state, index))))
        core.compact(index)

    # -- carrying out what the core asks for

    def drain(self) -> None:
        """Carry out every `Ready` there is, then let the checker look."""
        core = self.core
        assert core is not None
        self.world.exercised.observe(core.state)
        self.world.checker.observe(self)
        while core.has_ready():
            self._carry_out(core.ready())
            self.world.exercised.observe(core.state)
            self.world.checker.observe(self)
        self._note_role(core)

    def _carry_out(self, ready: Ready) -> None:
        world = self.world
        for message in ready.messages:
            world.network.send(message)
        if ready.entries:
            world.checker.appended(self, ready.entries)
            self._trace_changes(ready.entries)
        if ready.persist_id:
            write = Write(
                ready.persist_id, ready.snapshot, None, ready.entries, ready.hard_state, ready.messages_after_persist
            )
            if ready.snapshot is not None:
                write.image = self.received
                self.installs_pending += 1
                self.to_apply.clear()
            self.submit(write)
        if ready.committed:
            self.to_apply.extend(ready.committed)
            if not world.plan.apply_lag:
                self.apply()
            elif not self.apply_scheduled:
                self.apply_scheduled = True
                world.after(1 + self.chance.randrange(world.plan.apply_lag), self.on_apply, self.life)
        for read in ready.reads:
            self._confirm(read)
        for context in ready.reads_failed:
            attempt = self.asked.pop(context, None)
            if attempt is not None:
                world.clients.failed(attempt)
        for node_id in ready.snapshots_to_send:
            if node_id not in self.sending_to:
                self.sending_to.add(node_id)
                world.snapshots.send(self, node_id)

    def _trace_changes(self, entries: Sequence[Entry]) -> None:
        for entry in entries if self.role is Role.LEADER else ():
            if entry.kind == EntryKind.CONFIGURATION:
                wanted = describe_members(decode_configuration(entry.data))
                leader = named(self.node_id, self.incarnation)
                self.world.trace("change", leader, "appends", wanted, "as entry", entry.index, "of term", entry.term)

    def _note_role(self, core: RaftCore) -> None:
        """A new leader must not stamp earlier than the last stamp in its log."""
        role, before = core.state.role, self.role
        if role is before:
            return
        self.role = role
        if role is Role.CANDIDATE:
            self.world.trace("campaigns", named(self.node_id, self.incarnation), "in term", core.state.term)
        elif before is Role.LEADER:
            self.world.trace("steps-down", named(self.node_id, self.incarnation), "in term", core.state.term)
        if role is Role.LEADER:
            self.world.trace("leads", named(self.node_id, self.incarnation), "in term", core.state.term)
            log = core.state.log
            index = self.state.applied_index + 1
            while index <= log.last_index and not self.installs_pending:
                for entry in log.slice(index, log.last_index, 1 << 30, 1 << 30):
                    if entry.kind == EntryKind.NORMAL:
                        self.stamp_us = max(self.stamp_us, decode_command(entry.data).timestamp_us)
                    index = entry.index + 1
            self.world.count("elections won")
            self.world.faults.on_leader(self)

    # -- the log's disk

    def submit(self, write: Write) -> None:
        """Hand a transaction to the disk; it becomes durable later, in order."""
        if write.is_empty() and not self.disk.queue:
            self.acknowledge([write])
            return
        self.disk.queue.append(write)
        if not self.disk_busy:
            self._start_writing()

    def _start_writing(self) -> None:
        self.disk_busy = True
        low, high = self.world.plan.fsync
        group = self.chance.randint(1, len(self.disk.queue))
        self.fsyncs += 1
        delay = self.chance.randint(low, high) * self.disk.slowness
        self.world.after(delay, self.on_written, self.life, self.fsyncs, group)

    def hurry_disk(self) -> None:
        """A disk that was slow is fast again: a write under way ends soon."""
        if self.disk_busy:
            self._start_writing()

    def on_written(self, life: int, fsync: int, group: int) -> None:
        """A group of transactions was committed and synced, or could not be."""
        if life != self.life or fsync != self.fsyncs or self.core is None:
            return
        if self._asleep(self.on_written, life, fsync, group):
            return
        if self.disk.fsync_fails:
            self.world.faults.disk_failed(self)
            return
        if self.disk.full:
            self._find_no_room()
            return
        self.disk_busy = False
        writes = [self.disk.queue.popleft() for _ in range(group)]
        for write in writes:
            self.disk.make_durable(write)
        self.world.checker.written(self)
        if self.disk.queue:
            self._start_writing()
        self.acknowledge(writes)
        self.drain()

    def _find_no_room(self) -> None:
        """A write found the disk full. Nothing of it was promised: it is tried again when there is room, and until then
        this node takes no writes of clients, does not campaign, and hands over if it leads.
        """
        if not self.has_room:
            return
        assert self.core is not None
        self.has_room = False
        self.world.count("disks found full")
        self.world.trace("no-room", self.node_id)
        self.core.set_may_campaign(False)
        progress = self.core.state.progress
        if progress:
            self.transfer(max(progress, key=lambda n: (progress[n].match_index, n)))

    def make_room(self) -> None:
        """There is room again, whether this node has noticed that there was none or not."""
        self.disk.full = False
        if self.core is not None and not self.has_room:
            self.has_room = True
            self.world.trace("room-again", self.node_id)
            self.core.set_may_campaign(True)
            self.hurry_disk()

    def acknowledge(self, writes: list[Write]) -> None:
        """What waited for these writes may happen now."""
        assert self.core is not None
        for write in writes:
            if write.snapshot is not None:
                assert write.image is not None
                self._installed(write.image.copy())
            if write.persist_id:
                self.core.persisted(write.persist_id)
            for message in write.messages:
                self.world.network.send(message)

    def _installed(self, state: LedgerState) -> None:
        self.state = state
        self.installs_pending -= 1
        self.world.count("snapshots installed")
        self.world.trace("installed", named(self.node_id, self.incarnation), "up to entry", state.applied_index)
        self.world.checker.installed(self)
        for index in [i for i in self.waiting if i <= state.applied_index]:
            for _, attempt in self.waiting.pop(index):
                self.world.clients.unknown(attempt)
        self.apply()

    # -- applying and answering

    def on_apply(self, life: int) -> None:
        if life != self.life or self.core is None or self._asleep(self.on_apply, life):
            return
        self.apply_scheduled = False
        self.apply()
        self.drain()

    def apply(self) -> None:
        """Apply what is committed and answer who waits for it."""
        assert self.core is not None
        if self.installs_pending:
            return
        while self.to_apply:
            entry = self.to_apply.popleft()
            result = self.state.apply(entry)
            self.world.checker.applied(self, entry, result)
            for term, attempt in self.waiting.pop(entry.index, ()):
                if term == entry.term:
                    assert result is not None
                    self.world.clients.written(attempt, result)
                else:
                    self.world.clients.failed(attempt)
        self.core.applied(self.state.applied_index)
        self._serve_reads()

    def _confirm(self, read: ReadReady) -> None:
        attempt = self.asked.pop(read.context, None)
        if attempt is not None:
            self.confirmed.append((read.index, attempt))
            self._serve_reads()

    def _serve_reads(self) -> None:
        if not self.confirmed or self.installs_pending:
            return
        later = []
        for index, attempt in self.confirmed:
            if index <= self.state.applied_index:
                self.world.clients.was_read(attempt, self.state.read(attempt.key))
            else:
                later.append((index, attempt))
        self.confirmed = later
