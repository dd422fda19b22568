"""The language between nodes: frames and what is in them.

A frame is its length (4 bytes, big-endian: kind and payload together), its kind (1 byte) and its payload in msgpack.
Nothing is ever unpickled: what a peer sends is decoded into typed values before anything looks at it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Generator, Iterator
from enum import IntEnum
from typing import Any, Final

import msgspec
from msgspec import Struct

from appliance.ledger.commands import FEATURE_CHECKPOINTS, FEATURE_PAUSES, WriteRequest, WriteResult
from appliance.raft.messages import AnyMessage, AppendRequest, SnapshotMeta, entry_intact

PEER_PROTOCOL: Final = 1
PEER_PROTOCOL_MIN: Final = 1  # oldest that this program still speaks
FEATURE_CALLS: Final = "calls"
PEER_FEATURES: Final = ("traces", "snapshot_resume", FEATURE_CALLS, FEATURE_PAUSES, FEATURE_CHECKPOINTS)

HANDSHAKE_FRAME_BYTES_MAX: Final = 256 * 1024  # a hello with a configuration of 64 members has under 20 KiB
FRAME_BYTES_MAX: Final = 80 * 1024 * 1024  # the largest value that settings allow (64 MiB) and its wrapping
SNAPSHOT_CHUNK_BYTES: Final = 256 * 1024
NONCE_BYTES: Final = 32
TOKEN_BYTES: Final = 8

_HEADER: Final = struct.Struct(">IB")
_LENGTH: Final = struct.Struct(">I")
_LENGTH_BYTES: Final = 4


class ProtocolError(Exception):
    """A peer sent what the protocol does not allow; the link is closed. `reason` is the metric's label."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        self.detail = detail
        super().__init__(f"{reason}: {detail}")


class Kind(IntEnum):
    """What a frame carries."""

    OPEN = 1
    ANSWER = 2
    PROOF = 3
    WELCOME = 4
    REFUSE = 5
    PING = 16
    PONG = 17
    MESSAGE = 18
    TRACED = 19
    WRITE = 20
    RESULT = 21
    FAILURE = 22
    CALL = 23
    RETURN = 24
    OFFER = 32
    RESUME = 33
    CHUNK = 34
    END = 35
    DONE = 36


class Open(Struct, frozen=True, array_like=True):
    """The dialer's first frame.

    Attributes:
        purpose: `raft`, `snapshot` or `meet`.
        nonce: `NONCE_BYTES` of chance.
        token: `TOKEN_BYTES` of chance that stand for the process, so that two of one id are told apart.
        hello: an encoded `Hello`, as bytes so that a signature covers exactly what was sent.
    """

    purpose: str
    nonce: bytes
    token: bytes
    hello: bytes


class Answer(Struct, frozen=True, array_like=True):
    """The acceptor's first frame; `mac` is its proof when a secret is shared, else empty."""

    nonce: bytes
    token: bytes
    hello: bytes
    mac: bytes


class Proof(Struct, frozen=True, array_like=True):
    """The dialer's proof when a secret is shared; an empty `mac` under TLS."""

    mac: bytes


class Welcome(Struct, frozen=True, array_like=True):
    """The acceptor has accepted the dialer."""


class Refuse(Struct, frozen=True, array_like=True):
    """Why one side closes the connection: a reason of the table in `peer_auth`, and a sentence."""

    reason: str
    detail: str


class Ping(Struct, frozen=True, array_like=True):
    """Asks whether the other side is there."""


class Pong(Struct, frozen=True, array_like=True):
    """The answer to a `Ping`."""


class Traced(Struct, frozen=True, array_like=True):
    """A Raft message with trace contexts (raft index, traceparent) of sampled entries in it."""

    traces: tuple[tuple[int, str], ...]
    message: AnyMessage


class Write(Struct, frozen=True, array_like=True):
    """A forwarded write; `number` is repeated by its answer."""

    number: int
    request: WriteRequest


class Result(Struct, frozen=True, array_like=True):
    """The outcome of a forwarded write."""

    number: int
    result: WriteResult


class Failure(Struct, frozen=True, array_like=True):
    """The error of a forwarded write or of a call: a code of the table of errors, and its detail."""

    number: int
    code: str
    detail: str
    retry_after_s: int | None = None


class Call(Struct, frozen=True, array_like=True):
    """Has the other node do what `name` stands for; only to a peer whose hello names `FEATURE_CALLS`.

    Attributes:
        number: repeated by the answer.
        name: of the call.
        body: what the call takes, encoded by who defines it.
    """

    number: int
    name: str
    body: bytes


class Return(Struct, frozen=True, array_like=True):
    """What a call answers."""

    number: int
    body: bytes


class Offer(Struct, frozen=True, array_like=True):
    """A snapshot: what it covers, its size and the SHA-256 of the whole file."""

    meta: SnapshotMeta
    size: int
    sha256: bytes


