"""What a start does about an install that was cut short: finished when its file is whole, forgotten when it is not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.adapters.ledger_store import SqliteLedgerStore
from appliance.adapters.log_store import SqliteLogStore
from appliance.node.ports import DamagedFile, StoredLog
from appliance.node.recovery import recover
from appliance.raft.messages import HardState, SnapshotMeta
from tests.contract.script import (
    CLUSTER_ID,
    CONFIGURATION,
    Replica,
    entry,
    file_content,
    model_at,
    model_content,
    term_of,
)

HELD, LAST, SENT = 40, 45, 120
META = SnapshotMeta(SENT, term_of(SENT), CONFIGURATION)
NAME = "installing.db"
LEAF, TOUCHED = b'"actor":"actor-1"', b'"actor":"actor-7"'


class Told:
    """Keeps what was logged."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def debug(self, event: str, **fields: Any) -> None:
        self.events.append((event, fields))

    info = warning = error = debug


class Node:
    """The files of a node at index 40 that was about to install a snapshot of index 120."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.received = directory / NAME
        self.log = Told()
        donor = SqliteLedgerStore(directory / "donor.db", 10_000, CLUSTER_ID)
        Replica(donor).apply_to(SENT)
        donor.flush(SENT)
        donor.copy_to(self.received)
        donor.close()
        self.ledger = SqliteLedgerStore(directory / "ledger.db", 10_000, CLUSTER_ID)
        Replica(self.ledger).apply_to(HELD)
        self.ledger.flush(HELD)
        self.ledger.close()
        self.raft = SqliteLogStore(directory / "raft.db")
        self.raft.append([entry(i) for i in range(1, LAST + 1)], HardState(1, 1, HELD))
        self.raft.begin_install(META, NAME)
        self.close()

    def start(self) -> StoredLog:
        self.raft = SqliteLogStore(self.directory / "raft.db")
        self.ledger = SqliteLedgerStore(self.directory / "ledger.db", 10_000, CLUSTER_ID)
        return recover(self.raft, self.ledger, self.directory, self.log)

    def close(self) -> None:
        self.raft.close()
        self.ledger.close()

    def content(self) -> dict[str, object]:
        self.close()
        return file_content(self.directory / "ledger.db")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path)
    yield node
    node.close()


def test_a_whole_file_is_installed(node: Node) -> None:
    stored = node.start()
    assert (stored.snapshot, stored.last_index) == (META, SENT)
    assert [event for event, _ in node.log.events] == ["snapshot.install_finished"]
    assert node.raft.pending_install() is None
    assert node.content() == model_content(model_at(SENT))


@pytest.mark.parametrize("damage", ["truncated", "zeroed", "flipped", "empty", "missing"])
def test_without_a_whole_file_the_node_is_where_it_was(node: Node, damage: str) -> None:
    data = node.received.read_bytes()
    middle = len(data) // 2
    changed = {
        "truncated": data[:middle],
        "zeroed": data[:middle] + bytes(len(data) - middle),
        "flipped": data.replace(LEAF, TOUCHED),
        "empty": b"",
    }
    node.received.unlink()
    if damage in changed:
        node.received.write_bytes(changed[damage])
    stored = node.start()
    assert (stored.snapshot.index, stored.last_index) == (0, LAST)
    event, fields = node.log.events[0]
    assert (event, fields["index"], fields["applied_index"]) == ("snapshot.install_dropped", SENT, HELD)
    assert fields["reason"]
    assert not node.received.exists()
    assert node.raft.pending_install() is None
    node.close()
    again = node.start()
    assert again == stored
    assert len(node.log.events) == 1
    assert node.content() == model_content(model_at(HELD))


def test_an_install_that_was_cut_behind_the_rename_is_finished(node: Node) -> None:
    node.ledger = SqliteLedgerStore(node.directory / "ledger.db", 10_000, CLUSTER_ID)
    node.ledger.replace(node.received)
    node.close()
    assert not node.received.exists()
    assert node.start().snapshot == META
    assert [event for event, _ in node.log.events] == ["snapshot.install_finished"]


def test_a_ledger_that_is_damaged_too_stops_the_start(node: Node) -> None:
    node.received.unlink()
    path = node.directory / "ledger.db"
    path.write_bytes(path.read_bytes().replace(LEAF, TOUCHED))
    with pytest.raises(DamagedFile, match=r"ledger\.db is damaged"):
        node.start()
