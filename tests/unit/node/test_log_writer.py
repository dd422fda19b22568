"""Several savings become one write with the same effect, and promises leave only after it."""

import asyncio
import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.node import log_writer
from appliance.node.log_writer import SWEEP_ROWS_MAX, Job, LogWriter, Saving, merge
from appliance.node.ports import DiskFull
from appliance.raft.messages import AppendResponse, Entry, EntryKind, HardState, make_entry

pytestmark = pytest.mark.anyio


class Ignored:
    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
        del amount, exemplar


def entries(first: int, count: int, term: int) -> tuple[Entry, ...]:
    return tuple(make_entry(term, first + n, EntryKind.NORMAL, b"%d" % term) for n in range(count))


def write(log: dict[int, Entry], new: list[Entry] | tuple[Entry, ...]) -> None:
    """What a log store does: drop everything from the first one's index on, then add."""
    if new:
        for index in [i for i in log if i >= new[0].index]:
            del log[index]
        log.update((e.index, e) for e in new)


@given(st.lists(st.tuples(st.integers(1, 12), st.integers(0, 4)), max_size=8))
def test_merging_has_the_effect_of_one_after_the_other(steps: list[tuple[int, int]]) -> None:
    group, last = [], 0
    for term, (wanted, count) in enumerate(steps, start=1):
        first = min(wanted, last + 1)
        new = entries(first, count, term)
        group.append(Saving(term, new, HardState(term, 1, 0) if count % 2 else None, ()))
        last = new[-1].index if new else last
    one_by_one: dict[int, Entry] = {}
    for saving in group:
        write(one_by_one, saving.entries)
    at_once: dict[int, Entry] = {}
    merged, hard_state = merge(group)
    write(at_once, merged)
    assert at_once == one_by_one
    states = [s.hard_state for s in group if s.hard_state]
    assert hard_state == (states[-1] if states else None)


