"""Log lines: their shape, their sinks, and what must never be in them."""

from __future__ import annotations

import json
import logging
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from appliance import __version__
from appliance.adapters.telemetry.logs import LINE_BYTES_MAX, EcsLog, route_stdlib
from appliance.adapters.telemetry.metrics import Registry
from appliance.adapters.telemetry.redaction import REDACTED, redact_text, redact_value
from appliance.adapters.telemetry.sinks import STDOUT_BACKLOG_BYTES_MAX, FileSink
from appliance.tables.settings import LoggingSettings

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN_ID = "00f067aa0ba902b7"
KEY = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"


def lines_of(path: Path) -> list[dict[str, object]]:
    return [msgspec.json.decode(line) for line in path.read_bytes().splitlines()]


def value_of(registry: Registry, series: str) -> float:
    for line in registry.render("")[0].decode().splitlines():
        if line.startswith(series + " "):
            return float(line.rsplit(" ", 1)[1])
    raise AssertionError(f"no series {series}")


class Bench:
    """A log that writes to a file in a fresh directory and to a pipe in the place of standard output."""

    def __init__(self, root: Path, **settings: object) -> None:
        self.registry = Registry(7)
        self.read_fd, self.write_fd = os.pipe()
        os.set_blocking(self.read_fd, False)
        values = {"directory": str(root), "stdout": False, **settings}
        self.log = EcsLog(LoggingSettings(**values), 7, self.registry, stdout_fd=self.write_fd)  # type: ignore[arg-type]
        self.path = root / "scribe-node7.log"

    def stdout(self) -> bytes:
        out = b""
        while True:
            try:
                part = os.read(self.read_fd, 1 << 20)
            except BlockingIOError:
                return out
            out += part

    def close(self) -> None:
        self.log.close()
        os.close(self.read_fd)
        os.close(self.write_fd)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.close()


def test_a_line_has_the_names_of_ecs(bench: Bench) -> None:
    bench.log.info("peer.connected", peer=2, address="127.0.0.1:9002", traceparent=f"00-{TRACE_ID}-{SPAN_ID}-01")
    (line,) = lines_of(bench.path)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", str(line.pop("@timestamp")))
    assert line == {
        "log.level": "info",
        "message": "Node 2 is connected",
        "ecs.version": "8.17.0",
        "service.name": "scribe-ledger",
        "service.version": __version__,
        "service.node.name": "node7",
        "event.action": "peer.connected",
        "event.dataset": "scribe.peer",
        "scribe.peer": 2,
        "scribe.address": "127.0.0.1:9002",
        "trace.id": TRACE_ID,
        "span.id": SPAN_ID,
    }


def test_an_exception_becomes_type_message_and_stack(bench: Bench) -> None:
    try:
        raise ValueError("no such page")
    except ValueError as error:
        bench.log.error("http.error", method="GET", route="/kv", status=500, code="internal", error=error)
    (line,) = lines_of(bench.path)
    assert (line["error.type"], line["error.message"]) == ("ValueError", "no such page")
    assert "test_logs.py" in str(line["error.stack_trace"])
    assert "error" not in line


@pytest.mark.parametrize(
    ("value", "written"),
    [
        pytest.param(b"\x00\xff", "00ff", id="bytes as hex"),
        pytest.param({"b": {1}}, {"b": [1]}, id="sets as lists"),
        pytest.param(Path("/x"), "/x", id="others as text"),
        pytest.param(2**80, 2**80, id="an integer beyond 64 bits"),
        pytest.param("a\nb\x00\u2028", "a\nb\x00\u2028", id="control characters stay inside the line"),
        pytest.param("\udcff", "\udcff", id="a lone surrogate"),
        pytest.param(float("nan"), None, id="no number"),
    ],
)
def test_any_value_can_be_logged(bench: Bench, value: object, written: object) -> None:
    bench.log.info("node.stopping", node_id=7, reason=value)
    (raw,) = bench.path.read_bytes().splitlines()
    assert json.loads(raw)["scribe.reason"] == written


def test_an_event_that_the_table_lacks_and_missing_fields_do_not_raise(bench: Bench) -> None:
    bench.log.info("no.such_event", a=1)
    bench.log.info("peer.connected")
    unknown, missing = lines_of(bench.path)
    assert (unknown["message"], unknown["event.action"], unknown["scribe.a"]) == ("no.such_event", "no.such_event", 1)
    assert missing["message"] == "Node {peer} is connected"


