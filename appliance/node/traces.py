"""Spans of sampled writes on their way through the cluster: propose, replicate, apply."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from msgspec import Struct

from appliance.node.ports import Clock, Tracer
from appliance.raft.messages import AnyMessage, AppendRequest, Entry

TRACED_MAX: Final = 1024  # sampled entries in flight; beyond it their later spans are left out


class _Traced(Struct):
    """A sampled entry on its way."""

    traceparent: str
    seen_us: int
    proposed: bool  # here, or received from a leader
    saved: bool = False
    applied: bool = False


class WriteTraces:
    """Trace contexts of sampled entries that are on their way. Costs one look at an empty dict when none are.

    The leader records `raft.propose` (proposed to committed), each follower `raft.replicate` (received to durable),
    and every node `ledger.apply`.
    """

    def __init__(self, tracer: Tracer, clock: Clock, node_id: int) -> None:
        self._tracer = tracer
        self._clock = clock
        self._node_id = node_id
        self._traced: dict[int, _Traced] = {}  # by raft index

    def proposed(self, index: int, traceparent: str) -> None:
        """This leader proposed a write at `index`; an empty traceparent is one that is not sampled."""
        if traceparent:
            self._note(index, traceparent, proposed=True)

    def received(self, traces: Sequence[tuple[int, str]]) -> None:
        """A leader sent sampled entries."""
        for index, traceparent in traces:
            self._note(index, traceparent, proposed=False)

    def _note(self, index: int, traceparent: str, *, proposed: bool) -> None:
        while len(self._traced) >= TRACED_MAX:
            del self._traced[next(iter(self._traced))]
        self._traced[index] = _Traced(traceparent, self._clock.now_us(), proposed)

    def to_send(self, message: AnyMessage) -> Sequence[tuple[int, str]]:
        """Contexts that belong to the entries of a message."""
        if not self._traced or not isinstance(message, AppendRequest):
            return ()
        return [(e.index, self._traced[e.index].traceparent) for e in message.entries if e.index in self._traced]

    def saved(self, entries: Iterable[Entry]) -> None:
        """Entries are durable here."""
        if not self._traced:
            return
        for entry in entries:
            traced = self._traced.get(entry.index)
            if traced is not None:
                traced.saved = True
                if not traced.proposed:
                    self._record("raft.replicate", traced, traced.seen_us, entry.index)
                self._forget(entry.index, traced)

    def applied(self, entry: Entry, started_us: int) -> None:
        """An entry was applied here."""
        traced = self._traced.get(entry.index)
        if traced is not None:
            traced.applied = True
            if traced.proposed:
                self._record("raft.propose", traced, traced.seen_us, entry.index)
            self._record("ledger.apply", traced, started_us, entry.index)
            self._forget(entry.index, traced)

    def is_empty(self) -> bool:
        """Whether nothing sampled is on its way."""
        return not self._traced

    def _forget(self, index: int, traced: _Traced) -> None:
        if traced.saved and traced.applied:
            del self._traced[index]

    def _record(self, name: str, traced: _Traced, start_us: int, index: int) -> None:
        end_us = self._clock.now_us()
        self._tracer.record(name, traced.traceparent, start_us, end_us, raft_index=index, node_id=self._node_id)