class Resume(Struct, frozen=True, array_like=True):
    """The receiver wants the file from this offset on."""

    offset: int


class Chunk(Struct, frozen=True, array_like=True):
    """A piece of the file; the checksum is CRC-32 seeded with the offset."""

    offset: int
    checksum: int
    data: bytes


class End(Struct, frozen=True, array_like=True):
    """The file is complete; its digest once more."""

    sha256: bytes


class Done(Struct, frozen=True, array_like=True):
    """The receiver has taken the snapshot."""


_TYPES: Final[dict[Kind, Any]] = {
    Kind.OPEN: Open,
    Kind.ANSWER: Answer,
    Kind.PROOF: Proof,
    Kind.WELCOME: Welcome,
    Kind.REFUSE: Refuse,
    Kind.PING: Ping,
    Kind.PONG: Pong,
    Kind.MESSAGE: AnyMessage,
    Kind.TRACED: Traced,
    Kind.WRITE: Write,
    Kind.RESULT: Result,
    Kind.FAILURE: Failure,
    Kind.CALL: Call,
    Kind.RETURN: Return,
    Kind.OFFER: Offer,
    Kind.RESUME: Resume,
    Kind.CHUNK: Chunk,
    Kind.END: End,
    Kind.DONE: Done,
}
_DECODERS: Final = {int(kind): msgspec.msgpack.Decoder(type_) for kind, type_ in _TYPES.items()}
_ENCODER: Final = msgspec.msgpack.Encoder()

Payload = Any  # a value of the type that `_TYPES` names for its kind


def encode_frame(kind: Kind, value: Payload) -> bytearray:
    """Encode one frame."""
    frame = bytearray(_HEADER.size)
    _ENCODER.encode_into(value, frame, _HEADER.size)
    _HEADER.pack_into(frame, 0, len(frame) - _LENGTH_BYTES, kind)
    return frame


def decode_payload(kind: int, payload: memoryview) -> Payload:
    """Decode what a frame carries.

    Raises:
        ProtocolError: `bad_frame` for an unknown kind or a payload of another shape, `damaged_entry` for an entry whose
            checksum does not match.
    """
    decoder = _DECODERS.get(kind)
    if decoder is None:
        raise ProtocolError("bad_frame", f"there is no frame of kind {kind}")
    try:
        value = decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError("bad_frame", f"a frame of kind {Kind(kind).name} cannot be decoded: {error}") from error
    message = value.message if kind == Kind.TRACED else value
    if isinstance(message, AppendRequest):
        for entry in message.entries:
            if not entry_intact(entry):
                raise ProtocolError("damaged_entry", f"the checksum of entry {entry.index} does not match")
    return value


def chunk_checksum(offset: int, data: bytes) -> int:
    """CRC-32 of a chunk, seeded with its offset so that a chunk in the wrong place does not match."""
    return zlib.crc32(data, offset & 0xFFFFFFFF)


class FrameDecoder:
    """Cuts a stream of bytes into frames, however the bytes arrive.

    Args:
        frame_bytes_max: longest kind and payload that is let in; may be changed between frames.
    """

    def __init__(self, frame_bytes_max: int) -> None:
        self.frame_bytes_max = frame_bytes_max
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, memoryview]]:
        """Give bytes, get the kind and payload of each frame that is complete now; use it up before the next call.

        Raises:
            ProtocolError: `bad_frame` when a frame is empty or longer than allowed; nothing may be fed afterwards.
        """
        if self._rest:
            self._rest += data
            if not self._complete():
                return
            data = bytes(self._rest)
            self._rest.clear()
        consumed = yield from self._cut(memoryview(data))
        if consumed < len(data):
            self._rest += memoryview(data)[consumed:]

    def _complete(self) -> bool:
        """Tell whether the rest begins with a whole frame; refuses a bad length as soon as it is known."""
        if len(self._rest) < _LENGTH_BYTES:
            return False
        return len(self._rest) >= _LENGTH_BYTES + self._length(self._rest, 0)

    def _length(self, buffer: bytearray | memoryview, offset: int) -> int:
        length: int = _LENGTH.unpack_from(buffer, offset)[0]
        if not 1 <= length <= self.frame_bytes_max:
            raise ProtocolError("bad_frame", f"a frame of {length} bytes is outside 1 to {self.frame_bytes_max}")
        return length

    def _cut(self, view: memoryview) -> Generator[tuple[int, memoryview], None, int]:
        offset = 0
        while len(view) - offset >= _LENGTH_BYTES:
            length = self._length(view, offset)
            start = offset + _LENGTH_BYTES
            if len(view) - start < length:
                break
            yield view[start], view[start + 1 : start + length]
            offset = start + length
        return offset
