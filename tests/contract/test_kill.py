"""Real processes, killed at random instants and between every two steps: nothing acknowledged is lost, and what is in
`ledger.db` is exactly what its applied index says.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from appliance.adapters.identity import DataDirectory
from appliance.adapters.ledger_store import SqliteLedgerStore
from appliance.adapters.log_store import SqliteLogStore
from appliance.node.ports import Identity, IdentityStatus
from appliance.raft.messages import Configuration, Entry, EntryKind, HardState, SnapshotMeta, make_entry

from .processes import Child, Report, kill_me
from .script import CLUSTER_ID, CONFIGURATION, Replica, entry, file_content, model_at, model_content, term_of

ROUNDS = 30
INSTALL_STEPS = (
    "begin",
    "begun",
    "sync_received",
    "remove_wal",
    "sync_removal",
    "rename",
    "sync_rename",
    "installed",
    "replaced",
    "finished",
)


def large_entry(index: int) -> Entry:
    return make_entry(1, index, EntryKind.NORMAL, Random(index).randbytes((300, 5_000, 30_000)[index % 3]))


def test_every_acknowledged_entry_survives_kills(tmp_path: Path) -> None:
    path, random = tmp_path / "raft.db", Random(1)
    acknowledged = 0
    for round_number in range(ROUNDS):

        def append_for_ever(report: Report, seed: int = round_number) -> None:
            store, chance = SqliteLogStore(path), Random(seed)
            last = store.load().last_index
            while True:
                entries = [large_entry(last + n) for n in range(1, chance.randint(2, 12))]
                last = entries[-1].index
                store.append(entries, HardState(1, 1, last) if last % 2 else None)
                report(last)
                store.tidy()
                if chance.random() < 0.1:
                    store.compact(SnapshotMeta(last - 20, 1, Configuration()) if last > 20 else store.load().snapshot)

        child = Child(append_for_ever)
        for _ in range(random.randint(1, 25)):
            acknowledged = child.next_report() or acknowledged
        time.sleep(random.random() * 0.004)  # to be somewhere inside the next call
        acknowledged = max([acknowledged, *child.kill()])

        store = SqliteLogStore(path)
        stored = store.load()
        assert stored.last_index >= acknowledged
        assert stored.hard_state.commit_index <= stored.last_index
        first = stored.snapshot.index + 1
        assert store.read(first, stored.last_index, 10**9) == [
            large_entry(i) for i in range(first, stored.last_index + 1)
        ]
        store.close()
    assert acknowledged > ROUNDS


def test_the_ledger_file_is_what_its_applied_index_says(tmp_path: Path) -> None:
    path, random = tmp_path / "ledger.db", Random(2)
    flushed = 0
    for _ in range(ROUNDS):

        def follow_for_ever(report: Report) -> None:
            store = SqliteLedgerStore(path, 10_000, CLUSTER_ID)
            store.load()
            replica = Replica(store)

            def write_behind() -> None:
                reported = replica.machine.applied_index
                while True:
                    reached = store.flush(replica.machine.applied_index)
                    if reached > reported:  # each report is progress, however fast this thread turns
                        report(reached)
                        reported = reached
                    if reached % 3 == 0:
                        store.checkpoint()

            threading.Thread(target=write_behind, daemon=True).start()
            for index in range(replica.machine.applied_index + 1, replica.machine.applied_index + 2_000):
                replica.apply_to(index)
                while store.pending_bytes() > 20_000:
                    time.sleep(0)  # as a driver that holds writes back
            threading.Event().wait()

        child = Child(follow_for_ever)
        for _ in range(random.randint(1, 12)):
            flushed = child.next_report() or flushed
        time.sleep(random.random() * 0.003)  # to be somewhere inside the next flush
        flushed = max([flushed, *child.kill()])

        store = SqliteLedgerStore(path, 10_000, CLUSTER_ID)
        summary, _ = store.load()
        store.close()
        assert summary.applied_index >= flushed
        assert file_content(path) == model_content(model_at(summary.applied_index))
    assert flushed > ROUNDS


def install(directory: Path, step: Callable[[str], None]) -> None:
    """What the driver does with a received and verified snapshot."""
    log = SqliteLogStore(directory / "raft.db")
    ledger = SqliteLedgerStore(directory / "ledger.db", 10_000, CLUSTER_ID, step=step)
    log.load()
    ledger.load()
    step("begin")
    log.begin_install(SnapshotMeta(120, term_of(120), CONFIGURATION), "incoming.db")
    step("begun")
    ledger.replace(directory / "incoming.db")
    step("replaced")
    log.finish_install(SnapshotMeta(120, term_of(120), CONFIGURATION))
    step("finished")


def recover(directory: Path, step: Callable[[str], None]) -> None:
    """What start-up does: the marker is looked at before `ledger.db` is opened."""
    log = SqliteLogStore(directory / "raft.db")
    pending = log.pending_install()
    if pending is not None:
        meta, file_name = pending
        ledger = SqliteLedgerStore(directory / "ledger.db", 10_000, CLUSTER_ID, step=step)
        if (directory / file_name).exists():
            ledger.replace(directory / file_name)
        step("replaced")
        log.finish_install(meta)
        step("finished")
        ledger.close()
    log.close()


def killed_at(name: str) -> Callable[[str], None]:
    def step(at: str) -> None:
        if at == name:
            kill_me()

    return step


@pytest.fixture(scope="module")
def before_install(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Files of a node at index 40, with a WAL that was never moved, and a snapshot of index 120 that it received."""
    directory = tmp_path_factory.mktemp("before")
    donor = SqliteLedgerStore(directory / "donor.db", 10_000, CLUSTER_ID)
    Replica(donor).apply_to(120)
    donor.flush(120)
    donor.copy_to(directory / "incoming.db")
    donor.close()
    (directory / "donor.db").unlink()

    def live(_report: Report) -> None:
        log = SqliteLogStore(directory / "raft.db")
        log.append([entry(i) for i in range(1, 46)], HardState(1, 1, 40))
        ledger = SqliteLedgerStore(directory / "ledger.db", 10_000, CLUSTER_ID)
        replica = Replica(ledger)
        replica.apply_to(20)
        ledger.flush(20)
        ledger.checkpoint()
        replica.apply_to(40)
        ledger.flush(40)
        kill_me()

    Child(live).wait(-9)
    files = {path.name: path.read_bytes() for path in directory.iterdir() if not path.name.endswith("-shm")}
    assert len(files["ledger.db-wal"]) > 0
    return files


