"""The store in memory: what the machine itself does not exercise."""

from __future__ import annotations

import msgspec
import pytest
from ledger_rig import START_US, Rig, delete, put

from appliance.ledger.memory import MemoryLedger
from appliance.ledger.state import Summary


def filled() -> Rig:
    rig = Rig()
    for key in ["b/2", "a", "b/10", "c", "b/é", "b/z", "b/😀", "b/\uffff"]:
        rig.write(put(key), name=key)
        rig.at_us += 1
    rig.write(delete("b/z"))
    rig.write(delete("absent"))
    return rig


@pytest.mark.parametrize(
    ("prefix", "after", "limit", "keys"),
    [
        pytest.param("", "", 3, ["a", "b/10", "b/2"], id="from the start"),
        pytest.param("b/", "", 9, ["b/10", "b/2", "b/é", "b/\uffff", "b/😀"], id="prefix, in the order of UTF-8"),
        pytest.param("b/", "b/2", 2, ["b/é", "b/\uffff"], id="behind a key"),
        pytest.param("b/", "b/3", 1, ["b/é"], id="behind a key that is not there"),
        pytest.param("", "c", 9, [], id="behind the last"),
        pytest.param("x", "", 9, [], id="prefix of nothing"),
    ],
)
def test_scan(prefix: str, after: str, limit: int, keys: list[str]) -> None:
    store = filled().store
    assert store.scan(prefix, after, limit) == [(key, store.heads[key]) for key in keys]


def test_a_leaf_by_its_index() -> None:
    store = filled().store
    leaf = store.leaf(8)
    assert leaf is not None
    assert (leaf.leaf_index, leaf.raft_index, leaf.value) == (8, 9, None)
    assert store.leaf(9) is None
    assert store.leaf(-1) is None


def test_answers_before_a_stamp() -> None:
    store = filled().store
    assert [store.answers_before(START_US + us) for us in (0, 1, 5, 99)] == [0, 1, 5, 8]


def test_a_snapshot_holds_everything() -> None:
    rig = filled()
    rig.store.add([], rig.machine.summary(), b"meta")
    copy = MemoryLedger.from_bytes(rig.store.to_bytes())
    assert copy.load() == (rig.machine.summary(), b"meta")
    assert (copy.leaves, copy.heads, copy.refusals, copy.answers) == (
        rig.store.leaves,
        rig.store.heads,
        rig.store.refusals,
        rig.store.answers,
    )


def test_no_snapshot_is_made_of_other_bytes() -> None:
    with pytest.raises(msgspec.DecodeError):
        MemoryLedger.from_bytes(b"\xc0")


def test_a_new_store_is_empty() -> None:
    store = MemoryLedger()
    assert store.load() == (Summary(), b"")
    assert (store.head("k"), store.answer("a", "n"), store.leaf(0), store.scan("", "", 9)) == (None, None, None, [])
