"""How a start comes by its stores and its identity, whatever it finds in its data directory."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.adapters.identity import DataDirectory
from appliance.adapters.log_store import SqliteLogStore
from appliance.node.ports import Identity, StorageFailed
from appliance.raft.messages import Configuration, HardState
from tests.contract.script import CLUSTER_ID, CONFIGURATION, entry
from tests.unit.stopped_home import APPLIED, IDENTITY, LAST, LEAF, SEEDS, THREE, Home, Started, flip, flip_entry


def cut_wal(home: Path) -> None:
    """The log loses entries that it had acknowledged, and nothing in it shows that."""
    shutil.rmtree(home / "audit")
    os.unlink(home / "raft.db")
    log_store = SqliteLogStore(home / "raft.db")
    log_store.load()
    log_store.append([entry(n) for n in range(1, APPLIED - 5)], HardState(1, 1, 1))
    log_store.close()
    held = DataDirectory(home)
    held.write(IDENTITY)
    held.close()


DAMAGES: dict[str, Callable[[Path], None]] = {
    "no log": lambda home: (home / "raft.db").unlink(),
    "no database": lambda home: (home / "raft.db").write_bytes(b"not a database" * 1000),
    "an entry": flip_entry,
    "shorter than the ledger": cut_wal,
    "emptied in place": lambda home: os.truncate(home / "raft.db", 0),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_what_is_damaged_is_set_aside_and_the_node_is_a_new_one(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    home = Home(tmp_path)
    damage(tmp_path)
    there = {"ledger.db", "reason.txt"} | {name for name in ("raft.db", "audit") if (tmp_path / name).exists()}
    started = home.start()
    assert (started.last_index, started.applied_index, started.lost) == (0, 0, True)
    assert started.identity.incarnation != IDENTITY.incarnation
    assert started.events == ["node.set_aside", "node.lost"]
    assert [names & {"raft.db", "ledger.db", "audit", "reason.txt"} for names in home.kept()] == [there]
    again = home.start()
    assert (again.lost, again.events) == (True, ["node.lost"]), "it still founds nothing, and sets nothing aside"


def test_a_start_that_finds_nothing_wrong_changes_nothing(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert home.start() == Started(IDENTITY, LAST, APPLIED, False, [])
    assert home.kept() == []


def test_an_empty_directory_is_no_loss(tmp_path: Path) -> None:
    home = Home(tmp_path)
    shutil.rmtree(tmp_path)
    started = home.start()
    assert (started.last_index, started.lost, started.events) == (0, False, [])


def test_a_copy_in_the_place_of_the_files_is_used_by_another_incarnation(tmp_path: Path) -> None:
    home = Home(tmp_path)
    shutil.copy2(tmp_path / "raft.db", tmp_path / "copy")
    os.replace(tmp_path / "copy", tmp_path / "raft.db")
    started = home.start()
    assert (started.last_index, started.lost, started.events) == (LAST, False, ["node.replaced"])
    assert started.identity.incarnation != IDENTITY.incarnation
    assert home.kept() == []


def test_a_copy_in_the_place_of_the_files_is_read_whole(tmp_path: Path) -> None:
    """Nobody knows what became of it where it was kept."""
    home = Home(tmp_path)
    for name in ("raft.db", "ledger.db"):
        shutil.copy2(tmp_path / name, tmp_path / "copy")
        os.replace(tmp_path / "copy", tmp_path / name)
    flip(tmp_path / "ledger.db", LEAF, LEAF.replace(b"1", b"7"))
    started = home.start()
    assert started.events == ["node.ledger_set_aside", "node.replaced"]
    assert (started.last_index, started.applied_index) == (LAST, 0), "the log makes it again"


def spoil_ledger(home: Path) -> None:
    os.truncate(home / "ledger.db", 100)


@pytest.mark.parametrize("spoil", [spoil_ledger, lambda home: (home / "ledger.db").unlink()], ids=["cut", "gone"])
@pytest.mark.parametrize("members", [THREE, CONFIGURATION], ids=["others", "alone"])
def test_a_damaged_ledger_is_made_again_by_a_log_that_is_whole(
    tmp_path: Path, spoil: Callable[[Path], None], members: Configuration
) -> None:
    home = Home(tmp_path, members=members)
    spoil(tmp_path)
    was_there = (tmp_path / "ledger.db").exists()
    started = home.start()
    assert (started.identity, started.last_index, started.applied_index) == (IDENTITY, LAST, 0)
    assert started.events == (["node.ledger_set_aside"] if was_there else [])
    assert home.kept() == ([{"ledger.db", "audit", "reason.txt"}] if was_there else [])
    assert home.start().events == []


@pytest.mark.parametrize("spoil", [spoil_ledger, lambda home: (home / "ledger.db").unlink()], ids=["cut", "gone"])
def test_a_damaged_ledger_whose_beginning_no_log_brings_again_is_a_loss(
    tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    home = Home(tmp_path, compacted=30)
    spoil(tmp_path)
    started = home.start()
    assert (started.last_index, started.lost, started.events) == (0, True, ["node.set_aside", "node.lost"])
    assert {"raft.db", "reason.txt"} <= home.kept()[0]


def test_a_doubt_is_looked_into_and_ends(tmp_path: Path) -> None:
    """Damage inside of the ledger's pages is not seen by a start, unless it was met before."""
    home = Home(tmp_path)
    flip(tmp_path / "ledger.db", LEAF, LEAF.replace(b"1", b"7"))
    assert home.start().events == []
    for events in (["node.ledger_set_aside"], []):
        held = DataDirectory(tmp_path)
        held.standing.note_doubt("a leaf could not be read")
        held.close()
        assert home.start().events == events
    held = DataDirectory(tmp_path)
    assert held.standing.doubt == ""
    held.close()


