"""Nodes that are nothing but their peer network, on real sockets, and a proxy that harms what passes it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime as dt
import hashlib
from collections import Counter as Tally
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from appliance.adapters.peer_network import TcpPeerNetwork
from appliance.adapters.peer_settings import PeerSettings
from appliance.adapters.pki import NODE_DAYS, make_ca, make_node_certificate
from appliance.ledger.commands import Op, Operation, Outcome, WriteRequest, WriteResult
from appliance.node.peer_ports import Hello, SnapshotFile
from appliance.node.ports import Identity
from appliance.raft.messages import AnyMessage, Configuration, Heartbeat, SnapshotMeta
from appliance.tables.events import COMMON_FIELDS, EVENTS

CLUSTER = "c" * 32
DEADLINE_S = 10.0
META = SnapshotMeta(7, 2, Configuration())
REQUEST = WriteRequest((Operation(Op.PUT, "k", b"v"),), "admin", "r1")
RESULT = WriteResult(Outcome.OK, 5, 2, 1)

QUICK: dict[str, Any] = {
    "dial_delay_s_min": 0.01,
    "dial_delay_s_max": 0.05,
    "snapshot_bytes_per_s": 2**40,
}


def heartbeat(sender: int, to: int, round_: int = 1) -> Heartbeat:
    return Heartbeat(sender=sender, sender_incarnation=sender, to=to, term=1, commit_index=0, round=round_)


def offered(path: Path) -> SnapshotFile:
    """This file as the snapshot of `META`."""
    data = path.read_bytes()
    return SnapshotFile(META, path, len(data), hashlib.sha256(data).digest())


async def until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds that sockets decide; the pause only yields to them."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - sockets decide it, and have no event for it
            await asyncio.sleep(0.002)


@dataclasses.dataclass
class Child:
    """A counter's child."""

    value: float = 0

    def inc(self, amount: float = 1) -> None:
        self.value += amount


class Metrics:
    """Counts in memory."""

    def __init__(self) -> None:
        self.children: dict[tuple[str, ...], Child] = {}

    def counter(self, name: str, **labels: str) -> Child:
        return self.children.setdefault((name, *labels.values()), Child())

    def gauge(self, name: str, **labels: str) -> Any:
        raise KeyError(name)

    histogram = gauge

    def refused(self) -> dict[str, float]:
        """Refusals by reason, those that happened."""
        return {
            key[1]: child.value
            for key, child in self.children.items()
            if key[0] == "scribe_peer_refused_total" and child.value
        }

    def value(self, *key: str) -> float:
        return self.children[key].value if key in self.children else 0


