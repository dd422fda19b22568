"""Deliberate bugs: each is switched on alone, and some seed has to give it away by the right invariant.

`python -m tests.sim --list-bugs` names them, `--bug NAME` switches one on for the seeds that are run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple

import pytest

from appliance.raft import elections, heartbeats, reads, replication
from appliance.raft.log import RaftLog
from appliance.raft.messages import HardState, MemberRole
from appliance.raft.state import RaftState

from . import members
from .checker import GIVEN_UP_INVARIANT, Checker
from .disk import LogFile, Write
from .histories import HISTORY_INVARIANT
from .node import SimNode
from .resyncs import Resyncs

Patch = pytest.MonkeyPatch


def commits_older_terms(patch: Patch) -> None:
    """A leader commits an entry of an older term because a majority holds it (5.4.2)."""
    patch.setattr(replication, "commits_by_counting", lambda _state, _index: True)


def answers_before_fsync(patch: Patch) -> None:
    """What waits for a write is sent before the write is durable."""

    def submit(self: SimNode, write: Write) -> None:
        if write.snapshot is not None:
            return proper(self, write)
        self.disk.queue.append(Write(entries=write.entries, hard_state=write.hard_state, compact_to=write.compact_to))
        if not self.disk_busy:
            self._start_writing()
        return self.acknowledge([write])

    proper = SimNode.submit
    patch.setattr(SimNode, "submit", submit)


def answers_before_fsync_unseen(patch: Patch) -> None:
    """The same, and the checker does not look at the disks: only what follows from the bug can give it away."""
    answers_before_fsync(patch)
    patch.setattr(Checker, "disk_checks", False)


def forgets_its_vote(patch: Patch) -> None:
    """A node that starts again does not know whom it voted for."""
    patch.setattr(
        LogFile, "stored_hard_state", lambda self: HardState(self.hard_state.term, 0, self.hard_state.commit_index)
    )


def reads_before_the_noop(patch: Patch) -> None:
    """A new leader confirms reads before an entry of its own term is committed (6.4)."""

    def start_round(state: RaftState) -> None:
        if state.waiting_reads and not state.round_reads:
            state.round += 1
            state.round_reads, state.waiting_reads = state.waiting_reads, []
            state.round_index = state.commit_index
            heartbeats.broadcast(state)
            reads.on_round_acked(state)

    patch.setattr(reads, "start_round", start_round)


def reads_without_a_round(patch: Patch) -> None:
    """A leader serves reads without asking a majority whether it still leads."""

    def start_round(state: RaftState) -> None:
        if state.waiting_reads and state.commit_index >= state.term_start_index:
            state.round_reads, state.waiting_reads = state.waiting_reads, []
            state.round_index = state.commit_index
            for progress in state.progress.values():
                progress.round_acked = state.round
            proper(state)

    proper = reads.on_round_acked
    patch.setattr(reads, "start_round", start_round)


def reads_without_a_round_unseen(patch: Patch) -> None:
    """The same, and only the judge of the clients' histories looks at reads."""
    reads_without_a_round(patch)
    patch.setattr(Checker, "check_read", lambda *_: None)


def votes_for_anybody(patch: Patch) -> None:
    """A voter does not compare the candidate's log with its own (5.4.1)."""
    patch.setattr(RaftLog, "up_to_date", lambda _self, _index, _term: True)


def counts_learners(patch: Patch) -> None:
    """A leader counts learners when it looks for as many holders of an entry as a majority of the voters has."""
    learners: set[int] = set()

    def advance_commit(state: RaftState) -> None:
        learners.clear()
        learners.update(m.node_id for m in state.configuration.members if m.role is MemberRole.LEARNER)
        proper(state)

    def quorum_index(voters: Iterable[int], match: Mapping[int, int]) -> int:
        counted = tuple(voters)
        return sorted((match.get(n, 0) for n in {*counted, *learners}), reverse=True)[len(counted) // 2]

    proper = replication.advance_commit
    patch.setattr(replication, "advance_commit", advance_commit)
    patch.setattr(replication, "quorum_index", quorum_index)


def wiped_voters_vote(patch: Patch) -> None:
    """A voter whose disk was lost votes as if it were still the one that made its promises."""
    patch.setattr(elections, "has_say", lambda _state: True)
    patch.setattr(RaftState, "counts", lambda self, message: self.configuration.member(message.sender) is not None)


def set_backs_are_not_renounced(patch: Patch) -> None:
    """A node whose files were set back in place goes on as if nothing had happened, whatever the leader tells it."""
    patch.setattr(members, "forgotten", lambda _core, _told: None)


def resyncs_before_the_commit(patch: Patch) -> None:
    """A node gives up its data as soon as the leader has proposed to do without it, as one that is asked a second time
    would if the answer did not wait for the commit.
    """
    patch.setattr(Resyncs, "is_agreed", staticmethod(lambda _leader, _index: True))


TWICE: Final = frozenset({"a vote is given once a term", "election safety"})
LOST: Final = frozenset({"leader completeness", "state machine safety", "an acknowledged write is never lost"})
DURABLE: Final = frozenset({"answers come after durability"})
READS: Final = frozenset({"linearizable reads"})


class Bug(NamedTuple):
    """A bug, the invariants of which any may give it away, and seeds among which one does: chosen for short runs, so
    they show that it is caught, and not how soon.
    """

    name: str
    inject: Callable[[Patch], None]
    invariants: frozenset[str]
    seeds: Sequence[int]

    @property
    def says(self) -> str:
        """What the bug is."""
        return " ".join((self.inject.__doc__ or "").split())


BUGS: Final = {
    bug.name: bug
    for bug in (
        Bug("commit-of-an-older-term-by-counting", commits_older_terms, LOST, (5,)),
        Bug("answer-before-fsync", answers_before_fsync, DURABLE, (0,)),
        Bug("answer-before-fsync-by-its-consequence", answers_before_fsync_unseen, LOST | TWICE, (32,)),
        Bug("vote-twice-after-a-restart", forgets_its_vote, frozenset({"a vote is given once a term"}), (116,)),
        Bug("leader-counts-a-learner", counts_learners, DURABLE, (36,)),
        Bug("wiped-voter-votes", wiped_voters_vote, LOST, (94,)),
        Bug("read-without-a-heartbeat-round", reads_without_a_round, READS, (10,)),
        Bug(
            "read-without-a-heartbeat-round-by-its-history",
            reads_without_a_round_unseen,
            frozenset({HISTORY_INVARIANT}),
            (10,),
        ),
        Bug("read-before-the-noop-is-committed", reads_before_the_noop, READS, (2,)),
        Bug("vote-for-a-log-that-is-behind", votes_for_anybody, LOST, (5,)),
        Bug("resync-before-the-commit", resyncs_before_the_commit, frozenset({GIVEN_UP_INVARIANT}), (250,)),
        Bug("set-back-is-not-renounced", set_backs_are_not_renounced, DURABLE | LOST | TWICE, (45,)),
    )
}


@contextmanager
def switched_on(name: str | None) -> Iterator[None]:
    """Run what is inside with a bug, or without one."""
    with Patch.context() as patch:
        if name is not None:
            BUGS[name].inject(patch)
        yield


def switch_on(name: str | None) -> None:
    """Let this process have a bug until it ends, or none."""
    if name is not None:
        BUGS[name].inject(Patch())
