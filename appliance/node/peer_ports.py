"""What nodes are to each other: what they say of themselves, and the links between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from appliance.ledger.commands import WriteRequest, WriteResult
from appliance.node.ports import Identity
from appliance.raft.messages import AnyMessage, Configuration, SnapshotMeta


class Promise(Struct, frozen=True, array_like=True):
    """What a leader knows that another node holds for good: a term it was in, and an index that is committed and that
    it acknowledged. A node with less has forgotten it.
    """

    node_id: int
    incarnation: int
    term: int
    index: int


class Hello(Struct, frozen=True):
    """What a node says of itself when a peer connects.

    Attributes:
        version: version of the program.
        protocol, protocol_min: latest and oldest version of the peer protocol that the program speaks. The transport
            fills these two and `features` in when a link is made; nobody else knows them.
        features: names of optional abilities.
        identity: who it is.
        address, raft_address: its client address and its peer address.
        last_index: last index of its log (0 and an empty configuration when it was never bootstrapped).
        configuration: the founding or current configuration.
        configuration_index: index of the entry that carries it; 1 is the founding one, written by every founder.
        promises: what the node, as leader, knows that others hold.
        commit_index: up to where it knows its log to be committed.
        lost: whether it has held data of the cluster and holds none now: it is not empty, it has forgotten.
        last_term: term of the last entry of its log.
    """

    version: str
    protocol: int
    features: tuple[str, ...]
    identity: Identity
    address: str
    raft_address: str
    last_index: int
    configuration: Configuration
    configuration_index: int = 1
    protocol_min: int = 0
    promises: tuple[Promise, ...] = ()
    commit_index: int = 0
    lost: bool = False
    last_term: int = 0


class SnapshotFile(Struct, frozen=True):
    """A copy of the ledger file that is offered to a node. What the node has of it counts as long as the digest is the
    same.

    Attributes:
        meta: what it covers.
        path: where it is; it does not change.
        size_bytes: of the file.
        sha256: digest of the whole file.
    """

    meta: SnapshotMeta
    path: Path
    size_bytes: int
    sha256: bytes


class SnapshotRefused(OSError):
    """A node has received the whole of a snapshot and does not take it: the same file need not be offered again."""


class PeerEvents(Protocol):
    """What the transport calls, on the event loop."""

    def hello(self) -> Hello:
        """What this node says of itself now."""
        ...

    def on_hello(self, hello: Hello) -> None:
        """A peer was reached or has connected, and belongs to this cluster."""
        ...

    def on_message(self, message: AnyMessage) -> None:
        """A Raft message came in; its entries' checksums were checked."""
        ...

    def on_traces(self, traces: Sequence[tuple[int, str]]) -> None:
        """Trace contexts (raft index, traceparent) of sampled entries in the next message from the same peer."""
        ...

    def on_unreachable(self, node_id: int) -> None:
        """The connection to a peer was lost or could not be made."""
        ...

    async def on_write(self, request: WriteRequest) -> WriteResult:
        """A follower forwarded a write. Raises `ApplianceError`."""
        ...

    async def on_call(self, sender_node_id: int, name: str, body: bytes) -> bytes:
        """A node asks for what `name` stands for. Raises `ApplianceError`, which the caller gets."""
        ...

    async def on_offer(self, size_bytes: int) -> None:
        """A snapshot is offered, of which so many bytes are still to come. Raises `DiskFull`, and `OSError` when it
        cannot be taken now.
        """
        ...

    async def on_snapshot(self, meta: SnapshotMeta, path: Path) -> None:
        """A snapshot has been received completely into `path` and its digest checked."""
        ...

    def snapshot_path(self) -> Path:
        """Where to put a snapshot that is being received."""
        ...


class PeerNetwork(Protocol):
    """The links to the other nodes. All methods are called on the event loop."""

    async def start(self, events: PeerEvents, seeds: Sequence[str]) -> None:
        """Listen, and keep a connection to every seed and every known peer."""
        ...

    def set_peers(self, addresses: dict[int, str]) -> None:
        """The peers of the current configuration: node id to peer address."""
        ...

    def send(self, message: AnyMessage, traces: Sequence[tuple[int, str]] = ()) -> None:
        """Send without waiting; dropped when there is no connection or too much waits on it (Raft repeats itself)."""
        ...

    async def forward_write(self, node_id: int, request: WriteRequest, timeout_s: float) -> WriteResult:
        """Have the leader carry out a write. Raises `ApplianceError`: the leader's own; `no_leader` when the request
        surely was not handed over; `outcome_unknown` when it was and no answer came.
        """
        ...

    async def writes_served(self) -> None:
        """Wait until the writes that others have handed to this node are answered, not for those that come later."""
        ...

    async def call(self, node_id: int, name: str, body: bytes, timeout_s: float) -> bytes:
        """Have another node do what `name` stands for. Raises `ApplianceError` as `forward_write` does, and `conflict`
        when the node is of a version without calls, so that nothing was sent.
        """
        ...

    async def send_snapshot(self, node_id: int, file: SnapshotFile, on_resume: Callable[[int], None]) -> None:
        """Stream a file in checksummed chunks from where the receiver stands, which `on_resume` is told: how many
        bytes it has. Raises `SnapshotRefused`, and `OSError` when it cannot.
        """
        ...

    async def meet(self, address: str) -> Hello:
        """Ask who is at a peer address. Raises `ApplianceError`: `conflict` when nobody answers, or a node that does
        not belong to this cluster.
        """
        ...

    def redial(self, node_id: int) -> None:
        """Connect to a peer anew, so that it says hello again; nothing when there is no connection to it."""
        ...

    def connected(self) -> dict[int, float]:
        """For each connected peer, seconds since something came from it."""
        ...

    async def close(self) -> None:
        """Close all links."""
        ...