def test_a_huge_field_is_cut(bench: Bench) -> None:
    bench.log.info("node.stopping", node_id=7, reason="x" * (LINE_BYTES_MAX + 1))
    (line,) = lines_of(bench.path)
    assert len(bench.path.read_bytes()) < LINE_BYTES_MAX
    assert str(line["scribe.reason"]).endswith("x...")


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_the_level_can_be_set_while_running(bench: Bench, level: str, expected: list[str]) -> None:
    bench.log.set_level(level)
    bench.log.debug("peer.message_dropped", peer=2)
    bench.log.info("node.stopped", node_id=7)
    bench.log.warning("peer.lost", peer=2, reason="gone")
    bench.log.error("node.failed", node_id=7, reason="x")
    assert [line["log.level"] for line in lines_of(bench.path)] == expected
    assert value_of(bench.registry, 'scribe_log_lines_total{level="error"}') == 1
    assert value_of(bench.registry, 'scribe_log_lines_total{level="debug"}') == (level == "debug")


def test_both_sinks_get_the_same_line(tmp_path: Path) -> None:
    bench = Bench(tmp_path, stdout=True)
    bench.log.info("node.stopped", node_id=7)
    assert bench.stdout() == bench.path.read_bytes() != b""
    bench.close()


def test_without_a_directory_lines_go_to_standard_output(tmp_path: Path) -> None:
    bench = Bench(tmp_path, directory="", stdout=False)
    bench.log.info("node.stopped", node_id=7)
    assert b'"node.stopped"' in bench.stdout()
    assert list(tmp_path.iterdir()) == []
    bench.close()


def test_rotation_keeps_every_line_and_so_many_files(tmp_path: Path) -> None:
    sink = FileSink(tmp_path / "log", "scribe-node7", size_bytes_max=100, keep_files=3)
    lines = [b"%02d" % number + b"x" * 37 + b"\n" for number in range(10)]  # two lines a file
    for line in lines:
        sink.write(line)
    rotated = sink.rotated()
    assert [path.read_bytes() for path in rotated] == [b"".join(lines[at : at + 2]) for at in (2, 4, 6)]
    assert sink.path.read_bytes() == b"".join(lines[8:])
    assert all(path.name.endswith(".log") for path in rotated)
    assert stat.S_IMODE(sink.path.stat().st_mode) & 0o027 == 0
    sink.close()


def test_a_file_that_exists_is_continued(tmp_path: Path) -> None:
    for number in (b"1\n", b"2\n"):
        sink = FileSink(tmp_path, "scribe-node7", 100, 1)
        sink.write(number)
        sink.close()
    assert (tmp_path / "scribe-node7.log").read_bytes() == b"1\n2\n"


def test_reopen_follows_the_name_after_something_else_renamed_the_file(bench: Bench) -> None:
    bench.log.info("node.starting", node_id=7, version="1")
    bench.path.rename(bench.path.with_suffix(".old"))
    bench.log.info("node.started", node_id=7)
    bench.log.reopen()
    bench.log.info("node.stopped", node_id=7)
    old = lines_of(bench.path.with_suffix(".old"))
    assert [line["event.action"] for line in old] == ["node.starting", "node.started"]
    assert [line["event.action"] for line in lines_of(bench.path)] == ["node.stopped"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="/dev/full stands for a full disk")
