"""Whose a data directory is, what is in it, and who the node is that it makes: before anything of the node runs."""

from __future__ import annotations

import secrets
from typing import NamedTuple

from appliance import __version__
from appliance.adapters.identity import DataDirectory
from appliance.adapters.ledger_store import SqliteLedgerStore
from appliance.adapters.log_store import SqliteLogStore
from appliance.adapters.peer_seeking import seek_cluster
from appliance.adapters.peer_settings import peer_settings_from
from appliance.adapters.telemetry.metrics import Registry
from appliance.node.ports import LEDGER_NAME, LOG_NAME, Identity, IdentityCheck, IdentityStatus, Log, StorageFailed
from appliance.node.recovery import Opened, Opening
from appliance.tables.settings import Settings


async def seek(settings: Settings, check: IdentityCheck, registry: Registry, log: Log) -> str:
    """Learn from its seeds which cluster a node belongs to whose directory and configuration do not say so; it asks
    until one of them answers. Empty where there is nothing to ask, or nobody.
    """
    place = Place.of(settings)
    if check.identity is not None or settings.node.cluster_id or place.founder or not place.seeds:
        return ""
    return await seek_cluster(
        peer_settings_from(settings),
        node_id=settings.node.id,
        address=place.address,
        raft_address=place.raft_address,
        version=__version__,
        seeds=place.seeds,
        instruments=registry,
        log=log,
    )


def whose(directory: DataDirectory, settings: Settings, check: IdentityCheck, cluster_found: str) -> str:
    """The id of the cluster that this data directory belongs to.

    Args:
        directory: locked by this process.
        settings: the configuration.
        check: what the directory said.
        cluster_found: what `seek` answered.

    Raises:
        StorageFailed: it is another node's, or it is not known whose; the message says what to do.
    """
    wanted, held = settings.node, check.identity
    if held is not None and (held.node_id != wanted.id or wanted.cluster_id not in ("", held.cluster_id)):
        raise StorageFailed(
            f"{directory.path} belongs to node {held.node_id} of cluster {held.cluster_id}, and the configuration "
            f"names node {wanted.id} of cluster {wanted.cluster_id or held.cluster_id}. Set node.data_dir to this "
            "node's own directory."
        )
    cluster_id = held.cluster_id if held is not None else wanted.cluster_id or cluster_found
    if not cluster_id:
        raise StorageFailed(
            f"{directory.path} is empty and node.cluster_id is not set: only `appliance up` or `appliance init` mint "
            "the id of a new cluster. To join one, set network.seed_peers to peer addresses of its nodes, without "
            "this node's own."
        )
    return cluster_id


def open_stores(
    directory: DataDirectory, settings: Settings, check: IdentityCheck, cluster_id: str, log: Log
) -> Opened:
    """Open the stores of this node's own data directory; what is damaged in them is set aside.

    Args:
        directory: locked by this process.
        settings: the configuration.
        check: what the directory said.
        cluster_id: what it belongs to.
        log: structured log.

    Raises:
        StorageFailed: they are damaged, and nobody could bring the data again; the message says what to do.
        StorageError: they cannot be opened.
    """
    standing = directory.standing
    others = {*standing.voters} - {settings.node.id} if standing.voters else Place.of(settings).seeds
    cache_bytes = settings.storage.max_cache_size
    opening = Opening(
        directory=directory.path,
        open_log=lambda: SqliteLogStore(directory.path / LOG_NAME),
        open_ledger=lambda: SqliteLedgerStore(
            directory.path / LEDGER_NAME, cache_bytes, cluster_id, copy_bytes_per_s=settings.storage.snapshot_rate
        ),
        set_aside=directory.set_aside,
        has_held=standing.has_held,
        alone=not others,
        doubt=standing.doubt or (check.reason if check.status is IdentityStatus.REPLACED else ""),
        log=log,
    )
    opened = opening.open(standing.condemned or (check.reason if check.lost else ""))
    standing.pardon()
    standing.dispel_doubt()
    if opened.lost:
        standing.note_divergence("")
    return opened


def claim(
    directory: DataDirectory, check: IdentityCheck, opened: Opened, log: Log, *, cluster_id: str, node_id: int
) -> Identity:
    """Give a new data directory its identity. One whose data are lost, or were replaced by a copy, gets a new
    incarnation: what the node promised before may be forgotten, so it is taken back as a learner.

    Args:
        directory: locked by this process.
        check: what the directory said before its stores were opened.
        opened: its stores.
        log: structured log.
        cluster_id: what it belongs to.
        node_id: whom.

    Raises:
        StorageError: the identity could not be written.
    """
    stored = opened.stored
    if opened.lost:
        log.warning("node.lost")
    elif check.identity is not None and check.status is IdentityStatus.OK:
        return check.identity
    elif check.status is IdentityStatus.REPLACED and (stored.last_index > 0 or stored.hard_state.term > 0):
        log.warning("node.replaced", reason=check.reason)
    return renew(directory, cluster_id, node_id)


def renew(directory: DataDirectory, cluster_id: str, node_id: int) -> Identity:
    """Make the data directory that of a new incarnation."""
    identity = Identity(cluster_id, node_id, secrets.randbits(63) | 1)
    directory.write(identity)
    return identity


class Place(NamedTuple):
    """Where a node is, and beside whom: its addresses as others dial them, its seeds without itself, and whether it
    is one of them.
    """

    address: str
    raft_address: str
    seeds: tuple[str, ...]
    founder: bool

    @classmethod
    def of(cls, settings: Settings) -> Place:
        """The place that a configuration names."""
        network = settings.network
        raft_address = network.raft_address or f"{network.raft_host}:{network.raft_port}"
        own = {raft_address, f"{network.raft_host}:{network.raft_port}"}
        return cls(
            settings.node.address or f"{network.client_host}:{network.client_port}",
            raft_address,
            tuple(dict.fromkeys(seed for seed in network.seed_peers if seed not in own)),
            not own.isdisjoint(network.seed_peers),
        )
