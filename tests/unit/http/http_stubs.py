"""What stands behind the client port in tests, instead of a node, an audit engine, a log and a tracer.

`LedgerNode` has the real machine over the real store in memory, and applies each write at once, as a cluster of one
would; the others only take down what they are told.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from http_cluster_stub import ClusterCalls
from http_log_stub import LOG_KEY, LogCalls

from appliance.ledger.commands import SALT_BYTES, WriteRequest, WriteResult, encode_write
from appliance.ledger.encoding import decode_leaf
from appliance.ledger.machine import LedgerMachine
from appliance.ledger.memory import MemoryLedger
from appliance.ledger.note import format_verifier_key
from appliance.ledger.state import Summary
from appliance.node.api import (
    AuditAnswer,
    ClusterInfo,
    Figures,
    Health,
    HistoryAnswer,
    MemberInfo,
    ReadAnswer,
    ScanAnswer,
)
from appliance.node.ports import Identity
from appliance.tables.errors import ApplianceError

NOW_US = 1_795_461_931_123_456  # 2026-11-23T19:25:31.123456Z


class LedgerNode(ClusterCalls, LogCalls):
    """A `NodeService` over the real machine; what changes the cluster is in `ClusterCalls`, proofs in `LogCalls`.

    `fault` is raised by every call that asks a quorum.
    """

    def __init__(self, answers_max: int = 100) -> None:
        ClusterCalls.__init__(self)
        LogCalls.__init__(self)
        self.store = MemoryLedger()
        self.machine = LedgerMachine(self.store, Summary(), answers_max)
        self.answers_max = answers_max
        self.requests: list[WriteRequest] = []
        self.fault: Exception | None = None
        self.hold: asyncio.Event | None = None
        self.unhealthy: tuple[str, ...] = ()
        self.leader_id = 1
        self.follows = False  # then a write has to be waited for

    async def write(self, request: WriteRequest) -> WriteResult:
        self.requests.append(request)
        if self.hold is not None:
            await self.hold.wait()
        if self.fault is not None:
            raise self.fault
        return self._apply(request)

    def _apply(self, request: WriteRequest) -> WriteResult:
        index = self.machine.applied_index + 1
        salts = b"".join(sha256(b"%d/%d" % (index, n)).digest()[:SALT_BYTES] for n in range(len(request.operations)))
        data = encode_write(request, NOW_US + index, salts, self.answers_max)
        changes = self.machine.apply(index, 7, data)
        self.store.add([changes], self.machine.summary(), b"")
        assert changes.result is not None
        return changes.result

    def write_now(self, request: WriteRequest, done: Callable[[WriteResult | ApplianceError], None]) -> bool:
        if self.follows or self.hold is not None or self.fault is not None:
            return False
        self.requests.append(request)
        done(self._apply(request))
        return True

    def read_now(self, key: str, done: Callable[[ReadAnswer | Exception], None], *, linearizable: bool) -> None:
        try:
            done(self._read(key, linearizable))
        except ApplianceError as error:
            done(error)

    async def read(self, key: str, *, linearizable: bool, at_leaf: int | None = None) -> ReadAnswer:
        if at_leaf is not None and at_leaf >= self.machine.tree_size:
            raise ApplianceError("leaf_out_of_range", f"The tree has {self.machine.tree_size} leaves.")
        return self._read(key, linearizable)

    def _read(self, key: str, linearizable: bool) -> ReadAnswer:
        self._quorum(linearizable)
        head = self.store.head(key)
        if head is None or head.deleted:
            raise ApplianceError("not_found", f"The key {key!r} is absent.")
        leaf = self.store.leaf(head.leaf_index)
        assert leaf is not None
        assert leaf.value is not None
        return ReadAnswer(head, leaf.salt, leaf.value)

    async def scan(self, prefix: str, after: str, limit: int, *, linearizable: bool) -> ScanAnswer:
        self._quorum(linearizable)
        found = self.store.scan(prefix, after, limit + 1)
        return ScanAnswer(tuple(found[:limit]), found[limit - 1][0] if len(found) > limit else None)

    async def history(self, key: str, from_leaf: int | None, limit: int, *, linearizable: bool) -> HistoryAnswer:
        self._quorum(linearizable)
        head = self.store.head(key)
        if head is None:
            raise ApplianceError("not_found", f"The key {key!r} was never written.")
        leaves = []
        at: int | None = head.leaf_index
        if from_leaf is not None:
            start = self.store.leaf(from_leaf)
            if start is None or decode_leaf(start.leaf).key != key:
                raise ApplianceError("bad_request", "`from` is no leaf of this key.")
            at = from_leaf
        while at is not None and len(leaves) < limit:
            stored = self.store.leaf(at)
            assert stored is not None
            leaves.append(decode_leaf(stored.leaf))
            at = leaves[-1].prev_leaf_index
        return HistoryAnswer(tuple(leaves), at)

    async def settle(self) -> Path:
        raise AssertionError("the gateway never asks for it")

    def health(self) -> Health:
        index = self.machine.applied_index
        return Health(not self.unhealthy, self.unhealthy, 1, "leader", self.leader_id, 7, index, index, 0, ("lag",))

    def cluster(self) -> ClusterInfo:
        index = self.machine.applied_index
        me = MemberInfo(1, "9", "voter", "127.0.0.1:8001", "127.0.0.1:9001", True, True, True, index, 0, 0.0, "0.1.0")
        other = MemberInfo(2, "8", "voter", "h2:8002", "h2:9002", False, False, False, None, None, None, None)
        identity = Identity("ab" * 16, 1, 2**60 + 1)
        address = "127.0.0.1:8001" if self.leader_id else ""
        return ClusterInfo(
            identity,
            "0.1.0",
            "leader",
            7,
            self.leader_id,
            address,
            index,
            index,
            index,
            0,
            2,
            (me, other, *self.joined.values()),
            (format_verifier_key(LOG_KEY.verifier_key),),
        )

    def figures(self) -> Figures:
        root, state = self.machine.root().hex(), self.machine.state_hash.hex()
        return Figures(self.machine.key_count, 1_000_000, 4096, 8192, 0, 10, self.machine.tree_size, root, state)

    def _quorum(self, linearizable: bool) -> None:
        if self.fault is not None and linearizable:
            raise self.fault


class AuditStub:
    """An audit engine without SQL: answers what it was asked. With `hold` set it waits, and notes a cancellation."""

    def __init__(self) -> None:
        self.fault: Exception | None = None
        self.hold: asyncio.Event | None = None
        self.begun = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.rows = 1

    async def query(self, sql: str, params: list[Any] | dict[str, Any] | None, fmt: str, limit: int) -> AuditAnswer:
        self.begun.set()
        if self.fault is not None:
            raise self.fault
        if self.hold is not None:
            try:
                await self.hold.wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        if fmt == "json":
            columns, rows = ("sql", "params", "limit"), [[sql, params, limit]] * self.rows
            document = {"columns": columns, "rows": rows, "truncated": True}
            return AuditAnswer(columns, rows, True, "application/json", json.dumps(document).encode())
        return AuditAnswer(("sql",), [], False, f"application/x-{fmt}", b"as " + fmt.encode())


class LogLines:
    """Log events as they were told: (level, event, fields)."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, object]]] = []

    def debug(self, event: str, **fields: object) -> None:
        self.lines.append(("debug", event, fields))

    def info(self, event: str, **fields: object) -> None:
        self.lines.append(("info", event, fields))

    def warning(self, event: str, **fields: object) -> None:
        self.lines.append(("warning", event, fields))

    def error(self, event: str, **fields: object) -> None:
        self.lines.append(("error", event, fields))

    def of(self, event: str) -> list[dict[str, object]]:
        return [fields for _, name, fields in self.lines if name == event]


