"""A few nodes on a table: every message waits until a command delivers it, every disk write until it may be durable."""

from __future__ import annotations

from collections import deque
from random import Random

from appliance.raft.core import RaftCore
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
    ReadIndexRequest,
    ReadIndexResponse,
    Ready,
    SnapshotMeta,
    VoteRequest,
    VoteResponse,
    make_entry,
)
from appliance.raft.state import READ_CONTEXT_BITS, RaftSettings, decode_configuration

CONTEXT_MASK = (1 << READ_CONTEXT_BITS) - 1  # above it stands what tells the lives of a node apart


class Stored:
    """What a node's disk holds."""

    def __init__(self, configuration: Configuration) -> None:
        self.snapshot = SnapshotMeta(0, 0, configuration)
        self.hard_state = HardState()
        self.entries: list[Entry] = []

    def read(self, first: int, last: int, bytes_max: int) -> list[Entry]:
        return self.entries[first - self.snapshot.index - 1 : last - self.snapshot.index]

    def write(self, ready: Ready) -> None:
        if ready.snapshot is not None:
            self.snapshot, self.entries = ready.snapshot, []
        if ready.entries:
            self.entries[ready.entries[0].index - self.snapshot.index - 1 :] = ready.entries
        if ready.hard_state is not None:
            self.hard_state = ready.hard_state

    def compact(self, meta: SnapshotMeta) -> None:
        del self.entries[: meta.index - self.snapshot.index]
        self.snapshot = meta

    def configurations(self) -> list[tuple[int, Configuration]]:
        return [(e.index, decode_configuration(e.data)) for e in self.entries if e.kind == EntryKind.CONFIGURATION]

    @property
    def last_index(self) -> int:
        return self.snapshot.index + len(self.entries)

    def term_starts(self) -> list[tuple[int, int]]:
        starts: list[tuple[int, int]] = []
        for entry in self.entries:
            if not starts or starts[-1][1] != entry.term:
                starts.append((entry.index, entry.term))
        return starts


class LabNode:
    """One node: its core, its disk, and the writes that a held disk has not made durable."""

    def __init__(self, node_id: int, configuration: Configuration, settings: RaftSettings) -> None:
        self.settings = settings
        self.configuration = configuration  # what this node believes
        self.node_id = node_id
        self.incarnation = node_id
        self.stored = Stored(configuration)
        self.copy: Stored | None = None
        self.core: RaftCore | None = None
        self.disk_held = False
        self.unwritten: deque[Ready] = deque()

    def start(self) -> None:
        stored = self.stored
        self.core = RaftCore(
            node_id=self.node_id,
            incarnation=self.incarnation,
            settings=self.settings,
            reader=stored,
            hard_state=stored.hard_state,
            snapshot=stored.snapshot,
            last_index=stored.last_index,
            term_starts=stored.term_starts(),
            configurations=stored.configurations(),
            applied_index=stored.snapshot.index,
            random=Random(self.node_id),
        )

    def replace(self, stored: Stored) -> None:
        """Another data directory: another incarnation."""
        self.stored = stored
        self.incarnation += 10
        self.start()

    @property
    def running(self) -> RaftCore:
        assert self.core is not None, f"node {self.node_id} is down"
        return self.core


def membership(voters: list[int], learners: list[int]) -> Configuration:
    """A configuration in which a node's incarnation is its id."""
    members = [Member(n, n, MemberRole.VOTER, "", "") for n in voters]
    members += [Member(n, n, MemberRole.LEARNER, "", "") for n in learners]
    return Configuration(tuple(sorted(members, key=lambda m: m.node_id)))


