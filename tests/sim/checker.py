"""The invariants of raft.md, checked after every event on the node that it touched.

Each is checked against what was seen so far, not against all nodes again: a committed entry, a leader, a vote or an
acknowledged write is noted when it is first seen, and whatever comes later has to agree with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from appliance.ledger.commands import Outcome, WriteResult, decode_command
from appliance.raft.messages import (
    AnyMessage,
    Configuration,
    Entry,
    EntryKind,
    Member,
    MemberRole,
    Role,
    VoteRequest,
    VoteResponse,
)

from .state import Model, Value

if TYPE_CHECKING:
    from .disk import LogFile
    from .node import SimNode


GIVEN_UP_INVARIANT: Final = "nothing is lost with what a node gives up"


class Violation(Exception):
    """An invariant does not hold; `name` is the invariant's name in raft.md."""

    def __init__(self, name: str, detail: str) -> None:
        super().__init__(f"{name}: {detail}")
        self.name = name
        self.detail = detail


class Committed(NamedTuple):
    """What is committed at an index, and the term of the node at which that was first seen."""

    term: int
    seen_in_term: int


class _Seen:
    """What was last seen of one life of a node."""

    __slots__ = ("commit_index", "last_index", "last_term", "led_term", "term")

    def __init__(self) -> None:
        self.term = self.commit_index = self.last_index = self.last_term = self.led_term = 0


