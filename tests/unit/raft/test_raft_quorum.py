"""Majorities against the dumbest code that can be right."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.raft.quorum import VoteResult, quorum_index, vote_result

voters_lists = st.lists(st.integers(1, 9), unique=True, max_size=7)
matches = st.dictionaries(st.integers(1, 12), st.integers(0, 20))
ballots = st.dictionaries(st.integers(1, 12), st.booleans())


@given(voters_lists, matches)
def test_quorum_index_is_the_highest_that_a_majority_holds(voters: list[int], match: dict[int, int]) -> None:
    held = [i for i in range(21) if 2 * sum(match.get(v, 0) >= i for v in voters) > len(voters)]
    assert quorum_index(voters, match) == max(held, default=0)


@given(voters_lists, ballots)
def test_vote_result_counts_what_can_still_happen(voters: list[int], votes: dict[int, bool]) -> None:
    granted = sum(v in votes and votes[v] for v in voters)
    open_ballots = sum(v not in votes for v in voters)
    if voters and 2 * granted > len(voters):
        expected = VoteResult.WON
    elif 2 * (granted + open_ballots) > len(voters):
        expected = VoteResult.PENDING
    else:
        expected = VoteResult.LOST
    assert vote_result(voters, votes) is expected


@pytest.mark.parametrize(
    ("voters", "votes", "result"),
    [
        pytest.param([], {1: True}, VoteResult.LOST, id="nobody-votes-nobody-wins"),
        pytest.param([1], {1: True}, VoteResult.WON, id="alone"),
        pytest.param([1, 2], {1: True}, VoteResult.PENDING, id="half-is-no-majority"),
        pytest.param([1, 2], {1: True, 2: False}, VoteResult.LOST, id="a-tie-is-lost"),
        pytest.param([1, 2, 3], {1: True, 7: True}, VoteResult.PENDING, id="a-strangers-vote"),
    ],
)
def test_small_elections(voters: list[int], votes: dict[int, bool], result: VoteResult) -> None:
    assert vote_result(voters, votes) is result
