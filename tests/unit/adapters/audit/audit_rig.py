"""A real ledger file, written through the state machine and the SQLite store, and an engine over it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from appliance.adapters.audit.engine import DuckDbAudit
from appliance.adapters.ledger_store import SqliteLedgerStore
from appliance.adapters.telemetry.logs import EcsLog
from appliance.adapters.telemetry.metrics import Registry
from appliance.ledger.commands import SALT_BYTES, Op, Operation, WriteRequest, WriteResult, encode_write
from appliance.ledger.machine import LedgerMachine
from appliance.tables.settings import AuditSettings, LoggingSettings

CLUSTER_ID = "0123456789abcdef" * 2
SAMPLE = Path(__file__).parents[3] / "data" / "debian-packages-sample.ndjson"
START_US = 1_795_462_000_123_456  # 2026-11-23T19:26:40.123456Z


def packages() -> list[tuple[str, bytes]]:
    """The 2,000 real records of the sample: key, value as compact JSON."""
    records = [json.loads(line) for line in SAMPLE.read_bytes().splitlines()]
    return [(record["key"], msgspec.json.encode(record["value"])) for record in records]


class Ledger:
    """`ledger.db` of one node, with the state machine before it."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "ledger.db"
        self.store = SqliteLedgerStore(self.path, 16 * 2**20, CLUSTER_ID)
        self.machine = LedgerMachine(self.store, self.store.load()[0], 1000)
        self.index = self.machine.applied_index

    def write(self, operations: Sequence[Operation], actor: str = "importer", step_us: int = 1_000) -> WriteResult:
        """Apply one entry."""
        self.index += 1
        salts = b"".join(
            sha256(f"{self.index}/{place}".encode()).digest()[:SALT_BYTES] for place in range(len(operations))
        )
        request = WriteRequest(tuple(operations), actor, f"request-{self.index}", batch=len(operations) > 1)
        data = encode_write(request, START_US + self.index * step_us, salts, 1000)
        changes = self.machine.apply(self.index, 1, data)
        self.store.add((changes,), self.machine.summary(), b"")
        assert changes.result is not None
        return changes.result

    def put(self, key: str, value: bytes, actor: str = "importer") -> WriteResult:
        return self.write([Operation(Op.PUT, key, value)], actor)

    def delete(self, key: str, actor: str = "importer") -> WriteResult:
        return self.write([Operation(Op.DELETE, key)], actor)

    async def settle(self) -> Path:
        """What `NodeService.settle` does."""
        await asyncio.to_thread(self.flush)
        return self.path

    def flush(self) -> Path:
        while self.store.flush(self.index) < self.index:
            pass
        return self.path

    def close(self) -> None:
        self.store.close()


def import_packages(ledger: Ledger, rounds: int) -> None:
    """Put the sample `rounds` times, in batches of 100, by two actors in turn."""
    records = packages()
    for number in range(rounds):
        for at in range(0, len(records), 100):
            batch = [Operation(Op.PUT, key, value) for key, value in records[at : at + 100]]
            ledger.write(batch, f"importer-{number % 2}")


class Desk:
    """An engine over a ledger, with its metrics and its log."""

    def __init__(self, ledger: Ledger, data_dir: Path, **settings: Any) -> None:
        self.registry = Registry(1)
        self.log_path = data_dir / "log" / "scribe-node1.log"
        self.log = EcsLog(LoggingSettings(directory=str(data_dir / "log"), stdout=False), 1, self.registry)
        self.directory = data_dir / "audit"
        self.engine = DuckDbAudit(data_dir, AuditSettings(**settings), self.log, self.registry, ledger.settle)

    async def ask(self, sql: str, params: Any = None, limit: int = 100_000) -> list[list[Any]]:
        """The rows of a JSON answer."""
        return [msgspec.json.decode(row) for row in (await self.engine.query(sql, params, "json", limit)).rows]

    def events(self) -> list[str]:
        """The events that were logged."""
        return [msgspec.json.decode(line)["event.action"] for line in self.log_path.read_bytes().splitlines()]

    def count(self, outcome: str) -> float:
        """Queries that ended so."""
        text = self.registry.render("")[0].decode()
        return float(text.split(f'\nscribe_audit_queries_total{{outcome="{outcome}"}} ')[1].split("\n")[0])

    async def close(self) -> None:
        await self.engine.close()
        self.log.close()
