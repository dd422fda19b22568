"""A run of entries does what its entries do one by one, and the file gets all of it or nothing."""

from __future__ import annotations

from pathlib import Path
from random import Random

import apsw
import msgspec
import pytest

from appliance.adapters.ledger_store import SqliteLedgerStore
from appliance.ledger.commands import NOTHING_PUBLISHED, WriteResult, encode_checkpoint, encode_cosignatures
from appliance.ledger.machine import UnknownCommand
from appliance.node.applier import Applier
from appliance.node.ports import DamagedFile
from appliance.raft.log import InvariantViolation
from appliance.raft.messages import EntryKind, make_entry
from appliance.raft.state import encode_configuration
from tests.contract.script import ANSWERS_MAX, CLUSTER_ID, CONFIGURATION, entry, file_content

ENTRIES = 240


def applier_on(directory: Path) -> tuple[Applier, SqliteLedgerStore]:
    directory.mkdir()
    store = SqliteLedgerStore(directory / "ledger.db", 50_000, CLUSTER_ID)
    return Applier(store, ANSWERS_MAX), store


@pytest.mark.parametrize("seed", range(4))
def test_runs_and_single_entries_come_to_the_same(tmp_path: Path, seed: int) -> None:
    random = Random(seed)
    one_by_one, single_store = applier_on(tmp_path / "single")
    in_runs, run_store = applier_on(tmp_path / "runs")
    entries = [entry(index) for index in range(1, ENTRIES + 1)]
    expected = [one_by_one.apply(one) for one in entries]
    answers: list[WriteResult | None] = []
    while len(answers) < ENTRIES:
        at = len(answers)
        answers += in_runs.apply_run(entries[at : at + random.randint(1, 60)])
        if random.random() < 0.5:
            run_store.flush(in_runs.applied_index)
    assert answers == expected
    assert in_runs.machine.summary() == one_by_one.machine.summary()
    for store in (single_store, run_store):
        store.flush(ENTRIES)
        store.close()
    assert file_content(tmp_path / "runs" / "ledger.db") == file_content(tmp_path / "single" / "ledger.db")


def test_the_file_never_holds_a_part_of_a_run(tmp_path: Path) -> None:
    applier, store = applier_on(tmp_path / "node")
    applier.apply_run([entry(index) for index in range(1, 41)])
    applier.apply_run([entry(index) for index in range(41, 91)])
    assert [store.flush(index_max) for index_max in (39, 40, 89, 90)] == [0, 40, 40, 90]
    store.close()


def test_what_came_before_an_unknown_command_is_applied(tmp_path: Path) -> None:
    applier, store = applier_on(tmp_path / "node")
    good = [entry(index) for index in range(1, 11)]
    strange = make_entry(1, 11, EntryKind.NORMAL, b"\x91\xa5other")
    with pytest.raises(UnknownCommand):
        applier.apply_run([*good, strange, entry(12)])
    assert applier.applied_index == 10
    assert store.load()[0] == applier.machine.summary()
    assert store.flush(100) == 10
    store.close()


def test_an_entry_out_of_order_ends_the_run_before_it(tmp_path: Path) -> None:
    applier, store = applier_on(tmp_path / "node")
    with pytest.raises(InvariantViolation):
        applier.apply_run([entry(1), entry(2), entry(4)])
    assert store.flush(100) == applier.applied_index == 2
    with pytest.raises(InvariantViolation):
        applier.apply_run([entry(2)])
    assert store.load()[0].applied_index == 2
    store.close()


def test_a_configuration_in_a_run_is_kept_with_its_place(tmp_path: Path) -> None:
    applier, store = applier_on(tmp_path / "node")
    changed = make_entry(1, 2, EntryKind.CONFIGURATION, encode_configuration(CONFIGURATION))
    assert applier.apply_run([entry(1), changed, entry(3)])[1] is None
    assert applier.configuration == CONFIGURATION
    store.flush(3)
    store.close()
    again, again_store = Applier(store, ANSWERS_MAX), store
    assert (again.applied_index, again.configuration) == (3, CONFIGURATION)
    again_store.close()


def test_an_empty_run_changes_nothing(tmp_path: Path) -> None:
    applier, store = applier_on(tmp_path / "node")
    assert applier.apply_run([]) == []
    assert store.pending_bytes() == 0
    store.close()


def test_what_was_cosigned_of_the_log_before_a_recovery_is_forgotten(tmp_path: Path) -> None:
    applier, store = applier_on(tmp_path / "node")
    applier.apply_run([entry(index) for index in range(1, 11)])
    machine = applier.machine
    stamp_us = machine.last_timestamp_us
    applier.apply(make_entry(1, 11, EntryKind.NORMAL, encode_checkpoint(stamp_us)))
    line = "\u2014 witness.example/w AAAAAAAA"
    applier.apply(make_entry(1, 12, EntryKind.NORMAL, encode_cosignatures(stamp_us, machine.published, [line])))
    for index, recoveries in ((13, ()), (14, (5,)), (15, (5,))):
        assert machine.cosigned == (machine.published if index < 15 else NOTHING_PUBLISHED)
        configuration = msgspec.structs.replace(CONFIGURATION, recoveries=recoveries)
        applier.apply(make_entry(1, index, EntryKind.CONFIGURATION, encode_configuration(configuration)))
    assert (machine.cosigned, machine.cosignatures) == (NOTHING_PUBLISHED, ())
    applier.apply(make_entry(1, 16, EntryKind.NORMAL, encode_cosignatures(stamp_us, machine.published, [line])))
    applier.apply(make_entry(1, 17, EntryKind.CONFIGURATION, encode_configuration(configuration)))
    assert machine.cosigned == machine.published, "the same recoveries rename nothing"
    store.close()


def test_a_head_that_cannot_be_is_damage_of_the_file(tmp_path: Path) -> None:
    applier, store = applier_on(tmp_path / "node")
    applier.apply_run([entry(index) for index in range(1, ENTRIES + 1)])
    store.flush(ENTRIES)
    store.close()
    path = tmp_path / "node" / "ledger.db"
    db = apsw.Connection(str(path))
    db.execute("UPDATE stored_heads SET leaf_index = 99999")
    db.close()
    store = SqliteLedgerStore(path, 50_000, CLUSTER_ID)
    applier = Applier(store, ANSWERS_MAX)
    before = applier.machine.summary()
    with pytest.raises(DamagedFile, match=r"^ledger\.db is damaged: entry \d+ cannot be applied: .* leaf 99999"):
        applier.apply_run([entry(index) for index in range(ENTRIES + 1, 2 * ENTRIES)])
    assert store.load()[0] == before, "nothing of a run that met damage is kept"
    store.close()
