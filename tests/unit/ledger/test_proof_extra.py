"""The extra data of this ledger's proof files."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from notes_rig import LOG, OTHER_LOG

from appliance.ledger.note import format_verifier_key
from appliance.ledger.proof_extra import ExtraMalformed, ProofExtra, decode_extra, encode_extra
from appliance.ledger.proof_file import ProofFile, format_proof, parse_proof

KEY = format_verifier_key(LOG.verifier_key)
EXTRA = ProofExtra(b'{"_format":1}', bytes(range(16)), (OTHER_LOG.verifier_key, LOG.verifier_key))
GOOD = {"format": 1, "leaf": "bGVhZg==", "salt": None, "key_history": [KEY]}


def changed(**members: Any) -> bytes:
    return json.dumps({**GOOD, **members}).encode()


def test_the_bytes_of_the_extra_data() -> None:
    other = format_verifier_key(OTHER_LOG.verifier_key)
    assert encode_extra(EXTRA).decode() == (
        '{"format":1,"leaf":"eyJfZm9ybWF0IjoxfQ==","salt":"000102030405060708090a0b0c0d0e0f",'
        f'"key_history":["{other}","{KEY}"]}}'
    )
    assert decode_extra(encode_extra(EXTRA)) == EXTRA
    assert decode_extra(changed()) == ProofExtra(b"leaf", b"", (LOG.verifier_key,))
    assert b'"salt":null' in encode_extra(EXTRA._replace(salt=b""))


def test_it_comes_through_a_proof_file() -> None:
    proof = ProofFile(0, (), b"checkpoint\n", encode_extra(EXTRA))
    assert decode_extra(parse_proof(format_proof(proof)).extra) == EXTRA


@given(leaf=st.binary(min_size=1), salt=st.binary(max_size=16), count=st.integers(0, 3))
def test_it_reads_back(leaf: bytes, salt: bytes, count: int) -> None:
    extra = ProofExtra(leaf, salt, (LOG.verifier_key,) * count)
    assert decode_extra(encode_extra(extra)) == extra


WRONG = {
    "not JSON": (b"{", "not JSON"),
    "not UTF-8": (b'{"format":"\xff"}', "not JSON"),
    "nested without end": (b"[" * 100_000, "not JSON"),
    "an array": (b"[]", "no object"),
    "no format": (b"{}", "no object with a format"),
    "format true": (changed(format=True), "no object with a format"),
    "a later format": (changed(format=2), "format 2"),
    "a member more": (changed(value="x"), "members"),
    "a member less": (b'{"format":1,"leaf":"bGVhZg==","salt":null}', "members"),
    "leaf is a number": (changed(leaf=1), "leaf"),
    "leaf empty": (changed(leaf=""), "leaf"),
    "leaf not base64": (changed(leaf="bGVhZg"), "leaf"),
    "salt empty": (changed(salt=""), "salt"),
    "salt upper case": (changed(salt="AB"), "salt"),
    "salt with a space": (changed(salt="ab cd"), "salt"),
    "salt not hex": (changed(salt="xy"), "salt"),
    "salt a number": (changed(salt=0), "salt"),
    "keys no list": (changed(key_history=KEY), "no list"),
    "a key is a number": (changed(key_history=[1]), "no list"),
    "a key is none": (changed(key_history=["x+1+2"]), "a key of the history"),
    "a key is half a pair": (changed(key_history=["\ud800" + KEY]), "a key of the history"),
}


@pytest.mark.parametrize(("data", "named"), WRONG.values(), ids=WRONG.keys())
def test_what_is_malformed_is_refused_by_name(data: bytes, named: str) -> None:
    with pytest.raises(ExtraMalformed, match=named):
        decode_extra(data)


@given(
    st.binary() | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(lambda v: json.dumps(v).encode())
)
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(ExtraMalformed):
        decode_extra(data)
