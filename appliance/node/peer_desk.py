"""What peers say: hellos, messages, forwarded writes, calls, snapshots."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from appliance.ledger.commands import WriteRequest, WriteResult
from appliance.node.lineage import Relation, left_behind, relation
from appliance.node.members import forgotten, is_outside, promises
from appliance.node.peer_ports import Hello
from appliance.node.ports import Log, StorageError
from appliance.raft.core import RaftCore
from appliance.raft.messages import NO_INCARNATION, NOBODY, AnyMessage, Configuration, SnapshotMeta
from appliance.tables.errors import ApplianceError

if TYPE_CHECKING:
    from appliance.node.driver import Driver

ASK_INTERVAL_S: Final = 2.0
ANSWER_S: Final = 1.0


class PeerDesk:
    """The `PeerEvents` of a driver."""

    def __init__(self, driver: Driver, log: Log) -> None:
        self._driver = driver
        self._log = log
        driver.calls["hello"] = self._serve_hello

    async def ask_again(self) -> None:
        """While this node finds no leader, ask the peers for their hello again: what has changed since they were met
        may be why. One that was removed and did not hear of it is told so here. One that was to get its data again, and
        keeps them since it never heard that this was agreed to, lets the leader hear who it is. Until cancelled; a
        failure ends the node.
        """
        driver = self._driver
        try:
            while True:
                await asyncio.sleep(ASK_INTERVAL_S)
                state = driver.core.state if driver.core is not None else None
                if state is None:
                    continue
                if state.leader_id == NOBODY:
                    await asyncio.gather(*(self._ask_hello(node_id) for node_id in driver.network.connected()))
                    continue
                me = state.configuration.member(state.node_id)
                aside = me is not None and me.incarnation == NO_INCARNATION
                if aside and not driver.giving_up and not driver.given_up:  # the link may carry the agreement to it
                    driver.network.redial(state.leader_id)
        except Exception as error:
            driver.fail(error)

    async def _ask_hello(self, node_id: int) -> None:
        try:
            answer = await self._driver.network.call(node_id, "hello", b"", ANSWER_S)
            hello = msgspec.msgpack.decode(answer, type=Hello)
        except (ApplianceError, msgspec.MsgspecError):
            return
        known = self._driver.members.hellos.get(node_id)
        if hello.identity.node_id == node_id and known is not None:
            # What a node's program speaks is told when a link is made, and not again.
            self.on_hello(
                msgspec.structs.replace(
                    hello, protocol=known.protocol, protocol_min=known.protocol_min, features=known.features
                )
            )

    async def _serve_hello(self, sender_node_id: int, body: bytes) -> bytes:
        return msgspec.msgpack.encode(self.hello())

    def hello(self) -> Hello:
        """What this node says of itself; the transport adds what it speaks."""
        driver = self._driver
        core = driver.core
        return Hello(
            version=driver.settings.version,
            protocol=0,
            features=(),
            identity=driver.identity,
            address=driver.settings.address,
            raft_address=driver.settings.raft_address,
            last_index=core.state.log.last_index if core else 0,
            configuration=core.state.configuration if core else Configuration(),
            configuration_index=core.state.configuration_index if core else 0,
            promises=promises(core) if core else (),
            commit_index=core.state.commit_index if core else 0,
            lost=driver.founding is not None and driver.founding.lost,
            last_term=core.state.log.last_term if core else 0,
        )

    def on_hello(self, hello: Hello) -> None:
        """A peer says who it is."""
        if self._driver.failure or self._driver.given_up:
            return
        try:
            self._heard(hello)
        except Exception as error:  # of the disk, above all: what was heard could not be acted on
            self._driver.fail(error)

    def _heard(self, hello: Hello) -> None:
        driver = self._driver
        driver.members.heard(driver.core, hello)
        if driver.core is not None and left_behind(driver.core.state.configuration, driver.identity, hello):
            self._give_up(driver.core, hello)
        if driver.failure or hello.identity.node_id in driver.members.parted:
            return
        promise = forgotten(driver.core, hello.promises) if driver.core is not None else None
        if promise is not None:
            self._log.warning(
                "node.set_back",
                term=promise.term,
                index=promise.index,
                told_by=hello.identity.node_id,
            )
            driver.renounce()
        if driver.founding is None:
            driver.pump_soon()
            return
        configuration = driver.founding.hear(hello)
        if configuration is not None:
            driver.found(configuration)
        elif driver.founding.admitted:
            driver.join()
        elif driver.founding.refusal:
            self._log.warning("cluster.founding_refused", reason=driver.founding.refusal)

    def _give_up(self, core: RaftCore, hello: Hello) -> None:
        """Take no part any more: an operator has decided that the cluster goes on without what this node holds. A node
        whose copy counts for nothing anyway sets it aside at its next start; one that is a member in good standing does
        not, because only the operator can tell a recovery from a mistake.
        """
        driver = self._driver
        peer = hello.identity.node_id
        reason = (
            f"the cluster was recovered without what this node holds (`appliance cluster recover`, says node {peer}): "
            f"its log, up to {core.state.log.last_index}, belongs to the cluster of before"
        )
        self._log.error("cluster.left_behind", peer=peer, last_index=core.state.log.last_index)
        if is_outside(core):
            try:
                driver.standing.condemn(reason)
            except StorageError as error:
                driver.fail(error)
            else:
                driver.fail(f"{reason}. Its next start sets that aside, and it is brought up to date.")
        else:
            driver.fail(
                f"{reason}. If that was meant, clear this node's data directory and start it: it is brought up to "
                f"date. If it was a mistake, stop node {peer}, clear the data directory there, and start both."
            )

    def on_message(self, message: AnyMessage) -> None:
        """A Raft message came in."""
        driver = self._driver
        if driver.failure or driver.given_up or message.sender in driver.members.parted:
            return
        if self._driver.core is None:
            if self._driver.founding is not None:
                self._driver.founding.cluster_exists()
                self._driver.network.redial(message.sender)
            return
        try:
            self._driver.core.step(message)
        except Exception as error:
            self._driver.fail(error)
            return
        self._driver.pump_soon()

    def on_traces(self, traces: Sequence[tuple[int, str]]) -> None:
        """Trace contexts of entries in the next message."""
        self._driver.traces.received(traces)

    def on_unreachable(self, node_id: int) -> None:
        """The link to a peer broke."""
        if self._driver.core is not None:
            self._driver.core.report_unreachable(node_id)
            self._driver.pump_soon()

    async def on_write(self, request: WriteRequest) -> WriteResult:
        """A follower forwarded a write."""
        assert self._driver.serve_write is not None
        return await self._driver.serve_write(request)

    async def on_call(self, sender_node_id: int, name: str, body: bytes) -> bytes:
        """A node asks for what `name` stands for in the driver's `calls`."""
        serve = self._driver.calls.get(name)
        if serve is None:
            node_id = self._driver.identity.node_id
            raise ApplianceError("conflict", f"Node {node_id} does not know the call {name[:100]!r}.")
        return await serve(sender_node_id, body)

    async def on_offer(self, size_bytes: int) -> None:
        """A snapshot is offered, of which so many bytes are still to come."""
        self._core_to_restore()
        await self._driver.snapshots.need_room(size_bytes)

    async def on_snapshot(self, meta: SnapshotMeta, path: Path) -> None:
        """A snapshot was received."""
        await self._driver.snapshots.check(meta, path)
        core = self._core_to_restore()
        if relation(core.state.configuration, meta.configuration) in {Relation.BEHIND, Relation.FORKED}:
            raise OSError("the snapshot is of before the cluster was recovered")
        path.replace(self._driver.settings.installing_path)  # noqa: ASYNC240 - a rename; nothing may come between it and restore
        if not core.restore(meta):
            self._driver.settings.installing_path.unlink()
        self._driver.pump_soon()

    def _core_to_restore(self) -> RaftCore:
        """The core, when it may be given a snapshot. Raises `OSError`."""
        if self._driver.core is None or self._driver.failure or self._driver.installing:
            raise OSError("this node cannot install a snapshot now")
        return self._driver.core

    def snapshot_path(self) -> Path:
        """Where a snapshot is received; what damage has left goes where it stands in its way."""
        self._driver.room.make_room()
        return self._driver.settings.incoming_path
