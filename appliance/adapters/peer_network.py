"""The links to the other nodes over TCP: `PeerNetwork` of `appliance.node.ports`.

Each node keeps one connection to each other node. What it sends goes out on its own connection, what the other sends
comes in on the other's; the answer to a forwarded write or a call comes back on the connection that carried it.
Snapshots have connections of their own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from appliance.adapters.peer_auth import Refused, make_auth
from appliance.adapters.peer_dialer import Dialer, dial
from appliance.adapters.peer_handlers import Incoming, Outgoing
from appliance.adapters.peer_handshake import PURPOSE_MEET, PURPOSE_RAFT, PURPOSE_SNAPSHOT, Handshaker, Opened
from appliance.adapters.peer_link import CLOSE_TIMEOUT_S, Link
from appliance.adapters.peer_listener import PeerListener
from appliance.adapters.peer_protocol import (
    FEATURE_CALLS,
    Kind,
    ProtocolError,
    Traced,
    encode_frame,
)
from appliance.adapters.peer_refusals import Refusals
from appliance.adapters.peer_settings import PeerSettings
from appliance.adapters.peer_snapshot import SnapshotError, SnapshotReceiver, send_snapshot
from appliance.adapters.peer_writes import SentRequests, ServedRequests
from appliance.ledger.commands import WriteRequest, WriteResult
from appliance.node.peer_ports import Hello, PeerEvents, SnapshotFile
from appliance.node.ports import Counter, Instruments, Log
from appliance.raft.messages import AnyMessage
from appliance.tables.errors import ApplianceError

PEERS_MAX: Final = 256  # nodes that may be connected at once, members or not
SNAPSHOT_IDLE_FACTOR: Final = 6  # a snapshot's link waits for disks


class _Peer:
    """What is known of another node while it is connected, or was."""

    def __init__(self, hello: Hello, token: bytes) -> None:
        self.hello = hello
        self.token = token
        self.address = ""  # where it was reached last
        self.outgoing: Link | None = None
        self.incoming: Link | None = None

    @property
    def links(self) -> list[Link]:
        """The connections that stand."""
        return [link for link in (self.outgoing, self.incoming) if link is not None and link.alive]


class TcpPeerNetwork:
    """The real `PeerNetwork`.

    Args:
        settings: where to listen, how to prove oneself, limits.
        instruments: counts refusals and dropped messages.
        log: events `peer.*` and `snapshot.receive*`.
    """

    def __init__(self, settings: PeerSettings, instruments: Instruments, log: Log) -> None:
        self._settings = settings
        self._instruments = instruments
        self._log = log
        self._peers: dict[int, _Peer] = {}
        self._links: set[Link] = set()
        self._dialers: dict[str, tuple[Dialer, asyncio.Task[None]]] = {}
        self._seeds: tuple[str, ...] = ()
        self._members: dict[int, str] = {}
        self._dialing: set[int] = set()  # admitted, without a welcome yet
        self._left: set[int] = set()  # were members, and are not dialed because they dial us
        self._dropped: dict[int, Counter] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._last_tick_s = 0.0
        self._closing = False
        self._own_id = 0  # until it is started
        self._listener: PeerListener | None = None
        self.sent = SentRequests(settings.writes_max, settings.frame_bytes_max)

    async def start(self, events: PeerEvents, seeds: Sequence[str]) -> None:
        """Listen, and keep a connection to every seed and every known peer.

        Raises:
            ConfigError: a key, certificate or secret cannot be used.
            OSError: the port cannot be bound.
        """
        loop = asyncio.get_running_loop()
        self._events = events
        self._own_id = events.hello().identity.node_id
        self._refusals = Refusals(self._instruments, self._log, loop.time)
        self._handshaker = Handshaker(make_auth(self._settings), self, events)
        self.served = ServedRequests(events.on_write, events.on_call, self._settings.writes_max, self._log)
        self._receiver = SnapshotReceiver(events)
        self._listener = PeerListener(self, self._handshaker, self._settings, self._refusals, self._log)
        await self._listener.open()
        self._seeds = tuple(seeds)
        self._retarget()
        self._last_tick_s = loop.time()
        loop.call_later(self._settings.ping_interval_s, self._tick)

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return self._listener.port if self._listener is not None else self._settings.port

    def reload(self) -> None:
        """Read certificates or the secret again, for the connections to come. Raises `ConfigError`."""
        self._handshaker.auth.reload()

    def set_peers(self, addresses: dict[int, str]) -> None:
        """The peers of the current configuration: node id to peer address."""
        self._left |= self._members.keys()
        self._left -= addresses.keys()
        self._members = dict(addresses)
        self._retarget()

    def send(self, message: AnyMessage, traces: Sequence[tuple[int, str]] = ()) -> None:
        """Send without waiting; dropped when there is no connection or too much waits on it (Raft repeats itself)."""
        link = self.outgoing(message.to)
        if link is not None:
            if traces:
                frame = encode_frame(Kind.TRACED, Traced(tuple(traces), message))
            else:
                frame = encode_frame(Kind.MESSAGE, message)
            if len(frame) > self._settings.frame_bytes_max:
                self._log.error(
                    "peer.message_too_large", peer=message.to, size_bytes=len(frame), kind=type(message).__name__
                )
            elif link.send(frame, at_once=True):
                return
        self._dropped_counter(message.to).inc()

    async def forward_write(self, node_id: int, request: WriteRequest, timeout_s: float) -> WriteResult:
        """Have the leader carry out a write. Raises `ApplianceError`: the leader's own; `no_leader` when the request
        surely was not handed over; `outcome_unknown` when it was and no answer came.
        """
        return await self.sent.write(self.outgoing(node_id), node_id, request, timeout_s)

    async def writes_served(self) -> None:
        """Wait until the writes that others have handed to this node are answered, not for those that come later."""
        if self._listener is not None:
            await self.served.writes_answered()

    async def call(self, node_id: int, name: str, body: bytes, timeout_s: float) -> bytes:
        """Have another node do what `name` stands for. Raises `ApplianceError`: the other node's own; `no_leader` when
        the call surely was not handed over; `outcome_unknown` when it was and no answer came; `conflict` when the node
        is of a version without calls.
        """
        link, peer = self.outgoing(node_id), self._peers.get(node_id)
        if link is not None and peer is not None and FEATURE_CALLS not in peer.hello.features:
            detail = f"Node {node_id} runs version {peer.hello.version}, which cannot be asked for {name}. Upgrade it."
            raise ApplianceError("conflict", detail)
        return await self.sent.call(link, node_id, name, body, timeout_s)

    async def send_snapshot(self, node_id: int, file: SnapshotFile, on_resume: Callable[[int], None]) -> None:
        """Stream a file in checksummed chunks from where the receiver stands, which `on_resume` is told: how many
        bytes it has. Raises `SnapshotRefused`, and `OSError` when it cannot.
        """
        peer = self._peers.get(node_id)
        address = (peer.address if peer is not None else "") or self._members.get(node_id, "")
        try:
            opened, link = await dial(
                self,
                self._handshaker,
                self._settings,
                address,
                purpose=PURPOSE_SNAPSHOT,
                idle_timeout_s=self._snapshot_idle_s,
            )
            if opened.hello.identity.node_id != node_id:
                link.close()
                raise SnapshotError(f"node {opened.hello.identity.node_id}, not {node_id}, is at {address}")
            await send_snapshot(link, file, on_resume, self._settings.snapshot_bytes_per_s)
        except Refused as error:
            self._refusals.note(address, error)
            raise SnapshotError(str(error)) from error

    async def meet(self, address: str) -> Hello:
        """Ask who is at a peer address. Raises `ApplianceError`: `conflict` when nobody answers, or a node that does
        not belong to this cluster.
        """
        settings = self._settings
        try:
            opened, link = await dial(
                self,
                self._handshaker,
                settings,
                address,
                purpose=PURPOSE_MEET,
                idle_timeout_s=settings.idle_timeout_s,
            )
        except Refused as error:
            raise ApplianceError("conflict", f"The node at {address} does not belong here: {error}.") from error
        except OSError as error:
            reason = str(error) or "it did not answer in time"
            detail = f"Nobody answers for a node at peer address {address}: {reason}. Start the node first."
            raise ApplianceError("conflict", detail) from error
        link.close()
        return opened.hello

    def redial(self, node_id: int) -> None:
        """Connect to a peer anew, so that it says hello again; nothing when there is no connection to it."""
        link = self.outgoing(node_id)
        if link is not None:
            link.close()

    def connected(self) -> dict[int, float]:
        """For each peer that this node has a connection to, seconds since something came from it on any link."""
        now_s = asyncio.get_running_loop().time()
        return {
            node_id: now_s - max(link.last_received_s for link in peer.links)
            for node_id, peer in self._peers.items()
            if peer.outgoing is not None and peer.outgoing.alive
        }

    async def close(self) -> None:
        """Close all links."""
        self._closing = True
        if self._listener is not None:
            await self._listener.close()
            await self.served.close()
        tasks = [*self._tasks, *(task for _, task in self._dialers.values())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        waits = [link.closed for link in self._links]
        for link in tuple(self._links):
            link.close()
        if waits:  # bounded: a transport that never reports its end must not keep the node from ending
            await asyncio.wait(waits, timeout=2 * CLOSE_TIMEOUT_S)

    # What dialers, the listener and links' handlers call.

    def new_link(self, idle_timeout_s: float) -> Link:
        """Make a link that is watched for silence."""
        return Link(self._settings.output_bytes_max, idle_timeout_s, self._links)

    def outgoing(self, node_id: int) -> Link | None:
        """The connection to a node that stands, whatever address it was dialed at."""
        peer = self._peers.get(node_id)
        link = peer.outgoing if peer is not None else None
        return link if link is not None and link.alive else None

    def admit(self, opened: Opened, *, outgoing: bool) -> None:
        """Let a proven peer in, unless another process is connected under its id."""
        node_id = opened.hello.identity.node_id
        peer = self._peers.get(node_id)
        if peer is None:
            if len(self._peers) >= PEERS_MAX:
                raise Refused("too_many", f"{PEERS_MAX} nodes are connected")
        elif peer.links and peer.token != opened.token:
            raise Refused("id_clash", f"another process is connected as node {node_id}")
        if outgoing and opened.purpose == PURPOSE_RAFT:
            if self.outgoing(node_id) is not None or node_id in self._dialing:
                raise Refused("duplicate", f"node {node_id} is connected by another address")
            self._dialing.add(node_id)

    def settled(self, opened: Opened) -> None:
        """A dial that was admitted is over, so another may be."""
        if opened.purpose == PURPOSE_RAFT:
            self._dialing.discard(opened.hello.identity.node_id)

    def dialed(self, opened: Opened, link: Link, address: str) -> None:
        """Take a connection that this node made; the latest one stands, here as at the other side."""
        peer = self._peer(opened)
        peer.address = address
        replaced, peer.outgoing = peer.outgoing, link
        if replaced is not None:
            replaced.close()
        self._connected(peer, link, Outgoing(self, opened.hello.identity.node_id), "outgoing")

    def accepted(self, opened: Opened, link: Link) -> None:
        """Take a connection that a peer made."""
        if opened.purpose == PURPOSE_SNAPSHOT:
            link.idle_timeout_s = self._snapshot_idle_s
            self._spawn(self._receive_snapshot(opened, link))
            return
        if opened.purpose == PURPOSE_MEET:
            link.close()
            return
        peer = self._peer(opened)
        replaced, peer.incoming = peer.incoming, link
        if replaced is not None:
            replaced.close()
        self._retarget()  # a node that is no member yet, or has moved, is dialed at the address it tells
        dialer, _ = self._dialers.get(opened.hello.raft_address, (None, None))
        if dialer is not None and peer.outgoing is None:
            dialer.hurry()
        self._connected(peer, link, Incoming(self, opened.hello.identity.node_id), "incoming")

    def dial_failed(self, address: str, node_id: int, error: Exception) -> None:
        """Note a failed attempt; once for each."""
        if isinstance(error, Refused):
            self._refusals.note(address, error)
        else:
            self._refusals.note_unreachable(address, node_id, error)
        if node_id and self.outgoing(node_id) is None:
            self._events.on_unreachable(node_id)

    def take_message(self, node_id: int, message: AnyMessage, traces: Sequence[tuple[int, str]]) -> None:
        """Hand a Raft message on; one that claims another sender breaks the protocol."""
        if message.sender != node_id or message.to != self._own_id:
            raise ProtocolError("bad_frame", f"node {node_id} sent a message of {message.sender} for {message.to}")
        if traces:
            self._events.on_traces(traces)
        self._events.on_message(message)

    def violated(self, node_id: int, error: ProtocolError) -> None:
        """Count and log a link that is cut for what came over it."""
        self._refusals.note_violation(node_id, error.reason, error.detail)

    def lost(self, node_id: int, link: Link) -> None:
        """Forget a link that is gone."""
        self.sent.on_lost(link)
        peer = self._peers.get(node_id)
        if peer is None:
            return
        if peer.incoming is link:
            peer.incoming = None
            if not self._closing:
                self._retarget()
        elif peer.outgoing is link:
            peer.outgoing = None
            if not self._closing:
                self._log.warning("peer.lost", peer=node_id, address=peer.address, reason=link.end_reason)
                self._events.on_unreachable(node_id)
        if peer.incoming is None and peer.outgoing is None and node_id not in self._members:
            self._peers.pop(node_id, None)

    # Inside.

    @property
    def _snapshot_idle_s(self) -> float:
        return self._settings.idle_timeout_s * SNAPSHOT_IDLE_FACTOR

    def _peer(self, opened: Opened) -> _Peer:
        node_id = opened.hello.identity.node_id
        peer = self._peers.setdefault(node_id, _Peer(opened.hello, opened.token))
        peer.hello, peer.token = opened.hello, opened.token
        return peer

    def _connected(self, peer: _Peer, link: Link, handler: Incoming, direction: str) -> None:
        hello = peer.hello
        self._log.info(
            "peer.connected",
            peer=hello.identity.node_id,
            direction=direction,
            address=hello.raft_address,
            version=hello.version,
        )
        self._refusals.reached(hello.raft_address)
        self._events.on_hello(hello)
        link.attach(handler, self._settings.frame_bytes_max)

    def _retarget(self) -> None:
        """Run one dialer for each address that matters, and none for others."""
        if not self._own_id:
            return
        wanted = dict.fromkeys(self._seeds, 0)
        for node_id, peer in self._peers.items():
            if node_id in self._members or (peer.incoming is not None and node_id not in self._left):
                wanted[peer.hello.raft_address] = node_id
        wanted.update({address: node_id for node_id, address in self._members.items() if node_id != self._own_id})
        known = {self._dialers[address][0].node_id for address in wanted if address in self._dialers}
        for address in [address for address in self._dialers if address not in wanted]:
            dialer, task = self._dialers.pop(address)
            task.cancel()
            link = self.outgoing(dialer.node_id)
            if link is not None and dialer.node_id not in known:
                link.close()
        for address, node_id in wanted.items():
            if address not in self._dialers:
                dialer = Dialer(self, self._handshaker, self._settings, address, node_id)
                self._dialers[address] = (dialer, asyncio.get_running_loop().create_task(dialer.run()))
            elif node_id and not self._dialers[address][0].node_id:
                self._dialers[address][0].node_id = node_id

    def _tick(self) -> None:
        """Probe links that are silent, cut those that stay silent."""
        if self._closing:
            return
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        # After a stall of this process what peers sent is still unread: their silence proves nothing.
        stalled = now_s - self._last_tick_s > 2 * self._settings.ping_interval_s
        self._last_tick_s = now_s
        for link in tuple(self._links):
            if not link.attached:
                continue  # the handshake has its own time-out
            silence_s = now_s - link.last_received_s
            if silence_s > link.idle_timeout_s and not stalled:
                link.abort()
            elif silence_s > self._settings.ping_interval_s / 2:
                link.ping()
        loop.call_later(self._settings.ping_interval_s, self._tick)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _receive_snapshot(self, opened: Opened, link: Link) -> None:
        node_id = opened.hello.identity.node_id
        try:
            meta = await self._receiver.receive(link)
        except Refused as error:
            error.node_id = node_id
            self._refusals.note(opened.hello.raft_address, error)
            self._log.warning("snapshot.receive_failed", peer=node_id, reason=str(error))
        except OSError as error:
            self._log.warning("snapshot.receive_failed", peer=node_id, reason=str(error))
        else:
            self._log.info("snapshot.received", peer=node_id, index=meta.index)

    def _dropped_counter(self, node_id: int) -> Counter:
        if node_id not in self._dropped:
            self._dropped[node_id] = self._instruments.counter("scribe_peer_messages_dropped_total", peer=str(node_id))
        return self._dropped[node_id]
