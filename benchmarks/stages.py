"""Where a sampled stack belongs: one table from source files and functions to the stages of a write's way."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

HTTP: Final = "socket and HTTP parsing"
ROUTE: Final = "gate and route"
SERVICE: Final = "service"
RAFT: Final = "raft core and driver"
PEERS: Final = "peers"
APPLY: Final = "apply"
STORE: Final = "ledger store"
WRITER: Final = "log writer"
KEEPER: Final = "ledger keeper"
METRICS: Final = "metrics and logs"
LOOP: Final = "event loop itself"
OTHER: Final = "other"
STAGES: Final = (HTTP, ROUTE, SERVICE, RAFT, PEERS, APPLY, STORE, WRITER, KEEPER, METRICS, LOOP, OTHER)

_TABLE: Final = (
    # file (a pattern over its end), function (a pattern, all when empty), stage
    (r"appliance/http/(protocol|direct|server)\.py", "", HTTP),
    (r"(uvicorn|httptools|h11)/.*", "", HTTP),
    (r"appliance/http/meter\.py", "", METRICS),
    (r"appliance/http/.*", "", ROUTE),
    (r"appliance/admission/.*", "", ROUTE),
    (r"(litestar|anyio)/.*", "", ROUTE),
    (r"appliance/node/(service|reading|leadership|salts|view|api)\.py", "", SERVICE),
    (r"appliance/node/(driver|driver_settings|waiting|compaction|handover|bootstrap)\.py", "", RAFT),
    (r"appliance/raft/.*", "", RAFT),
    (r"appliance/node/(peer_desk|snapshots)\.py", "", PEERS),
    (r"appliance/adapters/peer_.*", "", PEERS),
    (r"appliance/node/(applier|apply_queue)\.py", "", APPLY),
    (r"appliance/ledger/(machine|memory|merkle|state|encoding)\.py", "", APPLY),
    (r"appliance/adapters/ledger_.*", "", STORE),
    (r"appliance/node/log_writer\.py", "", WRITER),
    (r"appliance/adapters/(log_store|wal_scan)\.py", "", WRITER),
    (r"appliance/node/keeper\.py", "", KEEPER),
    (r"appliance/node/(sampler|traces)\.py", "", METRICS),
    (r"appliance/adapters/telemetry/.*", "", METRICS),
    (r"(prometheus_client|opentelemetry|logging)/.*", "", METRICS),
)
_WAITS: Final = (  # innermost frames of threads that wait for work; a thread about to wake may be sampled there
    (r"concurrent/futures/thread\.py", "_worker"),
    (r"threading\.py", r"(Condition|Event)\.wait"),
    (r"queue\.py", r"(Queue|SimpleQueue)\.get"),
)
_LOOP_FILES: Final = re.compile(r"(^|/)(uvloop|asyncio)/")
_COMPILED: Final = [(re.compile(rf"(^|/){file}$"), re.compile(name or ".*"), stage) for file, name, stage in _TABLE]


def patterns(start: str) -> list[re.Pattern[str]]:
    """The table's patterns of files that begin so."""
    return [compiled[0] for compiled, (file, _, _) in zip(_COMPILED, _TABLE, strict=True) if file.startswith(start)]


@dataclass(frozen=True)
class Frame:
    """One function on a stack."""

    function: str
    file: str

    def __str__(self) -> str:
        return f"{self.function} ({self.file})"


@dataclass(frozen=True)
class Stack:
    """One sampled stack, outermost frame first: the thread's name, its id in the kernel, how often it was seen."""

    thread: str
    thread_id: str
    frames: tuple[Frame, ...]
    count: int


def stage_of(frames: Sequence[Frame]) -> str:
    """The stage of the innermost frame that the table names; a frame that it does not name belongs to its caller."""
    for frame in reversed(frames):
        for file, function, stage in _COMPILED:
            if file.search(frame.file) and function.fullmatch(frame.function):
                return stage
    return LOOP if any(_LOOP_FILES.search(frame.file) for frame in frames) else OTHER


def waits(frames: Sequence[Frame]) -> bool:
    """Whether the innermost frame is one that waits for work."""
    return bool(frames) and any(
        re.search(rf"(^|/){file}$", frames[-1].file) and re.fullmatch(name, frames[-1].function)
        for file, name in _WAITS
    )


_THREAD: Final = re.compile(r"^thread \((?:0x)?([0-9A-Fa-f]+)\)(?:: (.+))?$")
_FRAME: Final = re.compile(r"^(.*) \((.*?)(?::\d+)?\)$")


def parse(text: str) -> list[Stack]:
    """Stacks of py-spy's raw format: one line each, frames by semicolon, the thread first, the count last. Those that
    wait for work are left out.

    Raises:
        ValueError: a line is not of this form.
    """
    stacks = []
    for line in text.splitlines():
        path, _, count = line.rpartition(" ")
        parts = path.split(";")
        thread = _THREAD.match(parts[0])
        if thread is None or not count.isdigit():
            raise ValueError(f"no stack of py-spy's raw format: {line!r}")
        found = (_FRAME.match(part) for part in parts[1:])
        frames = tuple(Frame(match[1], match[2]) for match in found if match is not None)
        if not waits(frames):
            stacks.append(Stack(thread[2] or thread[1], thread[1], frames, int(count)))
    return stacks


def by_stage(stacks: Iterable[Stack]) -> dict[str, Counter[str]]:
    """Samples by thread and stage."""
    counts: dict[str, Counter[str]] = {}
    for stack in stacks:
        counts.setdefault(stack.thread, Counter())[stage_of(stack.frames)] += stack.count
    return counts


def hottest(stacks: Iterable[Stack], most: int) -> list[tuple[str, Frame, str, int]]:
    """Thread, function, stage and samples of the functions that were innermost most often."""
    counts: Counter[tuple[str, Frame, str]] = Counter()
    for stack in stacks:
        if stack.frames:
            counts[stack.thread, stack.frames[-1], stage_of(stack.frames)] += stack.count
    return [(*key, count) for key, count in counts.most_common(most)]
