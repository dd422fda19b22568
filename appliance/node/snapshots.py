"""Snapshots on their way: copies of `ledger.db` to followers that lag too far, and checks of received ones."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from appliance.ledger.state import Summary
from appliance.node.applier import meta_of
from appliance.node.driver_settings import INCOMING_FILE, INSTALLING_FILE
from appliance.node.keeper import LedgerKeeper
from appliance.node.peer_ports import PeerNetwork
from appliance.node.ports import Instruments, Log, StorageError
from appliance.raft.messages import SnapshotMeta

RETRY_S: Final = 2.0  # pause after a snapshot that could not be sent
LEFT_BY_A_CRASH: Final = (INCOMING_FILE, INSTALLING_FILE)  # an install that had begun is finished before


class Snapshots:
    """Sends one snapshot at a time to each node that needs one.

    Args:
        directory: where copies are made.
        keeper: makes them.
        network: streams them.
        verify: reads a file back and checks it; must not keep the event loop busy.
        may_send: whether this node's ledger file is fit to be sent.
        instruments: counts them.
        log: reports them.
    """

    def __init__(
        self,
        *,
        directory: Path,
        keeper: LedgerKeeper,
        network: PeerNetwork,
        verify: Callable[[Path], Awaitable[tuple[Summary, bytes]]],
        may_send: Callable[[], bool],
        instruments: Instruments,
        log: Log,
    ) -> None:
        self._directory = directory
        self._keeper = keeper
        self._network = network
        self._verify = verify
        self._may_send = may_send
        self._log = log
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._sending: dict[int, int] = {}  # node id -> index of the copy on its way, 0 while it is being made
        self._stopping = False
        self._counters = {
            (direction, outcome): instruments.counter(
                "scribe_raft_snapshots_total", direction=direction, outcome=outcome
            )
            for direction in ("sent", "received")
            for outcome in ("ok", "failed")
        }
        for stale in (*directory.glob("snapshot-outgoing-*"), *(directory / name for name in LEFT_BY_A_CRASH)):
            keeper.discard(stale)

    def is_sending(self) -> bool:
        """Whether a snapshot is on its way."""
        return bool(self._sending)

    def oldest_index(self) -> int:
        """Index of the oldest copy on its way; 0 while one is still being made."""
        return min(self._sending.values(), default=0)

    def send(self, node_id: int, report: Callable[[int, int], None]) -> None:
        """Start a snapshot to a node; `report(node_id, index)` is called at its end, with index 0 if it failed."""
        if node_id in self._tasks or self._stopping:
            return
        possible = node_id in self._network.connected() and self._may_send()
        if possible:
            self._sending[node_id] = 0
        work = self._send(node_id, report) if possible else self._put_off(node_id, report)
        self._tasks[node_id] = asyncio.create_task(work)

    async def _put_off(self, node_id: int, report: Callable[[int, int], None]) -> None:
        """Make no copy for a node that cannot be reached, or of what must not be sent, and hold no log for it; the core
        asks again.
        """
        try:
            await asyncio.sleep(RETRY_S)
        finally:
            self._tasks.pop(node_id, None)
            report(node_id, 0)

    async def _send(self, node_id: int, report: Callable[[int, int], None]) -> None:
        path = self._directory / f"snapshot-outgoing-{node_id}.db"
        index = 0
        try:
            meta = meta_of(*await self._keeper.copy_to(path))
            self._sending[node_id] = meta.index
            self._log.info("snapshot.sending", peer=node_id, index=meta.index, bytes=path.stat().st_size)
            await self._network.send_snapshot(node_id, meta, path)
            index = meta.index
            self._log.info("snapshot.sent", peer=node_id, index=index)
        except Exception as error:  # whatever it is: the core hears of it below, and another try must not come at once
            self._log.warning("snapshot.send_failed", peer=node_id, error=error)
            await asyncio.sleep(RETRY_S)
        finally:
            self._keeper.discard(path)
            self._tasks.pop(node_id, None)
            self._sending.pop(node_id, None)
            self._counters["sent", "ok" if index else "failed"].inc()
            report(node_id, index)

    async def check(self, meta: SnapshotMeta, path: Path) -> None:
        """Read a received file back: it must hold what its sender says, and its tree must come out again.

        Raises:
            OSError: it does not; the file is removed.
        """
        try:
            found = meta_of(*await self._verify(path))
            if found != meta:
                raise OSError(f"the snapshot covers {found.index}, term {found.term}; {meta.index} was announced")
        except (OSError, StorageError) as error:
            self._keeper.discard(path)
            self._counters["received", "failed"].inc()
            self._log.error("snapshot.refused", index=meta.index, error=error)
            raise OSError(f"snapshot refused: {error}") from error
        self._counters["received", "ok"].inc()

    def drop_sent(self) -> None:
        """What is on its way must not arrive."""
        for task in self._tasks.values():
            task.cancel()

    async def stop(self) -> None:
        """Cancel what is on its way; nothing is begun any more."""
        self._stopping = True
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
