"""A core of its own for each test, and what a test sends it and takes from it."""

from __future__ import annotations

from random import Random
from typing import Any

from appliance.raft.core import RaftCore
from appliance.raft.messages import (
    AnyMessage,
    AppendRequest,
    Configuration,
    Entry,
    EntryKind,
    HardState,
    Member,
    MemberRole,
    Ready,
    Role,
    SnapshotMeta,
    VoteResponse,
    make_entry,
)
from appliance.raft.state import RaftSettings


def membership(*voters: int) -> Configuration:
    return Configuration(tuple(Member(n, n, MemberRole.VOTER, "", "") for n in voters))


class Stored:
    def __init__(self, entries: list[Entry]) -> None:
        self.entries = entries

    def read(self, first: int, last: int, bytes_max: int) -> list[Entry]:
        wanted = [e for e in self.entries if first <= e.index <= last]
        return wanted[: max(1, bytes_max // len(wanted[0].data))]


def make_core(
    voters: tuple[int, ...] = (1, 2, 3),
    terms: tuple[int, ...] = (),
    *,
    hard_state: HardState | None = None,
    applied_index: int = 0,
    snapshot_index: int = 0,
    random_seed: int = 1,
    settings: RaftSettings | None = None,
) -> RaftCore:
    entries = [make_entry(t, snapshot_index + n, EntryKind.NORMAL, b"x") for n, t in enumerate(terms, 1)]
    starts = [(e.index, e.term) for n, e in enumerate(entries) if n == 0 or entries[n - 1].term != e.term]
    return RaftCore(
        node_id=1,
        incarnation=1,
        settings=settings or RaftSettings(election_ticks=10, heartbeat_ticks=2),
        reader=Stored(entries),
        hard_state=hard_state or HardState(max(terms, default=0), 0, 0),
        snapshot=SnapshotMeta(snapshot_index, 1 if snapshot_index else 0, membership(*voters)),
        last_index=snapshot_index + len(entries),
        term_starts=starts,
        configurations=(),
        applied_index=applied_index,
        random=Random(random_seed),
    )


def settle(core: RaftCore) -> list[Ready]:
    """Carry out everything with a disk that needs no time."""
    done = []
    while core.has_ready():
        ready = core.ready()
        done.append(ready)
        if ready.persist_id:
            core.persisted(ready.persist_id)
        if ready.committed:
            core.applied(ready.committed[-1].index)
    return done


def sent(readies: list[Ready]) -> list[AnyMessage]:
    return [m for ready in readies for m in (*ready.messages, *ready.messages_after_persist)]


def says(kind: type, term: int, sender: int = 2, **fields: Any) -> AnyMessage:
    incarnation = fields.pop("incarnation", sender)
    message: AnyMessage = kind(sender=sender, sender_incarnation=incarnation, to=1, term=term, **fields)
    return message


def elect(core: RaftCore) -> int:
    """Make node 1 the leader; answers its term."""
    core.campaign()
    settle(core)
    term = core.state.term + 1
    core.step(says(VoteResponse, term, granted=True, pre_vote=True))
    settle(core)
    core.step(says(VoteResponse, term, granted=True))
    settle(core)
    assert core.state.role is Role.LEADER
    return term


def append(term: int, prev_index: int, prev_term: int, terms: tuple[int, ...], commit_index: int = 0) -> AnyMessage:
    entries = tuple(make_entry(t, prev_index + n, EntryKind.NORMAL, b"y") for n, t in enumerate(terms, 1))
    return says(
        AppendRequest, term, prev_index=prev_index, prev_term=prev_term, entries=entries, commit_index=commit_index
    )
