"""The state machine, case by case."""

from __future__ import annotations

from hashlib import sha256

import msgspec
import pytest
from ledger_rig import HOUR_US, START_US, Rig, delete, outcomes, put, result_of, salts_for

from appliance.ledger.commands import (
    MUST_BE_ABSENT,
    Operation,
    OperationResult,
    Outcome,
    WriteRequest,
    WriteResult,
    encode_write,
)
from appliance.ledger.encoding import Leaf, decode_leaf, value_hash
from appliance.ledger.machine import LedgerMachine, UnknownCommand
from appliance.ledger.memory import MemoryLedger
from appliance.ledger.merkle import MerkleFrontier, leaf_hash
from appliance.ledger.state import Changes, Head, Refusal, Summary


def test_a_put_makes_a_leaf_a_head_and_a_result() -> None:
    rig = Rig()
    changes = rig.write(put("k", b"value"))
    assert changes.result == WriteResult(Outcome.OK, 1, 1, START_US, (OperationResult("k", 1, 0),))
    assert changes.heads == (("k", Head(1, 0, False, START_US, 5)),)
    (leaf,) = changes.leaves
    salt = salts_for("1", 1)
    assert (leaf.leaf_index, leaf.raft_index, leaf.salt, leaf.value) == (0, 1, salt, b"value")
    hash_hex = value_hash(salt, b"value")
    assert decode_leaf(leaf.leaf) == Leaf(0, 0, 1, "put", "k", 1, None, hash_hex, 5, "alice", "r1", START_US)
    assert (changes.refusals, changes.answer, changes.forget_answers_before_us) == ((), None, 0)
    assert rig.machine.root() == leaf_hash(leaf.leaf)
    assert (rig.machine.tree_size, rig.machine.key_count) == (1, 1)


def test_a_delete_leaves_a_tombstone_and_versions_go_on() -> None:
    rig = Rig()
    rig.write(put("k"))
    changes = rig.write(delete("k"))
    (leaf,) = changes.leaves
    assert (leaf.salt, leaf.value) == (b"", None)
    assert decode_leaf(leaf.leaf) == Leaf(1, 0, 1, "delete", "k", 2, 0, None, 0, "alice", "r2", START_US)
    assert changes.heads == (("k", Head(2, 1, True, START_US, 0)),)
    assert rig.machine.key_count == 0
    again = rig.write(put("k", b""))
    assert result_of(again).results == (OperationResult("k", 3, 2),)
    assert decode_leaf(again.leaves[0].leaf).prev_leaf_index == 1
    assert (rig.machine.key_count, rig.machine.tree_size) == (1, 3)


@pytest.mark.parametrize(
    ("before", "operation", "outcome", "current_version"),
    [
        pytest.param([], put("k", if_version=MUST_BE_ABSENT), Outcome.OK, 0, id="absent, must be absent"),
        pytest.param([], put("k", if_version=1), Outcome.CONDITION_FAILED, 0, id="absent, must have a version"),
        pytest.param([put("k")], put("k", if_version=1), Outcome.OK, 0, id="present, right version"),
        pytest.param([put("k")], put("k", if_version=2), Outcome.CONDITION_FAILED, 1, id="present, version to come"),
        pytest.param([put("k"), put("k")], put("k", if_version=1), Outcome.CONDITION_FAILED, 2, id="present, old one"),
        pytest.param(
            [put("k")], put("k", if_version=MUST_BE_ABSENT), Outcome.CONDITION_FAILED, 1, id="present, must be absent"
        ),
        pytest.param(
            [put("k"), delete("k")], put("k", if_version=MUST_BE_ABSENT), Outcome.OK, 0, id="deleted is absent"
        ),
        pytest.param(
            [put("k"), delete("k")], put("k", if_version=2), Outcome.CONDITION_FAILED, 0, id="deleted, its last version"
        ),
        pytest.param([], delete("k"), Outcome.NOT_FOUND, 0, id="delete what never was"),
        pytest.param([put("k"), delete("k")], delete("k"), Outcome.NOT_FOUND, 0, id="delete what is deleted"),
        pytest.param([put("k")], delete("k", if_version=1), Outcome.OK, 0, id="delete the right version"),
        pytest.param([put("k")], delete("k", if_version=2), Outcome.CONDITION_FAILED, 1, id="delete another version"),
        pytest.param([], delete("k", if_version=2), Outcome.NOT_FOUND, 0, id="absence comes before the condition"),
    ],
)
def test_conditions(before: list[Operation], operation: Operation, outcome: Outcome, current_version: int) -> None:
    rig = Rig()
    for one in before:
        rig.write(one)
    leaves, root = rig.machine.tree_size, rig.machine.root()
    changes = rig.write(operation)
    result = result_of(changes)
    assert (result.outcome, result.current_version) == (outcome, current_version)
    if outcome is Outcome.OK:
        assert (result.failed_position, len(changes.leaves), changes.refusals) == (-1, 1, ())
        return
    assert (result.failed_position, result.results, changes.leaves, changes.heads) == (0, (), (), ())
    assert (rig.machine.tree_size, rig.machine.root()) == (leaves, root)
    index, size = len(before) + 1, len(operation.value)
    assert changes.refusals == (
        Refusal(index, 0, START_US, "alice", operation.op, "k", current_version, size, outcome, f"r{index}"),
    )


