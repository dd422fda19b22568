"""Heartbeats: they keep followers, carry the commit index, and confirm leadership for reads."""

from __future__ import annotations

from appliance.raft.messages import Heartbeat
from appliance.raft.progress import Progress
from appliance.raft.state import RaftState


def send(state: RaftState, node_id: int, progress: Progress) -> None:
    """Queue a heartbeat; it carries a commit index that the follower surely holds."""
    commit = min(state.commit_index, progress.match_index)
    progress.commit_sent = max(progress.commit_sent, commit)
    heartbeat = state.make(
        Heartbeat, node_id, commit_index=commit, round=state.round, to_incarnation=progress.incarnation
    )
    state.messages.append(heartbeat)


def tell_commits(state: RaftState) -> None:
    """Queue a heartbeat to each follower that does not know how far the log is committed, of what it holds.

    Appends and the heartbeats of reads carry that too, so once a tick is often enough: told at once, each write that
    comes alone would cost two more messages a follower.
    """
    for node_id, progress in state.progress.items():
        if progress.commit_sent < min(state.commit_index, progress.match_index):
            send(state, node_id, progress)


def broadcast(state: RaftState) -> None:
    """Queue a heartbeat to every follower."""
    for node_id, progress in state.progress.items():
        send(state, node_id, progress)
