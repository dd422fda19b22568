"""Founding a cluster, or joining one: every seed must say who it is, and for founding that it is as empty as this node.

Only a node that is one of its own seeds founds. Another that is told a cluster id and nothing else about the cluster
would found a second cluster of that id whenever it comes first. Nor does one found, or is founded with, that has held
data of the cluster and lost them: when all seeds have, there is no new cluster to be had, but one to be recovered.

All founders write the same first entry (index 1, term 1): the configuration of all of them, in the order of
their ids. It is committed by construction, so a founder needs nobody's vote for it.
"""

from __future__ import annotations

from typing import Final

from appliance.node.peer_ports import Hello
from appliance.node.ports import Identity
from appliance.raft.messages import Configuration, Entry, EntryKind, Member, MemberRole, make_entry
from appliance.raft.state import encode_configuration

FOUNDING_INDEX: Final = 1  # of the entry that every founder writes
LOST: Final = (
    "this node has held data of its cluster and lost them, so that it founds nothing: it waits for the leader to bring "
    "it up to date"
)


class Founding:
    """Collects hellos until the founding configuration is known.

    Args:
        identity: of this node.
        address: its client address.
        raft_address: its peer address.
        seeds: peer addresses of the other founders, as these tell them. Nobody else founds: a fourth node that is
            started early would else take the place of a seed at one founder, and another's at the next.
        founder: whether this node's own peer address is among its seeds. One that is no founder joins, or waits.
        lost: whether this node has held data of the cluster and lost them.

    Attributes:
        lost: as above.
        refusal: why this node founds nothing, and what it waits for, as a sentence without its full stop; empty while
            it may found.
        admitted: whether a cluster that exists knows this very incarnation.
    """

    def __init__(
        self,
        identity: Identity,
        address: str,
        raft_address: str,
        seeds: tuple[str, ...],
        *,
        founder: bool,
        lost: bool = False,
    ) -> None:
        self._identity = identity
        self._seeds = seeds
        self._founder = founder and not lost
        self.lost = lost
        self._members = {
            identity.node_id: Member(identity.node_id, identity.incarnation, MemberRole.VOTER, address, raft_address)
        }
        self._strangers: dict[int, str] = {}
        self._forgetful: set[int] = set()
        self._exists = False
        self.refusal = "" if founder else _founds_none(identity.node_id, raft_address)
        if lost:
            self.refusal = LOST
        self.admitted = False

    def missing(self) -> int:
        """How many seeds have not been heard."""
        return len(self._seeds) + 1 - len(self._members)

    def waiting(self) -> str:
        """What is waited for, and who was heard in vain, as a sentence without its full stop."""
        strangers = ", ".join(f"node {n} at {self._strangers[n]}" for n in sorted(self._strangers))
        if self._exists:
            return "others have founded it, and have not said with whom"
        said = f"{self.missing()} of its seeds were not heard"
        if self._forgetful:
            nodes = ", ".join(f"node {n}" for n in sorted(self._forgetful))
            said = f"{nodes} had data of it and lost them, so that it is not founded anew"
        return f"{said}, and network.seed_peers does not name {strangers}" if strangers else said

    def cluster_exists(self) -> None:
        """A peer takes part in the cluster already: only a hello of one that was founded may found this node now.
        Else this node could found it a second time with a seed that has lost its memory since.
        """
        self._exists = True

    def alone(self) -> Configuration | None:
        """The founding configuration of a node that is its own only seed; None for any other."""
        return self.configuration() if self._founder and not self._seeds else None

    def hear(self, hello: Hello) -> Configuration | None:
        """Take in a hello; answers the founding configuration once it is known.

        A node of a cluster that exists decides. When its configuration names this very incarnation, this node takes
        part: it takes the founding configuration, and is `admitted` by a later one. When it does not, this node must
        not found anything, and `refusal` says what it waits for.
        """
        if hello.configuration.members:
            return self._hear_member(hello)
        peer = hello.identity
        self._forgetful.discard(peer.node_id)
        if hello.lost:
            self._members.pop(peer.node_id, None)
            self._forgetful.add(peer.node_id)
            return None
        if hello.raft_address not in self._seeds:
            self._strangers[peer.node_id] = hello.raft_address
            return None
        self._members[peer.node_id] = Member(
            peer.node_id, peer.incarnation, MemberRole.VOTER, hello.address, hello.raft_address
        )
        if self.refusal or self._exists or self.missing() > 0:
            return None
        return self.configuration()

    def _hear_member(self, hello: Hello) -> Configuration | None:
        own_id = self._identity.node_id
        me = hello.configuration.member(own_id)
        if me is not None and me.incarnation == self._identity.incarnation:
            if hello.configuration_index == FOUNDING_INDEX:
                return hello.configuration
            self.admitted = True
            return None
        known = (
            "by another incarnation: its data were cleared or lost, and it waits for the leader to take it back"
            if me is not None
            else f"not yet: it waits for `appliance cluster add {own_id} ...`"
        )
        self.refusal = f"node {hello.identity.node_id} says that the cluster exists and knows this node {known}"
        return None

    def configuration(self) -> Configuration:
        """The configuration of everyone heard so far."""
        return Configuration(tuple(self._members[n] for n in sorted(self._members)))


def _founds_none(node_id: int, raft_address: str) -> str:
    return (
        f"this node founds no cluster, because its peer address {raft_address} is not among its network.seed_peers: it "
        f"waits for `appliance cluster add {node_id} ...`"
    )


def founding_entry(configuration: Configuration) -> Entry:
    """The first entry of every founder's log."""
    return make_entry(1, FOUNDING_INDEX, EntryKind.CONFIGURATION, encode_configuration(configuration))


def peer_addresses(configuration: Configuration, node_id: int) -> dict[int, str]:
    """Peer addresses of the members of a configuration other than `node_id`."""
    return {m.node_id: m.raft_address for m in configuration.members if m.node_id != node_id}
