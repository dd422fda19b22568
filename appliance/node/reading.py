"""Reads: linearizable by a read index that many share, or stale; with a task, and for single keys without one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from appliance.ledger.encoding import Leaf
from appliance.ledger.state import Head, NewLeaf
from appliance.node.api import HistoryAnswer, ReadAnswer, ScanAnswer
from appliance.node.divergence import refuse_quarantined
from appliance.node.driver import Driver
from appliance.node.findings import Finding
from appliance.node.leadership import Leadership
from appliance.node.ports import DamagedFile
from appliance.node.waiting import ReadWaiter, settle
from appliance.tables.errors import ApplianceError

_Read = TypeVar("_Read")

WALK_LEAVES_PER_TURN: Final = 64  # at 10 to 15 us for one that is read from the file: a millisecond of the loop's time
WALK_S_PER_TURN: Final = 0.001  # fewer of them where each waits for the disk, but one at least


class Reading:
    """The reads of a `NodeService`.

    Args:
        driver: the running node.
        leadership: who leads.
        timeout_s: how long a read waits, and how long a walk over a key's past may take on top.
    """

    def __init__(self, driver: Driver, leadership: Leadership, timeout_s: float) -> None:
        self._driver = driver
        self._leadership = leadership
        self._timeout_s = timeout_s
        self._tasks: set[asyncio.Task[None]] = set()
        self._walking = asyncio.Lock()  # however many walk at once, a turn of the loop holds no more than one's slice

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
        if at_leaf is None:
            return self._read_here(key)
        return self._answer(await self._head_at(key, at_leaf))

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
            answer = self._read_here(key)
        except Exception as error:
            done(error)
        else:
            done(answer)

    async def _read_from(self, key: str, index: int) -> ReadAnswer:
        await self._applied(index, self._driver.clock.monotonic_s() + self._timeout_s)
        return self._read_here(key)

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

    def _read_here(self, key: str) -> ReadAnswer:
        """Read what this node has applied."""
        self._refuse_unfit()
        return self._answer(self._driver.ledger_store.head(key))

    def _answer(self, head: Head | None) -> ReadAnswer:
        """What a head points at, read whole and checked."""
        if head is None or head.deleted:
            raise ApplianceError("not_found", "The key is absent or was deleted. GET /history/{key} shows its past.")
        leaf = self._leaf(head.leaf_index)
        if leaf.value is None:
            raise ApplianceError("value_retired", "A retention rule removed this value; its leaf and proof remain.")
        return ReadAnswer(head, leaf.salt, leaf.value)

    async def _head_at(self, key: str, at_leaf: int) -> Head | None:
        """The head as it was after the whole batch that holds a leaf. Where that leaf is the key's own it is found in
        the batch, else by a walk back from the latest one.
        """
        self._refuse_unfit()
        head = self._driver.ledger_store.head(key)
        tree_size = self._driver.applier.machine.tree_size
        if not 0 <= at_leaf < tree_size:
            raise ApplianceError("leaf_out_of_range", f"at_leaf must be below the tree size, {tree_size} now.")
        asked = self._bare_leaf(at_leaf)
        last_leaf = asked.batch_id + asked.batch_count - 1

        def back_in_batch(leaf: Leaf) -> int | None:
            return leaf.leaf_index - 1 if leaf.key != key else None

        def back_to_batch(leaf: Leaf) -> int | None:
            self._refuse_stray(key, leaf)
            return leaf.prev_leaf_index if leaf.leaf_index > last_leaf else None

        if asked.key == key:
            leaf = await self._walk(last_leaf, back_in_batch)
        elif head is not None:
            leaf = await self._walk(head.leaf_index, back_to_batch)
        else:
            return None
        if leaf.leaf_index > last_leaf:  # the key's first one
            return None
        return Head(leaf.version, leaf.leaf_index, leaf.op == "delete", leaf.timestamp_us, leaf.value_size)

    async def _walk(self, leaf_index: int, step: Callable[[Leaf], int | None]) -> Leaf:
        """Go from leaf to leaf, without their values, until `step` names no next one; answers the last.

        The event loop has turns meanwhile. What stands behind a leaf never changes, but where it is read may: after
        each turn the node must still be fit to be read, and have the file that the walk began in, since this may be
        read because the other was wrong. Raises `read_timeout`, and as reads do.
        """
        driver = self._driver
        installed_index, deadline_s = driver.installed_index, driver.clock.monotonic_s() + self._timeout_s
        while True:
            async with self._walking:
                self._refuse_changed(installed_index)
                began_s = driver.clock.monotonic_s()
                if began_s > deadline_s:
                    raise self._walk_timeout()
                for _ in range(WALK_LEAVES_PER_TURN):
                    leaf = self._bare_leaf(leaf_index)
                    next_index = step(leaf)
                    if next_index is None:
                        return leaf
                    leaf_index = next_index
                    if driver.clock.monotonic_s() - began_s > WALK_S_PER_TURN:
                        break
                await asyncio.sleep(0)

    def _refuse_changed(self, installed_index: int) -> None:
        """Refuse to go on where the loop had turns since a read began, if the node is not what it was then."""
        driver = self._driver
        if driver.failure:  # an entry may be half applied
            raise ApplianceError("unhealthy", f"This node has failed ({driver.failure}). Ask another node.")
        if driver.stopping:  # the file is closed, or about to be
            raise ApplianceError("shutting_down", "This node is shutting down. Ask another node.")
        self._refuse_unfit()
        if driver.installed_index != installed_index:
            raise ApplianceError("unhealthy", "This node has installed a snapshot meanwhile. Send the request again.")

    def _walk_timeout(self) -> ApplianceError:
        return ApplianceError(
            "read_timeout",
            f"The walk back over the key's versions was not over within {self._timeout_s:g} s. GET /history/{{key}} "
            "lists them in pages (`limit`, `from`), and at_leaf with a version's own leaf_index needs no such walk.",
        )

    def _refuse_stray(self, key: str, leaf: Leaf) -> None:
        if leaf.key != key:
            raise self._damaged(f"leaf {leaf.leaf_index} is not one of the key whose versions lead to it")

    def _rotten(self, what: str) -> ApplianceError:
        node_id = self._driver.identity.node_id
        return ApplianceError(
            "verification_failed",
            f"The ledger file of node {node_id} is damaged: {what}. Ask another node, and resync this one with "
            f"`appliance cluster resync {node_id}`.",
        )

    def _damaged(self, what: str) -> ApplianceError:
        self._driver.findings.report(Finding.STORAGE_ROTTEN, what)
        return self._rotten(what)

    def _leaf(self, leaf_index: int) -> NewLeaf:
        return self._there(leaf_index, self._checked(leaf_index, self._driver.ledger_store.leaf))

    def _bare_leaf(self, leaf_index: int) -> Leaf:
        return self._there(leaf_index, self._checked(leaf_index, self._driver.ledger_store.bare_leaf))

    @staticmethod
    def _there(leaf_index: int, found: _Read | None) -> _Read:
        if found is None:
            raise ApplianceError("internal", f"Leaf {leaf_index} is missing from this node's ledger file.")
        return found

    def _checked(self, leaf_index: int, read: Callable[[int], _Read | None]) -> _Read | None:
        if leaf_index in self._driver.findings.rotten_leaves:
            raise self._rotten(f"leaf {leaf_index} has rotted")
        try:
            return read(leaf_index)
        except DamagedFile as error:
            raise self._damaged(error.detail) from error

    async def scan(self, prefix: str, after: str, limit: int, *, linearizable: bool) -> ScanAnswer:
        """List present keys."""
        await self._consistent(linearizable)
        items = self._driver.ledger_store.scan(prefix, after, limit + 1)
        more = len(items) > limit
        items = items[:limit]
        return ScanAnswer(tuple(items), items[-1][0] if more else None)

    async def history(self, key: str, from_leaf: int | None, limit: int, *, linearizable: bool) -> HistoryAnswer:
        """List a key's versions, newest first, by walking from leaf to previous leaf; `limit` is 1 at least. No values
        are read: a page of large ones would fill the memory.
        """
        leaf_index = (await self.head(key, linearizable=linearizable)).leaf_index
        if from_leaf is not None:
            start = self._checked(from_leaf, self._driver.ledger_store.bare_leaf)
            if start is None or start.key != key:
                raise ApplianceError("bad_request", "`from` must be the `next` of an earlier answer for this key.")
            leaf_index = from_leaf
        leaves: list[Leaf] = []

        def take(leaf: Leaf) -> int | None:
            self._refuse_stray(key, leaf)
            leaves.append(leaf)
            return leaf.prev_leaf_index if len(leaves) < limit else None

        last = await self._walk(leaf_index, take)
        return HistoryAnswer(tuple(leaves), last.prev_leaf_index)
