"""What the engine and a worker say to each other over the worker's standard input and output.

Each frame is a length (4 bytes, big endian) and msgpack (JSON for the task, whose integers know no bound). A worker
says `Ready`, gets one `Task`, answers with any number of `Progress`, then `Failed` or `Done`; after `Done` come
`body_bytes` bytes of the answer. The worker ends when its standard input does.
"""

from __future__ import annotations

from typing import Any, Final

from msgspec import Struct

FRAME_BYTES_MAX: Final = 4 * 1024 * 1024
LENGTH_BYTES: Final = 4
MEDIA_TYPES: Final = {
    "json": "application/json",
    "csv": "text/csv; charset=utf-8",
    "arrow": "application/vnd.apache.arrow.stream",
    "parquet": "application/vnd.apache.parquet",
}


class SegmentStamp(Struct, frozen=True, array_like=True):
    """A segment file whose digest was checked when it had this size and this time of change."""

    file: str
    size_bytes: int
    mtime_ns: int


class Task(Struct, frozen=True):
    """One query. Paths are absolute; `verified` are segments that need no reading to be trusted."""

    ledger_path: str
    audit_dir: str
    sql: str
    params: list[Any] | dict[str, Any] | None
    format: str
    limit: int
    memory_bytes: int
    answer_bytes_max: int
    verified: tuple[SegmentStamp, ...] = ()


class Ready(Struct, frozen=True, tag="ready"):
    """All is imported."""


class Progress(Struct, frozen=True, tag="progress"):
    """`phase` is `sealed` or `rebuilt` (a segment, with its rows and bytes) or `running` (the tables are there)."""

    phase: str
    segment: str = ""
    rows: int = 0
    size_bytes: int = 0


class Failed(Struct, frozen=True, tag="failed"):
    """The query's end, by an error of the table of errors."""

    code: str
    detail: str


class Done(Struct, frozen=True, tag="done"):
    """The answer; its body follows."""

    columns: tuple[str, ...]
    row_count: int
    truncated: bool
    body_bytes: int
    verified: tuple[SegmentStamp, ...]


Reply = Ready | Progress | Failed | Done
