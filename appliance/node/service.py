"""What a node offers to HTTP: writes and reads, wherever the leader is, and what it knows of itself."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from appliance.ledger.commands import WriteRequest, WriteResult, encode_write
from appliance.ledger.encoding import decode_leaf
from appliance.ledger.state import Head, NewLeaf
from appliance.node.api import (
    ClusterInfo,
    Figures,
    Health,
    HistoryAnswer,
    ReadAnswer,
    ScanAnswer,
)
from appliance.node.driver import Driver
from appliance.node.ports import Counter, Instruments, StorageError
from appliance.node.salts import SaltPool
from appliance.node.view import cluster_info, figures_of, health_of
from appliance.node.waiting import ReadRefused
from appliance.raft.core import NotLeader, RaftCore
from appliance.raft.messages import NOBODY, Role
from appliance.tables.errors import ApplianceError

PENDING_BYTES_MAX: Final = 512 * 1024 * 1024  # applied changes that wait for the ledger file before writes are refused
LOOK_INTERVAL_S: Final = 0.05  # how old the count of voters that can be reached may be
CONTACT_S_MIN: Final = 1.5  # idle links are probed once a second
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
        instruments: Instruments,
    ) -> None:
        self._driver = driver
        self._ledger_path = ledger_path
        self._capacity_keys = capacity_keys
        self._idempotency_keys = idempotency_keys
        self._concurrency_max = concurrency_max
        self._timeout_s = write_timeout_s
        self._in_flight = 0
        self._salts = SaltPool()
        self._reached = 0
        self._look_again_s = 0.0
        self._outcomes: dict[str, Counter] = {
            outcome: instruments.counter("scribe_raft_proposals_total", outcome=outcome)
            for outcome in PROPOSAL_OUTCOMES
        }
        driver.serve_write = self.serve_write

    # -- writes

    async def write(self, request: WriteRequest) -> WriteResult:
        """Carry out a write, here or through the leader. Only what surely was not handed over is tried again."""
        self._refuse_if_full()
        deadline_s = self._driver.clock.monotonic_s() + self._timeout_s
        self._in_flight += 1
        try:
            while True:
                await self._wait_for_leader(deadline_s)
                try:
                    if self._driver.can_propose():
                        return await self._propose(request)
                    left_s = deadline_s - self._driver.clock.monotonic_s()
                    return await self._driver.network.forward_write(self._leader_id(), request, left_s)
                except NotLeader:
                    await asyncio.sleep(self._driver.settings.tick_s)
                except ApplianceError as error:
                    if error.code != "no_leader" or self._driver.clock.monotonic_s() >= deadline_s:
                        raise
                    await asyncio.sleep(self._driver.settings.tick_s)  # the leader is being replaced
        finally:
            self._in_flight -= 1

    async def serve_write(self, request: WriteRequest) -> WriteResult:
        """A follower forwarded a write to this node as the leader."""
        self._refuse_if_full()
        if not self._driver.can_propose():
            raise ApplianceError("no_leader", "The node that was asked does not lead at the moment. Send it again.")
        self._in_flight += 1
        try:
            return await self._propose(request)
        except NotLeader as error:
            raise ApplianceError("no_leader", "The leader is handing over. Send it again.") from error
        finally:
            self._in_flight -= 1

    async def _propose(self, request: WriteRequest) -> WriteResult:
        self._refuse_without_room()
        self._refuse_without_quorum()
        salts = self._salts.take(len(request.operations))
        data = encode_write(request, self._driver.next_stamp_us(), salts, self._idempotency_keys)
        try:
            result = await self._driver.propose(data, request.traceparent)
        except ApplianceError as error:
            self._outcomes["not_committed" if error.code == "not_committed" else "unknown"].inc()
            raise
        self._outcomes["committed"].inc()
        return result

    def _refuse_if_full(self) -> None:
        driver = self._driver
        if driver.failure:
            raise ApplianceError("unhealthy", f"This node has failed ({driver.failure}). Ask another node.")
        if driver.stopping:
            raise ApplianceError("shutting_down", "This node is shutting down. Ask another node.")
        if self._in_flight >= self._concurrency_max:
            self._outcomes["refused"].inc()
            raise ApplianceError(
                "overloaded", f"{self._in_flight} writes are waiting already (performance.max_concurrency)."
            )
        if driver.ledger_store.pending_bytes() > PENDING_BYTES_MAX:
            self._outcomes["refused"].inc()
            raise ApplianceError("overloaded", "The disk does not keep up with the writes.")

    def _refuse_without_room(self) -> None:
        if self._driver.room.full:
            self._outcomes["refused"].inc()
            raise ApplianceError(
                "disk_full",
                f"The disk of node {self._driver.identity.node_id}, which leads, is full. Make room: writes are taken "
                "again by themselves. Reads go on.",
            )

    def _refuse_without_quorum(self) -> None:
        core = self._driver.core
        assert core is not None
        reached = self._voters_reached(core)
        if reached < core.state.configuration.quorum():
            raise self._no_quorum(reached, len(core.state.configuration.voters()))

    def _voters_reached(self, core: RaftCore) -> int:
        """Voters that something was heard from lately, this node among them; a link to a frozen peer still stands."""
        driver = self._driver
        now_s = driver.clock.monotonic_s()
        if now_s >= self._look_again_s:
            patience_s = max(CONTACT_S_MIN, 1.5 * driver.settings.election_timeout_s)
            heard = {node_id for node_id, silent_s in driver.network.connected().items() if silent_s < patience_s}
            self._reached = len((heard | {driver.identity.node_id}) & set(core.state.configuration.voters()))
            self._look_again_s = now_s + LOOK_INTERVAL_S
        return self._reached

    @staticmethod
    def _no_quorum(reached: int, voters: int) -> ApplianceError:
        return ApplianceError(
            "no_quorum",
            f"Only {reached} of {voters} voters can be reached, {voters // 2 + 1} are needed. Start the other nodes.",
        )

    # -- who leads

    def _leader_id(self) -> int:
        core = self._driver.core
        return core.state.leader_id if core is not None else NOBODY

    async def _wait_for_leader(self, deadline_s: float) -> None:
        """Wait until a leader is known, and ready if it is this node; at most two election time-outs."""
        driver = self._driver
        deadline_s = min(deadline_s, driver.clock.monotonic_s() + 2 * driver.settings.election_timeout_s)
        while True:
            core = driver.core
            if driver.failure:
                raise ApplianceError("unhealthy", f"This node has failed ({driver.failure}). Ask another node.")
            if core is not None and core.state.leader_id != NOBODY:
                ready = core.state.role is not Role.LEADER or driver.can_propose()
                if ready:
                    return
            left_s = deadline_s - driver.clock.monotonic_s()
            if left_s <= 0:
                raise self._no_leader()
            driver.leader_changed.clear()
            try:
                await asyncio.wait_for(driver.leader_changed.wait(), min(left_s, driver.settings.tick_s))
            except TimeoutError:
                continue

    def _no_leader(self) -> ApplianceError:
        driver = self._driver
        if driver.core is None:
            refusal = driver.founding.refusal if driver.founding is not None else ""
            waiting = driver.founding.waiting() if driver.founding is not None else "this node is starting"
            return ApplianceError(
                "no_quorum",
                refusal or f"The cluster is not founded yet: {waiting}. Start the nodes that are missing.",
            )
        reached = self._voters_reached(driver.core)
        if reached < driver.core.state.configuration.quorum():
            return self._no_quorum(reached, len(driver.core.state.configuration.voters()))
        return ApplianceError("no_leader", "A majority is there, but it has not elected a leader yet. Send it again.")

    # -- reads

    async def linearize(self) -> None:
        """Wait until everything that was acknowledged before this call is applied here (ReadIndex)."""
        driver = self._driver
        deadline_s = driver.clock.monotonic_s() + self._timeout_s
        while True:
            await self._wait_for_leader(deadline_s)
            context, future, opened = driver.reads.join()
            if opened:
                asyncio.get_running_loop().call_soon(self._ask_read_index, context)
            try:
                left_s = max(0.0, deadline_s - driver.clock.monotonic_s())
                # A question that was lost on the way is asked again after an election time-out.
                patience_s = min(left_s, driver.settings.election_timeout_s)
                index = await asyncio.wait_for(asyncio.shield(future), patience_s)
                break
            except ReadRefused:
                await asyncio.sleep(driver.settings.tick_s)
            except TimeoutError:
                if opened:
                    self._forget_read(context)
                if driver.clock.monotonic_s() >= deadline_s:
                    raise self._read_timeout() from None
        if self._driver.applier.applied_index < index:
            left_s = max(0.0, deadline_s - driver.clock.monotonic_s())
            try:
                await asyncio.wait_for(driver.applied_waiters.add(index), left_s)
            except TimeoutError:
                raise self._read_timeout() from None

    def _read_timeout(self) -> ApplianceError:
        detail = f"No majority confirmed the read within {self._timeout_s:g} s. Send it again, or ask for a stale read."
        return ApplianceError("read_timeout", detail)

    def _ask_read_index(self, context: int) -> None:
        driver = self._driver
        driver.reads.close_open()
        if driver.core is None or driver.failure:
            driver.reads.failed(context)
            return
        driver.core.request_read(context)
        driver.pump_soon()

    def _forget_read(self, context: int) -> None:
        self._driver.reads.forget(context)
        if self._driver.core is not None:
            self._driver.core.forget_read(context)

    async def _consistent(self, linearizable: bool) -> None:
        if linearizable:
            await self.linearize()
        if self._driver.installing:
            raise ApplianceError("unhealthy", "This node is installing a snapshot. Ask another node.")

    async def read(self, key: str, *, linearizable: bool, at_leaf: int | None = None) -> ReadAnswer:
        """Read a key."""
        await self._consistent(linearizable)
        head = self._driver.ledger_store.head(key)
        if at_leaf is not None:
            head = self._head_at(head, at_leaf)
        if head is None or head.deleted:
            raise ApplianceError("not_found", "The key is absent or was deleted. GET /history/{key} shows its past.")
        leaf = self._leaf(head.leaf_index)
        if leaf.value is None:
            raise ApplianceError("value_retired", "A retention rule removed this value; its leaf and proof remain.")
        return ReadAnswer(head, leaf.salt, leaf.value)

    def _head_at(self, head: Head | None, at_leaf: int) -> Head | None:
        """The head as it was after the whole batch that holds a leaf."""
        tree_size = self._driver.applier.machine.tree_size
        if not 0 <= at_leaf < tree_size:
            raise ApplianceError("leaf_out_of_range", f"at_leaf must be below the tree size, {tree_size} now.")
        asked = decode_leaf(self._leaf(at_leaf).leaf)
        last_leaf = asked.batch_id + asked.batch_count - 1
        leaf_index = head.leaf_index if head is not None else None
        while leaf_index is not None:
            leaf = decode_leaf(self._leaf(leaf_index).leaf)
            if leaf_index <= last_leaf:
                return Head(leaf.version, leaf_index, leaf.op == "delete", leaf.timestamp_us, leaf.value_size)
            leaf_index = leaf.prev_leaf_index
        return None

    def _leaf(self, leaf_index: int) -> NewLeaf:
        leaf = self._driver.ledger_store.leaf(leaf_index)
        if leaf is None:
            raise ApplianceError("internal", f"Leaf {leaf_index} is missing from this node's ledger file.")
        return leaf

    async def scan(self, prefix: str, after: str, limit: int, *, linearizable: bool) -> ScanAnswer:
        """List present keys."""
        await self._consistent(linearizable)
        items = self._driver.ledger_store.scan(prefix, after, limit + 1)
        more = len(items) > limit
        items = items[:limit]
        return ScanAnswer(tuple(items), items[-1][0] if more else None)

    async def history(self, key: str, from_leaf: int | None, limit: int, *, linearizable: bool) -> HistoryAnswer:
        """List a key's versions, newest first, by walking from leaf to previous leaf."""
        await self._consistent(linearizable)
        head = self._driver.ledger_store.head(key)
        if head is None:
            raise ApplianceError("not_found", "The key was never written.")
        leaf_index: int | None = head.leaf_index
        if from_leaf is not None:
            start = self._driver.ledger_store.leaf(from_leaf)
            if start is None or decode_leaf(start.leaf).key != key:
                raise ApplianceError("bad_request", "`from` must be the `next` of an earlier answer for this key.")
            leaf_index = from_leaf
        leaves: list[NewLeaf] = []
        while leaf_index is not None and len(leaves) < limit:
            leaf = self._leaf(leaf_index)
            leaves.append(leaf)
            leaf_index = decode_leaf(leaf.leaf).prev_leaf_index
        return HistoryAnswer(tuple(leaves), leaf_index)

    async def settle(self) -> Path:
        """Wait until the ledger file holds everything applied when this was called."""
        driver = self._driver
        target = driver.applier.applied_index
        try:
            while not driver.failure:
                if await driver.keeper.flushed() >= target:
                    return self._ledger_path
                if driver.room.full:
                    raise ApplianceError("disk_full", "The ledger file waits for room on this node. Ask another node.")
                await asyncio.sleep(driver.settings.flush_interval_s)  # the log has to be synced that far first
        except StorageError as error:
            if not driver.failure:
                raise ApplianceError("shutting_down", "This node is shutting down. Ask another node.") from error
        raise ApplianceError("unhealthy", f"This node has failed ({driver.failure}). Ask another node.")

    # -- what it knows

    def health(self) -> Health:
        """The node's state."""
        return health_of(self._driver)

    def cluster(self) -> ClusterInfo:
        """The cluster as this node sees it."""
        return cluster_info(self._driver)

    def figures(self) -> Figures:
        """Figures of storage and tree."""
        return figures_of(self._driver, self._capacity_keys)
