"""One node becomes the only voter of its cluster, by an operator's command, when a majority is gone for good.

What etcd does with --force-new-cluster, with three differences. All of the log is kept, not only what is known to be
committed: the stored commit index is a hint that lags, so more would be lost than has to be. The others stay in the
configuration, as learners of incarnations that nobody has, so that each comes back by itself once it is empty. And the
configuration tells the log from that of before (`Configuration.recoveries`, `appliance.node.lineage`), so that nodes
that come back with what they held do no harm. Every node knows these numbers: whatever else has to differ after a
recovery, such as the origin and the key of published checkpoints, can be derived from them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec import Struct
from msgspec.structs import replace

from appliance.node.lineage import Relation, names, relation
from appliance.node.outlook import nodes_text
from appliance.node.peer_ports import Hello
from appliance.node.ports import Identity
from appliance.raft.messages import Configuration, Entry, EntryKind, HardState, Member, MemberRole, make_entry
from appliance.raft.state import encode_configuration


class Holding(Struct, frozen=True, kw_only=True):
    """What a stopped node holds.

    Attributes:
        identity: whose it is.
        remembers: whether this incarnation surely holds all that it promised.
        configuration: the last one in its log; without a log, the one that its ledger was applied under.
        last_index: up to where a recovery keeps its entries.
        last_term: term of that entry.
        term: the latest that it was in.
        commit_index: up to where they are known here to be committed.
        applied_index: what `ledger.db` holds.
        tree_size: leaves of that.
        damage: why its log cannot be used, so that only what `ledger.db` holds is kept; else an empty string.
        diverged: how what `ledger.db` holds was found to differ from the state of the others, where no log makes it
            again; else an empty string.
        rotten: what was found damaged inside of `ledger.db` that is kept all the same; else an empty string.
    """

    identity: Identity
    remembers: bool
    configuration: Configuration
    last_index: int
    last_term: int
    term: int
    commit_index: int
    applied_index: int
    tree_size: int
    damage: str = ""
    diverged: str = ""
    rotten: str = ""


def needless(holding: Holding, peers: Mapping[int, Hello]) -> str:
    """Why this node must not be made the only voter, in one sentence; empty when nothing that is known forbids it.

    Args:
        holding: what it holds.
        peers: what the nodes say that answer, by their ids.
    """
    own = holding.configuration
    for node_id, hello in peers.items():
        if relation(own, hello.configuration) in {Relation.AHEAD, Relation.FORKED}:
            return (
                f"node {node_id} is of a recovery that this node missed: clear this node's data directory and start "
                "it, and it is brought up to date"
            )
    voters = own.voters()
    remembering = {n for n, hello in peers.items() if n in voters and names(own, hello.identity) and not hello.lost}
    if holding.identity.node_id in voters and holding.remembers and names(own, holding.identity):
        remembering.add(holding.identity.node_id)
    if len(remembering) >= own.quorum():
        return (
            f"{nodes_text(remembering)} of {len(voters)} voters are there and hold what they promised, which is a "
            "majority: start this node, and a leader is elected"
        )
    same = [hello for hello in peers.values() if relation(own, hello.configuration) is Relation.SAME]
    best = max(same, key=lambda hello: (hello.last_term, hello.last_index), default=None)
    if best is not None and (best.last_term, best.last_index) > (holding.last_term, holding.last_index):
        return (
            f"node {best.identity.node_id} holds more, up to entry {best.last_index} of term {best.last_term}: recover "
            "that one; or stop it, if that cannot be, to go on without what it holds"
        )
    return ""


def losses(holding: Holding) -> list[str]:
    """What may be lost by making this node the only voter, each as a sentence without its full stop."""
    configuration, me = holding.configuration, holding.identity.node_id
    others = [n for n in configuration.voters() if n != me]
    place = f"entry {holding.last_index} of term {holding.last_term}"
    found = []
    if holding.diverged:
        found.append(
            f"the truth of what is kept: {holding.diverged}, and the log that could make it again has no beginning"
        )
    if holding.rotten:
        found.append(f"what is damaged, which stays so: {holding.rotten}")
    if holding.damage:
        found.append(
            f"every write behind {place}, whoever acknowledged it: {holding.damage}, and only ledger.db is kept"
        )
        return found
    if len(others) >= configuration.quorum():
        found.append(
            f"every acknowledged write behind {place}: {nodes_text(others)} can have acknowledged it without this node"
        )
    if not holding.remembers and not holding.rotten:
        found.append(
            f"what this node has acknowledged behind {place} and forgotten: its data are not those it had last"
        )
    return found


def doubtful(holding: Holding) -> str:
    """What may come to count though a client was told otherwise, as a sentence without its full stop; or nothing."""
    if holding.commit_index >= holding.last_index:
        return ""
    return (
        f"entries {holding.commit_index + 1} to {holding.last_index} are kept, though it is not known here that they "
        "were committed: clients may have been told of writes among them that they were not done, or that it is not "
        "known"
    )


def recovered(holding: Holding, me: Member, chance: Callable[[], int]) -> tuple[Configuration, Entry, HardState]:
    """The configuration with one voter, the entry behind `last_index` that carries it, and the hard state that goes
    with it.

    Args:
        holding: what the node holds.
        me: this node under its new incarnation, so that nobody of before counts on it.
        chance: draws incarnations and the recovery's number.
    """
    before = holding.configuration
    others = [
        replace(member, incarnation=chance(), role=MemberRole.LEARNER)
        for member in before.members
        if member.node_id != me.node_id
    ]
    members = sorted([*others, replace(me, role=MemberRole.VOTER)], key=lambda member: member.node_id)
    configuration = Configuration(tuple(members), (*before.recoveries, chance()))
    term = holding.term + 1
    entry = make_entry(term, holding.last_index + 1, EntryKind.CONFIGURATION, encode_configuration(configuration))
    return configuration, entry, HardState(term, me.node_id, holding.commit_index)
