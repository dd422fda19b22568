"""Reads: linearizable by a read index that many share, or stale; with a task, and for single keys without one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from appliance.ledger.encoding import decode_leaf
from appliance.ledger.state import Head, NewLeaf
from appliance.node.api import HistoryAnswer, ReadAnswer, ScanAnswer
from appliance.node.divergence import refuse_quarantined
from appliance.node.driver import Driver
from appliance.node.findings import Finding
from appliance.node.leadership import Leadership
from appliance.node.ports import DamagedFile
from appliance.node.waiting import ReadWaiter, settle
from appliance.tables.errors import ApplianceError


class Reading:
    """The reads of a `NodeService`.

    Args:
        driver: the running node.
        leadership: who leads.
        timeout_s: how long a read waits.
    """

    def __init__(self, driver: Driver, leadership: Leadership, timeout_s: float) -> None:
        self._driver = driver
        self._leadership = leadership
        self._timeout_s = timeout_s
        self._tasks: set[asyncio.Task[None]] = set()

    async def linearize(self) -> None:
        """Wait until everything that was acknowledged before this call is applied here (ReadIndex)."""
        driver = self._driver
        deadline_s = driver.clock.monotonic_s() + self._timeout_s
        while True:
            refuse_quarantined(driver)
            await self._leadership.wait(deadline_s)
            future: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
            self._ask(settle(future))
            try:
                index = await asyncio.wait_for(future, max(0.0, deadline_s - driver.clock.monotonic_s()))
            except TimeoutError:
                raise self._read_timeout() from None
            if index is not None:
                break
            await asyncio.sleep(driver.settings.tick_s)
        await self._applied(index, deadline_s)

    async def _applied(self, index: int, deadline_s: float) -> None:
        """Wait until `index` is applied here. Raises `read_timeout`."""
        driver = self._driver
        if driver.applier.applied_index < index:
            left_s = max(0.0, deadline_s - driver.clock.monotonic_s())
            try:
                await asyncio.wait_for(driver.applied_waiters.add(index), left_s)
            except TimeoutError:
                raise self._read_timeout() from None

    def _read_timeout(self) -> ApplianceError:
        detail = f"No majority confirmed the read within {self._timeout_s:g} s. Send it again, or ask for a stale read."
        return ApplianceError("read_timeout", detail)

    def _ask(self, waiter: ReadWaiter) -> None:
        """Let `waiter` be told a read index; all who ask in one turn of the loop share one question."""
        context, opened = self._driver.reads.join(waiter, self._driver.clock.monotonic_s())
        if opened:
            asyncio.get_running_loop().call_soon(self._ask_leader, context)

    def _ask_leader(self, context: int) -> None:
        driver = self._driver
        driver.reads.close_open()
        if driver.core is None or driver.failure:
            driver.reads.failed(context)
            return
        driver.core.request_read(context)
        driver.pump()

    async def _consistent(self, linearizable: bool) -> None:
        if linearizable:
            await self.linearize()
        self._refuse_unfit()

    def _refuse_unfit(self) -> None:
        refuse_quarantined(self._driver)
        if self._driver.installing:
            raise ApplianceError("unhealthy", "This node is installing a snapshot. Ask another node.")

    async def head(self, key: str, *, linearizable: bool = True) -> Head:
        """The head of a key that was ever written, deleted or not. Raises `not_found` for any other."""
        await self._consistent(linearizable)
        head = self._driver.ledger_store.head(key)
        if head is None:
            raise ApplianceError("not_found", "The key was never written.")
        return head

    async def read(self, key: str, *, linearizable: bool, at_leaf: int | None = None) -> ReadAnswer:
        """Read a key."""
        if linearizable:
            await self.linearize()
        return self._read_here(key, at_leaf)

    def read_now(self, key: str, done: Callable[[ReadAnswer | Exception], None], *, linearizable: bool) -> None:
        """Read a key without a task, if the leader answers at once and this node has applied what it has to."""
        if not linearizable or self._driver.quarantine:
            self._read_to(key, done)
            return

        def go_on(index: int | None) -> None:
            if index is None:
                self._spawn(self.read(key, linearizable=True), done)
            elif self._driver.applier.applied_index < index:
                self._spawn(self._read_from(key, index), done)
            else:
                self._read_to(key, done)

        if self._leadership.is_ready():
            self._ask(go_on)
        else:
            go_on(None)

    def _read_to(self, key: str, done: Callable[[ReadAnswer | Exception], None]) -> None:
        try:
            answer = self._read_here(key, None)
        except Exception as error:
            done(error)
        else:
            done(answer)

    async def _read_from(self, key: str, index: int) -> ReadAnswer:
        await self._applied(index, self._driver.clock.monotonic_s() + self._timeout_s)
        return self._read_here(key, None)

    def _spawn(self, reading: Coroutine[Any, Any, ReadAnswer], done: Callable[[ReadAnswer | Exception], None]) -> None:
        async def run() -> None:
            try:
                answer = await reading
            except Exception as error:
                done(error)
            else:
                done(answer)

        task = asyncio.get_running_loop().create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _read_here(self, key: str, at_leaf: int | None) -> ReadAnswer:
        """Read what this node has applied."""
        self._refuse_unfit()
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

    def _rotten(self, what: str) -> ApplianceError:
        node_id = self._driver.identity.node_id
        return ApplianceError(
            "verification_failed",
            f"The ledger file of node {node_id} is damaged: {what}. Ask another node, and resync this one with "
            f"`appliance cluster resync {node_id}`.",
        )

    def _leaf(self, leaf_index: int) -> NewLeaf:
        if leaf_index in self._driver.findings.rotten_leaves:
            raise self._rotten(f"leaf {leaf_index} has rotted")
        try:
            leaf = self._driver.ledger_store.leaf(leaf_index)
        except DamagedFile as error:
            self._driver.findings.report(Finding.STORAGE_ROTTEN, error.detail)
            raise self._rotten(error.detail) from error
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
        leaf_index: int | None = (await self.head(key, linearizable=linearizable)).leaf_index
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