def test_what_is_condemned_is_set_aside_whatever_it_is(tmp_path: Path) -> None:
    home = Home(tmp_path)
    held = DataDirectory(tmp_path)
    held.standing.condemn("it is of before")
    held.close()
    assert home.start().lost
    assert "it is of before" in next(tmp_path.glob("damaged-*/reason.txt")).read_text()
    assert home.start().events == ["node.lost"], "once"


@pytest.mark.parametrize("damage", [d for n, d in DAMAGES.items() if n != "emptied in place"])
@pytest.mark.parametrize("known", ["by its members", "by its configuration"])
def test_an_only_voter_keeps_its_only_copy(tmp_path: Path, damage: Callable[[Path], None], known: str) -> None:
    home = Home(tmp_path, members=CONFIGURATION if known == "by its members" else None)
    damage(tmp_path)
    seeds = SEEDS if known == "by its members" else SEEDS[:1]
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.db")}
    for _ in range(2):
        with pytest.raises(StorageFailed, match=r"(?s)the only voter.*appliance cluster recover --config FILE"):
            home.start(seeds=seeds)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.db")} == before
    assert home.kept() == []


def test_nothing_of_another_node_is_touched(tmp_path: Path) -> None:
    home = Home(tmp_path)
    flip_entry(tmp_path)
    held = DataDirectory(tmp_path)
    held.write(Identity(CLUSTER_ID, 2, 22))
    held.close()
    with pytest.raises(StorageFailed, match="belongs to node 2"):
        home.start()
    assert home.kept() == []


STEPS = ["write", "rename", "sync_rename"]
FILES = [name + end for name in ("raft.db", "ledger.db", "audit") for end in ("", "-wal", "-shm")]


class Cut(Exception):
    """The process ends here."""


@pytest.mark.parametrize("at", [*FILES, *STEPS])
@pytest.mark.parametrize("damage", [flip_entry, cut_wal])
def test_a_start_that_is_cut_while_it_sets_aside_is_finished_by_the_next(
    tmp_path: Path, at: str, damage: Callable[[Path], None]
) -> None:
    home = Home(tmp_path)
    damage(tmp_path)

    def cut(step: str) -> None:
        if step == at:
            raise Cut

    with pytest.raises(Cut):
        home.start(step=cut)
    started = home.start()
    assert (started.last_index, started.applied_index, started.lost) == (0, 0, True)
    assert started.identity.incarnation != IDENTITY.incarnation
    kept = set().union(*home.kept())
    assert {"raft.db", "ledger.db"} <= kept


def test_what_was_given_up_by_an_operator_is_set_aside_and_nothing_of_it_is_remembered(tmp_path: Path) -> None:
    home = Home(tmp_path)
    held = DataDirectory(tmp_path)
    held.standing.note_divergence("its state was wrong")
    held.close()
    assert home.start().identity == IDENTITY
    held = DataDirectory(tmp_path)
    assert held.standing.diverged, "a start alone does not end that"
    held.standing.condemn("an operator has asked for it")
    held.close()
    started = home.start()
    assert (started.lost, started.last_index, started.applied_index) == (True, 0, 0)
    assert started.identity.incarnation != IDENTITY.incarnation
    assert len(home.kept()) == 1
    held = DataDirectory(tmp_path)
    assert (held.standing.condemned, held.standing.diverged) == ("", "")
    held.close()