class Checker:
    """Holds what was seen; `disk_checks` also looks at the disks themselves."""

    disk_checks = True

    def __init__(self, log_of: Callable[[Member], LogFile], on_commit: Callable[[SimNode], None]) -> None:
        self._log_of = log_of
        self._on_commit = on_commit
        self._seen: dict[int, _Seen] = {}
        self._durable: dict[tuple[int, int], tuple[int, int]] = {}  # (node, incarnation) -> durable (term, commit)
        self._leaders: dict[int, tuple[int, int]] = {}  # term -> (node, life)
        self._votes: dict[tuple[int, int, int], int] = {}  # (voter, incarnation, term) -> candidate
        self._entries: dict[tuple[int, int], tuple[int, bytes, int | None]] = {}
        self._digests: dict[int, tuple[bytes, bytes]] = {0: (bytes(32), bytes(32))}
        self._model = Model()
        self._model_index = 0
        self._model_outcomes: dict[int, tuple[Outcome, int] | None] = {}
        self._failed: set[str] = set()  # request ids of attempts that were called failed
        self.committed: list[Committed] = [Committed(0, 0)]
        self.acknowledged: dict[int, int] = {}  # index -> term
        self.floors: dict[str, int] = {}  # key -> index of the newest value that a client has seen or written

    # -- what nodes tell

    def started(self, node: SimNode) -> None:
        seen = self._seen[node.node_id] = _Seen()
        core = node.core
        assert core is not None
        seen.term = core.state.term
        term, commit_index = self._durable.get((node.node_id, node.incarnation), (0, 0))
        if self.disk_checks and core.state.term < term:
            raise Violation(
                "term never goes back", f"node {node.node_id} came back in {core.state.term}, was in {term}"
            )
        if self.disk_checks and node.disk.log.hard_state.commit_index < commit_index:
            raise Violation("commit index never goes back", f"node {node.node_id} forgot a durable commit index")

    def set_back(self, node: SimNode) -> None:
        """A node's files were set back in place: what its incarnation had on disk is not there any more, and its votes
        stay given.
        """
        self._durable.pop((node.node_id, node.incarnation), None)

    def written(self, node: SimNode) -> None:
        stored = node.disk.log.hard_state
        term, commit_index = self._durable.get((node.node_id, node.incarnation), (0, 0))
        if self.disk_checks and (stored.term < term or stored.commit_index < commit_index):
            name = "term never goes back" if stored.term < term else "commit index never goes back"
            raise Violation(name, f"node {node.node_id} wrote {stored} after {term, commit_index}")
        self._durable[node.node_id, node.incarnation] = stored.term, stored.commit_index

    def flushed(self, node: SimNode) -> None:
        state, log = node.state, node.disk.log
        if self.disk_checks and state.applied_index and log.term_at(state.applied_index) != state.applied_term:
            raise Violation(
                "ledger follows the log",
                f"node {node.node_id} flushes entry {state.applied_index} that is not durable in its log",
            )

    def sent(self, message: AnyMessage) -> None:
        """A vote leaves a node: it may not contradict an earlier one, in this life or another."""
        if isinstance(message, VoteRequest) and not message.pre_vote:
            candidate = message.sender
        elif isinstance(message, VoteResponse) and message.granted and not message.pre_vote:
            candidate = message.to
        else:
            return
        earlier = self._votes.setdefault((message.sender, message.sender_incarnation, message.term), candidate)
        if earlier != candidate:
            raise Violation(
                "a vote is given once a term",
                f"node {message.sender} votes for node {candidate} in term {message.term}, after node {earlier}",
            )

    def appended(self, node: SimNode, entries: Sequence[Entry]) -> None:
        """Log matching: an (index, term) names one entry and one predecessor everywhere."""
        assert node.core is not None
        previous = node.core.state.log.term_at(entries[0].index - 1)
        for entry in entries:
            place = (entry.index, entry.term)
            known = self._entries.setdefault(place, (entry.kind, entry.data, previous))
            if known != (entry.kind, entry.data, previous):
                raise Violation(
                    "log matching", f"node {node.node_id} holds another entry at {place} than was seen there"
                )
            previous = entry.term

    def applied(self, node: SimNode, entry: Entry, result: WriteResult | None) -> None:
        """State machine safety: the same entry, outcome, state hash and root at each index."""
        index = entry.index
        digest = node.state.digest()
        if index > self._model_index:
            if index != self._model_index + 1:
                raise Violation(
                    "state machine safety", f"node {node.node_id} applies {index} after {self._model_index}"
                )
            self._model_index = index
            self._digests[index] = digest
            self._model_outcomes[index] = self._model.apply(entry)
            if entry.kind == EntryKind.NORMAL and decode_command(entry.data).request_id in self._failed:
                raise Violation("failed means failed", f"the write at {index} was called failed, and is applied now")
        elif self._digests[index] != digest:
            raise Violation("state machine safety", f"node {node.node_id} has another state at index {index}")
        if self.committed[index].term != entry.term:
            raise Violation("state machine safety", f"node {node.node_id} applies another entry at {index}")
        expected = self._model_outcomes[index]
        if result is not None and (result.outcome, result.raft_index) != expected:
            raise Violation("state machine safety", f"{result} at {index}, and the model says {expected}")

    def installed(self, node: SimNode) -> None:
        """A snapshot's content must be the state at its index."""
        index = node.state.applied_index
        if index and self._digests[index] != node.state.digest():
            raise Violation("state machine safety", f"node {node.node_id} installed another state at index {index}")

    # -- what clients tell

    def call_failed(self, request_id: str) -> None:
        self._failed.add(request_id)

    def acknowledge(self, key: str, result: WriteResult, floor: int) -> None:
        """A client was told the outcome of its write; `floor` is the newest value known when it asked."""
        index = result.raft_index
        if index >= len(self.committed) or self.committed[index].term != result.raft_term:
            raise Violation(
                "an acknowledged write is never lost", f"{index} in term {result.raft_term} is not committed"
            )
        self.acknowledged[index] = result.raft_term
        if result.outcome is Outcome.OK:
            if index <= floor:
                raise Violation("linearizability", f"write of {key!r} at {index} is older than {floor} before it began")
            self.floors[key] = max(self.floors.get(key, 0), index)

    def check_read(self, key: str, value: Value, floor: int) -> None:
        """A linearizable read: never older than what was known when it began, and what was written there."""
        if value.raft_index < floor:
            raise Violation(
                "linearizable reads",
                f"read of {key!r} answers the value of {value.raft_index}, and {floor} was known before it began",
            )
        if value.raft_index and self._model.history.get((key, value.raft_index)) != value:
            raise Violation("linearizable reads", f"read of {key!r} answers {value}, which nobody wrote")
        self.floors[key] = max(self.floors.get(key, 0), value.raft_index)

    # -- after every event

    def observe(self, node: SimNode) -> None:
        assert node.core is not None
        state = node.core.state
        seen = self._seen[node.node_id]
        if state.term != seen.term:
            if state.term < seen.term:
                raise Violation("term never goes back", f"node {node.node_id} went from {seen.term} to {state.term}")
            seen.term = state.term
        if state.role is Role.LEADER:
            self._observe_leader(node, seen)
        if state.commit_index != seen.commit_index:
            if state.commit_index < seen.commit_index:
                raise Violation("commit index never goes back", f"node {node.node_id}, to {state.commit_index}")
            self._observe_commit(node, seen.commit_index + 1)
            seen.commit_index = state.commit_index

    def _observe_leader(self, node: SimNode, seen: _Seen) -> None:
        assert node.core is not None
        state = node.core.state
        log = state.log
        if seen.led_term != state.term:
            seen.led_term = state.term
            leader = self._leaders.setdefault(state.term, (node.node_id, node.life))
            if leader != (node.node_id, node.life):
                raise Violation("election safety", f"nodes {leader[0]} and {node.node_id} lead term {state.term}")
            for index in range(log.snapshot_index + 1, len(self.committed)):
                committed = self.committed[index]
                if committed.seen_in_term < state.term and log.term_at(index) != committed.term:
                    raise Violation(
                        self._lost_name(index, "leader completeness"),
                        f"node {node.node_id} leads term {state.term} without entry {index} of term {committed.term},"
                        f" committed in term {committed.seen_in_term}",
                    )
        elif log.last_index < seen.last_index or log.term_at(seen.last_index) not in (seen.last_term, None):
            raise Violation("leader append-only", f"node {node.node_id} dropped entries as leader of {state.term}")
        seen.last_index, seen.last_term = log.last_index, log.last_term

    def _observe_commit(self, node: SimNode, first: int) -> None:
        assert node.core is not None
        state = node.core.state
        if state.commit_index > state.log.last_index:
            raise Violation("commit index", f"node {node.node_id} commits beyond the end of its log")
        for index in range(max(first, state.log.snapshot_index), state.commit_index + 1):
            term = state.log.term_at(index)
            assert term is not None
            if index < len(self.committed):
                if self.committed[index].term != term:
                    raise Violation(
                        self._lost_name(index, "state machine safety"),
                        f"node {node.node_id} commits entry {index} of term {term},"
                        f" and that of term {self.committed[index].term} was committed",
                    )
                continue
            if self.disk_checks:
                self._check_durable(node, index, term)
            self.committed.append(Committed(term, state.term))
            self._on_commit(node)

    def _check_durable(self, node: SimNode, index: int, term: int) -> None:
        assert node.core is not None
        configuration = node.core.state.configuration
        holders = self._holders(configuration, index, term)
        if len(holders) < configuration.quorum():
            raise Violation(
                "answers come after durability",
                f"node {node.node_id} commits entry {index} of term {term}, durable on {holders} of"
                f" {list(configuration.voters())}",
            )

    def _holders(self, configuration: Configuration, index: int, term: int) -> list[int]:
        """The voters on whose disks an entry is."""
        return [
            m.node_id
            for m in configuration.members
            if m.role is MemberRole.VOTER
            and ((log := self._log_of(m)).term_at(index) == term or log.snapshot.index >= index)
        ]

    def check_given_up(self, node: SimNode, configuration: Configuration, index: int) -> None:
        """A node gives up its data, since the entry at `index` lets the others do without it: a majority of the voters
        that are left has to hold everything that was committed before.
        """
        last = min(index, len(self.committed)) - 1
        if last < 1:
            return
        term = self.committed[last].term
        holders = self._holders(configuration, last, term)
        if len(holders) < configuration.quorum():
            raise Violation(
                GIVEN_UP_INVARIANT,
                f"node {node.node_id} gives up its data, and entry {last} of term {term}, which is committed, is left"
                f" on {holders} of {list(configuration.voters())}",
            )

    def _lost_name(self, index: int, otherwise: str) -> str:
        return "an acknowledged write is never lost" if index in self.acknowledged else otherwise

    # -- at the end

    def check_converged(self, nodes: Sequence[SimNode]) -> None:
        """All nodes hold one state, and it is the model's."""
        if len({(n.state.applied_index, n.state.digest()) for n in nodes}) != 1:
            raise Violation("convergence", f"applied {[(n.node_id, n.state.applied_index) for n in nodes]}")
        for node in nodes:
            for key, value in self._model.values.items():
                if node.state.read(key) != value:
                    raise Violation("an acknowledged write is never lost", f"node {node.node_id} has lost {key!r}")
