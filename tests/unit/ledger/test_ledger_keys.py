"""What the gateway accepts as key, actor, request id and idempotency key."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.ledger.keys import check_idempotency_key, check_key, check_key_text
from appliance.tables.errors import ApplianceError


@pytest.mark.parametrize(
    "key",
    [
        pytest.param("a", id="one byte"),
        pytest.param("a//b/", id="slashes stay"),
        pytest.param("../..", id="dots stay"),
        pytest.param(" ", id="a space"),
        pytest.param("k" * 1024, id="longest"),
        pytest.param("é" * 512, id="longest in two-byte characters"),
        pytest.param("e\u0301", id="not normalised"),
        pytest.param("\u00a0\u2028\ufeff\uffff\U0010ffff", id="odd characters that are no controls"),
    ],
)
def test_good_keys_stay_what_they_are(key: str) -> None:
    assert check_key(key.encode()) == key
    assert check_key_text(key) == key


@pytest.mark.parametrize(
    ("key", "says"),
    [
        pytest.param(b"", "is empty; give it 1 to 1024 bytes", id="empty"),
        pytest.param(b"k" * 1025, "has 1025 bytes in UTF-8; shorten it to at most 1024", id="one byte too long"),
        pytest.param("é".encode() * 513, "has 1026 bytes", id="too long in bytes only"),
        pytest.param(b"a\xff", "not UTF-8 at byte 1; encode it as UTF-8", id="not UTF-8"),
        pytest.param(b"\xed\xa0\x80", "not UTF-8 at byte 0", id="a surrogate in UTF-8"),
        pytest.param(b"\xc0\x80", "not UTF-8 at byte 0", id="overlong zero"),
        pytest.param(b"a\x00", "control character U+0000 at character 1; remove it", id="NUL"),
        pytest.param(b"a\nb", "control character U+000A", id="newline"),
        pytest.param(b"a\x7f", "control character U+007F", id="DEL"),
        pytest.param("a\u0085".encode(), "control character U+0085", id="C1"),
    ],
)
def test_bad_keys_and_what_the_error_says(key: bytes, says: str) -> None:
    with pytest.raises(ApplianceError) as caught:
        check_key(key)
    assert caught.value.code == "bad_key"
    assert caught.value.detail.startswith("The key ")
    assert says in caught.value.detail


def test_half_a_surrogate_pair_in_a_json_key() -> None:
    with pytest.raises(ApplianceError, match="half of a surrogate pair at character 1") as caught:
        check_key_text("a\ud800")
    assert caught.value.code == "bad_key"


@given(st.characters(exclude_categories=["Cs"]))
def test_exactly_the_control_characters_are_refused(character: str) -> None:
    if unicodedata.category(character) == "Cc":
        with pytest.raises(ApplianceError):
            check_key(character.encode())
    else:
        assert check_key(character.encode()) == character


@given(st.binary(max_size=1100))
def test_any_bytes_are_a_key_unchanged_or_an_error_of_the_table(data: bytes) -> None:
    try:
        key = check_key(data)
    except ApplianceError:
        return
    assert key.encode() == data


def test_an_idempotency_key_has_its_own_bounds() -> None:
    assert check_idempotency_key(b"n" * 128) == "n" * 128
    for bad in (b"", b"n" * 129, b"n\x1b"):
        with pytest.raises(ApplianceError) as caught:
            check_idempotency_key(bad)
        assert caught.value.code == "bad_request"
        assert caught.value.detail.startswith("The idempotency key")
