"""The caches in front of `ledger.db`: what came first leaves first, and their count of bytes never drifts."""

from __future__ import annotations

import apsw

from appliance.adapters.ledger_cache import EVICTED_PER_CALL_MAX, HeadCache, LeafCache, head_bytes, leaf_bytes
from appliance.ledger.state import Head, NewLeaf

COUNT = 3 * EVICTED_PER_CALL_MAX


def head(leaf_index: int) -> Head:
    return Head(1, leaf_index, False, 1, 1)


def leaf(leaf_index: int) -> NewLeaf:
    return NewLeaf(leaf_index, leaf_index, b"{}", bytes(16), b"v")


def test_a_key_counts_the_same_when_it_comes_and_when_it_goes() -> None:
    cache, keys = HeadCache(), ["plain", "größe", "鍵" * 40]
    for key in keys:
        cache.put(key, head(1))
    db = apsw.Connection(":memory:")
    for key in keys:
        db.execute("SELECT ?", (key,))  # the string keeps its UTF-8 from now on, and is larger
        assert cache.pop(key) == head(1)
    db.close()
    assert cache.size_bytes == 0


def test_the_oldest_heads_leave_some_with_each_call() -> None:
    cache, keys = HeadCache(), [f"k{n:05}" for n in range(COUNT)]
    for n, key in enumerate(keys):
        cache.put(key, head(n))
    cache.put(keys[0], head(COUNT))  # a new head does not make a key younger
    bytes_max = 64 * head_bytes(keys[0])
    cache.shrink(bytes_max)
    assert [cache.get(key) is None for key in keys] == [n < EVICTED_PER_CALL_MAX for n in range(COUNT)]
    for _ in range(COUNT // EVICTED_PER_CALL_MAX):
        cache.shrink(bytes_max)
    kept = [key for key in keys if cache.get(key) is not None]
    assert kept == keys[-len(kept) :]
    assert cache.size_bytes == sum(map(head_bytes, kept)) <= bytes_max
    cache.shrink(0)
    assert cache.size_bytes == 0


def test_the_oldest_leaves_leave_too() -> None:
    cache, leaves = LeafCache(), [leaf(n) for n in range(COUNT)]
    for one in leaves:
        cache.put(one)
    cache.pop(1)
    bytes_max = 64 * leaf_bytes(leaves[0])
    for _ in range(1 + COUNT // EVICTED_PER_CALL_MAX):
        cache.shrink(bytes_max)
    kept = [one for one in leaves if cache.get(one.leaf_index) is not None]
    assert kept == leaves[-len(kept) :]
    assert cache.size_bytes == sum(map(leaf_bytes, kept)) <= bytes_max
