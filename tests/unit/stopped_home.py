"""The data directory of a node that does not run, and harm to it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from appliance.adapters.identity import DataDirectory
from appliance.adapters.ledger_store import SqliteLedgerStore
from appliance.adapters.log_store import SqliteLogStore
from appliance.node.ports import Identity
from appliance.raft.messages import Configuration, HardState, Member, MemberRole, SnapshotMeta
from appliance.tables.settings import NetworkSettings, NodeSettings, Settings
from appliance.wiring import claim, open_stores, whose
from tests.contract.script import CLUSTER_ID, CONFIGURATION, Replica, entry, term_of

IDENTITY = Identity(CLUSTER_ID, 1, 11)
LAST = 60
APPLIED = 50
THREE = Configuration(tuple(Member(n, 10 + n, MemberRole.VOTER, f"h:{n}", f"h:{1000 + n}") for n in (1, 2, 3)))
LEAF = b'"actor":"actor-1"'
SEEDS = ["127.0.0.1:9001", "127.0.0.1:9002", "127.0.0.1:9003"]


class Told:
    """Keeps what was logged."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def debug(self, event: str, **_fields: Any) -> None:
        self.events.append(event)

    info = warning = error = debug


class Started(NamedTuple):
    """What a start came to."""

    identity: Identity
    last_index: int
    applied_index: int
    lost: bool
    events: list[str]


class Home:
    """The data directory of node 1 of three, whose ledger file lags behind its log."""

    def __init__(self, directory: Path, *, members: Configuration | None = THREE, compacted: int = 0) -> None:
        self.path = directory
        held = DataDirectory(directory)
        log_store = SqliteLogStore(directory / "raft.db")
        log_store.load()
        log_store.append([entry(n) for n in range(1, LAST + 1)], HardState(term_of(LAST), 1, APPLIED))
        if compacted:
            log_store.compact(SnapshotMeta(compacted, term_of(compacted), CONFIGURATION))
        log_store.close()
        ledger = SqliteLedgerStore(directory / "ledger.db", 10_000, CLUSTER_ID)
        Replica(ledger).apply_to(APPLIED)
        ledger.flush(APPLIED)
        ledger.close()
        (directory / "audit").mkdir()
        (directory / "audit" / "segment").write_bytes(b"rows")
        held.write(IDENTITY)
        if members is not None:
            held.standing.remember(members)
        held.close()

    def start(self, *, step: Callable[[str], None] = lambda _: None, seeds: list[str] = SEEDS) -> Started:
        settings = Settings(
            node=NodeSettings(id=1, data_dir=str(self.path), cluster_id=CLUSTER_ID),
            network=NetworkSettings(seed_peers=seeds),
        )
        held = DataDirectory(self.path, step=step)
        told = Told()
        try:
            check = held.check()
            cluster_id = whose(held, settings, check, "")
            opened = open_stores(held, settings, check, cluster_id, told)
            try:
                identity = claim(held, check, opened, told, cluster_id=cluster_id, node_id=1)
                applied_index = opened.ledger_store.load()[0].applied_index
                return Started(identity, opened.stored.last_index, applied_index, opened.lost, told.events)
            finally:
                opened.log_store.close()
                opened.ledger_store.close()
        finally:
            held.close()

    def kept(self) -> list[set[str]]:
        return [{file.name for file in path.iterdir()} for path in sorted(self.path.glob("damaged-*"))]


def flip(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new))


def flip_entry(home: Path) -> None:
    data = entry(20).data
    flip(home / "raft.db", data, data[:-1] + bytes([data[-1] ^ 1]))
