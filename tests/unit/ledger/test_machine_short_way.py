"""A put that nothing can refuse goes a shorter way through the machine; it must come to the very same."""

from __future__ import annotations

from hypothesis import event, given, settings
from hypothesis import strategies as st
from ledger_rig import HOUR_US, START_US, TTL_US, salts_for

from appliance.ledger.commands import Op, Operation, WriteCommand, WriteRequest, encode_pause, encode_write
from appliance.ledger.machine import LedgerMachine
from appliance.ledger.memory import MemoryLedger
from appliance.ledger.state import Changes

ANSWERS_MAX = 3
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6)
OPERATION = st.one_of(
    st.builds(Operation, st.just(Op.PUT), st.sampled_from(["a", "b", 'q"\\'])),
    st.builds(Operation, st.just(Op.PUT), TEXT, st.binary(max_size=40)),
    st.builds(Operation, st.just(Op.PUT), st.sampled_from(["a", "b"]), st.binary(max_size=3), st.sampled_from([0, 1])),
    st.builds(Operation, st.just(Op.DELETE), st.sampled_from(["a", "b", 'q"\\'])),
)
WRITE = st.tuples(
    st.sampled_from([1, 1, 1, 1, 2]).flatmap(lambda count: st.tuples(*[OPERATION] * count)),
    TEXT,
    st.sampled_from([None, None, None, "1", "2", "3", "4"]),
    st.sampled_from([0, 0, 1, -5, 30_000_000, HOUR_US, TTL_US + 1]),
    st.sampled_from([None] * 9 + [0, 10, HOUR_US]),  # a pause instead of the write
)


class LongWay(LedgerMachine):
    """The machine without its short way."""

    def _put(self, index: int, term: int, data: bytes, command: WriteCommand, operation: Operation) -> Changes:
        return self._write(index, term, data, command)


@settings(max_examples=300, deadline=None)
@given(st.lists(WRITE, min_size=1, max_size=25))
def test_both_ways_come_to_the_same(
    writes: list[tuple[tuple[Operation, ...], str, str | None, int, int | None]],
) -> None:
    stores = MemoryLedger(), MemoryLedger()
    short = LedgerMachine(stores[0], stores[0].load()[0], ANSWERS_MAX)
    long = LongWay(stores[1], stores[1].load()[0], ANSWERS_MAX)
    at_us = START_US
    for index, (operations, actor, name, later_us, pause_us) in enumerate(writes, start=1):
        at_us += later_us
        request = WriteRequest(operations, actor, f"r{index}", len(operations) > 1, name, b"h" if name else b"")
        data = encode_write(request, at_us, salts_for(str(index), len(operations)), 0)
        if pause_us is not None:
            data = encode_pause(at_us, at_us + pause_us, actor, f"r{index}")
        changes = short.apply(index, 1, data)
        assert changes == long.apply(index, 1, data)
        assert short.summary() == long.summary()
        for store in stores:
            store.add([changes], short.summary(), b"")
        event("forgot" if changes.forget_answers_before_us else "kept")
    assert stores[0].to_bytes() == stores[1].to_bytes()
