"""The leaf against the `rfc8785` package, and its strict decoder."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from appliance.ledger.encoding import INTEGER_MAX, Leaf, LeafError, decode_leaf, encode_leaf, value_hash

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=64)
HASH = hashlib.sha256(b"x").hexdigest()
LEAF = Leaf(7, 1, 3, "put", "key", 2, 4, HASH, 9, "alice", "r1", 1_795_462_000_000_000)


@st.composite
def leaves(draw: st.DrawFn) -> Leaf:
    count = draw(st.integers(1, 10_000))
    position = draw(st.integers(0, count - 1))
    batch_id = draw(st.integers(0, INTEGER_MAX - count))
    first = batch_id + position == 0 or draw(st.booleans())
    put = draw(st.booleans())
    return Leaf(
        batch_id=batch_id,
        batch_position=position,
        batch_count=count,
        op="put" if put else "delete",
        key=draw(ANY_TEXT),
        version=1 if first else draw(st.integers(2, INTEGER_MAX)),
        prev_leaf_index=None if first else draw(st.integers(0, batch_id + position - 1)),
        value_hash=draw(st.binary(min_size=32, max_size=32)).hex() if put else None,
        value_size=draw(st.integers(0, INTEGER_MAX)) if put else 0,
        actor=draw(ANY_TEXT),
        request_id=draw(ANY_TEXT),
        timestamp_us=draw(st.integers(0, INTEGER_MAX)),
    )


def as_object(leaf: Leaf) -> dict[str, Any]:
    return {"_format": 1, **leaf._asdict()}


@given(leaves())
def test_a_leaf_is_what_rfc_8785_makes_of_its_fields_and_reads_back(leaf: Leaf) -> None:
    data = encode_leaf(leaf)
    assert data == rfc8785.dumps(as_object(leaf))
    assert decode_leaf(data) == leaf


@pytest.mark.parametrize("character", [chr(c) for c in (*range(0x20), 0x22, 0x2F, 0x5C, 0x7F, 0x80, 0x9F)], ids=ascii)
@pytest.mark.parametrize("field", ["actor", "request_id", "key"])
def test_characters_that_json_may_escape(field: str, character: str) -> None:
    leaf = LEAF._replace(**{field: f"a{character}b"})
    assert encode_leaf(leaf) == rfc8785.dumps(as_object(leaf))
    assert decode_leaf(encode_leaf(leaf)) == leaf


def test_the_format_version_comes_first() -> None:
    assert encode_leaf(LEAF).startswith(b'{"_format":1,')
    names = list(json.loads(encode_leaf(LEAF)))
    assert names == sorted(names, key=lambda name: name.encode("utf-16-be"))


def test_the_leaf_index_follows_from_batch_and_position() -> None:
    assert LEAF.leaf_index == 8


@pytest.mark.parametrize("field", ["actor", "request_id", "key"])
@pytest.mark.parametrize("surrogate", [chr(0xD800), chr(0xDFFF), chr(0xDC00) + chr(0xD800)], ids=ascii)
def test_a_lone_surrogate_is_refused(field: str, surrogate: str) -> None:
    with pytest.raises(UnicodeEncodeError):
        encode_leaf(LEAF._replace(**{field: surrogate}))
    escaped = json.dumps(as_object(LEAF._replace(**{field: surrogate})), separators=(",", ":"), sort_keys=True)
    with pytest.raises(LeafError, match="surrogate"):
        decode_leaf(escaped.encode())


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"batch_position": 3}, id="position beyond the batch"),
        pytest.param({"batch_position": -1}, id="negative position"),
        pytest.param({"batch_count": 0, "batch_position": 0}, id="empty batch"),
        pytest.param({"batch_id": -1}, id="negative batch"),
        pytest.param({"batch_id": INTEGER_MAX}, id="batch beyond exact integers"),
        pytest.param({"version": 0}, id="version zero"),
        pytest.param({"version": INTEGER_MAX + 1}, id="version beyond exact integers"),
        pytest.param({"version": 1}, id="a first version with a predecessor"),
        pytest.param({"prev_leaf_index": None}, id="a later version without a predecessor"),
        pytest.param({"prev_leaf_index": 8}, id="its own predecessor"),
        pytest.param({"prev_leaf_index": -1}, id="negative predecessor"),
        pytest.param({"timestamp_us": -1}, id="before 1970"),
        pytest.param({"timestamp_us": INTEGER_MAX + 1}, id="stamp beyond exact integers"),
        pytest.param({"value_size": -1}, id="negative size"),
        pytest.param({"value_size": INTEGER_MAX + 1}, id="size beyond exact integers"),
        pytest.param({"value_hash": None}, id="a put without a hash"),
        pytest.param({"value_hash": HASH.upper()}, id="upper-case hash"),
        pytest.param({"value_hash": HASH[1:]}, id="short hash"),
        pytest.param({"value_hash": "g" * 64}, id="hash that is not hex"),
        pytest.param({"op": "delete"}, id="a delete with a hash"),
        pytest.param({"op": "delete", "value_hash": None}, id="a delete with a size"),
        pytest.param({"op": "get"}, id="another op"),
    ],
)
def test_fields_that_no_leaf_can_have(fields: dict[str, Any]) -> None:
    leaf = LEAF._replace(**fields)
    with pytest.raises(LeafError):
        encode_leaf(leaf)
    with pytest.raises(LeafError):
        decode_leaf(json.dumps(as_object(leaf), separators=(",", ":"), sort_keys=True).encode())


GOOD = encode_leaf(LEAF)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"{}", id="no fields"),
        pytest.param(b"[1]", id="an array"),
        pytest.param(b"[" * 100_000, id="deep nesting"),
        pytest.param(GOOD[:-1], id="cut short"),
        pytest.param(GOOD + b"\n", id="trailing newline"),
        pytest.param(b" " + GOOD, id="leading space"),
        pytest.param(b"\xef\xbb\xbf" + GOOD, id="byte order mark"),
        pytest.param(GOOD.decode().encode("utf-16"), id="UTF-16"),
        pytest.param(GOOD.replace(b"alice", b"ali\xffce"), id="not UTF-8"),
        pytest.param(GOOD.replace(b":1,", b": 1,", 1), id="space behind a colon"),
        pytest.param(GOOD.replace(b"alice", b"\\u0061lice"), id="needless escape"),
        pytest.param(GOOD.replace(b'"_format":1', b'"_format":2'), id="another format"),
        pytest.param(GOOD.replace(b'"_format":1', b'"_format":true'), id="format as a boolean"),
        pytest.param(GOOD.replace(b'"_format":1', b'"_format":1.0'), id="format as a float"),
        pytest.param(GOOD.replace(b'"_format":1,', b""), id="no format"),
        pytest.param(GOOD.replace(b'"version":2', b'"version":2.0'), id="float"),
        pytest.param(GOOD.replace(b'"version":2', b'"version":"2"'), id="number as a string"),
        pytest.param(GOOD.replace(b'"version":2', b'"version":true'), id="boolean"),
        pytest.param(GOOD.replace(b'"version":2', b'"version":2,"x":1'), id="one field more"),
        pytest.param(GOOD.replace(b'"version":2', b'"version":2,"version":2'), id="a field twice"),
        pytest.param(GOOD.replace(b'"version":2', b'"version":' + b"9" * 5000), id="endless integer"),
        pytest.param(GOOD.replace(b'"key":"key"', b'"key":7'), id="string as a number"),
        pytest.param(GOOD.replace(b'"prev_leaf_index":4', b'"prev_leaf_index":4.0'), id="float predecessor"),
        pytest.param(GOOD.replace(HASH.encode(), b"").replace(b'"value_hash":""', b'"value_hash":1'), id="hash number"),
        pytest.param(json.dumps(dict(reversed(json.loads(GOOD).items())), separators=(",", ":")).encode(), id="order"),
    ],
)
def test_bytes_that_are_no_leaf(data: bytes) -> None:
    assert data != GOOD
    with pytest.raises(LeafError):
        decode_leaf(data)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_leaf_or_a_leaf_error(data: bytes) -> None:
    with pytest.raises(LeafError):
        decode_leaf(data)


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255))
def test_whatever_decodes_encodes_to_the_same_bytes(place: int, byte: int) -> None:
    data = GOOD[:place] + bytes([byte]) + GOOD[place + 1 :]
    try:
        leaf = decode_leaf(data)
    except LeafError:
        return
    assert encode_leaf(leaf) == data
    assert (leaf == LEAF) == (data == GOOD)


@given(st.binary(min_size=16, max_size=16), st.binary(max_size=100))
def test_the_value_hash_is_over_salt_and_value(salt: bytes, value: bytes) -> None:
    assert value_hash(salt, value) == hashlib.sha256(salt + value).hexdigest()
