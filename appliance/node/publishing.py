"""Checkpoints: the leader publishes a size of the tree now and then, by an entry of the log, and any node signs it.

All nodes publish the same sizes, and, since Ed25519 knows no chance, under the same key the same bytes. What goes on
after an operator's recovery is another log, of another name and key, since it may contradict what the old one said. It
is this node's acting configuration that says so, before anything is applied under it. Nothing is
signed before what was written since the last one was read back from the file, hashed again, and found to lead to the
root that was worked out when it was applied: damage on one disk becomes an alarm, and never a signature.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, NamedTuple

from appliance.ledger.checkpoint import Checkpoint, sign_checkpoint
from appliance.ledger.commands import (
    FEATURE_CHECKPOINTS,
    NOTHING_PUBLISHED,
    PublishedTree,
    WriteResult,
    encode_checkpoint,
)
from appliance.ledger.machine import LedgerMachine
from appliance.ledger.note import Note
from appliance.node.divergence import refuse_quarantined
from appliance.node.findings import Finding
from appliance.node.lineage import Relation, relation
from appliance.node.ports import DamagedFile, StorageError
from appliance.node.proof_ports import LeavesUnavailable, LogKey
from appliance.raft.core import NotLeader
from appliance.raft.messages import Configuration
from appliance.tables.errors import ApplianceError

if TYPE_CHECKING:
    from appliance.node.driver import Driver

UNSEEN_S_MAX: Final = 10.0
SIGNED_KEPT: Final = 8  # latest checkpoints that need not be signed again
_US: Final = 1_000_000


class SignedTree(NamedTuple):
    """A checkpoint that this node has signed.

    Attributes:
        tree: what it says, and which entry published it.
        note: its signed note, with the log's signature alone.
    """

    tree: PublishedTree
    note: Note


class Cosigned(NamedTuple):
    """What witnesses have cosigned last.

    Attributes:
        tree: the one that they saw.
        lines: their signature lines, without newlines.
    """

    tree: PublishedTree
    lines: tuple[str, ...]


NOTHING_COSIGNED: Final = Cosigned(NOTHING_PUBLISHED, ())


class Publishing:
    """Publishes and signs.

    Args:
        driver: the running node.
        key: the first one of the log; None when the configuration names none.
        interval_s: least time between two checkpoints, by the stamps of the log.
        timeout_s: how long a caller waits for one.
    """

    def __init__(self, driver: Driver, key: LogKey | None, interval_s: float, timeout_s: float) -> None:
        self._driver = driver
        self._first_key = key
        self._keys: tuple[LogKey, ...] = ()
        self._recoveries: tuple[int, ...] = ()
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._checked = driver.applier.machine.published  # what was written behind it is read back before it is signed
        self._signed: dict[tuple[str, int], SignedTree] = {}  # by origin and size
        self._work: asyncio.Task[None] | None = None
        self._stored_size = 0  # leaves that the ledger file is known to hold
        self._proposed = False
        self._proposed_s = driver.clock.monotonic_s()
        driver.when_replaced.append(self._replaced)

    def _replaced(self) -> None:
        """A leader's snapshot, which was checked whole, took the place of what this node had applied."""
        self._signed.clear()
        self._checked, self._stored_size = self._driver.applier.machine.published, 0

    @property
    def keys(self) -> tuple[LogKey, ...]:
        """The log's keys: that of the beginning, then one for each recovery; the last signs. None where none is set."""
        if self._first_key is not None:
            recoveries = self._acting_recoveries()
            if recoveries != self._recoveries or not self._keys:
                self._recoveries = recoveries
                self._keys = tuple(self._first_key.after(recoveries[:n]) for n in range(len(recoveries) + 1))
        return self._keys

    @property
    def cosigned(self) -> Cosigned:
        """What witnesses have cosigned last, under the name that the log has now."""
        applier = self._driver.applier
        if applier.configuration.recoveries != self._acting_recoveries():
            return NOTHING_COSIGNED
        return Cosigned(applier.machine.cosigned, applier.machine.cosignatures)

    def _acting_recoveries(self) -> tuple[int, ...]:
        core = self._driver.core
        return core.state.configuration.recoveries if core is not None else ()

    async def run(self) -> None:
        """While this node leads, publish what has grown, until cancelled."""
        while True:
            await asyncio.sleep(self._interval_s)
            self.publish_if_due()

    def publish_if_due(self) -> None:
        """Propose the entry that publishes the tree, if this node leads and there is something to publish."""
        driver = self._driver
        machine = driver.applier.machine
        has_grown = machine.tree_size > machine.published.tree_size
        if self._proposed or not (has_grown or self._moves_unseen(machine)) or not self.may_propose():
            return
        stamp_us = driver.next_stamp_us()
        due_us = machine.published.timestamp_us + round(self._interval_s * _US)
        if stamp_us < max(due_us, machine.paused_until_us):
            return

        def settled(_outcome: WriteResult | ApplianceError) -> None:
            self._proposed = False

        try:
            driver.propose(encode_checkpoint(stamp_us), "", settled)
        except NotLeader:
            return
        self._proposed = True
        self._proposed_s = driver.clock.monotonic_s()

    def _moves_unseen(self, machine: LedgerMachine) -> bool:
        """Whether writes that leave no leaf were applied for a while, so that nodes have no index to compare states
        at; the entry publishes nothing new then.
        """
        seen_index = machine.states[-1].raft_index if machine.states else 0
        is_late = self._driver.clock.monotonic_s() - self._proposed_s >= UNSEEN_S_MAX
        return is_late and machine.applied_index > seen_index

    def may_propose(self) -> bool:
        """Whether this node leads, has room, and all members know what stands in the log for checkpoints: a node that
        does not would stop at it, so members of older versions put them off.
        """
        driver = self._driver
        if driver.room.full or driver.failure or not driver.can_propose():
            return False
        hellos, core = driver.members.hellos, driver.core
        assert core is not None
        others = (m.node_id for m in core.state.configuration.members if m.node_id != driver.identity.node_id)
        return all(node_id not in hellos or FEATURE_CHECKPOINTS in hellos[node_id].features for node_id in others)

    # -- signing

    async def latest(self, size_min: int = 0) -> SignedTree:
        """The latest checkpoint, of so many leaves at least; waits for it, in memory and on disk.

        Raises:
            ApplianceError: `not_published` when it does not come in time, `verification_failed`, `no_log_key`,
                `quarantined`.
        """
        refuse_quarantined(self._driver)
        self._key()
        try:
            async with asyncio.timeout(self._timeout_s):
                while True:
                    tree = await self._published(max(1, size_min))
                    key = self._key()
                    signed = self._signed.get((key.verifier_key.name, tree.tree_size))
                    if signed is not None:
                        return signed
                    if self._work is None:  # goes on when who asked has left; whoever comes meanwhile waits for it, too
                        self._work = asyncio.create_task(self._sign(key, tree))
                        self._work.add_done_callback(self._worked)
                    await asyncio.shield(self._work)
        except TimeoutError:
            raise self._not_published(size_min) from None

    async def signed(self, tree: PublishedTree) -> SignedTree:
        """A tree that was published some time ago. Raises as `latest`, which signs a newer one on the way: what is
        older than a tree that was found right is right, if it has its place in it.
        """
        latest = await self.latest(tree.tree_size)
        key = self._key()
        held = self._signed.get((key.verifier_key.name, tree.tree_size))
        if held is not None:
            return held
        store = self._driver.ledger_store.tree
        try:
            root = await asyncio.to_thread(store.root, tree.tree_size)
        except DamagedFile as error:
            self._driver.findings.report(Finding.PROOF_FAILED, error.detail)
            raise self.failed() from error
        except (StorageError, LeavesUnavailable) as error:
            raise ApplianceError("unhealthy", f"The ledger file cannot be read now: {error}. Ask again.") from error
        if root != tree.root:
            self._driver.findings.report(
                Finding.PROOF_FAILED, f"the tree of {tree.tree_size} leaves has not the root that was published"
            )
            raise self.failed()
        assert latest.tree.tree_size >= tree.tree_size
        return self._keep(key, tree)

    def _key(self) -> LogKey:
        """The key that signs now. Raises `ApplianceError`: there is none, or another one is about to take its place."""
        if not self.keys:
            raise ApplianceError(
                "no_log_key",
                "This node has no key to sign checkpoints with ([log] key_file); `appliance init` makes it.",
            )
        driver = self._driver
        acting = driver.core.state.configuration if driver.core is not None else Configuration()
        hellos = driver.members.hellos.values()
        if any(relation(acting, hello.configuration) is Relation.AHEAD for hello in hellos):
            # What this node holds up to there may contradict what the old key has signed elsewhere.
            raise ApplianceError(
                "not_published", "This node has not yet come to where the cluster was recovered. Ask another node."
            )
        return self.keys[-1]

    def _keep(self, key: LogKey, tree: PublishedTree) -> SignedTree:
        origin = key.verifier_key.name
        note = sign_checkpoint(Checkpoint(origin, tree.tree_size, tree.root), key.verifier_key, key.sign)
        signed = self._signed[origin, tree.tree_size] = SignedTree(tree, note)
        while len(self._signed) > SIGNED_KEPT:
            del self._signed[min(self._signed, key=lambda kept: (kept[0] == origin, kept[1]))]
        return signed

    def _worked(self, work: asyncio.Task[None]) -> None:
        self._work = None
        if not work.cancelled():
            work.exception()  # who waited has it; nobody may have

    async def _published(self, size_min: int) -> PublishedTree:
        driver = self._driver
        while driver.applier.machine.published.tree_size < size_min:
            await driver.published_waiters.add(size_min)
        return driver.applier.machine.published

    def _not_published(self, size_min: int) -> ApplianceError:
        held = self._driver.applier.machine.published.tree_size
        wanted = f"of {size_min} leaves" if size_min > 1 else "at all"
        detail = f"This node knows no checkpoint {wanted} yet; its latest is of {held}. Ask again, or another node."
        return ApplianceError("not_published", detail)

    async def _sign(self, key: LogKey, tree: PublishedTree) -> None:
        await self.stored(tree.tree_size)
        driver = self._driver
        if driver.findings.detail(Finding.PROOF_FAILED):
            raise self.failed()
        await driver.fitness.divergence.look()  # a state that the others do not share must not be signed
        refuse_quarantined(driver)
        checked = self._checked
        first = checked.tree_size if checked.tree_size <= tree.tree_size else 0
        try:
            await asyncio.to_thread(driver.ledger_store.tree.recheck, first, tree.tree_size, tree.root)
        except DamagedFile as error:
            driver.findings.report(Finding.PROOF_FAILED, error.detail)
            raise self.failed() from error
        except (StorageError, LeavesUnavailable) as error:  # another file has taken its place, or is about to
            raise ApplianceError("unhealthy", f"The ledger file cannot be read now: {error}. Ask again.") from error
        refuse_quarantined(driver)
        if driver.findings.detail(Finding.PROOF_FAILED):
            raise self.failed()
        self._checked = tree
        self._keep(key, tree)

    async def wait(self, size: int) -> None:
        """Wait until a tree of so many leaves is published and stored. Raises `ApplianceError`: `not_published`."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._published(size)
                await self.stored(size)
        except TimeoutError:
            raise self._not_published(size) from None

    async def stored(self, size: int) -> None:
        """Wait until the ledger file holds the leaves of a published tree. Raises `ApplianceError`."""
        driver = self._driver
        if size <= self._stored_size:
            return
        tree = driver.applier.machine.published
        try:
            while await driver.keeper.flushed() < tree.raft_index:
                if driver.keeper.is_resting() or driver.room.full:
                    raise ApplianceError("not_published", "The ledger file is at rest, or waits for room. Ask later.")
                await asyncio.sleep(driver.settings.flush_interval_s)  # the log has to be synced that far first
        except StorageError as error:
            raise ApplianceError("unhealthy", f"The ledger file cannot be read: {error}") from error
        self._stored_size = tree.tree_size

    def failed(self) -> ApplianceError:
        """What is answered once stored leaves were found wrong."""
        detail = self._driver.findings.detail(Finding.PROOF_FAILED)
        return ApplianceError(
            "verification_failed",
            f"This node's ledger file is damaged: {detail}. It signs nothing any more. Ask another node, and resync "
            "this one with `appliance cluster resync`.",
        )
