"""A running node as values: health, members, figures. Nothing here asks another node."""

from __future__ import annotations

from appliance.node.api import ClusterInfo, Figures, Health, MemberInfo
from appliance.node.driver import Driver
from appliance.node.members import is_outside, standing
from appliance.node.outlook import way_out
from appliance.raft.core import RaftCore
from appliance.raft.messages import NOBODY, Configuration, Member, Role


def reasons_of(driver: Driver) -> tuple[str, ...]:
    """Why the node cannot serve linearizable reads; empty when it can."""
    core = driver.core
    reasons = []
    if driver.failure:
        reasons.append(f"failed: {driver.failure}")
    if driver.stopping:
        reasons.append("shutting down")
    if driver.quarantine:
        reasons.append(f"quarantined: {driver.quarantine}")
    if driver.installing:
        reasons.append("installing a snapshot")
    if core is None:
        founding = driver.founding
        if founding is not None:
            reasons.append(founding.refusal or f"the cluster is not founded yet: {founding.waiting()}")
            reasons.append(way_out(driver))
    elif core.state.leader_id == NOBODY:
        reasons += [standing(core, driver.members.hellos) or "no leader is known", way_out(driver)]
    elif is_outside(core):
        reasons.append(standing(core, driver.members.hellos))
    elif core.state.role is Role.LEADER and not driver.can_propose():
        handing_over = core.state.transfer_target != NOBODY
        reasons.append("handing over" if handing_over else "the new leader has not committed in its term yet")
    return tuple(reason for reason in reasons if reason)


def health_of(driver: Driver) -> Health:
    """The node's state."""
    reasons = reasons_of(driver)
    state = driver.core.state if driver.core is not None else None
    commit_index = state.commit_index if state else 0
    applied_index = driver.applier.applied_index
    alarms = {
        "failed": driver.failure,
        "disk_full": driver.room.full,
        "writes_paused": is_paused(driver),
        "clock_off": driver.clocks.off,
        "data_set_aside": driver.room.kept > 0,
        "cluster_forked": bool(driver.members.forked),
    }
    return Health(
        healthy=not reasons,
        reasons=reasons,
        node_id=driver.identity.node_id,
        role=role_of(driver),
        leader_id=state.leader_id if state else NOBODY,
        term=state.term if state else 0,
        commit_index=commit_index,
        applied_index=applied_index,
        lag=max(0, commit_index - applied_index),
        alarms=(*(name for name, on in alarms.items() if on), *driver.findings.alarms()),
    )


def is_paused(driver: Driver) -> bool:
    """Whether writes are paused, as far as this node has applied the log."""
    return driver.rest.index() is not None


def role_of(driver: Driver) -> str:
    """Leader, follower, candidate, learner, outsider (removed, or not taken back yet), or founding."""
    core = driver.core
    if core is None:
        return "founding"
    if core.state.role is Role.FOLLOWER and is_outside(core):
        return "outsider"
    if core.state.role is Role.FOLLOWER and not core.state.is_voter():
        return "learner"
    return core.state.role.value


def cluster_info(driver: Driver) -> ClusterInfo:
    """The cluster as this node sees it."""
    core = driver.core
    state = core.state if core is not None else None
    members = state.configuration.members if state else ()
    leader_id = state.leader_id if state else NOBODY
    leader = next((m for m in members if m.node_id == leader_id), None)
    return ClusterInfo(
        identity=driver.identity,
        version=driver.settings.version,
        role=role_of(driver),
        term=state.term if state else 0,
        leader_id=leader_id,
        leader_address=leader.address if leader else "",
        commit_index=state.commit_index if state else 0,
        applied_index=driver.applier.applied_index,
        last_index=state.log.last_index if state else 0,
        snapshot_index=state.log.snapshot_index if state else 0,
        quorum=state.configuration.quorum() if state else 0,
        members=member_infos(driver, state.configuration) if state else (),
    )


def member_infos(driver: Driver, configuration: Configuration) -> tuple[MemberInfo, ...]:
    """The members of a configuration, as this node sees them; none while it belongs to no cluster."""
    contacts, core = driver.network.connected(), driver.core
    return tuple(_member_info(driver, core, m, contacts) for m in configuration.members) if core else ()


def _member_info(driver: Driver, core: RaftCore, member: Member, contacts: dict[int, float]) -> MemberInfo:
    state = core.state
    is_self = member.node_id == driver.identity.node_id
    progress = state.progress.get(member.node_id)
    match_index: int | None = None
    if is_self:
        match_index = state.log.stable_index
    elif progress is not None:
        match_index = progress.match_index
    hello = driver.members.hellos.get(member.node_id)
    return MemberInfo(
        node_id=member.node_id,
        incarnation=f"{member.incarnation:016x}",
        role=member.role.value,
        address=member.address,
        raft_address=member.raft_address,
        is_leader=member.node_id == state.leader_id,
        is_self=is_self,
        connected=is_self or member.node_id in contacts,
        match_index=match_index,
        lag=None if match_index is None else max(0, state.log.last_index - match_index),
        last_contact_s=0.0 if is_self else contacts.get(member.node_id),
        version=driver.settings.version if is_self else (hello.version if hello else None),
    )


def figures_of(driver: Driver, capacity_keys: int) -> Figures:
    """Figures of storage and tree."""
    machine = driver.applier.machine
    return Figures(
        key_count=machine.key_count,
        capacity_keys=capacity_keys,
        ledger_bytes=driver.ledger_store.size_bytes(),
        log_bytes=driver.log_store.size_bytes(),
        pending_bytes=driver.ledger_store.pending_bytes(),
        cache_bytes=driver.ledger_store.cache_bytes(),
        tree_size=machine.tree_size,
        root_hash=machine.root().hex(),
        state_hash=machine.state_hash.hex(),
        published_size=machine.published.tree_size,
    )
