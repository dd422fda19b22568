"""The commands as people and programs use them: options anywhere, answers of a fixed shape, exit codes, help."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from cli_standin import API_KEY, Ledger, Node, refused_url
from typer.testing import CliRunner, Result

from appliance.cli import shapes
from appliance.cli.exits import EXIT_OF_ERROR, EXIT_OF_FINDING, MEANINGS, CliError, Exit
from appliance.cli.main import GLOBAL_OPTIONS, app, hoist
from appliance.cli.output import encode
from appliance.cli.reference import render_cli
from appliance.cli.session import Output, find_directory, open_session, parse_urls
from appliance.tables.errors import ERRORS

StartNode = Callable[..., Node]
SOURCES = sorted((Path(__file__).resolve().parents[3] / "appliance" / "cli").glob("*.py"))
HEALTH = {
    "status": "ok",
    "node_id": 1,
    "role": "leader",
    "leader_id": 1,
    "term": 3,
    "commit_index": 9,
    "applied_index": 9,
    "lag": 0,
    "alarms": [],
}


def figures(size: int, root: str) -> dict[str, object]:
    return {"storage": {"keys": 4}, "merkle": {"tree_size": size, "root_hash": root}}


def run(*words: str, stdin: bytes = b"") -> Result:
    return CliRunner(env={"APPLIANCE_API_KEY": API_KEY}).invoke(app, list(words), input=stdin)


def read(result: Result, shape: type[msgspec.Struct]) -> object:
    return msgspec.json.decode(result.stdout_bytes, type=shape, strict=True)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["kv", "get", "a", "--url", "u"], ["--url", "u", "kv", "get", "a"]),
        (["kv", "get", "a", "--output=json"], ["--output=json", "kv", "get", "a"]),
        (["-o", "json", "kv", "list"], ["-o", "json", "kv", "list"]),
        (["kv", "put", "a", "--", "--url"], ["kv", "put", "a", "--", "--url"]),
        (["kv", "get", "--url"], ["--url", "kv", "get"]),
    ],
)
def test_global_options_stand_anywhere(words: list[str], expected: list[str]) -> None:
    assert hoist(words) == expected


def test_the_global_options_are_those_that_are_hoisted() -> None:
    import typer

    names = {
        name
        for option in typer.main.get_command(app).params
        for name in option.opts
        if option.name not in ("version", "help", "install_completion", "show_completion")
    }
    assert names == GLOBAL_OPTIONS


def test_put_get_delete_answer_in_their_shapes(start_node: StartNode, ledger: Ledger) -> None:
    url = start_node().url
    written = read(run("kv", "put", "a/b", "grü", "--url", url, "-o", "json"), shapes.Written)
    assert isinstance(written, shapes.Written)
    assert (written.key, written.version, written.replayed, written.node) == ("a/b", 1, False, url)
    again = run(
        "kv", "put", "a/b", "grü", "--url", url, "-o", "json", "--idempotency-key", written.idempotency_key or ""
    )
    assert json.loads(again.stdout)["replayed"] is True
    assert ledger.leaves == [("a/b", "grü".encode())]
    value = read(run("kv", "get", "a/b", "--url", url, "-o", "json"), shapes.Value)
    assert value == shapes.Value(key="a/b", version=1, leaf_index=0, size=4, value="grü")
    assert run("kv", "get", "a/b", "--url", url).stdout_bytes == "grü".encode()
    listed = read(run("kv", "list", "--url", url, "-o", "json"), shapes.KeyList)
    assert isinstance(listed, shapes.KeyList)
    assert [row.key for row in listed.items] == ["a/b"]


def test_a_value_comes_from_a_file_or_standard_input(start_node: StartNode, ledger: Ledger, tmp_path: Path) -> None:
    url = start_node().url
    (tmp_path / "v").write_bytes(b"\x00\xff")
    assert run("kv", "put", "f", "--file", str(tmp_path / "v"), "--url", url).exit_code == 0
    assert run("kv", "put", "s", "-", "--url", url, stdin=b"piped\n").exit_code == 0
    assert ledger.current() == {"f": b"\x00\xff", "s": b"piped\n"}
    out = tmp_path / "out"
    assert run("kv", "get", "f", "--file", str(out), "--url", url).exit_code == 0
    assert out.read_bytes() == b"\x00\xff"
    shown = read(run("kv", "get", "f", "--url", url, "-o", "json"), shapes.Value)
    assert isinstance(shown, shapes.Value)
    assert (shown.value, shown.value_base64) == (msgspec.UNSET, "AP8=")


NOT_UTF8 = "\udcff"  # what Python makes of the byte 0xff of a command line


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["kv", "list", NOT_UTF8], id="prefix"),
        pytest.param(["kv", "list", "--after", NOT_UTF8], id="after"),
        pytest.param(["audit", "query", f"SELECT '{NOT_UTF8}'"], id="SQL"),
        pytest.param(["status", "--url", NOT_UTF8], id="URL"),
    ],
)
def test_an_argument_that_is_not_utf8_is_an_error_of_usage(words: list[str], start_node: StartNode) -> None:
    result = run("--url", start_node().url, *words)
    assert result.exit_code == Exit.USAGE
    assert result.stderr.startswith("error: ")
    assert "not UTF-8" in result.stderr or "no URL" in result.stderr


def test_bytes_of_a_key_go_to_the_node_as_they_were_typed(start_node: StartNode) -> None:
    node = start_node(always="bad_key")
    result = run("kv", "get", f"a/{NOT_UTF8}", "--url", node.url)
    assert node.requests == [("GET", "/kv/a/%FF")]
    assert result.exit_code == Exit.USAGE


def test_an_api_key_that_is_not_ascii_is_refused_by_the_node(start_node: StartNode) -> None:
    result = run("kv", "get", "a", "--url", start_node().url, "--api-key", "schl\u00fcssel")
    assert result.exit_code == Exit.AUTH, result.stderr


def test_a_lost_write_without_key_ends_with_code_7(start_node: StartNode) -> None:
    node = start_node("cut-after")
    result = run("kv", "put", "a", "1", "--no-idempotency-key", "--url", node.url, "-o", "json")
    assert result.exit_code == Exit.OUTCOME_UNKNOWN
    report = msgspec.json.decode(result.stderr, type=shapes.ErrorReport)
    assert (report.error.code, report.error.exit_code) == ("outcome_unknown", 7)
    assert len(node.requests) == 1


@pytest.mark.parametrize("code", sorted(set(ERRORS) - {"rate_limited"}))
def test_every_error_of_a_node_has_its_exit_code_and_words(code: str, start_node: StartNode) -> None:
    node = start_node(always=f"{code}:0.05")
    timeout_s = "1" if ERRORS[code].retryable else "2"  # what is retried is so until then
    result = run("kv", "get", "a", "--url", node.url, "--timeout", timeout_s, "-o", "json")
    expected = EXIT_OF_ERROR[code]
    report = msgspec.json.decode(result.stderr, type=shapes.ErrorReport)
    assert result.exit_code == report.error.exit_code == expected
    assert report.error.code == code
    assert ERRORS[code].title in report.error.detail
    assert result.stdout == ""


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(("kv", "put", "a", "1", "--file", "x"), id="two values"),
        pytest.param(("kv", "put", "a", "1", "--if-version", "1", "--if-absent"), id="two conditions"),
        pytest.param(("kv", "put", "a", "1", "--idempotency-key", "k", "--no-idempotency-key"), id="key and none"),
        pytest.param(("kv", "get"), id="no key"),
        pytest.param(("kv", "nothing"), id="no such verb"),
        pytest.param(("kv", "get", "a", "--url", "ftp://x"), id="no http"),
        pytest.param(("kv", "get", "a", "--output", "xml"), id="no such form"),
        pytest.param(
            ("audit", "query", "SELECT 1", "--format", "parquet", "--url", "127.0.0.1:1"), id="parquet, no file"
        ),
        pytest.param(("down", "--purge"), id="purge and nobody to ask"),
        pytest.param(("up", "--base-port", "70000"), id="port out of range"),
    ],
)
def test_a_wrong_command_line_ends_with_code_2(words: tuple[str, ...], tmp_path: Path) -> None:
    result = run("--dir", str(tmp_path), *words)
    assert result.exit_code == Exit.USAGE
    assert "Traceback" not in result.stderr


def test_without_a_cluster_the_next_step_is_told(tmp_path: Path) -> None:
    result = run("--dir", str(tmp_path), "kv", "get", "a")
    assert result.exit_code == Exit.USAGE
    assert "appliance up" in result.stderr


def test_health_is_0_or_1(start_node: StartNode) -> None:
    well, ill = start_node(health=HEALTH), start_node()
    good = run("health", "--url", well.url, "-o", "json")
    assert good.exit_code == Exit.OK
    report = read(good, shapes.HealthReport)
    assert isinstance(report, shapes.HealthReport)
    assert (report.healthy, report.nodes[0].role, report.nodes[0].term) == (True, "leader", 3)
    assert run("health", "--url", ill.url).exit_code == Exit.FAILURE
    mixed = run("health", "--url", f"{well.url},{refused_url()}", "-o", "json")
    assert mixed.exit_code == Exit.FAILURE
    assert [node["status"] for node in json.loads(mixed.stdout)["nodes"]] == ["ok", "unreachable"]


@pytest.mark.parametrize(
    ("sizes_and_roots", "agreement", "code"),
    [
        pytest.param([(9, "aa"), (9, "aa")], "agree", Exit.OK, id="agree"),
        pytest.param([(9, "aa"), (9, "bb")], "diverged", Exit.DIVERGED, id="diverged"),
        pytest.param([(9, "aa"), (8, "bb")], "moving", Exit.OK, id="never of one size"),
        pytest.param([(9, "aa")], "unknown", Exit.OK, id="one node"),
    ],
)
def test_status_compares_roots_of_equal_trees(
    sizes_and_roots: list[tuple[int, str]],
    agreement: str,
    code: Exit,
    start_node: StartNode,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("appliance.cli.status.AGREEMENT_WAIT_S", 0.3)
    nodes = [start_node(health=HEALTH, figures=figures(*pair)) for pair in sizes_and_roots]
    result = run("status", "--url", ",".join(node.url for node in nodes), "-o", "json")
    assert result.exit_code == code
    status = read(result, shapes.Status)
    assert isinstance(status, shapes.Status)
    assert status.agreement == agreement
    assert [(node.tree_size, node.root_hash) for node in status.nodes] == sizes_and_roots


def test_status_of_a_cluster_that_is_down(start_node: StartNode) -> None:
    result = run("status", "--url", f"{refused_url()},{refused_url()}")
    assert result.exit_code == Exit.UNAVAILABLE
    assert "appliance up" in result.stderr


def test_integers_beyond_2_53_are_strings() -> None:
    assert encode({"a": [2**53, 2**53 + 1, -(2**60), True]}) == (
        b'{"a":[9007199254740992,"9007199254740993","-1152921504606846976",true]}'
    )


def test_every_error_has_an_exit_code_and_no_other() -> None:
    assert set(EXIT_OF_ERROR) == set(ERRORS)


def test_exit_codes_are_documented_and_used_both_ways() -> None:
    assert set(MEANINGS) == set(Exit)
    used: set[str] = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Exit":
                used.add(node.attr)
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("typer.Exit", "CliError", "sys.exit"):
                assert not any(isinstance(a, ast.Constant) and isinstance(a.value, int) for a in node.args), path
    assert used - {"NAME"} == {code.name for code in Exit}
    page = render_cli()
    rows = re.findall(r"^\| (\d+) \|", page, re.MULTILINE)
    assert [int(row) for row in rows] == [int(code) for code in Exit]


def test_findings_of_verify_are_in_the_table_and_used() -> None:
    """Each code stands as a text where `verify` finds it, and none that the table does not have is made a finding."""
    sources = [path for path in SOURCES if path.name.startswith(("verify", "checkpoint"))]
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in sources]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    texts = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    calls = [node for node in nodes if isinstance(node, ast.Call) and ast.unparse(node.func) == "finding"]
    named = {call.args[0].value for call in calls if isinstance(call.args[0], ast.Constant)}
    assert named <= set(EXIT_OF_FINDING) <= texts
    assert set(EXIT_OF_FINDING).isdisjoint(ERRORS)


def test_expected_errors_have_no_traceback(tmp_path: Path) -> None:
    """As a real process, because the runner of the tests catches exceptions itself."""
    done = subprocess.run(
        [sys.executable, "-c", "from appliance.cli.main import run; run()", "kv", "get", "a", "--url", refused_url()],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == Exit.UNAVAILABLE
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ")
    assert "next: " in done.stderr


def test_nothing_slow_is_imported_for_a_kv_get(tmp_path: Path) -> None:
    slow = ("duckdb", "pyarrow", "litestar", "cryptography", "uvicorn", "apsw", "opentelemetry", "rich", "httpx")
    code = f"import sys, appliance.cli.main; print([name for name in {slow!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == "[]"


def test_help_names_every_verb() -> None:
    result = run("--help")
    assert result.exit_code == 0
    verbs = "up down ps logs status health kv cluster writes compact scrub audit verify node init render"
    for verb in verbs.split():
        assert re.search(rf"│ {verb} ", result.stdout), verb


def test_every_command_answers_help() -> None:
    for heading in re.findall(r"^### `appliance ([a-z ]+?)(?: [A-Z\[].*)?`$", render_cli(), re.MULTILINE):
        assert run(*heading.split(), "--help").exit_code == 0, heading


@pytest.mark.parametrize(
    ("text", "urls"),
    [
        ("http://a:1, http://b:2/ ,", ("http://a:1", "http://b:2")),
        ("localhost:8001", ("http://localhost:8001",)),
        ("https://[::1]:8001", ("https://[::1]:8001",)),
        ("", ()),
    ],
)
def test_urls_are_read(text: str, urls: tuple[str, ...]) -> None:
    assert parse_urls(text) == urls


@pytest.mark.parametrize("text", ["ftp://a", "http://", "http://a:x", "http://a:99999", "http://a?b=c"])
def test_what_is_no_url_is_refused(text: str) -> None:
    with pytest.raises(CliError, match="no URL"):
        parse_urls(text)


def test_credentials_are_found_above_and_the_environment_goes_first(tmp_path: Path) -> None:
    (tmp_path / ".scribe").mkdir()
    (tmp_path / ".scribe" / "credentials.env").write_text(
        "# made by init\nAPPLIANCE_URL=http://a:1,http://b:2\nAPPLIANCE_API_KEY=file\nAPPLIANCE_API_KEY_READ=r\n"
    )
    deep = tmp_path / "x" / "y"
    deep.mkdir(parents=True)
    directory = find_directory(deep)
    assert directory == tmp_path / ".scribe"
    options = {"directory": directory, "output": Output.TABLE, "timeout_s": 1.0, "ca_file": ""}
    session = open_session(url="", api_key="", environ={}, **options)  # type: ignore[arg-type]
    assert (session.urls, session.api_key) == (("http://a:1", "http://b:2"), "file")
    assert session.others == {"APPLIANCE_API_KEY_READ": "r"}
    environ = {"APPLIANCE_URL": "http://c:3", "APPLIANCE_API_KEY": "environment"}
    session = open_session(url="", api_key="", environ=environ, **options)  # type: ignore[arg-type]
    assert (session.urls, session.api_key) == (("http://c:3",), "environment")
    session = open_session(url="http://d:4", api_key="option", environ=environ, **options)  # type: ignore[arg-type]
    assert (session.urls, session.api_key) == (("http://d:4",), "option")