def test_a_full_disk_falls_back_to_standard_output_and_recovers(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.path.symlink_to("/dev/full")
    bench.log.info("node.starting", node_id=7, version="1")
    bench.log.info("node.started", node_id=7)
    said = [msgspec.json.decode(line) for line in bench.stdout().splitlines()]
    assert [line["event.action"] for line in said] == ["log.file_failed", "node.starting", "node.started"]
    assert "No space left" in said[0]["message"]
    assert value_of(bench.registry, 'scribe_log_write_errors_total{sink="file"}') == 2
    bench.path.unlink()
    bench.log.reopen()
    bench.log.info("node.stopped", node_id=7)
    assert [line["event.action"] for line in lines_of(bench.path)] == ["node.stopped"]
    assert bench.stdout() == b""


def test_a_directory_that_cannot_be_made_does_not_break_the_node(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    bench = Bench(tmp_path / "file")
    bench.log.reopen()
    bench.log.info("node.started", node_id=7)
    assert b"log.file_failed" in bench.stdout()
    bench.close()


def test_a_stalled_reader_of_standard_output_costs_lines_and_nothing_else(tmp_path: Path) -> None:
    bench = Bench(tmp_path, stdout=True)
    count = 2 * STDOUT_BACKLOG_BYTES_MAX // 1000
    for number in range(count):
        bench.log.info("node.stopping", node_id=number, reason="x" * 1000)
    assert len(lines_of(bench.path)) == count
    lost = value_of(bench.registry, 'scribe_log_write_errors_total{sink="stdout"}')
    assert 0 < lost < count
    taken = bench.stdout()
    while True:  # the backlog goes out with later lines
        bench.log.info("node.stopped", node_id=7)
        part = bench.stdout()
        taken += part
        if part.count(b"\n") == 1:
            break
    numbers = [msgspec.json.decode(line)["scribe.node_id"] for line in taken.splitlines() if b"node.stopping" in line]
    assert numbers == list(range(count - int(lost)))
    bench.close()


@pytest.mark.parametrize(
    "name", ["api_key", "Authorization", "X-API-Key", "password", "cluster_secret", "cookie", "private_key", "token"]
)
def test_no_secret_field_is_written(bench: Bench, name: str) -> None:
    bench.log.info("node.stopping", reason="x", **{name: KEY})
    bench.log.info("node.stopping", reason={"headers": {name: KEY}, "list": [{name: KEY}]})
    bench.log.info("node.stopping", reason=[(name, KEY), (name.encode(), KEY.encode())])
    text = bench.path.read_text()
    assert KEY not in text
    assert text.count(REDACTED) == 9  # twice in what the message quotes too


@pytest.mark.parametrize(
    "text",
    [
        f"Authorization: Bearer {KEY}",
        f"got header authorization='Bearer {KEY}'",
        f'{{"api_key": "{KEY}"}}',
        f"X-API-Key={KEY}&x=1",
        f"APPLIANCE_API_KEY={KEY}",
        f"bearer {KEY}",
        f"http://elastic:{KEY}@127.0.0.1:9200/",
        f"password: '{KEY}'",
        f"cluster secret is secret={KEY}",
    ],
)
def test_no_secret_is_written_from_free_text(bench: Bench, text: str) -> None:
    assert KEY not in redact_text(text)
    bench.log.warning("peer.lost", peer=1, reason=text)
    bench.log.error("node.task_failed", task="x", error=RuntimeError(text))
    bench.log.python(logging.LogRecord("uvicorn", logging.WARNING, "f", 1, "%s", (text,), None))
    assert KEY not in bench.path.read_text()


def test_harmless_text_is_left_alone() -> None:
    text = "key deb/trixie/0ad has version 3: token bucket of secretary is at 10.0.0.1:9001 (tokens 5)"
    assert redact_text(text) == text
    assert redact_value({"key": "a", "n": [1, ("a", 2)]}) == {"key": "a", "n": [1, ["a", 2]]}


@pytest.fixture
def root_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    server = logging.getLogger("uvicorn.error")
    server_level = server.level  # a server that another test of this process started may have raised it
    server.setLevel(logging.NOTSET)
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    server.setLevel(server_level)
    logging.captureWarnings(False)


@pytest.mark.usefixtures("root_logging")
def test_lines_of_libraries_come_in_the_same_form(bench: Bench) -> None:
    own = logging.getLogger("uvicorn.error")
    own.addHandler(logging.StreamHandler())
    route_stdlib(bench.log)
    own.info("Started server process [%d]", 7)
    try:
        raise OSError("broken")
    except OSError:
        logging.getLogger("litestar").exception("Uncaught")
    logging.getLogger("asyncio").info("too quiet to be written")
    logging.getLogger("some.library").warning("%d is not a number", "x")
    first, second, third = lines_of(bench.path)
    assert (first["log.level"], first["message"]) == ("info", "Started server process [7]")
    assert (first["event.action"], first["scribe.logger"]) == ("log.python", "uvicorn.error")
    assert (second["log.level"], second["error.type"], second["error.message"]) == ("error", "OSError", "broken")
    assert third["message"] == "%d is not a number"
