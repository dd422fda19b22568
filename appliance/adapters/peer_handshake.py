"""The first four frames of a connection: who is there, and whether they may stay.

    dialer                         acceptor
    OPEN   nonce, hello      ->
                             <-    ANSWER  nonce, hello, proof
    PROOF  proof             ->
                             <-    WELCOME

Either side may send REFUSE instead, with a reason. Nothing else is read before WELCOME.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeVar

import msgspec
from msgspec import Struct

from appliance.adapters.peer_auth import PeerAuth, Refused, Transcript
from appliance.adapters.peer_link import Link
from appliance.adapters.peer_protocol import (
    NONCE_BYTES,
    PEER_FEATURES,
    PEER_PROTOCOL,
    PEER_PROTOCOL_MIN,
    TOKEN_BYTES,
    Answer,
    Kind,
    Open,
    Proof,
    ProtocolError,
    Refuse,
    Welcome,
    encode_frame,
)
from appliance.node.peer_ports import Hello

DETAIL_CHARACTERS_MAX: Final = 300
PURPOSE_RAFT: Final = "raft"
PURPOSE_SNAPSHOT: Final = "snapshot"
PURPOSE_MEET: Final = "meet"  # only to learn who is there
PURPOSES: Final = frozenset({PURPOSE_RAFT, PURPOSE_SNAPSHOT, PURPOSE_MEET})

_T = TypeVar("_T")


class Opened(Struct, frozen=True):
    """A connection that both sides have accepted: its purpose, and who is at the other end."""

    purpose: str
    hello: Hello
    token: bytes


class _Speech(Struct, frozen=True):
    """The part of a hello that every version, past and future, sends in this form: it is read before the rest."""

    version: str = "of an unknown number"
    protocol: int = 0
    protocol_min: int = 0


class Admission(Protocol):
    """Decides whether a peer that has proved itself fits beside the links that stand."""

    def admit(self, opened: Opened, *, outgoing: bool) -> None:
        """Raises `Refused`: `id_clash`, or `duplicate` when it is connected already, or is about to be."""
        ...

    def settled(self, opened: Opened) -> None:
        """A dial that was admitted has its welcome, or will never have it."""
        ...


@dataclass(slots=True)
class Handshaker:
    """This node's part in every handshake.

    Attributes:
        auth: how nodes prove themselves.
        admission: the last word.
        own_hello: what this node says of itself now.
        protocol: version of the peer protocol that this node speaks.
        protocol_min: oldest that it still speaks.
        token: chance that stands for this process.
        nonces: of dials under way, by which a node recognises itself.
    """

    auth: PeerAuth
    admission: Admission
    own_hello: HelloSource
    protocol: int = PEER_PROTOCOL
    protocol_min: int = PEER_PROTOCOL_MIN
    token: bytes = field(default_factory=lambda: os.urandom(TOKEN_BYTES))
    nonces: set[bytes] = field(default_factory=set)

    async def dial(self, link: Link, purpose: str) -> Opened:
        """Carry out the dialer's side.

        Raises:
            Refused: by either side; the link is closed.
            ConnectionError: the link was lost.
        """
        nonce = os.urandom(NONCE_BYTES)
        self.nonces.add(nonce)
        try:
            return await self._dial(link, purpose, nonce)
        except (Refused, ProtocolError) as error:
            refused = _refuse(link, error)
            if refused.reason == "self" and nonce in self.nonces:
                refused.reason = "other"  # only this node itself can tell
            raise refused from error
        finally:
            self.nonces.discard(nonce)

    async def _dial(self, link: Link, purpose: str, nonce: bytes) -> Opened:
        own = self._own()
        own_bytes = msgspec.msgpack.encode(own)
        link.send(encode_frame(Kind.OPEN, Open(purpose, nonce, self.token, own_bytes)))
        answer = await _expect(link, Kind.ANSWER, Answer)
        opened = _opened(own, purpose, answer.nonce, answer.token, answer.hello)
        transcript = Transcript(purpose, nonce, answer.nonce, self.token, answer.token, own_bytes, answer.hello)
        self.auth.verify("acceptor", transcript, answer.mac)
        self._check_peer(link, own, opened, outgoing=True)
        try:
            link.send(encode_frame(Kind.PROOF, Proof(self.auth.prove("dialer", transcript))))
            await _expect(link, Kind.WELCOME, Welcome)
        finally:
            self.admission.settled(opened)
        return opened

    async def accept(self, link: Link) -> Opened:
        """Carry out the acceptor's side. Raises as `dial` does."""
        try:
            return await self._accept(link)
        except (Refused, ProtocolError) as error:
            raise _refuse(link, error) from error

    async def _accept(self, link: Link) -> Opened:
        first = await _expect(link, Kind.OPEN, Open)
        if first.nonce in self.nonces:
            self.nonces.discard(first.nonce)
            raise Refused("self", "this node has dialed itself")
        own = self._own()
        opened = _opened(own, first.purpose, first.nonce, first.token, first.hello)
        nonce = os.urandom(NONCE_BYTES)
        own_bytes = msgspec.msgpack.encode(own)
        transcript = Transcript(first.purpose, first.nonce, nonce, first.token, self.token, first.hello, own_bytes)
        proof = self.auth.prove("acceptor", transcript)
        link.send(encode_frame(Kind.ANSWER, Answer(nonce, self.token, own_bytes, proof)))
        answer = await _expect(link, Kind.PROOF, Proof)
        self.auth.verify("dialer", transcript, answer.mac)
        self._check_peer(link, own, opened, outgoing=False)
        link.send(encode_frame(Kind.WELCOME, Welcome()))
        return opened

    def _own(self) -> Hello:
        """The transport, not its caller, knows which protocol it speaks."""
        return msgspec.structs.replace(
            self.own_hello.hello(),
            protocol=self.protocol,
            protocol_min=self.protocol_min,
            features=PEER_FEATURES,
        )

    def _check_peer(self, link: Link, own: Hello, opened: Opened, *, outgoing: bool) -> None:
        try:
            self._check_fit(link, own, opened, outgoing=outgoing)
        except Refused as error:
            error.node_id = opened.hello.identity.node_id
            raise

    def _check_fit(self, link: Link, own: Hello, opened: Opened, *, outgoing: bool) -> None:
        if opened.hello.identity.node_id == own.identity.node_id:
            raise Refused("id_clash", f"another node says that it is node {own.identity.node_id} too")
        self.auth.check_identity(link.ssl_object, opened.hello, own.identity.cluster_id)
        self.admission.admit(opened, outgoing=outgoing)


