"""Walks over a key's past: without values, with turns for the event loop, within a time, and right whatever comes
between two turns.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import apsw
import pytest
from driver_rig import TERM, WAIT_S, Rig, until

from appliance.ledger.commands import SALT_BYTES, Op, Operation, WriteRequest, encode_write
from appliance.ledger.encoding import decode_leaf
from appliance.ledger.state import NewLeaf
from appliance.node.api import HistoryAnswer, ReadAnswer
from appliance.node.findings import Finding
from appliance.node.reading import WALK_LEAVES_PER_TURN, WALK_S_PER_TURN
from appliance.raft.messages import Entry, EntryKind, make_entry
from appliance.tables.errors import ApplianceError

pytestmark = pytest.mark.anyio

FIRST = 2  # index of the first entry behind the founding one
VERSIONS = 5 * WALK_LEAVES_PER_TURN
HOT, COLD = "hot", "cold"
VALUE_BYTES = 200


def value(version: int) -> bytes:
    return b"%d." % version + bytes(VALUE_BYTES)


def write(index: int, *operations: Operation) -> Entry:
    request = WriteRequest(operations, "tester", f"r{index}")
    salts = bytes(range(SALT_BYTES)) * len(operations)
    return make_entry(TERM, index, EntryKind.NORMAL, encode_write(request, index, salts, 100))


def put(key: str, data: bytes = b"v") -> Operation:
    return Operation(Op.PUT, key, data)


async def applied(rig: Rig, entries: list[Entry]) -> None:
    """All of them, and nothing of the key's values in memory: what is read comes from the file."""
    rig.take(entries, commit=entries[-1].index)
    await until(lambda: rig.driver.applier.applied_index == entries[-1].index, "the entries to be applied")
    await until(lambda: rig.stable_index == entries[-1].index, "the log to be stored")
    assert await rig.driver.keeper.flushed() == entries[-1].index
    rig.ledger_store._memory.retire(entries[-1].index)
    while rig.ledger_store._memory.fresh:
        rig.ledger_store._memory.retire(entries[-1].index)


@pytest.fixture
async def hot(rig: Rig) -> Rig:
    """Leaf 0 is of a key that is written once, all others are versions of the hot one."""
    rig.heartbeat()
    entries = [write(FIRST, put(COLD))]
    entries += [write(FIRST + n, put(HOT, value(n))) for n in range(1, VERSIONS + 1)]
    await applied(rig, entries)
    return rig


def past(rig: Rig, at_leaf: int = 0, key: str = HOT) -> Coroutine[Any, Any, ReadAnswer]:
    return rig.service.read(key, linearizable=False, at_leaf=at_leaf)


def page(rig: Rig, limit: int = VERSIONS, from_leaf: int | None = None) -> Coroutine[Any, Any, HistoryAnswer]:
    return rig.service.history(HOT, from_leaf, limit, linearizable=False)


WALKS: dict[str, Callable[[Rig], Coroutine[Any, Any, object]]] = {"at_leaf": past, "history": page}
walks = pytest.mark.parametrize("walk", WALKS.values(), ids=WALKS)


async def refused(work: Coroutine[Any, Any, object]) -> ApplianceError:
    with pytest.raises(ApplianceError) as caught:
        await asyncio.wait_for(work, WAIT_S)
    return caught.value


async def under_way(rig: Rig, walk: Callable[[Rig], Coroutine[Any, Any, object]]) -> asyncio.Task[object]:
    """A walk that has had its first turn."""
    task = asyncio.create_task(walk(rig))
    for _ in range(2):
        await asyncio.sleep(0)
    assert not task.done(), "it left the loop no turn"
    return task


async def told(task: asyncio.Task[object]) -> ApplianceError:
    with pytest.raises(ApplianceError) as caught:
        await asyncio.wait_for(task, WAIT_S)
    return caught.value


@walks
async def test_the_loop_has_turns_while_a_key_s_past_is_walked_over(
    hot: Rig, walk: Callable[[Rig], Coroutine[Any, Any, object]]
) -> None:
    task = asyncio.ensure_future(walk(hot))
    turns = 0
    while not task.done():
        await asyncio.sleep(0)
        turns += 1
    await asyncio.gather(task, return_exceptions=True)
    assert turns >= VERSIONS // WALK_LEAVES_PER_TURN


