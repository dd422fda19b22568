"""Followers that are spared: a majority is enough to commit, so the others may have their share of few writes together.

Where writes come one at a time, what a follower does for each (wake up, sync, answer) costs far more than what it does
for one more entry, and its sync delays those that are waited for. So the leader sends at once to as many followers as a
majority needs beside itself, to those that were quickest last, and to the others with the next tick, or as soon as
anything is out of the ordinary: more writes under way, a follower or the leader's own disk out of step, leadership
being handed over. A follower that stops answering is waited for until that tick, once: then another one is ahead of
it. (Sending to no more than a quorum first is called thrifty in Moraru, Andersen and Kaminsky, SOSP 2013.)

What is committed is on the disks of a majority, as always; only the copies beyond that come later.
"""

from __future__ import annotations

from appliance.raft.messages import NOBODY
from appliance.raft.progress import ProgressState
from appliance.raft.state import RaftState


def choose(state: RaftState) -> None:
    """Decide, on a leader about to send, who is spared this time."""
    settings, last_index = state.settings, state.log.last_index
    state.spared = ()
    if state.spared_must_follow or last_index - state.commit_index > settings.spare_entries_max:
        state.spared_must_follow = False
        return
    if not settings.spare_entries_max:
        return
    voters = state.voters
    if state.transfer_target != NOBODY or state.node_id not in voters or state.log.stable_index < state.commit_index:
        return  # handing over, or of no use to a majority itself
    in_step = sorted(
        (-progress.match_index, node_id in state.spared_before, node_id)
        for node_id, progress in state.progress.items()
        if progress.state is ProgressState.REPLICATE and node_id in voters
    )
    needed = len(voters) // 2
    if len(in_step) > needed and last_index + in_step[-1][0] <= settings.spared_entries_max:
        state.spared = state.spared_before = tuple(node_id for _, _, node_id in in_step[needed:])


def end(state: RaftState) -> None:
    """Let the spared have what they lack with the next `Ready`; they are the first to be spared again."""
    state.spared_must_follow = bool(state.spared)
