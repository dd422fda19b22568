"""Frames and codec: however the bytes arrive, what is not allowed, what comes back as it went."""

from __future__ import annotations

import pickle
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.adapters.peer_protocol import (
    Call,
    Chunk,
    Failure,
    FrameDecoder,
    Kind,
    Offer,
    Open,
    Ping,
    ProtocolError,
    Result,
    Return,
    Traced,
    Write,
    decode_payload,
    encode_frame,
)
from appliance.ledger.commands import Op, Operation, OperationResult, Outcome, WriteRequest, WriteResult
from appliance.raft import messages as m

HEADER = {"sender": 1, "sender_incarnation": 2**62, "to": 2, "term": 7}
META = m.SnapshotMeta(9, 3, m.Configuration((m.Member(1, 5, m.MemberRole.VOTER, "a:1", "a:2"),)))
APPEND = m.AppendRequest(
    **HEADER,
    prev_index=4,
    prev_term=6,
    entries=(m.make_entry(7, 5, m.EntryKind.NORMAL, b"\x00\xff" * 40), m.make_entry(7, 6, m.EntryKind.NOOP, b"")),
    commit_index=4,
)
REQUEST = WriteRequest((Operation(Op.PUT, "käse", b"v", 3), Operation(Op.DELETE, "k")), "admin", "r1", True, "i", b"h")
RESULT = WriteResult(Outcome.OK, 5, 7, 123, (OperationResult("k", 1, 0),))

MESSAGES: dict[str, m.AnyMessage] = {
    type(message).__name__: message
    for message in (
        m.VoteRequest(**HEADER, last_log_index=4, last_log_term=3, pre_vote=True),
        m.VoteResponse(**HEADER, granted=True),
        APPEND,
        m.AppendResponse(**HEADER, success=False, index=4, hint_index=2, hint_term=1),
        m.Heartbeat(**HEADER, commit_index=4, round=9),
        m.HeartbeatResponse(**HEADER, round=9),
        m.ReadIndexRequest(**HEADER, context=2**63 - 1),
        m.ReadIndexResponse(**HEADER, context=1, index=0, ok=False),
        m.TimeoutNow(**HEADER),
    )
}
FRAMES: dict[str, tuple[Kind, Any]] = {
    **{name: (Kind.MESSAGE, message) for name, message in MESSAGES.items()},
    "traced": (Kind.TRACED, Traced(((5, "00-aa-bb-01"),), APPEND)),
    "open": (Kind.OPEN, Open("raft", b"n" * 32, b"t" * 8, b"hello")),
    "write": (Kind.WRITE, Write(2**40, REQUEST)),
    "result": (Kind.RESULT, Result(1, RESULT)),
    "failure": (Kind.FAILURE, Failure(1, "no_quorum", "why", 3)),
    "call": (Kind.CALL, Call(3, "settle", b"\x00\xff")),
    "return": (Kind.RETURN, Return(3, b"")),
    "offer": (Kind.OFFER, Offer(META, 2**40, b"d" * 32)),
    "chunk": (Kind.CHUNK, Chunk(0, 1, b"x" * 1000)),
    "ping": (Kind.PING, Ping()),
}


def cut(pieces: list[bytes]) -> list[tuple[int, bytes]]:
    decoder = FrameDecoder(10_000)
    return [(kind, bytes(payload)) for piece in pieces for kind, payload in decoder.feed(piece)]


def test_every_message_type_has_a_row() -> None:
    assert set(MESSAGES) == {type_.__name__ for type_ in m.AnyMessage.__args__}


@pytest.mark.parametrize(("kind", "value"), FRAMES.values(), ids=FRAMES)
def test_round_trip_whole_byte_by_byte_and_with_trailing_data(kind: Kind, value: Any) -> None:
    frame = bytes(encode_frame(kind, value))
    whole = cut([frame])
    assert [(k, decode_payload(k, memoryview(p))) for k, p in whole] == [(kind, value)]
    assert cut([frame[i : i + 1] for i in range(len(frame))]) == whole
    tail = bytes(encode_frame(Kind.PONG, Ping()))
    assert cut([frame + tail[:3], tail[3:]]) == [*whole, (Kind.PONG, b"\x90")]
    assert cut([frame + frame + tail]) == [*whole, *whole, (Kind.PONG, b"\x90")]


