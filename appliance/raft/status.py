"""A node of a Raft group as it stands at a moment, for whoever shows it."""

from __future__ import annotations

from msgspec import Struct

from appliance.raft.messages import Configuration, Role
from appliance.raft.state import RaftState


class PeerStatus(Struct, frozen=True):
    """A follower as the leader sees it."""

    match_index: int
    next_index: int
    state: str


class RaftStatus(Struct, frozen=True):
    """The node at this moment."""

    node_id: int
    term: int
    role: Role
    leader_id: int
    commit_index: int
    applied_index: int
    last_index: int
    stable_index: int
    snapshot_index: int
    configuration: Configuration
    peers: dict[int, PeerStatus]


def status_of(state: RaftState) -> RaftStatus:
    """The node at this moment."""
    return RaftStatus(
        node_id=state.node_id,
        term=state.term,
        role=state.role,
        leader_id=state.leader_id,
        commit_index=state.commit_index,
        applied_index=state.applied_index,
        last_index=state.log.last_index,
        stable_index=state.log.stable_index,
        snapshot_index=state.log.snapshot_index,
        configuration=state.configuration,
        peers={
            node_id: PeerStatus(progress.match_index, progress.next_index, progress.state.value)
            for node_id, progress in state.progress.items()
            if not progress.leaving_ticks
        },
    )