async def test_many_walks_have_one_slice_a_turn_together(hot: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    read, reads = hot.ledger_store.bare_leaf, 0

    def counted(leaf_index: int) -> object:
        nonlocal reads
        reads += 1
        return read(leaf_index)

    monkeypatch.setattr(hot.ledger_store, "bare_leaf", counted)
    tasks = [asyncio.create_task(page(hot)) for _ in range(10)]
    while not all(task.done() for task in tasks):
        reads = 0
        await asyncio.sleep(0)
        assert reads <= WALK_LEAVES_PER_TURN
    assert len({len(task.result().leaves) for task in tasks}) == 1


@walks
async def test_one_leaf_a_turn_is_read_from_a_slow_disk(
    hot: Rig, walk: Callable[[Rig], Coroutine[Any, Any, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    read, reads = hot.ledger_store.bare_leaf, 0

    def slow(leaf_index: int) -> object:
        nonlocal reads
        reads += 1
        hot.clock.ahead_s += 2 * WALK_S_PER_TURN
        return read(leaf_index)

    monkeypatch.setattr(hot.ledger_store, "bare_leaf", slow)
    task = asyncio.create_task(walk(hot))
    seen = []
    while not task.done():
        reads = 0
        await asyncio.sleep(0)
        seen.append(reads)
    await asyncio.gather(task, return_exceptions=True)
    assert sum(seen) >= VERSIONS
    assert max(seen[1:]) == 1, "the first turn looks for where the walk begins, too"


async def test_a_page_of_history_holds_no_values_and_leaves_none_in_memory(
    hot: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(leaf_index: int) -> NewLeaf:
        raise AssertionError(f"leaf {leaf_index} is read with its value")

    monkeypatch.setattr(hot.ledger_store, "leaf", never)
    before = hot.ledger_store._memory.leaves.size_bytes
    answer = await page(hot)
    assert [leaf.leaf_index for leaf in answer.leaves] == list(range(VERSIONS, 0, -1))
    assert [leaf.version for leaf in answer.leaves] == list(range(VERSIONS, 0, -1))
    assert answer.next is None
    assert hot.ledger_store._memory.leaves.size_bytes == before


async def test_pages_of_history_continue_each_other(hot: Rig) -> None:
    seen: list[int] = []
    next_leaf: int | None = None
    while next_leaf is not None or not seen:
        answer = await page(hot, 100, next_leaf)
        seen += [leaf.leaf_index for leaf in answer.leaves]
        next_leaf = answer.next
    assert seen == list(range(VERSIONS, 0, -1))
    for stranger in (0, VERSIONS + 1):
        assert (await refused(page(hot, 100, stranger))).code == "bad_request"


async def test_history_from_memory_and_from_the_file_is_the_same(hot: Rig) -> None:
    entries = [write(FIRST + VERSIONS + n, put(HOT, value(VERSIONS + n))) for n in (1, 2)]
    hot.take(entries, commit=entries[-1].index)
    await until(lambda: hot.driver.applier.applied_index == entries[-1].index, "the entries to be applied")
    from_memory = await page(hot, 4)
    await until(lambda: hot.stable_index == entries[-1].index, "the log to be stored")
    assert await hot.driver.keeper.flushed() == entries[-1].index
    hot.ledger_store._memory.retire(entries[-1].index)
    assert await page(hot, 4) == from_memory


async def test_the_past_of_a_key_before_it_was_written_is_nothing(hot: Rig) -> None:
    assert (await refused(past(hot))).code == "not_found"
    assert (await past(hot, VERSIONS, COLD)).value == b"v"
    assert (await refused(past(hot, 3, "never"))).code == "not_found"
    assert (await refused(past(hot, VERSIONS + 1))).code == "leaf_out_of_range"


async def test_a_version_s_own_leaf_leads_to_it_without_a_walk(hot: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    read, reads = hot.ledger_store.bare_leaf, []

    def counted(leaf_index: int) -> object:
        reads.append(leaf_index)
        return read(leaf_index)

    monkeypatch.setattr(hot.ledger_store, "bare_leaf", counted)
    answer = await past(hot, 7)
    assert (answer.value, answer.head.version, answer.head.leaf_index) == (value(7), 7, 7)
    assert set(reads) == {7}


async def test_the_past_is_that_behind_a_whole_batch(rig: Rig) -> None:
    """Every leaf of a ledger with batches, for every key, held against what the leaves say."""
    rig.heartbeat()
    gone = Operation(Op.DELETE, "a", b"")
    await applied(
        rig,
        [
            write(2, put("a", b"a1"), put("b", b"b1")),
            write(3, put("a", b"a2"), put("c", b"c1"), put("a", b"a3"), put("b", b"b2")),
            write(4, put("b", b"b3")),
            write(5, put("c", b"c2"), gone, put("c", b"c3")),
            write(6, gone, put("b", b"b4")),  # refused: the key is absent
            write(7, put("a", b"a5"), put("d", b"d1")),
        ],
    )
    size = rig.driver.applier.machine.tree_size
    stored = [rig.ledger_store.leaf(n) for n in range(size)]
    leaves = [decode_leaf(leaf.leaf) for leaf in stored if leaf is not None]
    for at_leaf in range(size):
        end = leaves[at_leaf].batch_id + leaves[at_leaf].batch_count
        for key in "abcde":
            latest = max((n for n in range(end) if leaves[n].key == key), default=None)
            if latest is None or leaves[latest].op == "delete":
                assert (await refused(past(rig, at_leaf, key))).code == "not_found"
            else:
                answer, leaf = await past(rig, at_leaf, key), stored[latest]
                assert leaf is not None
                assert (answer.head.leaf_index, answer.salt, answer.value) == (latest, leaf.salt, leaf.value)
                assert (answer.head.version, answer.head.size) == (leaves[latest].version, leaves[latest].value_size)


@walks
async def test_a_walk_is_given_up_when_it_takes_too_long(
    hot: Rig, walk: Callable[[Rig], Coroutine[Any, Any, object]]
) -> None:
    task = await under_way(hot, walk)
    hot.clock.ahead_s += hot.service._timeout_s + 0.1
    error = await told(task)
    assert error.code == "read_timeout"
    assert "GET /history/{key} lists them in pages" in error.detail


def quarantine(rig: Rig) -> None:
    rig.driver.quarantine = "its state is not that of the others"


def install(rig: Rig) -> None:
    rig.driver.installing = True


def installed(rig: Rig) -> None:
    """From one turn to the next it may begin and end."""
    rig.driver.installed_index = 99


def fail(rig: Rig) -> None:
    rig.driver.failure = "the disk failed"


def stop(rig: Rig) -> None:
    rig.driver.stopping = True


@walks
@pytest.mark.parametrize(
    ("happen", "code", "words"),
    [
        (quarantine, "quarantined", ""),
        (install, "unhealthy", "is installing a snapshot"),
        (installed, "unhealthy", "installed a snapshot meanwhile"),
        (fail, "unhealthy", "the disk failed"),
        (stop, "shutting_down", "Ask another node"),
    ],
    ids=lambda one: one.__name__ if callable(one) else "",
)
async def test_what_happens_between_two_turns_is_noticed(
    hot: Rig,
    walk: Callable[[Rig], Coroutine[Any, Any, object]],
    happen: Callable[[Rig], None],
    code: str,
    words: str,
) -> None:
    task = await under_way(hot, walk)
    happen(hot)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(hot.ledger_store, "_reader", None)  # nothing more is read, since the file may be closed
        error = await told(task)
    hot.driver.failure, hot.driver.stopping, hot.driver.installing = "", False, False
    assert error.code == code
    assert words in error.detail


def edit(rig: Rig, statement: str) -> None:
    db = apsw.Connection(str(rig.directory / "ledger.db"))
    db.set_busy_timeout(5000)  # the node writes to it, too
    db.execute(statement)
    db.close()


@walks
@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("UPDATE leaves SET leaf = CAST(leaf || x'20' AS BLOB) WHERE leaf_index = 9", "leaf 9"),
        ("UPDATE leaves SET leaf = x'c1' WHERE leaf_index = 9", "leaf 9"),
        ("UPDATE leaves SET leaf = (SELECT leaf FROM leaves WHERE leaf_index = 8) WHERE leaf_index = 9", "leaf 9"),
        (
            "UPDATE leaves SET leaf = CAST(replace(leaf, '\"hot\"', '\"het\"') AS BLOB) WHERE leaf_index = 9",
            "leaf 9 is not one of the key",
        ),
    ],
    ids=["not canonical", "no JSON", "of another place", "of another key"],
)
async def test_a_damaged_leaf_on_the_way_is_damage(
    hot: Rig, walk: Callable[[Rig], Coroutine[Any, Any, object]], statement: str, words: str
) -> None:
    edit(hot, statement)
    error = await refused(walk(hot))
    assert error.code == "verification_failed"
    assert words in error.detail
    assert hot.driver.findings.detail(Finding.STORAGE_ROTTEN)
    from_it = await refused(page(hot, 1, 9))
    assert from_it.code == ("bad_request" if words.endswith("of the key") else "verification_failed")


@walks
async def test_a_leaf_that_a_scrub_found_rotten_is_not_passed(
    hot: Rig, walk: Callable[[Rig], Coroutine[Any, Any, object]]
) -> None:
    hot.driver.findings.rotten_leaves = frozenset({9})
    assert (await refused(walk(hot))).code == "verification_failed"


@walks
async def test_a_leaf_that_is_missing_on_the_way_is_named(
    hot: Rig, walk: Callable[[Rig], Coroutine[Any, Any, object]]
) -> None:
    edit(hot, "DELETE FROM leaves WHERE leaf_index = 9")
    error = await refused(walk(hot))
    assert (error.code, "Leaf 9 is missing" in error.detail) == ("internal", True)


async def test_the_value_of_the_past_is_checked_though_the_walk_read_none(hot: Rig) -> None:
    entry = write(FIRST + VERSIONS + 1, put("later"))
    await applied(hot, [entry])
    edit(hot, f"UPDATE leaves SET value = zeroblob({VALUE_BYTES}) WHERE leaf_index IN (5, {VERSIONS})")
    assert (await past(hot, 6)).value == value(6)
    assert len((await page(hot)).leaves) == VERSIONS, "the leaves are whole, and history tells nothing else"
    for at_leaf in (5, VERSIONS, VERSIONS + 1):
        error = await refused(past(hot, at_leaf))
        assert error.code == "verification_failed"
        assert "does not match the hash in the leaf" in error.detail
