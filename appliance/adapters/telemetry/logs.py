"""Structured logs: one JSON object a line with the names of the Elastic Common Schema (ECS)."""

from __future__ import annotations

import json
import logging
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import orjson

from appliance import __version__
from appliance.adapters.telemetry.redaction import REDACTED, SECRET_NAMES, is_secret, redact_text, redact_value
from appliance.adapters.telemetry.sinks import FileSink, StdoutSink
from appliance.node.ports import Instruments
from appliance.tables.events import EVENTS
from appliance.tables.settings import LoggingSettings

ECS_VERSION: Final = "8.17.0"
SERVICE_NAME: Final = "scribe-ledger"
LINE_BYTES_MAX: Final = 256 * 1024
_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_PYTHON_LEVELS: Final = (("error", logging.ERROR), ("warning", logging.WARNING), ("info", logging.INFO))
_RETRY_S: Final = 5.0  # after a failure the file is left alone for so long
_READ_BY_PEOPLE: Final = ("warning", "error")  # rare, and likely to quote what came from outside
_SCALARS: Final = (str, int, float, bool, type(None))
_CONTAINERS: Final = (Mapping, list, tuple, set, frozenset)


class EcsLog:
    """Implements `appliance.node.ports.Log`; may be called from any thread and never raises.

    Args:
        settings: `[logging]`.
        node_id: for `service.node.name` and the file's name.
        instruments: counts lines and failures of sinks.
        stdout_fd: descriptor of standard output.
    """

    def __init__(self, settings: LoggingSettings, node_id: int, instruments: Instruments, stdout_fd: int = 1) -> None:
        self._threshold = _LEVELS[settings.level]
        self._lock = threading.Lock()
        self._static = {
            "ecs.version": ECS_VERSION,
            "service.name": SERVICE_NAME,
            "service.version": __version__,
            "service.node.name": f"node{node_id}",
        }
        self._lines = {level: instruments.counter("scribe_log_lines_total", level=level) for level in _LEVELS}
        self._failures = {
            sink: instruments.counter("scribe_log_write_errors_total", sink=sink) for sink in ("file", "stdout")
        }
        self._file = (
            FileSink(Path(settings.directory), f"scribe-node{node_id}", settings.max_size, settings.keep_files)
            if settings.directory
            else None
        )
        self._stdout = StdoutSink(stdout_fd)
        self._stdout_on = settings.stdout or self._file is None
        self._file_rests_until_s = 0.0
        self._file_failing = False
        self._second = (-1, "")

    def debug(self, event: str, **fields: object) -> None:
        """Write at level debug."""
        if self._threshold <= 10:
            self._emit("debug", event, fields)

    def info(self, event: str, **fields: object) -> None:
        """Write at level info."""
        if self._threshold <= 20:
            self._emit("info", event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """Write at level warning."""
        if self._threshold <= 30:
            self._emit("warning", event, fields)

    def error(self, event: str, **fields: object) -> None:
        """Write at level error."""
        self._emit("error", event, fields)

    def set_level(self, level: str) -> None:
        """Write nothing below this level (debug, info, warning, error) from now on. `KeyError` for another name."""
        self._threshold = _LEVELS[level]

    def reopen(self) -> None:
        """Open the log file anew (SIGHUP, after something else renamed it). A failure is counted, not raised."""
        with self._lock:
            if self._file is None:
                return
            self._file_rests_until_s = 0.0
            try:
                self._file.reopen()
            except OSError as error:
                self._file_failed(error)

    def close(self) -> None:
        """Release the sinks. A line written afterwards opens the file again."""
        with self._lock:
            self._stdout.close()
            if self._file is not None:
                self._file.close()

    def python(self, record: logging.LogRecord) -> None:
        """Write a record of the standard library's `logging` as event `log.python`."""
        level = next((name for name, least in _PYTHON_LEVELS if record.levelno >= least), "debug")
        if self._threshold > _LEVELS[level]:
            return
        try:
            text = record.getMessage()
        except Exception:  # the arguments do not fit the format
            text = str(record.msg)
        fields: dict[str, object] = {"text": redact_text(text), "logger": record.name}
        if record.exc_info and record.exc_info[1] is not None:
            fields["error"] = record.exc_info[1]
        self._emit(level, "log.python", fields)

    def _emit(self, level: str, event: str, fields: dict[str, object]) -> None:
        line = self._render(level, event, fields)
        self._lines[level].inc()
        with self._lock:
            taken = self._file is not None and self._write_file(line)
            if self._stdout_on or not taken:
                try:
                    self._stdout.write(line)
                except OSError:
                    self._failures["stdout"].inc()

    def _render(self, level: str, event: str, fields: dict[str, object]) -> bytes:
        strict = level in _READ_BY_PEOPLE
        clean = {name: _clean(name, value, strict) for name, value in fields.items()}
        document: dict[str, object] = {
            "@timestamp": self._now(),
            "log.level": level,
            "message": _message(event, clean),
            **self._static,
            "event.action": event,
            "event.dataset": "scribe." + event.partition(".")[0],
        }
        for name, value in clean.items():
            if name in _ECS_FIELDS:
                _ECS_FIELDS[name](document, value)
            else:
                document["scribe." + name] = value
        try:
            line = orjson.dumps(document, default=_plain, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS)
        except TypeError:  # a lone surrogate, an integer beyond 64 bits
            line = json.dumps(document, default=_plain).encode() + b"\n"
        if len(line) > LINE_BYTES_MAX:
            document = {name: _cut(value) for name, value in document.items()}
            line = json.dumps(document, default=_plain).encode() + b"\n"
        return line

    def _now(self) -> str:
        now_ns = time.time_ns()
        second, rest_ns = divmod(now_ns, 1_000_000_000)
        known, text = self._second
        if second != known:
            text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._second = (second, text)
        return f"{text}.{rest_ns // 1_000_000:03d}Z"

    def _write_file(self, line: bytes) -> bool:
        assert self._file is not None
        if self._file_rests_until_s and time.monotonic() < self._file_rests_until_s:
            self._failures["file"].inc()
            return False
        try:
            self._file.write(line)
        except OSError as error:
            self._file_failed(error)
            return False
        self._file_rests_until_s = 0.0
        self._file_failing = False
        return True

    def _file_failed(self, error: OSError) -> None:
        """Count it, leave the file alone for a while, and say so once on standard output."""
        assert self._file is not None
        self._failures["file"].inc()
        self._file_rests_until_s = time.monotonic() + _RETRY_S
        if self._file_failing:
            return
        self._file_failing = True
        line = self._render(
            "warning", "log.file_failed", {"path": str(self._file.path), "reason": error.strerror or str(error)}
        )
        try:
            self._stdout.write(line)
        except OSError:
            self._failures["stdout"].inc()


class _Values(dict[str, object]):
    """Values for a message template: a field that was not given shows as its name."""

    def __missing__(self, name: str) -> str:
        return "{" + name + "}"


def _message(event: str, fields: Mapping[str, object]) -> str:
    """What a person reads. An event that the table lacks is written with its name: a test finds such calls."""
    row = EVENTS.get(event)
    if row is None:
        return event
    if "{" not in row.message:
        return row.message
    return row.message.format_map(_Values(fields))


def _clean(name: str, value: object, strict: bool) -> object:
    """A field's value without secrets; with `strict` free text is searched for them too."""
    if name in SECRET_NAMES or is_secret(name):
        return REDACTED
    if isinstance(value, _SCALARS):
        return redact_text(value) if strict and isinstance(value, str) else value
    if isinstance(value, BaseException) and name == "error":
        return value
    if isinstance(value, _CONTAINERS):
        return redact_value(value)
    return _plain(value)


def _plain(value: object) -> object:
    """What the encoder does not know: bytes as hex, sets as lists, everything else as its text."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).hex()
    if isinstance(value, (set, frozenset)):
        return list(value)
    try:
        return redact_text(str(value))
    except Exception:
        return f"<{type(value).__name__}>"


def _cut(value: object) -> object:
    """At most 4 KiB of a field of a line that is too long."""
    if isinstance(value, (int, float, bool, type(None))):
        return value
    text = value if isinstance(value, str) else json.dumps(value, default=_plain)
    return text if len(text) <= 4096 else text[:4096] + "..."


def _put_trace(document: dict[str, object], value: object) -> None:
    parts = value.split("-") if isinstance(value, str) else []
    if len(parts) == 4:
        document["trace.id"] = parts[1]
        document["span.id"] = parts[2]


def _put_request_id(document: dict[str, object], value: object) -> None:
    document["http.request.id"] = value


def _put_error(document: dict[str, object], value: object) -> None:
    if isinstance(value, BaseException):
        document["error.type"] = type(value).__qualname__
        document["error.message"] = redact_text(str(value))
        if value.__traceback__ is not None:
            document["error.stack_trace"] = redact_text("".join(traceback.format_exception(value)))
    else:
        document["error.message"] = redact_text(str(value))


_ECS_FIELDS = {"traceparent": _put_trace, "request_id": _put_request_id, "error": _put_error}


class _Bridge(logging.Handler):
    """Hands records of the standard library's `logging` to an `EcsLog`."""

    def __init__(self, log: EcsLog) -> None:
        super().__init__(logging.DEBUG)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log.python(record)


def route_stdlib(log: EcsLog) -> None:
    """Write everything that libraries say through `logging` as lines of this log, and nowhere else.

    Replaces the root's handlers and removes those of the loggers that exist (uvicorn's, for one): start uvicorn with
    `log_config=None`. Loggers below warning stay quiet except `uvicorn` and `appliance`; OpenTelemetry's exporter
    is silenced, because `tracing` reports its failures once.
    """
    root = logging.getLogger()
    root.handlers[:] = [_Bridge(log)]
    root.setLevel(logging.WARNING)
    for name in list(logging.root.manager.loggerDict):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    logging.getLogger("uvicorn").setLevel(logging.INFO)
    logging.getLogger("uvicorn.access").setLevel(logging.WARNING)
    for name in ("opentelemetry.exporter", "opentelemetry.sdk"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.captureWarnings(True)