class SlowStore:
    """Stands in for a disk whose writes end when the test says so; real stores have a suite of their own."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.may_write = threading.Semaphore(0)
        self.writes: list[int] = []
        self.error: Exception | None = None
        self.threads: list[int] = []
        self.tidied_on: list[int] = []
        self.dirty = False
        self.left = 0
        self.swept_behind: list[int] = []
        self.sweep_error: Exception | None = None

    def leftovers(self) -> int:
        return self.left

    def sweep(self, rows_max: int, bytes_max: int) -> None:
        if self.sweep_error:
            raise self.sweep_error
        self.swept_behind.append(len(self.writes))
        self.left = max(0, self.left - rows_max)  # the last thing: tests wait for it

    def tidy_due(self) -> bool:
        return self.dirty

    def tidy(self) -> None:
        if self.dirty:
            self.tidied_on.append(threading.get_ident())
            self.dirty = False

    def append(self, new: list[Entry], hard_state: HardState | None) -> None:
        self.threads.append(threading.get_ident())
        self.entered.set()
        assert self.may_write.acquire(timeout=10)
        if self.error:
            raise self.error
        self.writes.append(len(new))


class Desk:
    def __init__(self) -> None:
        self.saved: list[int] = []
        self.failed: list[Exception] = []
        self.changed = asyncio.Event()

    def on_saved(self, savings: list[Saving]) -> None:
        self.saved.extend(s.persist_id for s in savings)
        self.changed.set()

    def warning(self, event: str, **fields: object) -> None:
        """A slow write is worth a word; here nobody listens."""

    def on_failed(self, error: Exception) -> None:
        self.failed.append(error)
        self.changed.set()

    async def until(self, count: int) -> None:
        while len(self.saved) + len(self.failed) < count:
            self.changed.clear()
            await asyncio.wait_for(self.changed.wait(), 10)


def writer_of(store: SlowStore, desk: Desk, quick_s: float = 0.0, disk_busy: Callable[[], bool] = bool) -> LogWriter:
    return LogWriter(
        store,  # type: ignore[arg-type]
        desk.on_saved,
        desk.on_failed,
        on_full=desk.on_failed,
        log=desk,  # type: ignore[arg-type]
        fsync_seconds=Ignored(),
        batch_entries=Ignored(),
        quick_s=quick_s,
        disk_busy=disk_busy,
    )


async def test_what_waits_becomes_the_next_write_and_order_is_kept() -> None:
    store, desk = SlowStore(), Desk()
    writer = writer_of(store, desk)
    writer.submit(Saving(1, entries(1, 1, 1), None, ()))
    assert await asyncio.to_thread(store.entered.wait, 10)
    for n in (2, 3, 4):
        writer.submit(Saving(n, entries(n, 1, 1), None, ()))
    writer.submit(Saving(5, (), None, ()))  # promises nothing new, but must not overtake
    assert desk.saved == []
    store.may_write.release(2)
    await desk.until(5)
    assert desk.saved == [1, 2, 3, 4, 5]
    assert store.writes == [1, 3]
    writer.stop()


async def test_an_empty_saving_passes_an_idle_disk() -> None:
    store, desk = SlowStore(), Desk()
    writer = writer_of(store, desk)
    writer.submit(Saving(1, (), None, ()))
    await desk.until(1)
    assert store.writes == []
    writer.stop()


async def test_nothing_is_promised_after_a_failed_write() -> None:
    store, desk = SlowStore(), Desk()
    store.error = OSError("fsync failed")
    writer = writer_of(store, desk)
    writer.submit(Saving(1, entries(1, 1, 1), None, ()))
    store.may_write.release()
    await desk.until(1)
    writer.submit(Saving(2, entries(2, 1, 1), None, ()))
    writer.stop()
    await asyncio.sleep(0)
    assert desk.saved == []
    assert [str(e) for e in desk.failed] == ["fsync failed"]


async def test_jobs_keep_their_place_among_the_writes() -> None:
    store, desk = SlowStore(), Desk()
    order: list[str] = []
    writer = writer_of(store, desk)
    store.may_write.release(2)
    writer.submit(Saving(1, entries(1, 1, 1), None, ()))
    writer.submit(Job(lambda: order.append(f"job after {len(store.writes)} writes"), lambda: order.append("done")))
    writer.submit(Saving(2, entries(2, 1, 1), None, ()))
    await desk.until(2)
    assert order == ["job after 1 writes", "done"]
    writer.stop()


class TestAtOnce:
    """What promises something is written on the event loop while the disk is quick."""

    PROMISE = AppendResponse(sender=1, sender_incarnation=1, to=2, term=1, success=True, index=1)

    async def test_a_promise_is_kept_before_submit_returns(self) -> None:
        store, desk = SlowStore(), Desk()
        writer = writer_of(store, desk, quick_s=60.0)
        store.may_write.release(2)
        writer.submit(Saving(1, entries(1, 2, 1), None, (self.PROMISE,)))
        assert (desk.saved, store.writes, store.threads) == ([1], [2], [threading.get_ident()])
        writer.submit(Saving(2, entries(3, 1, 1), None, ()))  # nobody waits for it: a leader's own
        await desk.until(2)
        assert store.threads[1] != threading.get_ident()
        writer.stop()

    async def test_while_writes_are_slow_the_thread_has_them(self) -> None:
        store, desk = SlowStore(), Desk()
        writer = writer_of(store, desk, quick_s=1e-9)
        store.may_write.release(2)
        for n in (1, 2):
            writer.submit(Saving(n, entries(n, 1, 1), None, (self.PROMISE,)))
            await desk.until(n)
        assert store.threads[0] == threading.get_ident()
        assert store.threads[1] != threading.get_ident()
        writer.stop()

    async def test_one_late_write_does_not_make_a_disk_slow(self) -> None:
        store, desk = SlowStore(), Desk()
        writer = writer_of(store, desk, quick_s=1.0)
        store.may_write.release(1)
        writer.submit(Saving(1, entries(1, 1, 1), None, (self.PROMISE,)))
        threading.Timer(1.1, store.may_write.release, (2,)).start()
        for n in (2, 3):
            writer.submit(Saving(n, entries(n, 1, 1), None, (self.PROMISE,)))
        assert desk.saved == [1, 2, 3]
        assert set(store.threads) == {threading.get_ident()}
        writer.stop()

    async def test_beside_a_large_sync_the_thread_has_the_writes(self) -> None:
        store, desk = SlowStore(), Desk()
        busy = [True]
        writer = writer_of(store, desk, quick_s=60.0, disk_busy=lambda: busy[0])
        store.may_write.release()
        writer.submit(Saving(1, entries(1, 1, 1), None, (self.PROMISE,)))
        await desk.until(1)
        assert store.threads != [threading.get_ident()]
        busy[0] = False
        for n in range(2, 100):  # the thread may need a moment to be idle again
            store.may_write.release()
            writer.submit(Saving(n, entries(n, 1, 1), None, (self.PROMISE,)))
            await desk.until(n)
            if store.threads[-1] == threading.get_ident():
                break
        assert store.threads[-1] == threading.get_ident()
        writer.stop()

    async def test_what_the_thread_has_is_not_overtaken(self) -> None:
        store, desk = SlowStore(), Desk()
        writer = writer_of(store, desk, quick_s=60.0)
        writer.submit(Saving(1, entries(1, 1, 1), None, ()))
        assert await asyncio.to_thread(store.entered.wait, 10)
        writer.submit(Saving(2, entries(2, 1, 1), None, (self.PROMISE,)))
        assert desk.saved == []
        store.may_write.release(2)
        await desk.until(2)
        assert desk.saved == [1, 2]
        assert threading.get_ident() not in store.threads
        writer.stop()

    async def test_a_checkpoint_is_the_threads(self) -> None:
        store, desk = SlowStore(), Desk()
        writer = writer_of(store, desk, quick_s=60.0)
        store.may_write.release(1)
        store.dirty = True
        writer.submit(Saving(1, entries(1, 1, 1), None, (self.PROMISE,)))
        writer.stop()
        assert len(store.tidied_on) == 1
        assert store.tidied_on != [threading.get_ident()]

    async def test_nothing_is_promised_after_a_failed_write(self) -> None:
        store, desk = SlowStore(), Desk()
        store.error = OSError("fsync failed")
        writer = writer_of(store, desk, quick_s=60.0)
        store.may_write.release(3)
        for n in (1, 2):
            writer.submit(Saving(n, entries(n, 1, 1), None, (self.PROMISE,)))
        writer.submit(Saving(3, (), None, (self.PROMISE,)))
        writer.stop()
        assert desk.saved == []
        assert [str(e) for e in desk.failed] == ["fsync failed"]
        assert len(store.threads) == 1

    async def test_a_full_disk_is_waited_for_on_the_thread(self) -> None:
        store, desk = SlowStore(), Desk()
        store.error = DiskFull("no room left")
        writer = writer_of(store, desk, quick_s=60.0)
        store.may_write.release(2)
        writer.submit(Saving(1, entries(1, 1, 1), None, (self.PROMISE,)))
        await desk.until(1)  # the thread has met it, too
        assert [str(e) for e in desk.failed] == ["no room left"]
        store.error = None
        store.may_write.release(1)
        await desk.until(2)
        assert desk.saved == [1]
        writer.stop()


class TestSweeping:
    """What a compaction left is removed between the writes, a slice at a time."""

    async def test_it_goes_while_there_is_nothing_to_write(self) -> None:
        store, desk = SlowStore(), Desk()
        store.left = 5 * SWEEP_ROWS_MAX - 1
        writer = writer_of(store, desk)
        await until(lambda: not store.left)
        assert store.swept_behind == [0] * 5
        store.may_write.release()
        writer.submit(Saving(1, entries(1, 1, 1), None, ()))
        await desk.until(1)
        writer.stop()

    async def test_it_goes_on_while_writes_never_end(self) -> None:
        store, desk = SlowStore(), Desk()
        store.may_write.release()
        store.left = 3 * SWEEP_ROWS_MAX
        writer = writer_of(store, desk)
        written = 0
        while store.left:
            written += 1
            store.may_write.release()
            writer.submit(Saving(written, entries(written, 1, 1), None, ()))
            await desk.until(written)
        assert desk.saved == list(range(1, written + 1))
        writer.stop()

    async def test_it_waits_while_the_event_loop_writes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Both have one connection to the file, which one thread at a time may use."""
        store, desk = SlowStore(), Desk()
        store.left = 10**9
        own, meanwhile = threading.get_ident(), []

        def append(new: list[Entry], hard_state: HardState | None) -> None:
            if threading.get_ident() == own:
                before = len(store.swept_behind)
                time.sleep(10 * log_writer.SWEEP_PAUSE_S)  # the disk is slow for once
                meanwhile.append(len(store.swept_behind) - before)

        monkeypatch.setattr(store, "append", append)
        writer = writer_of(store, desk, quick_s=60.0)
        number = 0
        while len(meanwhile) < 3:  # a write that meets a sweep is the thread's
            number += 1
            writer.submit(Saving(number, entries(number, 1, 1), None, (TestAtOnce.PROMISE,)))
            await desk.until(number)
            swept = len(store.swept_behind)
            await until(lambda swept=swept: len(store.swept_behind) > swept)
        assert meanwhile == [0, 0, 0]
        writer.stop()

    async def test_a_compaction_wakes_it(self) -> None:
        store, desk = SlowStore(), Desk()
        writer = writer_of(store, desk)
        writer.submit(Job(lambda: setattr(store, "left", 1), lambda: None))
        await until(lambda: store.swept_behind == [0])
        writer.stop()

    async def test_the_end_does_not_wait_for_it(self) -> None:
        store, desk = SlowStore(), Desk()
        store.left = 10**9
        writer = writer_of(store, desk)
        await until(lambda: bool(store.swept_behind))
        writer.stop()
        assert store.left > 0

    async def test_a_full_disk_puts_it_off(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(log_writer, "FULL_RETRY_S", 0.01)
        store, desk = SlowStore(), Desk()
        store.sweep_error = DiskFull("no room left")
        store.left = 1
        writer = writer_of(store, desk)
        store.may_write.release()
        writer.submit(Saving(1, entries(1, 1, 1), None, ()))
        await desk.until(1)
        assert (desk.saved, desk.failed) == ([1], [])
        store.sweep_error = None
        await until(lambda: not store.left)
        writer.stop()

    async def test_what_else_fails_in_it_ends_the_writing(self) -> None:
        store, desk = SlowStore(), Desk()
        store.sweep_error = OSError("damaged")
        store.left = 1
        writer = writer_of(store, desk)
        await desk.until(1)
        assert [str(e) for e in desk.failed] == ["damaged"]
        writer.stop()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - it happens on the writer's thread, which tells nobody
            await asyncio.sleep(0.001)
