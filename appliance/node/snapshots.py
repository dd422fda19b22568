"""Snapshots on their way: copies of `ledger.db` to followers that lag too far, and checks of received ones."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from appliance.ledger.state import Summary
from appliance.node.applier import meta_of
from appliance.node.driver_settings import INCOMING_FILE, INSTALLING_FILE
from appliance.node.holds import PATIENCE_S, Holds
from appliance.node.keeper import LedgerKeeper
from appliance.node.peer_ports import PeerNetwork, SnapshotFile, SnapshotRefused
from appliance.node.ports import DiskFull, Instruments, Log, StorageError
from appliance.raft.messages import SnapshotMeta

RETRY_S_MIN: Final = 2.0  # pause after a snapshot that could not be sent; doubles with each that brought nothing over
RETRY_S_MAX: Final = 60.0
MARGIN_BYTES: Final = 64 * 2**20  # beside a copy: the reserve, should it be given up, and what is written meanwhile
LEFT_BY_A_CRASH: Final = (INCOMING_FILE, INSTALLING_FILE)  # an install that had begun is finished before


@dataclass(slots=True)
class _Delivery:
    """The attempts to bring one node a snapshot, until one succeeds.

    Attributes:
        pause_s: what the next attempt has to wait; 0 once something was brought over.
        file: the copy that is offered, the same each time: what the node has of it counts.
        offset: bytes of it that the node had at the last attempt.
        end: drops all of this when there is no further attempt.
    """

    pause_s: float = 0.0
    file: SnapshotFile | None = None
    offset: int = 0
    end: asyncio.TimerHandle | None = None


class Snapshots:
    """Sends one snapshot at a time to each node that needs one.

    Args:
        directory: where copies are made.
        keeper: makes them.
        network: streams them.
        holds: told for whom the log has to stay.
        ledger_bytes: answers the size of the ledger file.
        log_start: answers up to where the log is dropped.
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
        holds: Holds,
        ledger_bytes: Callable[[], int],
        log_start: Callable[[], int],
        verify: Callable[[Path], Awaitable[tuple[Summary, bytes]]],
        may_send: Callable[[], bool],
        instruments: Instruments,
        log: Log,
    ) -> None:
        self._directory = directory
        self._keeper = keeper
        self._network = network
        self._holds = holds
        self._ledger_bytes = ledger_bytes
        self._log_start = log_start
        self._verify = verify
        self._may_send = may_send
        self._log = log
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._deliveries: dict[int, _Delivery] = {}
        self._sending: set[int] = set()
        self._copying = asyncio.Lock()  # the room for a copy is looked for when the one before it has taken its own
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
        """Whether a copy is being made or is on its way."""
        return bool(self._sending)

    def send(self, node_id: int, report: Callable[[int, int], None]) -> None:
        """Start a snapshot to a node; `report(node_id, index)` is called at its end, with index 0 if it failed."""
        if node_id in self._tasks or self._stopping:
            return
        possible = node_id in self._network.connected() and self._may_send()
        if possible:
            self._sending.add(node_id)
        self._tasks[node_id] = asyncio.create_task(self._attempt(node_id, report, possible=possible))

    async def _attempt(self, node_id: int, report: Callable[[int, int], None], *, possible: bool) -> None:
        """Send a snapshot and report it. For a node that cannot be reached, and of what must not be sent, no copy is
        made and no log held; the core asks again, as it does after a failure.
        """
        index = 0
        try:
            index = await self._send(node_id) if possible else 0
            if not index:
                await asyncio.sleep(self._deliveries[node_id].pause_s if possible else RETRY_S_MIN)
        finally:
            self._tasks.pop(node_id, None)
            report(node_id, index)

    async def _send(self, node_id: int) -> int:
        """One attempt, with the copy of the last one if there is one; answers what it covers, 0 when it failed."""
        delivery = self._deliveries.setdefault(node_id, _Delivery())
        if delivery.end is not None:
            delivery.end.cancel()
        index = 0
        try:
            file = self._kept(node_id, delivery) or await self._copy(node_id, delivery)
            self._log.info("snapshot.sending", peer=node_id, index=file.meta.index, bytes=file.size_bytes)
            await self._network.send_snapshot(node_id, file, lambda offset: self._resumed(node_id, offset))
            index = file.meta.index
            self._log.info("snapshot.sent", peer=node_id, index=index)
            self._holds.taken(node_id)
        except DiskFull as error:
            self._log.warning("snapshot.no_room", peer=node_id, reason=str(error))
        except Exception as error:  # whatever it is: the core hears of it, and another try must not come at once
            if isinstance(error, SnapshotRefused):
                self._drop(node_id, delivery)
            self._log.warning("snapshot.send_failed", peer=node_id, error=error)
        finally:
            self._sending.discard(node_id)
            self._counters["sent", "ok" if index else "failed"].inc()
            if index:
                self._discard(delivery)
                del self._deliveries[node_id]
            else:
                delivery.pause_s = min(RETRY_S_MAX, max(RETRY_S_MIN, 2 * delivery.pause_s))
                delivery.end = asyncio.get_running_loop().call_later(PATIENCE_S, self._give_up, node_id)
        return index

    def _kept(self, node_id: int, delivery: _Delivery) -> SnapshotFile | None:
        """The copy of an earlier attempt, as long as the log goes on behind it."""
        if delivery.file is not None and delivery.file.meta.index < self._log_start():
            self._drop(node_id, delivery)
        return delivery.file

    async def _copy(self, node_id: int, delivery: _Delivery) -> SnapshotFile:
        """Make a copy, behind which the log stays. Raises `DiskFull` early, and other `StorageError`."""
        path = self._directory / f"snapshot-outgoing-{node_id}.db"
        async with self._copying:
            ledger_bytes = self._ledger_bytes()
            await self.need_room(ledger_bytes)
            self._holds.begin(node_id, ledger_bytes)
            try:
                meta = meta_of(*await self._keeper.copy_to(path))
                size_bytes, sha256 = await asyncio.to_thread(_digest, path)
            except BaseException:
                self._holds.end(node_id)
                self._keeper.discard(path)
                raise
        self._holds.copied(node_id, meta.index)
        delivery.file, delivery.offset = SnapshotFile(meta, path, size_bytes, sha256), 0
        return delivery.file

    def _resumed(self, node_id: int, offset: int) -> None:
        """The node says how much of the copy it has."""
        delivery = self._deliveries[node_id]
        assert delivery.file is not None
        if offset:
            self._log.info(
                "snapshot.resumed",
                peer=node_id,
                index=delivery.file.meta.index,
                offset=offset,
                bytes=delivery.file.size_bytes,
            )
        if offset > delivery.offset:
            delivery.pause_s = 0.0
        delivery.offset = offset

    def _drop(self, node_id: int, delivery: _Delivery) -> None:
        """The copy is of no use any more, nor the log behind it."""
        self._discard(delivery)
        self._holds.end(node_id)

    def _discard(self, delivery: _Delivery) -> None:
        if delivery.file is not None:
            self._keeper.discard(delivery.file.path)
            delivery.file = None

    def _give_up(self, node_id: int) -> None:
        """Nobody has asked for this copy for long, or the node stops."""
        delivery = self._deliveries.pop(node_id)
        if delivery.end is not None:
            delivery.end.cancel()
        self._drop(node_id, delivery)

    async def need_room(self, size_bytes: int) -> None:
        """Look for room for a file of so many bytes, and `MARGIN_BYTES` beside it. Raises `DiskFull`."""
        free_bytes = (await asyncio.to_thread(shutil.disk_usage, self._directory)).free
        if free_bytes < size_bytes + MARGIN_BYTES:
            raise DiskFull(f"it needs {size_bytes} bytes and {MARGIN_BYTES} beside them, and {free_bytes} are free")

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
        for node_id in tuple(self._deliveries):
            self._give_up(node_id)


def _digest(path: Path) -> tuple[int, bytes]:
    """Size and SHA-256 of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
        return file.tell(), digest