@given(st.lists(st.binary(max_size=200), max_size=20), st.lists(st.integers(1, 50), min_size=1, max_size=20))
def test_any_cut_gives_the_same_frames(bodies: list[bytes], sizes: list[int]) -> None:
    stream = b"".join(bytes(encode_frame(Kind.CHUNK, Chunk(0, 0, body))) for body in bodies)
    pieces, at = [], 0
    for turn in range(len(stream)):
        if at >= len(stream):
            break
        size = sizes[turn % len(sizes)]
        pieces.append(stream[at : at + size])
        at += size
    frames = [decode_payload(kind, memoryview(payload)) for kind, payload in cut(pieces)]
    assert frames == [Chunk(0, 0, body) for body in bodies]


LENGTHS = {"empty": 0, "one too many": 10_001, "absurd": 0xFFFFFFFF}


@pytest.mark.parametrize("length", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("step", [1, 4], ids=["byte by byte", "whole"])
def test_bad_length_is_refused_with_its_header(length: int, step: int) -> None:
    header = length.to_bytes(4, "big")
    decoder = FrameDecoder(10_000)
    pieces = [header[at : at + step] for at in range(0, 4, step)]
    assert [frame for piece in pieces[:-1] for frame in decoder.feed(piece)] == []
    with pytest.raises(ProtocolError, match="bad_frame"):
        list(decoder.feed(pieces[-1]))


def test_longest_frame_that_is_allowed() -> None:
    decoder = FrameDecoder(10)
    assert [bytes(p) for _, p in decoder.feed(b"\0\0\0\x0a\x10" + b"x" * 9)] == [b"x" * 9]


def damaged(data: bytes) -> bytes:
    entry = msgspec.structs.replace(APPEND.entries[0], data=data)
    return bytes(msgspec.msgpack.encode(msgspec.structs.replace(APPEND, entries=(entry,))))


BAD_PAYLOADS = {
    "unknown kind": (99, b"\x90", "bad_frame"),
    "no msgpack": (Kind.MESSAGE, b"\xc1\xff", "bad_frame"),
    "no message": (Kind.MESSAGE, b"\x81\xa4type\xa4evil", "bad_frame"),
    "trailing bytes": (Kind.PING, b"\x90\x90", "bad_frame"),
    "wrong type": (Kind.RESUME, msgspec.msgpack.encode(["12"]), "bad_frame"),
    "bytes that are not UTF-8": (Kind.REFUSE, b"\x92\xa1\xff\xa1a", "bad_frame"),
    "pickle": (Kind.MESSAGE, pickle.dumps({"type": "vote"}), "bad_frame"),
    "nested without end": (Kind.PING, b"\x91" * 200_000, "bad_frame"),
    "empty": (Kind.MESSAGE, b"", "bad_frame"),
    "damaged entry": (Kind.MESSAGE, damaged(b"\x00\xff" * 39 + b"\x00\xfe"), "damaged_entry"),
    "damaged entry with traces": (
        Kind.TRACED,
        b"\x92\x90" + damaged(b""),
        "damaged_entry",
    ),
}


@pytest.mark.parametrize(("kind", "payload", "reason"), BAD_PAYLOADS.values(), ids=BAD_PAYLOADS)
def test_bad_payload(kind: int, payload: bytes, reason: str) -> None:
    with pytest.raises(ProtocolError, match=f"^{reason}: "):
        decode_payload(kind, memoryview(payload))


@given(st.integers(0, 40), st.binary(max_size=300))
def test_garbage_is_decoded_or_refused_and_nothing_else(kind: int, payload: bytes) -> None:
    try:
        value = decode_payload(kind, memoryview(payload))
    except ProtocolError:
        return
    assert kind in set(Kind)
    assert decode_payload(kind, memoryview(bytes(encode_frame(Kind(kind), value)))[5:]) == value