class Lines:
    """Keeps log lines, and holds them to the table."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, object]]] = []

    def _write(self, level: str, event: str, fields: dict[str, object]) -> None:
        row = EVENTS[event]
        assert row.level == level, event
        assert fields.keys() <= {*row.fields, *COMMON_FIELDS}, event
        self.lines.append((level, event, fields))

    def debug(self, event: str, **fields: object) -> None:
        self._write("debug", event, fields)

    def info(self, event: str, **fields: object) -> None:
        self._write("info", event, fields)

    def warning(self, event: str, **fields: object) -> None:
        self._write("warning", event, fields)

    def error(self, event: str, **fields: object) -> None:
        self._write("error", event, fields)

    def of(self, event: str) -> list[dict[str, object]]:
        return [fields for _, name, fields in self.lines if name == event]


class Node:
    """One node: its network, and what the network told it."""

    def __init__(self, settings: PeerSettings, identity: Identity, directory: Path) -> None:
        self.identity = identity
        self.metrics = Metrics()
        self.log = Lines()
        self.network = TcpPeerNetwork(settings, self.metrics, self.log)
        self.directory = directory
        self.raft_address = ""
        self.version = "test-version"
        self.hellos: list[Hello] = []
        self.received: list[object] = []  # messages and traces, in order
        self.unreachable: Tally[int] = Tally()
        self.writes: list[WriteRequest] = []
        self.calls: list[tuple[int, str, bytes]] = []
        self.snapshots: list[tuple[SnapshotMeta, bytes]] = []
        self.offers: list[int] = []  # bytes that were still to come
        self.offer_error: Exception | None = None
        self.write: Callable[[WriteRequest], Awaitable[WriteResult]] = self._write_ok
        self.call: Callable[[int, str, bytes], Awaitable[bytes]] = self._call_back
        self.snapshot: Callable[[], Awaitable[None]] | None = None

    @property
    def id(self) -> int:
        return self.identity.node_id

    async def start(self, *seeds: str) -> Node:
        await self.network.start(self, seeds)
        self.raft_address = f"127.0.0.1:{self.network.port}"
        return self

    def links_to(self, *ids: int) -> bool:
        return set(ids) <= set(self.network.connected())

    async def _write_ok(self, request: WriteRequest) -> WriteResult:
        return RESULT

    async def _call_back(self, sender: int, name: str, body: bytes) -> bytes:
        return body[::-1]

    # PeerEvents

    def hello(self) -> Hello:
        return Hello(self.version, 0, (), self.identity, "127.0.0.1:1", self.raft_address, 0, Configuration())

    def on_hello(self, hello: Hello) -> None:
        self.hellos.append(hello)

    def on_message(self, message: AnyMessage) -> None:
        self.received.append(message)

    def on_traces(self, traces: Sequence[tuple[int, str]]) -> None:
        self.received.append(traces)

    def on_unreachable(self, node_id: int) -> None:
        self.unreachable[node_id] += 1

    async def on_write(self, request: WriteRequest) -> WriteResult:
        self.writes.append(request)
        return await self.write(request)

    async def on_call(self, sender_node_id: int, name: str, body: bytes) -> bytes:
        self.calls.append((sender_node_id, name, body))
        return await self.call(sender_node_id, name, body)

    async def on_offer(self, size_bytes: int) -> None:
        self.offers.append(size_bytes)
        if self.offer_error is not None:
            raise self.offer_error

    async def on_snapshot(self, meta: SnapshotMeta, path: Path) -> None:
        if self.snapshot is not None:
            await self.snapshot()
        self.snapshots.append((meta, path.read_bytes()))  # noqa: ASYNC240

    def snapshot_path(self) -> Path:
        return self.directory / "received.db"


class World:
    """Makes nodes and proxies, and closes them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._closers: list[Callable[[], Awaitable[None]]] = []
        self._count = 0

    def node(
        self,
        node_id: int,
        auth: str = "secret",
        *,
        cluster_id: str = CLUSTER,
        secret: str = "s" * 32,
        ca: str = CLUSTER,
        certificate_of: int = 0,
        certificate_days: int = 30,
        **limits: Any,
    ) -> Node:
        """Make a node that is not started; `ca` names the authority's cluster."""
        self._count += 1
        home = self.directory / f"{self._count}-node{node_id}"
        home.mkdir()
        files: dict[str, Path] = {}
        if auth == "secret":
            files["secret_file"] = home / "secret"
            files["secret_file"].write_text(secret + "\n")
        else:
            authority = self.directory / f"ca-{ca}"
            files["ca_file"] = make_ca(
                authority, ca[:32], now=dt.datetime.now(dt.UTC) - dt.timedelta(days=1000)
            ).cert_file
            start = dt.datetime.now(dt.UTC) + dt.timedelta(days=certificate_days - NODE_DAYS)
            pair = make_node_certificate(authority, home, certificate_of or node_id, ["127.0.0.1"], now=start)
            files["cert_file"], files["key_file"] = pair.cert_file, pair.key_file
        settings = PeerSettings(host="127.0.0.1", port=0, auth=auth, **{**QUICK, **limits}, **files)
        node = Node(settings, Identity(cluster_id, node_id, node_id), home)
        self._closers.append(node.network.close)
        return node

    def again(self, node: Node, port: int) -> Node:
        """The same node, started anew on a port."""
        settings = msgspec.structs.replace(node.network._settings, port=port)
        fresh = Node(settings, node.identity, node.directory)
        self._closers.append(fresh.network.close)
        return fresh

    async def pair(self, auth: str = "secret", **limits: Any) -> tuple[Node, Node]:
        """Two nodes, connected both ways."""
        one = await self.node(1, auth, **limits).start()
        two = await self.node(2, auth, **limits).start(one.raft_address)
        await until(lambda: one.links_to(2) and two.links_to(1))
        return one, two

    async def proxy(self, target: str) -> Proxy:
        proxy = Proxy(target)
        await proxy.open()
        self._closers.append(proxy.close)
        return proxy

    async def close(self) -> None:
        for closer in reversed(self._closers):
            await closer()


@contextlib.asynccontextmanager
async def world(directory: Path) -> AsyncIterator[World]:
    made = World(directory)
    try:
        yield made
    finally:
        await made.close()


class Proxy:
    """Passes connections on to a target, and harms what goes toward it.

    Attributes:
        cut_after: cut a connection that has passed this many bytes; for connections that begin afterwards.
        change: applied to each piece of data.
        flowing: cleared, nothing passes in either direction.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        self.cut_after: int | None = None
        self.change: Callable[[bytes], bytes] = bytes
        self.flowing = asyncio.Event()
        self.flowing.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.address = ""

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def cut(self) -> None:
        """Cut every connection that stands."""
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._carry(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = self._target.split(":")
        try:
            onward_reader, onward_writer = await asyncio.open_connection(host, int(port))
        except OSError:
            writer.transport.abort()
            return
        both = (writer, onward_writer)
        self._writers.update(both)
        try:
            pumps = [
                asyncio.ensure_future(self._pump(reader, onward_writer, self.cut_after, self.change)),
                asyncio.ensure_future(self._pump(onward_reader, writer, None, bytes)),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        finally:
            self._writers.difference_update(both)
            for end in both:
                end.transport.abort()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        limit: int | None,
        change: Callable[[bytes], bytes],
    ) -> None:
        passed = 0
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                await self.flowing.wait()
                passed += len(data)
                if limit is not None and passed > limit:
                    return
                writer.write(change(data))
                await writer.drain()

    async def close(self) -> None:
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
