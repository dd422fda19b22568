"""`appliance cluster recover` on data directories: what it says, changes, and leaves alone."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner, Result

from appliance.adapters.identity import DataDirectory
from appliance.adapters.ledger_store import SqliteLedgerStore
from appliance.adapters.log_store import SqliteLogStore
from appliance.cli.exits import Exit
from appliance.cli.main import app
from appliance.cli.shapes import ErrorReport, Recovered
from appliance.node.ports import StoredLog
from appliance.node.recovery import recover
from appliance.raft.messages import EntryKind, make_entry
from appliance.raft.state import encode_configuration
from tests.contract.script import CLUSTER_ID, CONFIGURATION, term_of
from tests.unit.stopped_home import APPLIED, IDENTITY, LAST, LEAF, THREE, Home, Told, flip, flip_entry

CONFIG = """\
[node]
id = {node_id}
cluster_id = "{cluster_id}"
data_dir = "{data}"
address = "127.0.0.1:1"

[network]
raft_port = 1
peer_auth = "secret"
seed_peers = ["127.0.0.1:1", "127.0.0.1:3", "127.0.0.1:5"]

[security]
cluster_secret_file = "{home}/secret"
api_keys_file = "{home}/keys.json"
"""


class Node(Home):
    """A stopped node with a configuration; at the others' peer addresses nobody answers."""

    def __init__(self, home: Path, **options: object) -> None:
        super().__init__(home / "data", **options)  # type: ignore[arg-type]
        self.config = home / "config.toml"
        self.write_config(home)
        for name, content in {"secret": b"s" * 40, "keys.json": b'{"keys": []}'}.items():
            (home / name).write_bytes(content)
            (home / name).chmod(0o600)

    def write_config(self, home: Path, node_id: int = 1) -> None:
        text = CONFIG.format(node_id=node_id, cluster_id=CLUSTER_ID, data=self.path, home=home)
        self.config.write_text(text)

    def run(self, *options: str) -> Result:
        return CliRunner().invoke(app, ["cluster", "recover", "--config", str(self.config), "-o", "json", *options])

    def recovered(self, *options: str) -> Recovered:
        result = self.run(*options)
        assert result.exit_code == Exit.OK, result.stderr
        return msgspec.json.decode(result.stdout_bytes, type=Recovered)

    def refused(self, code: Exit, *options: str) -> str:
        result = self.run(*options)
        assert result.exit_code == code, (result.stdout, result.stderr)
        error = msgspec.json.decode(result.stderr.splitlines()[-1], type=ErrorReport).error
        return f"{error.detail} {error.hint}"

    def content(self) -> dict[str, bytes]:
        """All files that mean something: what SQLite keeps beside a file that is closed is not among them."""
        return {path.name: path.read_bytes() for path in self.path.glob("*[nb]")}

    def stored(self) -> StoredLog:
        log_store = SqliteLogStore(self.path / "raft.db")
        ledger_store = SqliteLedgerStore(self.path / "ledger.db", 10_000, CLUSTER_ID)
        try:
            return recover(log_store, ledger_store, self.path, Told())
        finally:
            log_store.close()
            ledger_store.close()


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """One that has lost its majority: in its log stands a configuration of three."""
    node = Node(tmp_path)
    log_store = SqliteLogStore(node.path / "raft.db")
    log_store.load()
    three = make_entry(term_of(LAST), LAST + 1, EntryKind.CONFIGURATION, encode_configuration(THREE))
    log_store.append([three], None)
    log_store.close()
    return node


def test_without_yes_it_only_says_what_would_be(node: Node) -> None:
    before = node.content()
    said = node.recovered()
    assert (said.done, said.cluster_id, said.node_id, said.incarnation) == (False, CLUSTER_ID, 1, f"{11:016x}")
    assert (said.last_index, said.last_term, said.commit_index, said.applied_index) == (
        LAST + 1,
        term_of(LAST),
        APPLIED,
        APPLIED,
    )
    assert (said.recovery, said.kept, said.from_ledger) == (None, None, False)
    assert [(m.node_id, m.role, m.state, m.remembers) for m in said.members] == [
        (2, "voter", "unreachable", None),
        (3, "voter", "unreachable", None),
    ]
    assert said.last_write is not None
    assert said.last_write.startswith("2026-")
    assert f"behind entry {LAST + 1} of term {term_of(LAST)}: nodes 2, 3" in said.may_be_lost[0]
    assert said.may_take_effect is not None
    assert said.may_take_effect.startswith(f"entries {APPLIED + 1} to {LAST + 1} are kept")
    assert node.content() == before