@dataclass
class SpanStub:
    """A span that tells how it ended."""

    name: str
    traceparent: str
    ended: list[str] = field(default_factory=list)

    def end(self, error: str = "") -> None:
        self.ended.append(error)


class TracerStub:
    """Traces sampled requests, and new ones while `sampling`."""

    def __init__(self) -> None:
        self.sampling = False
        self.spans: list[SpanStub] = []

    def root(self, name: str, **attributes: str | int) -> SpanStub | None:
        return self._span(name, "b" * 32) if self.sampling else None

    def start(self, name: str, traceparent: str, **attributes: str | int) -> SpanStub | None:
        return self._span(name, traceparent[3:35])

    def record(self, name: str, traceparent: str, start_us: int, end_us: int, **attributes: str | int) -> None:
        raise AssertionError("the gateway never records afterwards")

    def _span(self, name: str, trace_id: str) -> SpanStub:
        self.spans.append(SpanStub(name, f"00-{trace_id}-{len(self.spans) + 1:016x}-01"))
        return self.spans[-1]


class Clock:
    """The machine's clock, or one that stands still until it is moved."""

    def __init__(self, *, frozen: bool = False) -> None:
        self.at_s: float | None = 100.0 if frozen else None

    def now_us(self) -> int:
        return NOW_US

    def monotonic_s(self) -> float:
        return time.monotonic() if self.at_s is None else self.at_s
