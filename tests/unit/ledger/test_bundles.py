"""Entry bundles."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.ledger.bundles import (
    ENTRY_BYTES_MAX,
    BundleError,
    EntryWrong,
    check_bundle,
    decode_bundle,
    encode_bundle,
)
from appliance.ledger.merkle import leaf_hash
from appliance.ledger.tile_paths import BundleId

ENTRIES = [b"one", b"", b"three"]
DATA = b"\x00\x03one\x00\x00\x00\x05three"


def hashes(entries: list[bytes]) -> bytes:
    return b"".join(map(leaf_hash, entries))


def test_the_bytes_of_a_bundle() -> None:
    assert encode_bundle(ENTRIES) == DATA
    assert decode_bundle(DATA, 3) == ENTRIES
    assert encode_bundle([]) == b""
    assert encode_bundle([bytes(258)])[:2] == b"\x01\x02"


@given(st.lists(st.binary(max_size=300), max_size=256))
def test_a_bundle_reads_back(entries: list[bytes]) -> None:
    assert decode_bundle(encode_bundle(entries), len(entries)) == entries


def test_the_longest_entry() -> None:
    assert decode_bundle(encode_bundle([bytes(ENTRY_BYTES_MAX)]), 1) == [bytes(ENTRY_BYTES_MAX)]
    with pytest.raises(BundleError, match="65536 bytes fits no bundle"):
        encode_bundle([bytes(ENTRY_BYTES_MAX + 1)])


@pytest.mark.parametrize("length", range(len(DATA)))
def test_each_truncation_is_refused(length: int) -> None:
    with pytest.raises(BundleError, match=r"ends inside of entry|entries instead of 3"):
        decode_bundle(DATA[:length], 3)


@pytest.mark.parametrize("behind", [b"\x00", b"\x00\x00", b"\x00\x01x"])
def test_what_is_behind_a_bundle_is_refused(behind: bytes) -> None:
    with pytest.raises(BundleError):
        decode_bundle(DATA + behind, 3)


def test_entries_are_those_of_the_tile() -> None:
    assert check_bundle(BundleId(2, 3), DATA, hashes(ENTRIES)) == ENTRIES


def test_each_changed_byte_is_refused() -> None:
    for at in range(len(DATA)):
        changed = DATA[:at] + bytes([DATA[at] ^ 1]) + DATA[at + 1 :]
        with pytest.raises(BundleError):
            check_bundle(BundleId(2, 3), changed, hashes(ENTRIES))


def test_the_first_wrong_entry_is_named_by_its_leaf_index() -> None:
    with pytest.raises(EntryWrong, match="entry 514 is not the one"):
        check_bundle(BundleId(2, 3), encode_bundle([b"one", b"", b"tree"]), hashes(ENTRIES))
    with pytest.raises(EntryWrong, match="entry 513"):
        check_bundle(BundleId(2, 3), encode_bundle([b"one", b"three", b""]), hashes(ENTRIES))
