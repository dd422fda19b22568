"""The core's log against a list: every operation, in any order, answers the same."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from appliance.raft.log import TRIM_ENTRIES, InvariantViolation, RaftLog
from appliance.raft.messages import Entry, EntryKind, make_entry


class Stored:
    """Durable entries, by index."""

    def __init__(self) -> None:
        self.entries: dict[int, Entry] = {}

    def read(self, first: int, last: int, bytes_max: int) -> list[Entry]:
        return bounded([self.entries[index] for index in range(first, last + 1)], bytes_max)


def bounded(entries: list[Entry], bytes_max: int) -> list[Entry]:
    taken: list[Entry] = []
    for entry in entries:
        if taken and sum(len(e.data) for e in taken) + len(entry.data) > bytes_max:
            break
        taken.append(entry)
    return taken


class LogAgainstList(RuleBasedStateMachine):
    """`self.model` holds all entries ever appended and not truncated, compacted ones too."""

    def __init__(self) -> None:
        super().__init__()
        self.stored = Stored()
        self.log = RaftLog(self.stored, window_bytes_max=700)
        self.model: list[Entry] = []
        self.snapshot = 0
        self.stable = 0

    @property
    def last(self) -> int:
        return len(self.model)

    def term_at(self, index: int) -> int:
        return self.model[index - 1].term if index else 0

    @rule(grow=st.integers(0, 2), sizes=st.lists(st.integers(0, 200), min_size=1, max_size=6))
    def append(self, grow: int, sizes: list[int]) -> None:
        term = max(self.term_at(self.last), 1) + grow
        entries = [make_entry(term, self.last + n, EntryKind.NORMAL, bytes(s)) for n, s in enumerate(sizes, 1)]
        self.log.append(entries)
        self.model.extend(entries)

    @precondition(lambda self: self.last > self.snapshot)
    @rule(data=st.data())
    def truncate(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(self.snapshot + 1, self.last))
        self.log.truncate_from(index)
        del self.model[index - 1 :]
        self.stable = min(self.stable, self.last)

    @rule(data=st.data())
    def become_durable(self, data: st.DataObject) -> None:
        self.stable = data.draw(st.integers(self.stable, self.last))
        self.stored.entries = {e.index: e for e in self.model[self.snapshot : self.stable]}
        self.log.stable_index = self.stable

    @rule(data=st.data())
    def trim(self, data: st.DataObject) -> None:
        self.log.trim(data.draw(st.integers(0, self.last)))

    @rule(data=st.data())
    def compact(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, self.stable))
        self.log.compact(index)
        self.snapshot = max(self.snapshot, index)
        for gone in [i for i in self.stored.entries if i <= self.snapshot]:
            del self.stored.entries[gone]

    @rule()
    def restart(self) -> None:
        del self.model[self.stable :]
        starts: list[tuple[int, int]] = []
        for entry in self.model[self.snapshot :]:
            if not starts or starts[-1][1] != entry.term:
                starts.append((entry.index, entry.term))
        self.log = RaftLog(
            self.stored,
            snapshot_index=self.snapshot,
            snapshot_term=self.term_at(self.snapshot),
            last_index=self.last,
            term_starts=starts,
            window_bytes_max=700,
        )

    @rule(data=st.data(), bytes_max=st.integers(0, 500), entries_max=st.integers(1, 8))
    def slice(self, data: st.DataObject, bytes_max: int, entries_max: int) -> None:
        first = data.draw(st.integers(self.snapshot + 1, self.last + 1))
        last = data.draw(st.integers(first - 1, self.last + 3))
        wanted = self.model[first - 1 : min(last, first + entries_max - 1)]
        got: list[Entry] = []
        while len(got) < len(bounded(wanted, bytes_max)):
            part = self.log.slice(first + len(got), last, bytes_max, entries_max - len(got))
            assert part, "a slice may stop where memory begins, and never before its first entry"
            got.extend(part)
        assert got[: len(bounded(wanted, bytes_max))] == bounded(wanted, bytes_max)

    @rule(index=st.integers(0, 60), term=st.integers(0, 12))
    def last_index_of_term_up_to(self, index: int, term: int) -> None:
        found = min(index, self.last)
        while found > self.snapshot and self.term_at(found) > term:
            found -= 1
        found = max(found, self.snapshot)
        assert self.log.last_index_of_term_up_to(index, term) == (found, self.term_at(found))

    @rule(index=st.integers(0, 60), term=st.integers(0, 12))
    def up_to_date(self, index: int, term: int) -> None:
        mine = self.term_at(self.last)
        assert self.log.up_to_date(index, term) == (term > mine or (term == mine and index >= self.last))

    @invariant()
    def same_ends_and_terms(self) -> None:
        assert (self.log.snapshot_index, self.log.last_index, self.log.stable_index) == (
            self.snapshot,
            self.last,
            self.stable,
        )
        assert self.log.last_term == self.term_at(self.last)
        for index in range(self.last + 2):
            known = self.snapshot <= index <= self.last
            assert self.log.term_at(index) == (self.term_at(index) if known else None)


TestLogAgainstList = LogAgainstList.TestCase


def entries(*terms: int) -> list[Entry]:
    return [make_entry(term, index, EntryKind.NORMAL, b"x") for index, term in enumerate(terms, 1)]


def test_a_gap_is_refused() -> None:
    log = RaftLog(Stored())
    with pytest.raises(InvariantViolation, match="does not follow"):
        log.append(entries(1, 1)[1:])


def test_compacted_entries_cannot_be_truncated() -> None:
    log = RaftLog(Stored())
    log.append(entries(1, 1, 2))
    log.stable_index = 3
    log.compact(2)
    with pytest.raises(InvariantViolation, match="compacted"):
        log.truncate_from(2)


def test_what_is_not_durable_cannot_be_compacted() -> None:
    log = RaftLog(Stored())
    log.append(entries(1, 1))
    with pytest.raises(InvariantViolation, match="durable up to 0"):
        log.compact(1)


def test_a_snapshot_replaces_everything() -> None:
    log = RaftLog(Stored())
    log.append(entries(1, 1, 2))
    log.reset(10, 4)
    assert (log.snapshot_index, log.last_index, log.stable_index, log.last_term) == (10, 10, 10, 4)
    assert [log.term_at(i) for i in (3, 9, 10, 11)] == [None, None, 4, None]
    log.append([make_entry(4, 11, EntryKind.NORMAL, b"")])
    assert log.term_at(11) == 4


def test_memory_lets_go_of_compacted_entries_a_part_at_a_time() -> None:
    count = 3 * TRIM_ENTRIES
    log = RaftLog(Stored())
    log.append(entries(*[1] * count))
    log.stable_index = count
    log.compact(count - 1)
    held = []
    for _ in range(4):
        log.trim(count)
        held.append(len(log._window))
    assert held == [2 * TRIM_ENTRIES, TRIM_ENTRIES, 1, 1]
    assert log.slice(count, count, 100, 1) == entries(*[1] * count)[-1:]


def test_memory_beyond_its_bound_goes_down_to_half_of_it_a_part_at_a_time() -> None:
    count = 4 * TRIM_ENTRIES
    stored = Stored()
    log = RaftLog(stored, window_bytes_max=count * 101 - 1)
    log.append(entries(*[1] * count))
    log.trim(count)
    assert len(log._window) == count, "what is not durable stays"
    log.stable_index = count
    held = []
    for _ in range(4):
        log.trim(count)
        held.append(len(log._window))
    assert held == [3 * TRIM_ENTRIES, 2 * TRIM_ENTRIES, 2 * TRIM_ENTRIES - 1, 2 * TRIM_ENTRIES - 1]
