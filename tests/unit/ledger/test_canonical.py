"""Text with one spelling."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.ledger.canonical import DECIMAL_MAX, read_base64, read_decimal, read_hash, write_base64


@pytest.mark.parametrize("number", [0, 1, 9, 10, 20852163, DECIMAL_MAX])
def test_decimals(number: int) -> None:
    assert read_decimal(str(number)) == number


@pytest.mark.parametrize(
    "text",
    ["", "00", "01", "+1", "-1", "1 ", " 1", "1_0", "1.0", "0x1", "1\n", "٣", "¹", str(DECIMAL_MAX + 1), "1" * 20],
)
def test_what_is_no_decimal(text: str) -> None:
    assert read_decimal(text) is None


@given(st.binary(max_size=70))
def test_base64_reads_back(data: bytes) -> None:
    assert read_base64(write_base64(data)) == data


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("AQI", id="no padding"),
        pytest.param("AQI==", id="padding too long"),
        pytest.param("AQJ=", id="bits behind the end"),
        pytest.param("AQ=I", id="padding inside"),
        pytest.param("AQ\nI=", id="newline"),
        pytest.param(" AQI=", id="space"),
        pytest.param("-_-_", id="the alphabet of URLs"),
        pytest.param("AQÄ=", id="not ASCII"),
        pytest.param("=", id="padding alone"),
    ],
)
def test_base64_of_another_spelling(text: str) -> None:
    assert read_base64(text) is None


@given(st.text("ABYZaz09+/=-\n ", max_size=8))
def test_base64_has_one_spelling(text: str) -> None:
    data = read_base64(text)
    assert data is None or write_base64(data) == text


@pytest.mark.parametrize(("length", "is_hash"), [(31, False), (32, True), (33, False), (0, False)])
def test_hashes_have_32_bytes(length: int, is_hash: bool) -> None:
    assert (read_hash(write_base64(bytes(length))) is not None) is is_hash