def test_operations_of_a_batch_see_those_before_them() -> None:
    rig = Rig()
    rig.write(put("a"))
    changes = rig.write(
        put("a", b"2", if_version=1), delete("a", if_version=2), put("a", b"4", MUST_BE_ABSENT), put("b"), delete("b")
    )
    assert result_of(changes).results == tuple(
        OperationResult(key, version, leaf_index)
        for leaf_index, (key, version) in enumerate([("a", 2), ("a", 3), ("a", 4), ("b", 1), ("b", 2)], start=1)
    )
    leaves = [decode_leaf(leaf.leaf) for leaf in changes.leaves]
    assert [(leaf.batch_id, leaf.batch_position, leaf.batch_count) for leaf in leaves] == [(1, n, 5) for n in range(5)]
    assert [leaf.prev_leaf_index for leaf in leaves] == [0, 1, 2, None, 4]
    assert dict(changes.heads) == {"a": Head(4, 3, False, START_US, 1), "b": Head(2, 5, True, START_US, 0)}
    assert rig.machine.key_count == 1


def test_each_operation_of_a_batch_has_its_own_salt() -> None:
    changes = Rig().write(put("a", b"same"), put("b", b"same"))
    assert [leaf.salt for leaf in changes.leaves] == [salts_for("1", 2)[:16], salts_for("1", 2)[16:]]
    assert len({decode_leaf(leaf.leaf).value_hash for leaf in changes.leaves}) == 2


@pytest.mark.parametrize(
    ("operations", "position", "outcome", "current_version"),
    [
        pytest.param([put("a"), put("b"), delete("x")], 2, Outcome.NOT_FOUND, 0, id="delete of an absent key, last"),
        pytest.param([delete("x"), put("a")], 0, Outcome.NOT_FOUND, 0, id="delete of an absent key, first"),
        pytest.param([put("b"), put("a", if_version=5)], 1, Outcome.CONDITION_FAILED, 1, id="condition"),
        pytest.param([delete("a"), delete("a")], 1, Outcome.NOT_FOUND, 0, id="the same delete twice"),
        pytest.param([put("a"), put("a", if_version=1)], 1, Outcome.CONDITION_FAILED, 2, id="condition met inside"),
    ],
)
def test_one_refused_operation_refuses_the_batch(
    operations: list[Operation], position: int, outcome: Outcome, current_version: int
) -> None:
    rig = Rig()
    rig.write(put("a"))
    before = rig.machine.summary()
    changes = rig.write(*operations)
    assert changes.result == WriteResult(outcome, 2, 1, START_US, (), position, current_version)
    assert (changes.leaves, changes.heads) == ((), ())
    expected = [Outcome.BATCH_REFUSED] * len(operations)
    expected[position] = outcome
    assert outcomes(changes) == expected
    assert [row.position for row in changes.refusals] == list(range(len(operations)))
    assert [row.version for row in changes.refusals] == [int(one.key == "a") for one in operations]
    after = rig.machine.summary()
    assert (after.tree_size, after.frontier, after.key_count) == (before.tree_size, before.frontier, before.key_count)


def test_a_stamp_that_goes_back_is_read_as_the_last_one() -> None:
    rig = Rig()
    rig.write(put("k"))
    rig.at_us -= HOUR_US
    changes = rig.write(put("k"))
    assert result_of(changes).timestamp_us == START_US
    assert decode_leaf(changes.leaves[0].leaf).timestamp_us == START_US
    assert changes.heads[0][1].timestamp_us == START_US


def test_entries_without_a_command_only_advance() -> None:
    rig = Rig()
    rig.write(put("k"))
    before = rig.machine.summary()
    assert rig.pass_over(term=7) == Changes(2, None)
    after = rig.machine.summary()
    assert (after.applied_index, after.applied_term) == (2, 7)
    assert after.state_hash != before.state_hash
    assert msgspec.structs.replace(after, applied_index=1, applied_term=1, state_hash=before.state_hash) == before


@pytest.mark.parametrize("index", [0, 1, 3])
def test_an_entry_out_of_turn_is_our_own_bug(index: int) -> None:
    rig = Rig()
    rig.write(put("k"))
    with pytest.raises(AssertionError, match="cannot follow"):
        rig.machine.apply(index, 1, rig.log[0])


