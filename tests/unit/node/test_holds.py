"""What of the log stays for followers that are brought a snapshot, and when that ends."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from appliance.node.compaction import compaction_target
from appliance.node.holds import HOLD_BYTES_MIN, PATIENCE_S, Holds
from appliance.raft.progress import Progress
from appliance.raft.state import RaftState

TICK_S = 0.025
LAG_MAX = 1000
NODE = 4


class Lab:
    """A leader's log, a learner, and what is held for it."""

    def __init__(self, last_index: int) -> None:
        self.last_index = last_index
        self.log_bytes = 10**6
        self.learner = Progress(1, incarnation=40)
        self.followed = True
        self.holds = Holds(lambda: self.log_bytes, TICK_S, LAG_MAX)

    def held(self) -> int | None:
        progress = {NODE: self.learner} if self.followed else {}
        log: Any = SimpleNamespace(last_index=self.last_index)
        return self.holds.index(cast(RaftState, SimpleNamespace(log=log, progress=progress)))

    def target(self) -> int | None:
        """Up to where a checkpoint of everything would drop the log, which is long over its bound."""
        return compaction_target(
            snapshot_index=0,
            last_index=self.last_index,
            needless_index=self.last_index,
            match_indexes=[self.learner.match_index],
            held_index=self.held(),
            compact_entries=LAG_MAX,
            keep_entries=100,
        )


def taken(index: int, last_index: int, ledger_bytes: int = 0) -> Lab:
    lab = Lab(last_index)
    lab.holds.begin(NODE, ledger_bytes)
    lab.holds.copied(NODE, index)
    lab.holds.taken(NODE)
    return lab


def test_a_copy_that_is_made_holds_everything_and_one_on_its_way_what_comes_behind_it() -> None:
    lab = Lab(20_000)
    assert lab.held() is None
    lab.holds.begin(NODE, 0)
    assert lab.held() == 0
    lab.holds.copied(NODE, 500)
    assert lab.held() == 500
    lab.followed = False  # another leads for a while; the copy is on its way all the same
    assert lab.held() == 500
    lab.holds.end(NODE)
    assert lab.held() is None


def test_who_has_taken_a_snapshot_is_not_starved_of_what_was_written_meanwhile() -> None:
    lab = taken(8000, 20_000)
    assert lab.target() == 8000, "it has not said yet that it holds anything"
    for match_index in (8000, 9000, 18_999):
        lab.learner.acknowledged(match_index)
        assert lab.held() == lab.target() == match_index
    lab.last_index = 30_000
    for match_index in (25_000, 29_000):
        lab.learner.acknowledged(match_index)
        assert lab.target() == match_index
    assert lab.held() is None, "it is near: the rule for all followers holds what it needs"
    lab.last_index += 2999
    assert lab.target() == 29_000
    lab.last_index += 1
    assert lab.target() == 32_900, "and that rule has its end"


def test_the_oldest_hold_counts() -> None:
    lab = taken(8000, 20_000)
    lab.holds.begin(5, 0)
    lab.holds.copied(5, 3000)
    assert lab.held() == 3000


def test_who_is_silent_for_long_holds_nothing_any_more() -> None:
    lab = taken(8000, 20_000)
    lab.learner.silent_ticks = int(PATIENCE_S / TICK_S)
    assert lab.held() == 8000
    lab.learner.silent_ticks += 1
    assert lab.held() is None
    lab.learner.hear()
    assert lab.held() is None


def test_who_is_no_follower_any_more_holds_nothing() -> None:
    lab = taken(8000, 20_000)
    lab.followed = False
    assert lab.held() is None


def test_a_log_that_grows_beyond_the_ledger_is_not_held() -> None:
    ledger_bytes = 3 * HOLD_BYTES_MIN
    lab = taken(8000, 20_000, ledger_bytes)
    before = lab.log_bytes
    lab.log_bytes = before + ledger_bytes
    assert lab.held() == 8000
    lab.log_bytes += 1
    assert lab.held() is None
    small = taken(8000, 20_000, 10)
    small.log_bytes += HOLD_BYTES_MIN
    assert small.held() == 8000
