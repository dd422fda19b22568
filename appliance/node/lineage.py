"""What an operator's `cluster recover` means between two nodes: whose log counts, and who was left behind.

A recovery makes one node the only voter, and the log goes on from what that node holds. Others may hold entries that
were committed before and are not in it, so their logs must not meet: Raft takes for granted that what is committed is
in every leader's log. Each recovery leaves a random number in the configuration, which tells the logs apart.
"""

from __future__ import annotations

from enum import Enum, auto

from appliance.node.peer_ports import Hello
from appliance.node.ports import Identity
from appliance.raft.messages import Configuration, MemberRole


class Relation(Enum):
    """How the log of another node stands to the own one."""

    SAME = auto()  # or one of the two is empty
    BEHIND = auto()  # the other node missed a recovery that this one is of
    AHEAD = auto()  # this node missed one
    FORKED = auto()  # each is of a recovery that the other one missed


def relation(own: Configuration, other: Configuration) -> Relation:
    """Compare the recoveries of two acting configurations."""
    ours, theirs = own.recoveries, other.recoveries
    if ours == theirs or not own.members or not other.members:
        return Relation.SAME
    if theirs == ours[: len(theirs)]:
        return Relation.BEHIND
    return Relation.AHEAD if ours == theirs[: len(ours)] else Relation.FORKED


def is_parted(own: Configuration, me: Identity, hello: Hello) -> bool:
    """Whether what this node and another say to each other in Raft's words must not count.

    One that is named by the side that is ahead was taken in by it, empty, and is on its way to that recovery.
    """
    found = relation(own, hello.configuration)
    if found is Relation.BEHIND:
        return not names(own, hello.identity)
    if found is Relation.AHEAD:
        return not names(hello.configuration, me)
    return found is Relation.FORKED


def left_behind(own: Configuration, me: Identity, hello: Hello) -> bool:
    """Whether a peer proves that this node's log was given up: it is a voter after a recovery that this node missed,
    and that did not take this node in.
    """
    is_ahead = relation(own, hello.configuration) is Relation.AHEAD
    return is_ahead and votes(hello) and not names(hello.configuration, me)


def votes(hello: Hello) -> bool:
    """Whether a node is a voter of the configuration that it acts on itself: one that follows it at some distance may
    know less than the others of who takes part.
    """
    member = hello.configuration.member(hello.identity.node_id)
    return member is not None and member.role is MemberRole.VOTER and names(hello.configuration, hello.identity)


def names(configuration: Configuration, identity: Identity) -> bool:
    """Whether a configuration names this very incarnation."""
    member = configuration.member(identity.node_id)
    return member is not None and member.incarnation == identity.incarnation
