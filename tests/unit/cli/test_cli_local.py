"""What is checked before local nodes are started, and what their log files show."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path

import pytest

from appliance.cli import preflight, stack
from appliance.cli.exits import CliError, Exit
from appliance.cli.logs import last_lines, show_last, sources_of
from appliance.cli.node_main import run_from_file


def test_taken_ports_are_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(CliError) as caught:
            preflight.check_machine(tmp_path / "not" / "there", [port], other_ports="--base-port")
    assert caught.value.exit_code is Exit.NOT_READY
    assert str(port) in caught.value.message
    assert "--base-port" in caught.value.hint


@pytest.mark.parametrize("limit", ["DISK_BYTES_MIN", "MEMORY_BYTES_MIN"])
def test_too_little_room_is_told_with_figures(limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, limit, 2**60)
    with pytest.raises(CliError) as caught:
        preflight.check_machine(tmp_path, [], other_ports="")
    assert caught.value.exit_code is Exit.NOT_READY
    assert "GiB are needed" in caught.value.message


def test_a_machine_that_is_ready_passes(tmp_path: Path) -> None:
    preflight.check_machine(tmp_path, [], other_ports="")


def test_log_lines_of_nodes_are_merged_by_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {"node1": [1, 4], "node2": [2, 3]}
    for node, seconds in rows.items():
        (tmp_path / node / "log").mkdir(parents=True)
        lines = [
            json.dumps(
                {
                    "@timestamp": f"2026-11-23T00:00:0{s}Z",
                    "log.level": "info",
                    "message": f"m{s}",
                    "scribe": {"term": s},
                }
            )
            for s in seconds
        ]
        (tmp_path / node / "log" / "node.log").write_text("\n".join(lines) + "\n")
    (tmp_path / "node2" / "console.log").write_text("Traceback: boom\n")
    sources = sources_of(tmp_path, ["node1", "node2"], "console.log")
    show_last(sources, 10, as_json=False)
    shown = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0] for line in shown if " m" in line] == ["node1", "node2", "node2", "node1"]
    assert "node1 | 2026-11-23T00:00:01Z INFO    m1 term=1" in shown
    assert any("boom" in line for line in shown)


def test_the_last_lines_of_a_missing_file_are_none(tmp_path: Path) -> None:
    assert last_lines(tmp_path / "none", 5) == []
    (tmp_path / "some").write_text("1\n2\n3\n")
    assert last_lines(tmp_path / "some", 2) == ["2", "3"]
    assert last_lines(tmp_path / "some", 0) == []


def test_a_bad_configuration_ends_scribe_node_with_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config.toml"
    config.write_text("[node]\nid = 1\n[storage]\nmax_cash_size = 5\n")
    assert run_from_file(config, validate=True) == Exit.USAGE
    told = capsys.readouterr().err
    assert str(config) in told
    assert "max_cash_size" in told
    assert run_from_file(tmp_path / "none.toml", validate=False) == Exit.USAGE


def test_the_stacks_ports_are_those_of_compose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is checked before `up` is what compose.yaml publishes, name by name and default by default."""
    for name in ("NODE1_PORT", "NODE2_PORT", "NODE3_PORT", *stack._PORTS, "GRAFANA_PORT", "COMPOSE_PROFILES"):
        monkeypatch.delenv(name, raising=False)
    text = stack.COMPOSE_FILE.read_text(encoding="utf-8")
    published = {int(port) for port in re.findall(r"127\.0\.0\.1:\$\{[A-Z0-9_]+:-(\d+)\}:", text)}
    assert set(stack._ports(tmp_path)) == published
    monkeypatch.setenv("COMPOSE_PROFILES", "")
    monkeypatch.setenv("NODE1_PORT", "18001")
    assert set(stack._ports(tmp_path)) == published - {3000, 8001} | {18001}
    monkeypatch.setenv("NODE1_PORT", "all")
    with pytest.raises(CliError, match="NODE1_PORT=all"):
        stack._ports(tmp_path)
