"""Spans of sampled writes on their way through the cluster: propose, replicate, apply."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from appliance.node.ports import Clock, Tracer
from appliance.raft.messages import AnyMessage, AppendRequest, Entry

TRACED_MAX: Final = 1024  # sampled entries in flight; beyond it their later spans are left out


class WriteTraces:
    """Trace contexts of sampled entries that are on their way. Costs one look at an empty dict when none are."""

    def __init__(self, tracer: Tracer, clock: Clock, node_id: int) -> None:
        self._tracer = tracer
        self._clock = clock
        self._node_id = node_id
        self._traced: dict[int, tuple[str, int]] = {}  # raft index -> (traceparent, seen at, Unix us)

    def proposed(self, index: int, traceparent: str) -> None:
        """This leader proposed a sampled write at `index`."""
        if traceparent and len(self._traced) < TRACED_MAX:
            self._traced[index] = (traceparent, self._clock.now_us())

    def received(self, traces: Sequence[tuple[int, str]]) -> None:
        """A leader sent sampled entries."""
        for index, traceparent in traces:
            self.proposed(index, traceparent)

    def to_send(self, message: AnyMessage) -> Sequence[tuple[int, str]]:
        """Contexts that belong to the entries of a message."""
        if not self._traced or not isinstance(message, AppendRequest):
            return ()
        return [(e.index, self._traced[e.index][0]) for e in message.entries if e.index in self._traced]

    def saved(self, entries: Iterable[Entry]) -> None:
        """Entries are durable here: the replicate span ends."""
        if not self._traced:
            return
        for entry in entries:
            traced = self._traced.get(entry.index)
            if traced is not None:
                self._record("raft.replicate", *traced, entry.index)

    def applied(self, entry: Entry, started_us: int) -> None:
        """An entry was applied here: the apply span ends, and on the leader the propose span."""
        traced = self._traced.pop(entry.index, None)
        if traced is not None:
            self._record("raft.commit", *traced, entry.index)
            self._record("ledger.apply", traced[0], started_us, entry.index)

    def is_empty(self) -> bool:
        """Whether nothing sampled is on its way."""
        return not self._traced

    def _record(self, name: str, traceparent: str, start_us: int, index: int) -> None:
        now_us = self._clock.now_us()
        self._tracer.record(name, traceparent, start_us, now_us, raft_index=index, node_id=self._node_id)
