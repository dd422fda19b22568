"""What a leader knows of one follower's log, and how much it may send ahead."""

from __future__ import annotations

from collections import deque
from enum import Enum


class ProgressState(Enum):
    """How entries go to a follower."""

    PROBE = "probe"  # one message at a time until the place where the logs meet is found
    REPLICATE = "replicate"  # pipelined
    SNAPSHOT = "snapshot"  # a snapshot is under way, no entries


class Progress:
    """One follower as the leader sees it.

    Attributes:
        match_index: highest index known to be durable there.
        next_index: index of the next entry to send.
        commit_sent: highest commit index that was sent.
        silent_ticks: ticks since anything came from it, or since it is followed.
        heard: whether anything ever came from it.
        round_acked: last heartbeat round that it answered.
        leaving_ticks: of a node that was removed, ticks for which it is still told what happened; else 0.
        round_target: of a learner, where the leader's log ended when its round began (see `membership`).
        round_ticks: how long that round has taken.
        caught_up: whether its last round took less than an election time-out.
    """

    def __init__(self, next_index: int, incarnation: int) -> None:
        self.incarnation = incarnation
        self.state = ProgressState.PROBE
        self.match_index = 0
        self.next_index = next_index
        self.commit_sent = 0
        self.silent_ticks = 0
        self.heard = False
        self.round_acked = 0
        self.leaving_ticks = 0
        self.round_target = 0
        self.round_ticks = 0
        self.caught_up = False
        self.probe_sent = False
        self._inflight: deque[tuple[int, int]] = deque()
        self.inflight_bytes = 0

    def hear(self) -> None:
        """Something came from it."""
        self.silent_ticks = 0
        self.heard = True

    def sent(self, last_index: int, size: int) -> None:
        """Entries up to `last_index` were sent."""
        if self.state is ProgressState.REPLICATE:
            self._inflight.append((last_index, size))
            self.inflight_bytes += size
            self.next_index = last_index + 1
        else:
            self.probe_sent = True

    def may_send(self, messages_max: int, bytes_max: int) -> bool:
        """Whether another append may be sent now."""
        if self.state is ProgressState.REPLICATE:
            return len(self._inflight) < messages_max and self.inflight_bytes < bytes_max
        return self.state is ProgressState.PROBE and not self.probe_sent

    def acknowledged(self, index: int) -> bool:
        """The follower holds everything up to `index`; tells whether that is news."""
        while self._inflight and self._inflight[0][0] <= index:
            self.inflight_bytes -= self._inflight.popleft()[1]
        self.next_index = max(self.next_index, index + 1)
        if index < self.match_index:
            return False
        news = index > self.match_index
        self.match_index = index
        if self.state is ProgressState.PROBE or (news and self.state is ProgressState.SNAPSHOT):
            self.become_replicate()
        return news

    def refused(self, prev_index: int, next_index: int) -> bool:
        """The follower does not hold `prev_index`; continue from `next_index`. False for an outdated refusal."""
        if self.state is ProgressState.REPLICATE:
            if prev_index <= self.match_index:
                return False
            self.become_probe()
            self.next_index = self.match_index + 1
            return True
        if self.state is ProgressState.SNAPSHOT or prev_index != self.next_index - 1:
            return False
        self.next_index = max(min(prev_index, next_index), self.match_index + 1)
        self.probe_sent = False
        return True

    def become_probe(self) -> None:
        """Send one message at a time from behind the match index."""
        self.state = ProgressState.PROBE
        self.next_index = self.match_index + 1
        self._clear()

    def become_replicate(self) -> None:
        """Pipeline from behind the match index."""
        self.state = ProgressState.REPLICATE
        self.next_index = self.match_index + 1
        self._clear()

    def become_snapshot(self) -> None:
        """Wait for a snapshot to be installed."""
        self.state = ProgressState.SNAPSHOT
        self._clear()

    def _clear(self) -> None:
        self.probe_sent = False
        self._inflight.clear()
        self.inflight_bytes = 0
