"""The stores used from several threads at once, as the driver uses them."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest

from appliance.adapters import ledger_snapshot
from appliance.adapters.ledger_store import SqliteLedgerStore
from appliance.adapters.ledger_verify import verify_copy
from appliance.adapters.log_store import SqliteLogStore
from appliance.node.ports import EntriesUnavailable, StorageFailed
from appliance.raft.messages import Configuration, EntryKind, SnapshotMeta, make_entry

from .script import CLUSTER_ID, Replica, file_content, model_at, model_content

INDEX = 900


@pytest.fixture(autouse=True)
def eager_switches() -> Iterator[None]:
    """Let threads take turns far more often than they do in service."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.000_05)
    yield
    sys.setswitchinterval(before)


def repeat_until(stop: threading.Event, work: Callable[[], object]) -> int:
    count = 0
    while not stop.is_set():
        work()
        count += 1
    return count


def test_reads_never_see_less_than_what_was_added(tmp_path: Path) -> None:
    store = SqliteLedgerStore(tmp_path / "ledger.db", 20_000, CLUSTER_ID)
    store.load()
    replica, random, stop = Replica(store), Random(5), threading.Event()
    copies: list[int] = []

    def copy() -> None:
        path = tmp_path / f"copy-{len(copies)}.db"
        held = store.copy_to(path)
        assert verify_copy(path, CLUSTER_ID) == held
        copies.append(held[0].applied_index)
        if len(copies) % 4 == 0:
            assert file_content(path) == model_content(model_at(held[0].applied_index))

    with ThreadPoolExecutor(3) as pool:
        workers: list[Future[int]] = [
            pool.submit(repeat_until, stop, lambda: store.flush(replica.machine.applied_index)),
            pool.submit(repeat_until, stop, store.checkpoint),
            pool.submit(repeat_until, stop, copy),
        ]
        try:
            for index in range(1, INDEX + 1):
                replica.apply_to(index)
                if index % 60 == 0:
                    model = model_at(index)
                    assert {key: store.head(key) for key in model.heads} == model.heads
                    assert [store.leaf(n) for n in range(len(model.leaves))] == model.leaves
                    assert store.scan("k", "", 1_000) == model.scan("k", "", 1_000)
                    name = random.choice(list(model.answers))
                    assert store.answer(*name) == model.answers[name]
        finally:
            stop.set()
        assert all(worker.result() > 0 for worker in workers)
    assert store.flush(INDEX) == INDEX
    assert store.checkpoint() == INDEX
    store.close()
    assert copies == sorted(copies)
    assert file_content(tmp_path / "ledger.db") == model_content(model_at(INDEX))


def test_the_log_is_read_while_it_grows_shrinks_and_is_compacted(tmp_path: Path) -> None:
    store = SqliteLogStore(tmp_path / "raft.db")
    store.load()
    bounds = [1, 1]  # sure to be in the log: from, to (exclusive); moved before entries go and after they came
    stop = threading.Event()

    def read() -> None:
        first, end = bounds
        if first >= end:
            return
        try:
            entries = store.read(first, end - 1, 4_000)
        except EntriesUnavailable:
            assert bounds[0] > first, "only a compaction takes entries away"
            return
        assert [e.index for e in entries] == list(range(first, first + len(entries)))

    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(repeat_until, stop, read)
        try:
            for first in range(1, 3_000, 10):
                entries = [make_entry(1, n, EntryKind.NORMAL, bytes(100)) for n in range(first, first + 10)]
                store.append(entries, None)
                bounds[1] = first + 10
                if first % 200 == 1:
                    bounds[0] = max(1, first - 50)
                    store.compact(SnapshotMeta(bounds[0] - 1, 1, Configuration()))
        finally:
            stop.set()
        assert reader.result() > 0
    store.close()


@pytest.mark.parametrize("end", ["replace", "close"])
def test_a_running_copy_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    """A copy holds the old file open. Its connection must be gone before other files come to those names."""
    store = SqliteLedgerStore(tmp_path / "ledger.db", 20_000, CLUSTER_ID)
    store.load()
    replica = Replica(store)
    replica.apply_to(300)
    store.flush(300)
    store.copy_to(tmp_path / "received.db")
    monkeypatch.setattr(ledger_snapshot, "PAGES_PER_STEP", 1)

    read_summary, copier = ledger_snapshot.read_summary, store._copier

    with ThreadPoolExecutor(2) as pool:
        endings: list[Future[object]] = []

        def end_meanwhile(*args: object) -> object:
            received = tmp_path / "received.db"
            endings.append(pool.submit(store.replace, received) if end == "replace" else pool.submit(store.close))
            assert copier._stopping.wait(10)
            return read_summary(*args)  # type: ignore[arg-type]

        monkeypatch.setattr(ledger_snapshot, "read_summary", end_meanwhile)
        with pytest.raises(StorageFailed, match="stopped"):
            pool.submit(store.copy_to, tmp_path / "copy.db").result()
        endings[0].result()
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith("copy.db")]
    if end == "replace":
        assert store.load() == model_at(300).load()
        store.close()