def test_people_get_it_in_words(node: Node) -> None:
    result = CliRunner().invoke(app, ["cluster", "recover", "--config", str(node.config)])
    assert result.exit_code == Exit.OK
    assert "may be lost: every acknowledged write behind entry" in result.stdout
    assert "nothing was changed; --yes does it" in result.stderr
    result = CliRunner().invoke(app, ["cluster", "recover", "--config", str(node.config), "--yes"])
    assert result.exit_code == Exit.OK
    assert "start node 1: it leads as the only voter" in result.stderr


def test_with_yes_it_is_the_only_voter_of_the_same_cluster(node: Node) -> None:
    said = node.recovered("--yes")
    assert said.done
    stored = node.stored()
    index, configuration = stored.configurations[-1]
    assert (index, stored.last_index, stored.term_starts[-1]) == (LAST + 2, LAST + 2, (LAST + 2, term_of(LAST) + 1))
    assert stored.hard_state.term == term_of(LAST) + 1
    assert (configuration.voters(), [m.node_id for m in configuration.members]) == ((1,), [1, 2, 3])
    assert configuration.recoveries == (int(said.recovery or "", 16),)
    directory = DataDirectory(node.path)
    identity = directory.check().identity
    assert identity is not None
    assert configuration.members[0].incarnation == identity.incarnation != IDENTITY.incarnation
    assert directory.standing.voters == (1,)
    directory.close()
    assert node.start().identity == identity
    assert "start this node" in node.refused(Exit.CONFLICT, "--yes")
    assert node.stored() == stored


def test_it_refuses_while_the_node_runs(node: Node) -> None:
    running = DataDirectory(node.path)
    assert "stop the node first" in node.refused(Exit.CONFLICT, "--yes")
    running.close()


def test_it_refuses_a_directory_of_another_node(node: Node, tmp_path: Path) -> None:
    node.write_config(tmp_path, node_id=2)
    assert "belongs to node 1" in node.refused(Exit.FAILURE, "--yes")


@pytest.mark.parametrize("missing", ["directory", "content"])
def test_where_nothing_is_nothing_is_made(node: Node, missing: str) -> None:
    shutil.rmtree(node.path)
    if missing == "content":
        node.path.mkdir()
    node.refused(Exit.NOT_FOUND, "--yes")
    assert node.path.exists() == (missing == "content")
    assert not list(node.path.glob("*.db*"))


def test_what_was_set_aside_is_pointed_at(node: Node) -> None:
    flip_entry(node.path)
    node.start()
    (kept,) = node.path.glob("damaged-*")
    assert kept.name in node.refused(Exit.NOT_FOUND, "--yes")
    for path in [*node.path.glob("raft.db*"), *node.path.glob("ledger.db*")]:
        path.unlink()
    for path in kept.glob("*.db*"):
        shutil.move(path, node.path)
    assert node.recovered("--yes").from_ledger


def test_a_configuration_that_is_not_acceptable_is_a_mistake_of_usage(node: Node) -> None:
    node.config.write_text("[node]\nid = 0\n")
    assert "node.id" in node.refused(Exit.USAGE)


