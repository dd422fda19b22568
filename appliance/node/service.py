"""What a node offers to HTTP: writes and reads, wherever the leader is, and what it knows of itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from appliance.ledger.commands import WriteRequest, WriteResult, encode_write
from appliance.ledger.note import format_verifier_key
from appliance.ledger.tile_paths import BundleId, TileId
from appliance.node.api import (
    ChangeAnswer,
    CheckpointAnswer,
    ClusterInfo,
    CompactAnswer,
    Figures,
    Health,
    HistoryAnswer,
    InclusionAnswer,
    PauseAnswer,
    ReadAnswer,
    ResyncAnswer,
    ScanAnswer,
    ScrubFigures,
    TransferAnswer,
)
from appliance.node.compacting import Compacting
from appliance.node.divergence import refuse_quarantined
from appliance.node.driver import Driver
from appliance.node.leadership import Leadership
from appliance.node.membership import Membership
from appliance.node.pausing import Pausing
from appliance.node.ports import Counter, Instruments, StorageError
from appliance.node.proving import Proving
from appliance.node.publishing import Publishing
from appliance.node.reading import Reading
from appliance.node.resyncing import Resyncing
from appliance.node.salts import SaltPool
from appliance.node.scrubbing import Scrubbing
from appliance.node.view import cluster_info, figures_of, health_of
from appliance.node.waiting import Adrift, WriteWaiter, settle
from appliance.raft.core import NotLeader
from appliance.tables.errors import ApplianceError

IN_FLIGHT_BYTES_MAX: Final = 64 * 1024 * 1024  # of writes without an outcome; one that finds less than that may pass it
PROPOSAL_OUTCOMES: Final = ("committed", "not_committed", "unknown", "refused")


class Service:
    """The `NodeService` of a driver.

    Args:
        driver: the running node.
        ledger_path: `ledger.db`, for readers in other processes.
        capacity_keys: number of keys that the node is sized for.
        idempotency_keys: limit on idempotency keys held, written into each command that has one.
        concurrency_max: most writes waiting at once.
        write_timeout_s: how long a write or a read waits.
        publishing: checkpoints.
        scrubbing: reads back what is stored.
        restart: see `Resyncing`.
        instruments: metrics.
    """

    def __init__(
        self,
        driver: Driver,
        *,
        ledger_path: Path,
        capacity_keys: int,
        idempotency_keys: int,
        concurrency_max: int,
        write_timeout_s: float,
        publishing: Publishing,
        scrubbing: Scrubbing,
        restart: Callable[[str], None],
        instruments: Instruments,
    ) -> None:
        self._driver = driver
        self._publishing = publishing
        self._scrubbing = scrubbing
        self._ledger_path = ledger_path
        self._capacity_keys = capacity_keys
        self._idempotency_keys = idempotency_keys
        self._concurrency_max = concurrency_max
        self._timeout_s = write_timeout_s
        self._in_flight = 0  # proposed here, without an outcome
        self._in_flight_bytes = 0
        self._adrift = Adrift()
        self._elsewhere = 0  # taken by `write`: many of them wait at the leader
        self._elsewhere_bytes = 0  # their values
        self._salts = SaltPool()
        self._leadership = Leadership(driver)
        self._reading = Reading(driver, self._leadership, write_timeout_s)
        self._proving = Proving(driver, publishing, self._reading)
        self._pausing = Pausing(driver, self._leadership, write_timeout_s)
        self._membership = Membership(driver, self._leadership)
        self._resyncing = Resyncing(driver, self._membership, restart)
        self._compacting = Compacting(driver, instruments)
        self._outcomes: dict[str, Counter] = {
            outcome: instruments.counter("scribe_raft_proposals_total", outcome=outcome)
            for outcome in PROPOSAL_OUTCOMES
        }
        self._committed = self._outcomes["committed"]
        driver.serve_write = self.serve_write

    # -- writes

    async def write(self, request: WriteRequest) -> WriteResult:
        """Carry out a write, here or through the leader. Only what surely was not handed over is tried again."""
        self._refuse_if_full()
        deadline_s = self._driver.clock.monotonic_s() + self._timeout_s
        size_bytes = sum(len(operation.value) for operation in request.operations)
        self._elsewhere += 1
        self._elsewhere_bytes += size_bytes
        try:
            while True:
                await self._leadership.wait(deadline_s)
                try:
                    if self._driver.can_propose():
                        return await self._propose(request)
                    left_s = deadline_s - self._driver.clock.monotonic_s()
                    return await self._driver.network.forward_write(self._leadership.leader_id(), request, left_s)
                except NotLeader:
                    await asyncio.sleep(self._driver.settings.tick_s)
                except ApplianceError as error:
                    if error.code != "no_leader" or self._driver.clock.monotonic_s() >= deadline_s:
                        raise
                    await asyncio.sleep(self._driver.settings.tick_s)  # the leader is being replaced
        finally:
            self._elsewhere -= 1
            self._elsewhere_bytes -= size_bytes

    async def serve_write(self, request: WriteRequest) -> WriteResult:
        """A follower forwarded a write to this node as the leader."""
        if self._driver.stopping or not self._driver.can_propose():  # who forwarded it finds the next leader
            raise ApplianceError("no_leader", "The node that was asked does not lead at the moment. Send it again.")
        self._refuse_if_full()
        try:
            return await self._propose(request)
        except NotLeader as error:
            raise ApplianceError("no_leader", "The leader is handing over. Send it again.") from error

    def write_now(self, request: WriteRequest, done: WriteWaiter) -> bool:
        """Propose a write at once; False when this node does not lead."""
        self._refuse_if_full()
        if not self._driver.can_propose():
            return False
        self._propose_to(request, done)
        return True

    async def _propose(self, request: WriteRequest) -> WriteResult:
        future: asyncio.Future[WriteResult] = asyncio.get_running_loop().create_future()
        self._propose_to(request, settle(future))
        return await future

    def _propose_to(self, request: WriteRequest, done: WriteWaiter) -> None:
        """Propose a write; `done` is told what became of it. Raises `NotLeader`, and `ApplianceError` when it was not
        proposed.
        """
        refuse_quarantined(self._driver)
        self._refuse_without_room()
        self._leadership.refuse_without_quorum()
        stamp_us = self._driver.next_stamp_us()
        if stamp_us < self._driver.applier.machine.paused_until_us:
            self._outcomes["refused"].inc()
            raise self._pausing.refusal(stamp_us)
        salts = self._salts.take(len(request.operations))
        data = encode_write(request, stamp_us, salts, self._idempotency_keys)
        self._driver.propose(data, request.traceparent, partial(self._settle, done, len(data)))
        self._in_flight += 1
        self._in_flight_bytes += len(data)

    def _settle(self, done: WriteWaiter, size_bytes: int, outcome: WriteResult | ApplianceError) -> None:
        self._in_flight -= 1
        self._in_flight_bytes -= size_bytes
        if isinstance(outcome, WriteResult):
            self._committed.inc()
        else:
            if outcome.code == "outcome_unknown" and self._driver.core is not None:
                self._adrift.add(size_bytes, self._driver.core.state)
            self._outcomes["not_committed" if outcome.code == "not_committed" else "unknown"].inc()
        done(outcome)

    def _refuse_if_full(self) -> None:
        self._refuse_at_end()
        adrift, core = self._adrift, self._driver.core
        if adrift.count and core is not None:
            adrift.look(core.state)
        waiting = max(self._in_flight + adrift.count, self._elsewhere)
        if waiting >= self._concurrency_max:
            raise self._overload(f"{waiting} writes are waiting already (performance.max_concurrency).")
        waiting_bytes = max(self._in_flight_bytes + adrift.size_bytes, self._elsewhere_bytes)
        if waiting_bytes >= IN_FLIGHT_BYTES_MAX:
            raise self._overload(f"Writes of {waiting_bytes} bytes together are waiting already.")

    def _overload(self, what: str) -> ApplianceError:
        self._outcomes["refused"].inc()
        if self._adrift.count:
            what += (
                f" {self._adrift.count} of them could not be committed in time: look at `appliance health` and "
                "`appliance cluster nodes` for what keeps a majority from storing them."
            )
        return ApplianceError("overloaded", what)

    def _refuse_at_end(self) -> None:
        driver = self._driver
        if driver.failure:
            raise ApplianceError("unhealthy", f"This node has failed ({driver.failure}). Ask another node.")
        if driver.stopping:
            raise ApplianceError("shutting_down", "This node is shutting down. Ask another node.")

    def _refuse_without_room(self) -> None:
        if self._driver.room.full:
            self._outcomes["refused"].inc()
            raise ApplianceError(
                "disk_full",
                f"The disk of node {self._driver.identity.node_id}, which leads, is full. Make room: writes are taken "
                "again by themselves. Reads go on.",
            )

    # -- reads

    async def read(self, key: str, *, linearizable: bool, at_leaf: int | None = None) -> ReadAnswer:
        """Read a key."""
        return await self._reading.read(key, linearizable=linearizable, at_leaf=at_leaf)

    def read_now(self, key: str, done: Callable[[ReadAnswer | Exception], None], *, linearizable: bool) -> None:
        """Read a key without a task where that is possible."""
        self._reading.read_now(key, done, linearizable=linearizable)

    async def scan(self, prefix: str, after: str, limit: int, *, linearizable: bool) -> ScanAnswer:
        """List present keys."""
        return await self._reading.scan(prefix, after, limit, linearizable=linearizable)

    async def history(self, key: str, from_leaf: int | None, limit: int, *, linearizable: bool) -> HistoryAnswer:
        """List a key's versions, newest first."""
        return await self._reading.history(key, from_leaf, limit, linearizable=linearizable)

    async def settle(self) -> Path:
        """Wait until the ledger file holds everything applied when this was called."""
        driver = self._driver
        refuse_quarantined(driver)
        target = driver.applier.applied_index
        try:
            while not driver.failure:
                if await driver.keeper.flushed() >= target or driver.keeper.is_resting():
                    return self._ledger_path
                if driver.room.full:
                    raise ApplianceError("disk_full", "The ledger file waits for room on this node. Ask another node.")
                await asyncio.sleep(driver.settings.flush_interval_s)  # the log has to be synced that far first
        except StorageError as error:
            if not driver.failure:
                raise ApplianceError("shutting_down", "This node is shutting down. Ask another node.") from error
        raise ApplianceError("unhealthy", f"This node has failed ({driver.failure}). Ask another node.")

    # -- proofs

    async def checkpoint(self, size_min: int = 0) -> CheckpointAnswer:
        """The latest checkpoint."""
        return await self._proving.checkpoint(size_min)

    async def tile(self, tile: TileId) -> bytes:
        """The hashes of a tile."""
        return await self._proving.tile(tile)

    async def entries(self, bundle: BundleId) -> list[bytes]:
        """The leaves of an entry bundle."""
        return await self._proving.entries(bundle)

    async def inclusion(self, leaf_index: int, tree_size: int) -> list[bytes]:
        """An inclusion path."""
        return await self._proving.inclusion(leaf_index, tree_size)

    async def consistency(self, first_size: int, second_size: int) -> list[bytes]:
        """A consistency proof."""
        return await self._proving.consistency(first_size, second_size)

    async def prove(self, key: str) -> InclusionAnswer:
        """Prove the latest operation on a key."""
        return await self._proving.prove(key)

    async def receipt(self, first_leaf: int, count: int) -> list[InclusionAnswer]:
        """Prove the leaves of a write."""
        return await self._proving.receipt(first_leaf, count)

    # -- the cluster

    async def add_member(self, node_id: int, address: str, raft_address: str, *, wait: bool) -> ChangeAnswer:
        """Make a node a member."""
        return await self._membership.add(node_id, address, raft_address, wait=wait)

    async def remove_member(self, node_id: int) -> ChangeAnswer:
        """Remove a member."""
        return await self._membership.remove(node_id)

    async def transfer_leadership(self, node_id: int | None) -> TransferAnswer:
        """Let another voter lead."""
        return await self._membership.transfer(node_id)

    async def compact(self) -> CompactAnswer:
        """Compact this node."""
        return await self._compacting.compact()

    async def scrub(self, rate: int, *, wait: bool) -> ScrubFigures:
        """Read back what this node stores."""
        self._refuse_at_end()
        return await self._scrubbing.scrub(rate, wait=wait)

    async def resync(self, incarnation: int | None) -> ResyncAnswer:
        """Get this node's data again from the others."""
        self._refuse_at_end()
        return await self._resyncing.resync(incarnation)

    async def pause_writes(self, ttl_s: float, actor: str, request_id: str) -> PauseAnswer:
        """Refuse writes everywhere for a time."""
        return await self._pausing.pause(ttl_s, actor, request_id)

    async def resume_writes(self, actor: str, request_id: str) -> PauseAnswer:
        """Take writes again."""
        return await self._pausing.resume(actor, request_id)

    # -- what it knows

    def health(self) -> Health:
        """The node's state."""
        return health_of(self._driver)

    def cluster(self) -> ClusterInfo:
        """The cluster as this node sees it."""
        key_history = tuple(format_verifier_key(key.verifier_key) for key in self._publishing.keys)
        return replace(cluster_info(self._driver), key_history=key_history)

    def figures(self) -> Figures:
        """Figures of storage and tree."""
        figures = figures_of(self._driver, self._capacity_keys)
        return replace(figures, compaction=self._compacting.figures, scrub=self._scrubbing.figures)
