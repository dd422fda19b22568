"""What becomes of the frames that come in on a link that stands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from appliance.adapters.peer_link import Link
from appliance.adapters.peer_protocol import (
    Call,
    Failure,
    Kind,
    Payload,
    ProtocolError,
    Result,
    Return,
    Traced,
    Write,
)

if TYPE_CHECKING:
    from appliance.adapters.peer_network import TcpPeerNetwork


class Incoming:
    """Handles what a peer sends on its connection."""

    def __init__(self, network: TcpPeerNetwork, node_id: int) -> None:
        self._network = network
        self._node_id = node_id

    def on_frame(self, link: Link, kind: int, value: Payload) -> None:
        """Take a Raft message, a forwarded write or a call."""
        if kind == Kind.MESSAGE:
            self._network.take_message(self._node_id, value, ())
        elif isinstance(value, Traced):
            self._network.take_message(self._node_id, value.message, value.traces)
        elif isinstance(value, Write):
            self._network.served.write(link, value)
        elif isinstance(value, Call):
            self._network.served.call(link, self._node_id, value)
        else:
            raise ProtocolError("bad_frame", f"a frame of kind {kind} does not belong on an incoming link")

    def on_violation(self, link: Link, error: ProtocolError) -> None:
        """Count and log it."""
        self._network.violated(self._node_id, error)

    def on_lost(self, link: Link) -> None:
        """Forget the link."""
        self._network.lost(self._node_id, link)


class Outgoing(Incoming):
    """Handles what a peer answers on this node's connection."""

    def on_frame(self, link: Link, kind: int, value: Payload) -> None:
        """Take the answer to a forwarded write or a call."""
        if not isinstance(value, Result | Return | Failure):
            raise ProtocolError("bad_frame", f"a frame of kind {kind} does not belong on an outgoing link")
        self._network.sent.on_answer(link, value)
