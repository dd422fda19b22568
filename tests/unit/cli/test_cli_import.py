"""`kv import` as a program against stand-in nodes: every record once, whatever the nodes do."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from cli_standin import API_KEY, Ledger, Node
from typer.testing import CliRunner, Result

from appliance.cli.exits import Exit
from appliance.cli.main import app

StartNode = Callable[..., Node]


def run(nodes: Sequence[Node], *words: str, stdin: bytes = b"") -> Result:
    url = ",".join(node.url for node in nodes)
    return CliRunner().invoke(app, ["--url", url, "--api-key", API_KEY, "-o", "json", *words], input=stdin)


def write_records(path: Path, count: int, *, changed: str = "") -> dict[str, bytes]:
    records = {f"key/{n:05}": f"value {n}{changed}".encode() for n in range(count)}
    path.write_text("".join(json.dumps({"key": k, "value": v.decode()}) + "\n" for k, v in records.items()))
    return records


def test_under_random_faults_every_record_is_written_once(
    start_node: StartNode, ledger: Ledger, tmp_path: Path
) -> None:
    """Each request meets a fault with a chance of two in five, among them those whose outcome a client cannot know."""
    chance = random.Random(20261123)
    faults = (
        "cut-before",
        "cut-after",
        "504",
        "no_leader:0.01",
        "not_committed:0.01",
        "stranger-503",
        "overloaded:0.01",
    )

    def choose() -> str:
        return chance.choice(faults) if chance.random() < 0.4 else "ok"

    nodes = [start_node(choose=choose) for _ in range(3)]
    records = write_records(tmp_path / "in.ndjson", 600)
    acknowledged = tmp_path / "ack.ndjson"
    result = run(
        nodes, "kv", "import", str(tmp_path / "in.ndjson"), "--batch", "10", "--acknowledged", str(acknowledged)
    )
    assert result.exit_code == Exit.OK, result.stderr
    summary = json.loads(result.stdout)
    assert (summary["acknowledged"], summary["failed"], summary["unknown"], summary["complete"]) == (600, 0, 0, True)
    assert summary["replayed"] > 0
    assert ledger.current() == records
    assert set(Counter(key for key, _ in ledger.leaves).values()) == {1}
    rows = [json.loads(line) for line in acknowledged.read_text().splitlines()]
    assert {row["line"] for row in rows} == set(range(1, 601))
    assert all(ledger.leaves[row["leaf_index"]][0] == row["key"] for row in rows)


def test_an_import_that_stopped_goes_on_with_its_id(start_node: StartNode, ledger: Ledger, tmp_path: Path) -> None:
    records = write_records(tmp_path / "in.ndjson", 100)
    failing = start_node("ok", "ok", "ok", "504", always="no_quorum:0.05")
    words = (
        "kv",
        "import",
        str(tmp_path / "in.ndjson"),
        "--batch",
        "10",
        "--concurrency",
        "1",
        "--import-id",
        "nightly",
    )
    first = run([failing], *words, "--deadline", "3")
    stopped = json.loads(first.stdout)
    # The fourth batch was carried out and then answered 504: its outcome stays unknown
    assert first.exit_code == Exit.OUTCOME_UNKNOWN
    assert (stopped["acknowledged"], stopped["unknown"], stopped["complete"]) == (30, 10, False)
    assert "--import-id nightly" in json.loads(first.stderr.splitlines()[-1])["error"]["hint"]
    assert len(ledger.leaves) == 40
    second = run([start_node()], *words)
    assert second.exit_code == Exit.OK
    assert json.loads(second.stdout)["replayed"] == 40
    assert ledger.current() == records
    assert len(ledger.leaves) == 100


def test_without_an_id_an_import_writes_again(start_node: StartNode, ledger: Ledger, tmp_path: Path) -> None:
    write_records(tmp_path / "in.ndjson", 5)
    node = start_node()
    for _ in range(2):
        assert run([node], "kv", "import", str(tmp_path / "in.ndjson")).exit_code == Exit.OK
    assert set(ledger.versions.values()) == {2}


def test_the_id_of_another_file_is_refused_and_writes_nothing(
    start_node: StartNode, ledger: Ledger, tmp_path: Path
) -> None:
    node = start_node()
    words = ("kv", "import", str(tmp_path / "in.ndjson"), "--import-id", "x")
    write_records(tmp_path / "in.ndjson", 5)
    assert run([node], *words).exit_code == Exit.OK
    write_records(tmp_path / "in.ndjson", 5, changed="!")
    result = run([node], *words)
    assert result.exit_code == Exit.PARTIAL
    assert {error["code"] for error in json.loads(result.stdout)["errors"]} == {"idempotency_mismatch"}
    assert len(ledger.leaves) == 5


def test_bad_lines_are_listed_and_the_others_written(start_node: StartNode, ledger: Ledger, tmp_path: Path) -> None:
    """Line 2 is no JSON; line 4 is refused by the node, and so the batch as a whole: the rest goes line by line."""
    source = '{"key":"a","value":"1"}\nnonsense\n{"key":"b","value":{"x": 1}}\n{"key":"c","value":"123456"}\n'
    node = start_node(value_bytes_max=5)
    source = source.replace('{"x": 1}', "[1]")
    (tmp_path / "in.ndjson").write_text(source)
    result = run([node], "kv", "import", str(tmp_path / "in.ndjson"))
    assert result.exit_code == Exit.PARTIAL
    summary = json.loads(result.stdout)
    assert [(e["line"], e["key"], e["code"]) for e in summary["errors"]] == [
        (2, None, "bad_line"),
        (4, "c", "too_large"),
    ]
    assert (summary["acknowledged"], summary["failed"], summary["complete"]) == (2, 2, True)
    assert ledger.current() == {"a": b"1", "b": b"[1]"}


def test_standard_input_is_read_and_a_prefix_added(start_node: StartNode, ledger: Ledger) -> None:
    result = run([start_node()], "kv", "import", "-", "--prefix", "deb/", stdin=b'{"key":"a","value":"1"}\n')
    assert result.exit_code == Exit.OK
    assert ledger.current() == {"deb/a": b"1"}


def test_records_of_one_key_keep_their_order(start_node: StartNode, ledger: Ledger, tmp_path: Path) -> None:
    rows = [{"key": f"k{n % 3}", "value": str(n)} for n in range(120)]
    (tmp_path / "in.ndjson").write_text("".join(json.dumps(row) + "\n" for row in rows))
    chance = random.Random(5)
    node = start_node(choose=lambda: chance.choice(["ok", "ok", "no_leader:0.01", "cut-after"]))
    result = run([node], "kv", "import", str(tmp_path / "in.ndjson"), "--concurrency", "16", "--batch", "3")
    assert result.exit_code == Exit.OK
    for key in ("k0", "k1", "k2"):
        assert [v for k, v in ledger.leaves if k == key] == [r["value"].encode() for r in rows if r["key"] == key]


def test_a_wrong_api_key_stops_the_import_at_once(start_node: StartNode, ledger: Ledger, tmp_path: Path) -> None:
    write_records(tmp_path / "in.ndjson", 1000)
    node = start_node(always="unauthenticated")
    result = run([node], "kv", "import", str(tmp_path / "in.ndjson"), "--batch", "10")
    assert result.exit_code == Exit.AUTH
    assert len(node.requests) < 20
    assert ledger.leaves == []


def test_a_file_that_is_not_there_is_told(start_node: StartNode, tmp_path: Path) -> None:
    assert run([start_node()], "kv", "import", str(tmp_path / "none")).exit_code == Exit.NOT_FOUND


def test_an_export_is_imported_as_the_same_bytes(start_node: StartNode, ledger: Ledger, tmp_path: Path) -> None:
    values = {"a": b"text", "b": b'{"x": 1.10}', "c": b"\xff\x00", "d": "grü".encode(), "e": b""}
    ledger.apply(list(values.items()), None, "")
    node = start_node()
    out = tmp_path / "out.ndjson"
    result = run([node], "kv", "export", str(out), "--concurrency", "2")
    assert json.loads(result.stdout)["records"] == 5
    assert [json.loads(line)["key"] for line in out.read_text().splitlines()] == list(values)
    again = Ledger()
    other = Node(again)
    try:
        assert run([other], "kv", "import", str(out)).exit_code == Exit.OK
    finally:
        other.close()
    assert again.current() == values


def test_an_export_does_not_replace_a_file_unasked(start_node: StartNode, tmp_path: Path) -> None:
    out = tmp_path / "out.ndjson"
    out.write_text("mine")
    assert run([start_node()], "kv", "export", str(out)).exit_code == Exit.CONFLICT
    assert out.read_text() == "mine"
    assert run([start_node()], "kv", "export", str(out), "--force").exit_code == Exit.OK


@pytest.mark.parametrize("import_id", ["x" * 65, "with space", "grü"])
def test_an_import_id_that_cannot_be_one_is_refused(import_id: str, start_node: StartNode, tmp_path: Path) -> None:
    write_records(tmp_path / "in.ndjson", 1)
    result = run([start_node()], "kv", "import", str(tmp_path / "in.ndjson"), "--import-id", import_id)
    assert result.exit_code == Exit.USAGE


def test_ctrl_c_ends_it_with_counts_and_the_way_to_go_on(start_node: StartNode, tmp_path: Path) -> None:
    """As a real process, because the signal has to reach the event loop."""
    write_records(tmp_path / "in.ndjson", 100)
    node = start_node("ok", always="no_leader:0.1")
    code = "from appliance.cli.main import run; run()"
    words = ["kv", "import", str(tmp_path / "in.ndjson"), "--batch", "10", "--url", node.url, "-o", "json"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words, "--api-key", API_KEY],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
    )
    deadline_s = time.monotonic() + 20.0
    while len(node.requests) < 5:
        assert time.monotonic() < deadline_s
        time.sleep(0.02)  # the requests come from another process
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == Exit.INTERRUPTED, err.decode()
    summary = json.loads(out)
    assert (summary["acknowledged"], summary["complete"]) == (10, False)
    assert summary["unknown"] > 0
    assert f"--import-id {summary['import_id']}" in json.loads(err.splitlines()[-1])["error"]["hint"]
    assert b"Traceback" not in err
