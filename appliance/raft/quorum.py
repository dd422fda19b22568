"""Majorities: the arithmetic of elections and commits, on plain values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum


class VoteResult(Enum):
    """How an election stands."""

    PENDING = "pending"
    WON = "won"
    LOST = "lost"


def quorum_index(voters: Iterable[int], match: Mapping[int, int]) -> int:
    """The highest index that a majority of `voters` holds; a voter missing from `match` holds nothing.

    0 when there are no voters.
    """
    indexes = sorted((match.get(v, 0) for v in voters), reverse=True)
    return indexes[len(indexes) // 2] if indexes else 0


def vote_result(voters: Iterable[int], votes: Mapping[int, bool]) -> VoteResult:
    """Count an election; votes of anyone but `voters` do not count. Without voters nothing is ever won."""
    ids = list(voters)
    needed = len(ids) // 2 + 1
    granted = sum(1 for v in ids if votes.get(v) is True)
    refused = sum(1 for v in ids if votes.get(v) is False)
    if ids and granted >= needed:
        return VoteResult.WON
    if len(ids) - refused < needed:
        return VoteResult.LOST
    return VoteResult.PENDING