class HelloSource(Protocol):
    """Where this node's hello comes from: `PeerEvents`."""

    def hello(self) -> Hello:
        """What this node says of itself now."""
        ...


async def _expect(link: Link, kind: Kind, type_: type[_T]) -> _T:
    got, value = await link.receive()
    if isinstance(value, Refuse):
        raise Refused(value.reason, _printable(value.detail), by_peer=True)
    if got != kind or not isinstance(value, type_):
        raise Refused("bad_frame", f"expected {kind.name}, got a frame of kind {got}")
    return value


def _opened(own: Hello, purpose: str, nonce: bytes, token: bytes, hello: bytes) -> Opened:
    """Decode what the other side says of itself, and compare it with what this side is."""
    if len(nonce) != NONCE_BYTES or len(token) != TOKEN_BYTES or purpose not in PURPOSES:
        raise Refused("bad_frame", "the opening frame is malformed")
    try:
        _check_protocol(own, msgspec.msgpack.decode(hello, type=_Speech))
        opened = Opened(purpose, msgspec.msgpack.decode(hello, type=Hello), token)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused("bad_frame", f"the hello cannot be decoded: {error}") from error
    _check_cluster(purpose, own.identity.cluster_id, opened.hello.identity.cluster_id)
    return opened


def _check_protocol(own: Hello, other: _Speech) -> None:
    """There must be a version of the protocol that both sides speak; both ends log this sentence."""
    if max(own.protocol_min, other.protocol_min) <= min(own.protocol, other.protocol):
        return
    older = own.version if own.protocol < other.protocol else _printable(other.version)
    raise Refused(
        "protocol",
        f"version {_printable(other.version)} speaks peer protocols {other.protocol_min} to {other.protocol}, and "
        f"version {own.version} speaks {own.protocol_min} to {own.protocol}: upgrade the node of version {older}",
    )


def _check_cluster(purpose: str, ours: str, theirs: str) -> None:
    """Compare clusters. A side that does not know its own yet may learn it in a meeting, and do nothing else."""
    if ours and theirs and ours != theirs:
        raise Refused("other_cluster", f"cluster {_printable(theirs)} is not cluster {ours}")
    if purpose != PURPOSE_MEET and not (ours and theirs):
        raise Refused("other_cluster", "a node that does not know its cluster can only ask for it")


def _refuse(link: Link, error: Refused | ProtocolError) -> Refused:
    """Tell the other side why, unless it was the one to refuse, and close."""
    refused = error if isinstance(error, Refused) else Refused(error.reason, error.detail)
    if not refused.by_peer:
        link.send(encode_frame(Kind.REFUSE, Refuse(refused.reason, refused.detail)))
    link.close()
    return refused


def _printable(text: str) -> str:
    """What a peer sent, fit for a log line."""
    return "".join(c if c.isprintable() else "?" for c in text[:DETAIL_CHARACTERS_MAX])