GOOD = encode_write(WriteRequest((put("k"),), "alice", "r1"), START_US, bytes(16), 0)
PARTS = msgspec.msgpack.decode(GOOD)


def with_part(place: int, part: object) -> bytes:
    return msgspec.msgpack.encode([*PARTS[:place], part, *PARTS[place + 1 :]])


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(GOOD[:-1], id="cut short"),
        pytest.param(GOOD + b"\x00", id="trailing byte"),
        pytest.param(b"{}", id="JSON"),
        pytest.param(with_part(0, "pause"), id="another command"),
        pytest.param(with_part(1, 2), id="a later format"),
        pytest.param(with_part(1, 0), id="an earlier format"),
        pytest.param(msgspec.msgpack.encode([*PARTS, 1]), id="one field more"),
        pytest.param(with_part(3, [["put", "k", b"v", None, 1]]), id="one field more in an operation"),
        pytest.param(with_part(3, [["increment", "k"]]), id="another operation"),
        pytest.param(with_part(3, []), id="no operations"),
        pytest.param(with_part(4, b""), id="no salts"),
        pytest.param(with_part(4, bytes(17)), id="too much salt"),
        pytest.param(with_part(2, "now"), id="a stamp that is no number"),
        pytest.param(with_part(2, -1), id="a stamp before 1970"),
        pytest.param(with_part(2, 2**53), id="a stamp beyond exact integers"),
        pytest.param(GOOD.replace(b"alice", b"ali\xff\xff"), id="not UTF-8"),
    ],
)
def test_what_is_not_known_is_never_guessed(data: bytes) -> None:
    rig = Rig()
    rig.apply(GOOD)
    before = rig.machine.summary()
    with pytest.raises(UnknownCommand):
        rig.machine.apply(2, 1, data)
    assert rig.machine.summary() == before


@pytest.mark.parametrize(
    ("operations", "stamp_us", "salts"),
    [
        pytest.param((), START_US, b"", id="no operations"),
        pytest.param((put("k"),), START_US, bytes(15), id="too little salt"),
        pytest.param((put("k"),), -1, bytes(16), id="a stamp before 1970"),
        pytest.param((put("k"),), 2**53, bytes(16), id="a stamp beyond exact integers"),
    ],
)
def test_what_would_stop_every_node_is_not_encoded(
    operations: tuple[Operation, ...], stamp_us: int, salts: bytes
) -> None:
    with pytest.raises(AssertionError):
        encode_write(WriteRequest(operations, "alice", "r1"), stamp_us, salts, 0)


def test_a_machine_goes_on_from_a_stored_summary() -> None:
    straight, interrupted = Rig(), Rig()
    for rig in (straight, interrupted):
        for number in range(12):
            rig.write(put(f"k{number % 5}"), put("x"), name=f"n{number % 7}")
            rig.pass_over()
            if rig is interrupted:
                rig.restart()
    assert interrupted.machine.summary() == straight.machine.summary()
    assert interrupted.store.to_bytes() == straight.store.to_bytes()


def test_the_root_is_that_of_the_leaves_in_the_store() -> None:
    rig = Rig()
    for number in range(9):
        rig.write(put(f"k{number}"), put("x", if_version=number))
    tree = MerkleFrontier()
    for leaf in rig.store.leaves:
        tree.append(leaf_hash(leaf.leaf))
    assert (rig.machine.root(), rig.machine.tree_size) == (tree.root(), 18)


def test_the_state_hash_tells_different_pasts_apart() -> None:
    seen = set()
    for entries in ([], [put("a")], [put("b")], [put("a", b"w")], [delete("a")], [put("a"), put("a")]):
        rig = Rig()
        for one in entries:
            rig.write(one)
        seen.add(rig.machine.state_hash)
        rig.pass_over()
        seen.add(rig.machine.state_hash)
    assert len(seen) == 12


def test_a_node_that_decides_otherwise_has_another_state_hash() -> None:
    """The same entry on a store that lost a head: the entry is equal, the outcome is not."""
    honest = Rig()
    honest.write(put("k"))
    summary = honest.machine.summary()
    diverged = LedgerMachine(MemoryLedger(), summary, 10)
    data = encode_write(WriteRequest((put("k"),), "alice", "r"), START_US, bytes(16), 0)
    honest.machine.apply(2, 1, data)
    diverged.apply(2, 1, data)
    assert honest.machine.state_hash != diverged.state_hash


def test_a_summary_whose_tree_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot have a frontier"):
        LedgerMachine(MemoryLedger(), Summary(tree_size=3, frontier=(sha256().digest(),)), 10)
