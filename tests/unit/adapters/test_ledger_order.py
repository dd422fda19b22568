"""The sorted keys against a plain sorted list."""

from __future__ import annotations

from random import Random

import pytest

from appliance.adapters import ledger_order
from appliance.adapters.ledger_order import SortedKeys


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("block_keys_max", [2, 7, 1_024])
def test_it_does_what_a_sorted_list_does(monkeypatch: pytest.MonkeyPatch, block_keys_max: int, seed: int) -> None:
    monkeypatch.setattr(ledger_order, "BLOCK_KEYS_MAX", block_keys_max)
    random = Random(seed)
    keys, model = SortedKeys(), set[str]()
    names = [f"{n:03}" for n in range(300)] + ["é", "\ue000", "\U0001f600", "\uffff"]
    for _ in range(3_000):
        name = random.choice(names)
        if random.random() < 0.55:
            if name not in model:
                keys.add(name)
                model.add(name)
        else:
            after = "" if random.random() < 0.3 else name
            count = random.randint(1, 20)
            taken = keys.take(after, count)
            behind = sorted(key for key in model if key > after)
            assert taken == behind[: len(taken)]
            assert len(taken) <= count
            assert bool(taken) == bool(behind)
            model.difference_update(taken)
        if random.random() < 0.05:
            assert list(keys.walk(name)) == sorted(key for key in model if key >= name)
    assert list(keys.walk("")) == sorted(model, key=str.encode)
