"""The members as this node acts on them: links follow the configuration, and who comes back changed is noted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

from appliance.node.bootstrap import peer_addresses
from appliance.node.directory_ports import Standing
from appliance.node.lineage import Relation, is_parted, relation
from appliance.node.noting import note
from appliance.node.peer_ports import Hello, PeerNetwork, Promise
from appliance.node.ports import Identity, Log
from appliance.raft.core import RaftCore
from appliance.raft.messages import NOBODY, Configuration, Role


class Members:
    """Follows the acting configuration of a core.

    Args:
        node_id: of this node.
        network: its links follow the configuration.
        standing: is told who votes.
        log: structured log.

    Attributes:
        hellos: what each node said of itself last, members and others.
        parted: nodes whose log must not meet this one's; see `lineage`.
        forked: those among them that are of another recovery than this node.
    """

    def __init__(self, node_id: int, network: PeerNetwork, standing: Standing, log: Log) -> None:
        self.hellos: dict[int, Hello] = {}
        self.parted: frozenset[int] = frozenset()
        self.forked: frozenset[int] = frozenset()
        self._node_id = node_id
        self._network = network
        self._standing = standing
        self._log = log
        self._seen = Configuration()
        self._linked: dict[int, str] = {}
        self._followed = 0  # members whose progress the core keeps, those that leave included
        self._led = False

    def heard(self, core: RaftCore | None, hello: Hello) -> None:
        """A node says who it is."""
        self.hellos[hello.identity.node_id] = hello
        if core is None:
            return
        self._part(core)
        self._meet(core, hello)
        if hello.configuration_index > hello.commit_index or hello.identity.node_id in self.parted:
            return
        stood = core.state.may_stand()
        core.hear_configuration(hello.configuration_index, hello.configuration)
        if stood and not core.state.may_stand():
            told_by = hello.identity.node_id
            self._log.warning("cluster.removed", index=hello.configuration_index, told_by=told_by)

    def follow(self, core: RaftCore) -> None:
        """Look whether the configuration or the leadership has changed; called often, and cheap when not."""
        state = core.state
        leads = state.role is Role.LEADER
        if leads and not self._led:
            for node_id in self._network.connected():
                if node_id in self.hellos:
                    self._meet(core, self.hellos[node_id])
        self._led = leads
        configuration, followed = state.configuration, len(state.progress)
        if configuration is self._seen and followed == self._followed:
            return
        if configuration != self._seen:
            self._log.info(
                "cluster.members",
                index=state.configuration_index,
                voters=list(configuration.voters()),
                learners=[m.node_id for m in configuration.members if m.node_id not in configuration.voters()],
            )
            self._remember(configuration)
            self._part(core)
        self._seen, self._followed = configuration, followed
        wanted = peer_addresses(configuration, self._node_id)
        for node_id in state.progress:  # one that was removed is told so
            if node_id not in wanted and node_id in self._linked:
                wanted[node_id] = self._linked[node_id]
        if wanted != self._linked:
            self._linked = wanted
            self._network.set_peers(wanted)

    def _remember(self, configuration: Configuration) -> None:
        note(self._log, partial(self._standing.remember, configuration))

    def _part(self, core: RaftCore) -> None:
        """See whose log must not meet this one's."""
        own, me = core.state.configuration, Identity("", core.state.node_id, core.state.incarnation)
        hellos = self.hellos.items()
        forked = frozenset(n for n, h in hellos if relation(own, h.configuration) is Relation.FORKED)
        for node_id in sorted(forked - self.forked):
            self._log.error("cluster.forked", peer=node_id)
        self.parted = frozenset(n for n, h in hellos if is_parted(own, me, h))
        self.forked = forked

    def _meet(self, core: RaftCore, hello: Hello) -> None:
        identity = hello.identity
        if identity.node_id not in self.parted:
            core.meet(identity.node_id, identity.incarnation, hello.address, hello.raft_address)


def promises(core: RaftCore) -> tuple[Promise, ...]:
    """What this node, if it leads, knows that others hold."""
    state = core.state
    return tuple(
        Promise(node_id, progress.incarnation, state.term, min(progress.match_index, state.commit_index))
        for node_id, progress in state.progress.items()
        if progress.heard
    )


def forgotten(core: RaftCore, told: Iterable[Promise]) -> Promise | None:
    """A promise of this very node that it cannot have made, had it not been set back to an earlier state."""
    state = core.state
    for promise in told:
        is_own = (promise.node_id, promise.incarnation) == (state.node_id, state.incarnation)
        if is_own and (state.term < promise.term or state.log.last_index < promise.index):
            return promise
    return None


def is_outside(core: RaftCore) -> bool:
    """Whether the acting configuration knows this node, if at all, by another incarnation; or a later one that it was
    told of does not know it, and no leader says otherwise.
    """
    state = core.state
    me = state.configuration.member(state.node_id)
    return me is None or me.incarnation != state.incarnation or _is_told_removed(core)


def standing(core: RaftCore, hellos: Mapping[int, Hello]) -> str:
    """Why this node is no full member, as a sentence without its full stop; empty when it is one. `hellos` are what
    others said of themselves.
    """
    state = core.state
    me = state.configuration.member(state.node_id)
    if not is_outside(core):
        return ""
    if _is_told_removed(core):
        index, _ = state.told
        teller = next((n for n, hello in sorted(hellos.items()) if hello.configuration_index == index), None)
        return _removed(index, f", says node {teller}" if teller is not None else "")
    if not state.configuration.members:
        return "this node has joined and waits for the leader to bring it up to date"
    if me is not None:
        return (
            "this node's data directory was cleared or replaced, so that what it promised may be forgotten: "
            "it waits for the leader to take it back as a learner"
        )
    return _removed(state.configuration_index, "")


def _removed(index: int, says: str) -> str:
    return (
        f"this node was removed from the cluster by entry {index}{says}: stop it, or add it again with "
        "`appliance cluster add`"
    )


def _is_told_removed(core: RaftCore) -> bool:
    return core.state.leader_id == NOBODY and core.state.is_told_removed()
