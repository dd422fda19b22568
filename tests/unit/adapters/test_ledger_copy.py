"""Copies of the ledger file keep to their pace, and end when they are told to, also while they wait."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from appliance.adapters import ledger_snapshot
from appliance.adapters.ledger_store import SqliteLedgerStore
from appliance.adapters.pace import Pace
from appliance.adapters.sqlite import PAGE_BYTES
from appliance.node.ports import StorageFailed
from tests.contract.script import CLUSTER_ID, Replica

INDEX = 200
PAGES_PER_S = 400


@pytest.fixture
def one_page_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_snapshot, "PAGES_PER_STEP", 1)


def filled(directory: Path, copy_bytes_per_s: int) -> SqliteLedgerStore:
    store = SqliteLedgerStore(directory / "ledger.db", 10**6, CLUSTER_ID, copy_bytes_per_s=copy_bytes_per_s)
    store.load()
    Replica(store).apply_to(INDEX)
    store.flush(INDEX)
    return store


@pytest.mark.usefixtures("one_page_a_step")
def test_a_copy_keeps_to_its_pace(tmp_path: Path) -> None:
    store = filled(tmp_path, PAGES_PER_S * PAGE_BYTES)
    began_s = time.monotonic()
    store.copy_to(tmp_path / "copy.db")
    seconds = time.monotonic() - began_s
    pages = (tmp_path / "copy.db").stat().st_size // PAGE_BYTES
    assert pages > PAGES_PER_S / 20
    assert seconds >= (pages - 1) / PAGES_PER_S
    store.close()


@pytest.mark.usefixtures("one_page_a_step")
def test_a_copy_that_waits_for_its_pace_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled(tmp_path, 1)  # an hour for the first page
    waits = Event()

    class Seen(Pace):
        def wait_s(self, size_bytes: int, now_s: float) -> float:
            waits.set()
            return super().wait_s(size_bytes, now_s)

    monkeypatch.setattr(ledger_snapshot, "Pace", Seen)
    with ThreadPoolExecutor(1) as pool:
        copying = pool.submit(store.copy_to, tmp_path / "copy.db")
        assert waits.wait(10)
        store.close()
        with pytest.raises(StorageFailed, match="stopped"):
            copying.result(10)
    assert not list(tmp_path.glob("copy.db*"))