@pytest.mark.parametrize("damage", [flip_entry, lambda home: (home / "raft.db").unlink()], ids=["damaged", "missing"])
def test_a_log_that_cannot_be_used_is_made_anew_behind_the_ledger(node: Node, damage: Callable[[Path], None]) -> None:
    damage(node.path)
    was_there = (node.path / "raft.db").exists()
    said = node.recovered()
    assert (said.from_ledger, said.last_index, said.applied_index) == (True, APPLIED, APPLIED)
    assert f"every write behind entry {APPLIED} of term {term_of(APPLIED)}" in said.may_be_lost[0]
    assert (node.path / "raft.db").exists() == was_there
    done = node.recovered("--yes")
    assert (done.kept is not None) == was_there
    if was_there:
        assert {path.name for path in Path(done.kept or "").iterdir()} == {"raft.db", "reason.txt"}
    stored = node.stored()
    assert (stored.snapshot.index, stored.snapshot.term, stored.last_index) == (APPLIED, term_of(APPLIED), APPLIED + 1)
    assert stored.snapshot.configuration == CONFIGURATION, "the one that the ledger was applied under"
    assert stored.configurations[-1][1].voters() == (1,)
    assert (node.start().events, node.start().applied_index) == ([], APPLIED)
    assert sorted(path.name for path in node.path.glob("raft*")) == ["raft.db"]


def test_one_that_was_cut_short_is_done_again(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    flip_entry(node.path)
    replace = os.replace

    def cut(source: Path, target: Path) -> None:
        if Path(target).name == "raft.db":
            raise OSError("the process ends here")
        replace(source, target)

    monkeypatch.setattr("appliance.cli.stopped.os.replace", cut)
    assert "ends here" in node.refused(Exit.FAILURE, "--yes")
    monkeypatch.undo()
    assert node.recovered("--yes").from_ledger
    assert node.stored().last_index == APPLIED + 1


def test_where_both_are_damaged_nothing_is_touched(node: Node) -> None:
    flip_entry(node.path)
    flip(node.path / "ledger.db", LEAF, LEAF.replace(b"1", b"7"))
    before = node.content()
    assert "ledger.db is damaged" in node.refused(Exit.FAILURE, "--yes")
    assert node.content() == before


def cut(path: Path) -> None:
    os.truncate(path, 100)


def rot(path: Path) -> None:
    """Inside of its pages, where a start does not look by itself."""
    flip(path, LEAF, LEAF.replace(b"1", b"7"))


@pytest.mark.parametrize("damage", [cut, rot])
def test_a_damaged_ledger_is_left_to_the_log(node: Node, damage: Callable[[Path], None]) -> None:
    damage(node.path / "ledger.db")
    said = node.recovered("--yes")
    assert (said.from_ledger, said.last_index, said.applied_index) == (False, LAST + 1, 0)
    assert node.start().events == ["node.ledger_set_aside"]
    assert json.loads((node.path / "standing.json").read_text())["voters"] == [1]


@pytest.mark.parametrize("cause", ["whole log", "damaged log"])
def test_a_quarantined_node_is_recovered_out_of_its_quarantine(node: Node, cause: str) -> None:
    """Nobody is left who could send it a snapshot, and a quarantined only voter serves nothing."""
    directory = DataDirectory(node.path)
    directory.standing.note_divergence("its state differs")
    directory.close()
    if cause == "damaged log":
        flip_entry(node.path)
    said = node.recovered()
    assert any("its state differs" in text for text in said.may_be_lost) == (cause == "damaged log")
    done = node.recovered("--yes")
    started = node.start()
    assert (started.applied_index == 0) == (cause == "whole log"), "the log makes again what was wrong"
    assert started.applied_index <= done.last_index
    directory = DataDirectory(node.path)
    assert directory.standing.diverged == ""
    directory.close()


def test_the_last_copy_is_recovered_with_its_damage_when_that_is_said(tmp_path: Path) -> None:
    node = Node(tmp_path, compacted=APPLIED - 10)
    rot(node.path / "ledger.db")
    directory = DataDirectory(node.path)
    directory.standing.note_doubt("a value could not be read")
    directory.close()
    refusal = node.refused(Exit.FAILURE, "--yes")
    assert "Merkle tree" in refusal
    assert "--despite-damage" in refusal
    said = node.recovered("--despite-damage")
    assert any("which stays so" in text and "Merkle tree" in text for text in said.may_be_lost)
    assert node.recovered("--despite-damage", "--yes").done
    started = node.start()
    assert (started.applied_index, started.lost, started.events) == (APPLIED, False, [])