@pytest.mark.parametrize("first_kill", INSTALL_STEPS)
def test_an_install_killed_between_any_two_steps_is_finished(
    tmp_path: Path, before_install: dict[str, bytes], first_kill: str
) -> None:
    for second_kill in (*INSTALL_STEPS[2:], "never"):
        directory = tmp_path / second_kill
        directory.mkdir()
        for name, content in before_install.items():
            (directory / name).write_bytes(content)

        Child(lambda _report, d=directory: install(d, killed_at(first_kill))).wait(-9)
        second = Child(lambda _report, d=directory, at=second_kill: recover(d, killed_at(at)))
        second.wait(0 if not reaches(first_kill, second_kill) else -9)
        recover(directory, lambda _name: None)

        log = SqliteLogStore(directory / "raft.db")
        ledger = SqliteLedgerStore(directory / "ledger.db", 10_000, CLUSTER_ID)
        applied = ledger.load()[0].applied_index
        stored = log.load()
        assert (applied, stored.snapshot.index, stored.last_index) == (
            (40, 0, 45) if first_kill == "begin" else (120, 120, 120)
        )
        assert log.pending_install() is None
        ledger.close()
        log.close()
        assert file_content(directory / "ledger.db") == model_content(model_at(applied))


def reaches(first_kill: str, second_kill: str) -> bool:
    """Whether recovery from the first kill comes to the step of the second one."""
    if first_kill in {"begin", "finished"} or second_kill == "never":
        return False
    renamed = INSTALL_STEPS.index(first_kill) > INSTALL_STEPS.index("rename")
    return not renamed or second_kill in {"replaced", "finished"}


@pytest.mark.parametrize("step", ["write", "rename", "sync_rename"])
def test_an_identity_is_old_or_new_wherever_its_writing_ended(tmp_path: Path, step: str) -> None:
    (tmp_path / "raft.db").write_bytes(b"a log")
    old, new = Identity(CLUSTER_ID, 1, 2**62 + 1), Identity(CLUSTER_ID, 1, 5)

    def write_twice(_report: Report) -> None:
        first = DataDirectory(tmp_path)
        first.write(old)
        first.close()
        DataDirectory(tmp_path, step=killed_at(step)).write(new)

    Child(write_twice).wait(-9)
    directory = DataDirectory(tmp_path)  # the lock of a killed process is gone with it
    found = directory.check()
    assert found.status is IdentityStatus.OK
    assert found.identity == (new if step == "sync_rename" else old)
    directory.close()
