"""Log files of local nodes: their last lines, and new ones as they come."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, TextIO

import msgspec

from appliance.cli.output import emit_json
from appliance.cli.shapes import LogLine

TAIL_BYTES_MAX: Final = 4 * 1024 * 1024
FOLLOW_POLL_S: Final = 0.25
_SHOWN_APART: Final = ("@timestamp", "log.level", "message", "ecs.version", "service.", "event.dataset")


@dataclass(frozen=True, slots=True)
class Source:
    """A file of a node: `log` (ECS JSON lines) or `console` (what the process printed, a crash for example)."""

    node: str
    kind: str
    path: Path


def sources_of(directory: Path, nodes: Sequence[str], console_name: str) -> list[Source]:
    """The files of these nodes below a state directory; they need not exist yet."""
    found: list[Source] = []
    for node in nodes:
        found.append(Source(node, "console", directory / node / console_name))
        found += [Source(node, "log", path) for path in sorted((directory / node / "log").glob("*.log"))]
    return found


def show_last(sources: Sequence[Source], count: int, *, as_json: bool, stream: TextIO | None = None) -> None:
    """Print the last `count` lines of each node, in the order of their times where lines tell theirs.

    `stream` takes lines for people instead of standard output.
    """
    lines: list[LogLine] = []
    for node in dict.fromkeys(source.node for source in sources):
        own = [read_line(s, text) for s in sources if s.node == node for text in last_lines(s.path, count)]
        lines += _by_time(own)[-count:] if count else []
    for line in _by_time(lines):
        show(line, as_json=as_json, stream=stream)


def follow(sources: Sequence[Source], *, as_json: bool) -> None:
    """Print what is added to the files from now on, through rotation, until interrupted."""
    tails = [_tail(source) for source in sources]
    while True:
        lines = [line for tail in tails for line in next(tail)]
        for line in _by_time(lines):
            show(line, as_json=as_json)
        if not lines:
            time.sleep(FOLLOW_POLL_S)


def read_line(source: Source, text: str) -> LogLine:
    """Read one line; `record` is its JSON object, or None when it is none."""
    try:
        record = msgspec.json.decode(text)
    except msgspec.MsgspecError:
        record = None
    return LogLine(node=source.node, source=source.kind, text=text, record=record if isinstance(record, dict) else None)


def show(line: LogLine, *, as_json: bool, stream: TextIO | None = None) -> None:
    """Print one line: for people time, level, message and fields; for programs the `LogLine`."""
    if as_json:
        emit_json(line)
        return
    record = line.record
    if record is None:
        print(f"{line.node} | {line.text}", flush=True, file=stream)
        return
    told = [(name, value) for name, value in _flat(record) if not name.startswith(_SHOWN_APART)]
    fields = " ".join(f"{name.removeprefix('scribe.')}={value}" for name, value in told)
    level = dict(_flat(record)).get("log.level", "")
    head = f"{record.get('@timestamp', '')} {str(level).upper():7} {record.get('message', '')}"
    print(f"{line.node} | {head} {fields}".rstrip(), flush=True, file=stream)


def last_lines(path: Path, count: int) -> list[str]:
    """The last lines of a text file, from its last 4 MiB; none when it is not there."""
    try:
        with path.open("rb") as file:
            size_bytes = file.seek(0, 2)
            file.seek(max(size_bytes - TAIL_BYTES_MAX, 0))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    return text.splitlines()[-count:] if count else []


def _tail(source: Source) -> Iterator[list[LogLine]]:
    """Yield what was added to a file since the last time, complete lines only; a new file is read from its start."""
    file = _open(source.path)
    if file is not None:
        file.seek(0, 2)
    rest = b""
    while True:
        added = file.read() if file is not None else b""
        if not added and _replaced(source.path, file):
            if file is not None:
                file.close()
            file, rest = _open(source.path), b""
            added = file.read() if file is not None else b""
        whole, newline, rest = (rest + added).rpartition(b"\n")
        texts = whole.decode("utf-8", "replace").split("\n") if newline else []
        yield [read_line(source, text) for text in texts]


def _open(path: Path) -> BinaryIO | None:
    try:
        return path.open("rb")
    except OSError:
        return None


def _replaced(path: Path, file: BinaryIO | None) -> bool:
    try:
        now = path.stat()
    except OSError:
        return False
    if file is None:
        return True
    held = os.fstat(file.fileno())
    return (now.st_ino, now.st_dev) != (held.st_ino, held.st_dev) or now.st_size < file.tell()


def _by_time(lines: list[LogLine]) -> list[LogLine]:
    """Sort by `@timestamp`; a line that has none stays behind the one before it in the same file."""
    keys: list[str] = []
    for line in lines:
        stamp = str(line.record.get("@timestamp", "")) if line.record else ""
        keys.append(stamp or (keys[-1] if keys else ""))
    return [line for _, line in sorted(zip(keys, lines, strict=True), key=lambda pair: pair[0])]


def _flat(record: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for name, value in record.items():
        if isinstance(value, dict):
            pairs += _flat(value, f"{prefix}{name}.")
        else:
            pairs.append((prefix + name, value))
    return pairs