class Lab:
    """The nodes and the messages between them; what happens is written to `lines`."""

    def __init__(self, voters: list[int], learners: list[int], settings: RaftSettings) -> None:
        self.configuration = membership(voters, learners)
        self.nodes = {m.node_id: LabNode(m.node_id, self.configuration, settings) for m in self.configuration.members}
        self.messages: list[AnyMessage] = []
        self.isolated: set[int] = set()
        self.lines: list[str] = []
        for node in self.nodes.values():
            node.start()

    def store(self, node_id: int, terms: list[int], hard_state: HardState) -> None:
        """Restart a node with a given log."""
        node = self.nodes[node_id]
        node.stored = Stored(node.configuration)
        node.stored.entries = [make_entry(t, n, EntryKind.NORMAL, f"{t}.{n}".encode()) for n, t in enumerate(terms, 1)]
        node.stored.hard_state = hard_state
        node.start()

    # -- carrying out

    def settle(self, node: LabNode) -> None:
        """Carry out everything that a node's core asks for; a held disk keeps its writes."""
        core = node.running
        while core.has_ready():
            ready = core.ready()
            for message in ready.messages:
                self._post(message)
            if ready.persist_id:
                node.unwritten.append(ready)
                if not node.disk_held:
                    self._write(node)
            if ready.committed:
                core.applied(ready.committed[-1].index)
                places = ", ".join(_entry(e) for e in ready.committed)
                self.lines.append(f"  node {node.node_id} applies {places}")
            for read in ready.reads:
                self.lines.append(f"  node {node.node_id} may serve read {read.context} at index {read.index}")
            for context in ready.reads_failed:
                self.lines.append(f"  node {node.node_id} cannot serve read {context}")
            for to in ready.snapshots_to_send:
                self.lines.append(f"  node {node.node_id} has to send a snapshot to node {to}")

    def _write(self, node: LabNode) -> None:
        while node.unwritten:
            ready = node.unwritten.popleft()
            node.stored.write(ready)
            if ready.snapshot is not None:
                self.lines.append(f"  node {node.node_id} installs the snapshot at {ready.snapshot.index}")
            node.running.persisted(ready.persist_id)
            for message in ready.messages_after_persist:
                self._post(message)

    def release_disk(self, node: LabNode) -> None:
        node.disk_held = False
        self._write(node)
        self.settle(node)

    def crash(self, node: LabNode) -> None:
        node.core = None
        node.unwritten.clear()
        node.disk_held = False

    def _post(self, message: AnyMessage) -> None:
        if message.sender not in self.isolated and message.to not in self.isolated:
            self.messages.append(message)

    def act(self, node: LabNode, action: str) -> None:
        """Carry out what followed an action and note how the node's role changed."""
        before = action
        self.settle(node)
        after = self.role(node)
        if after != before:
            self.lines.append(f"  node {node.node_id} is now {after}")

    def role(self, node: LabNode) -> str:
        state = node.running.state
        leader = f" of node {state.leader_id}" if state.leader_id and state.leader_id != node.node_id else ""
        return f"{state.role.value}{leader} in term {state.term}"

    def deliver(self, message: AnyMessage) -> None:
        """Hand a message to its receiver."""
        self.lines.append(describe(message))
        node = self.nodes[message.to]
        if node.core is None:
            self.lines.append(f"  node {message.to} is down")
            return
        before = self.role(node)
        node.core.step(message)
        self.act(node, before)

    def status(self, node: LabNode) -> str:
        if node.core is None:
            return f"node {node.node_id}: down"
        status = node.core.status()
        log = " ".join(
            f"{index}/{node.core.state.log.term_at(index)}"
            for index in range(status.snapshot_index + 1, status.last_index + 1)
        )
        snapshot = f" snapshot {status.snapshot_index}" if status.snapshot_index else ""
        return f"node {node.node_id}: {self.role(node)}, commit {status.commit_index},{snapshot} log {log or 'empty'}"


def _entry(entry: Entry) -> str:
    if entry.kind == EntryKind.CONFIGURATION:
        what = f"members {members(decode_configuration(entry.data))}"
    else:
        what = "no-op" if entry.kind == EntryKind.NOOP else entry.data.decode()
    return f"{entry.index}/{entry.term} {what}"


def members(configuration: Configuration) -> str:
    """Their ids, with ? behind a learner's, and the incarnation where it is not the first: `{1 2 3.13?}`."""
    texts = []
    for member in configuration.members:
        incarnation = "" if member.incarnation == member.node_id else f".{member.incarnation}"
        texts.append(f"{member.node_id}{incarnation}{'?' if member.role is MemberRole.LEARNER else ''}")
    return "{" + " ".join(texts) + "}"


def describe(message: AnyMessage) -> str:
    """A message in one line."""
    match message:
        case VoteRequest():
            kind = "pre-vote?" if message.pre_vote else "vote?"
            text = f"{kind} log ends {message.last_log_index}/{message.last_log_term}"
            text += " (transfer)" if message.transfer else ""
        case VoteResponse():
            text = ("pre-vote " if message.pre_vote else "vote ") + ("granted" if message.granted else "refused")
        case AppendRequest():
            entries = ", ".join(_entry(e) for e in message.entries) or "nothing"
            text = f"append after {message.prev_index}/{message.prev_term}: {entries}; commit {message.commit_index}"
        case AppendResponse():
            text = f"holds {message.index}"
            if not message.success:
                text = f"refuses {message.index}, may agree at {message.hint_index}/{message.hint_term}"
        case Heartbeat():
            text = f"heartbeat round {message.round}; commit {message.commit_index}"
        case HeartbeatResponse():
            text = f"heartbeat answer round {message.round}"
        case ReadIndexRequest():
            text = f"read index for {message.context & CONTEXT_MASK}?"
        case ReadIndexResponse():
            text = f"read index for {message.context & CONTEXT_MASK}: " + (
                str(message.index) if message.ok else "refused"
            )
        case _:
            text = "campaign now"
    return f"{message.sender}->{message.to} [{message.term}] {text}"
