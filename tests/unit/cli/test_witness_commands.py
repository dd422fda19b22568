"""`appliance witness init` and what `serve` refuses; that it serves, the tests with real processes show."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from appliance.adapters.ed25519 import SigningKey, read_key_file, write_key_file
from appliance.cli.exits import Exit
from appliance.cli.main import app
from appliance.ledger.note import SignatureType, format_verifier_key, parse_verifier_key

LOG = SigningKey("example.com/log", SignatureType.ED25519, bytes(32))


def run(*words: str) -> Result:
    return CliRunner().invoke(app, ["witness", *words])


def test_a_key_is_made_once(tmp_path: Path) -> None:
    file = tmp_path / "witness.key"
    made = run("init", "--key", str(file), "--name", "w.example/w1")
    assert made.exit_code == 0, made.output
    key = parse_verifier_key(made.stdout.strip())
    assert (key.name, key.signature_type) == ("w.example/w1", SignatureType.COSIGNATURE_V1)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert read_key_file(file).verifier_key == key
    again = run("init", "--key", str(file), "--name", "w.example/w1", "--output", "json")
    assert json.loads(again.stdout) == {
        "name": "w.example/w1",
        "verifier_key": format_verifier_key(key),
        "file": str(file),
    }
    other = run("init", "--key", str(file), "--name", "w.example/w2")
    assert (other.exit_code, "w.example/w1" in other.output) == (Exit.CONFLICT, True)


def test_a_name_that_no_key_can_have(tmp_path: Path) -> None:
    file = tmp_path / "witness.key"
    assert run("init", "--key", str(file), "--name", "w example").exit_code == Exit.USAGE
    assert not file.exists()


def test_a_key_of_a_log_is_none_of_a_witness(tmp_path: Path) -> None:
    file = tmp_path / "log.key"
    write_key_file(file, LOG)
    assert run("init", "--key", str(file), "--name", "example.com/log").exit_code == Exit.USAGE
    words = ("--state", str(tmp_path / "state"), "--log", format_verifier_key(LOG.verifier_key))
    assert run("serve", "--key", str(file), *words).exit_code == Exit.USAGE


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"--listen": "127.0.0.1"}, Exit.USAGE),
        ({"--log": "example.com/log"}, Exit.USAGE),
        ({"--log": "WITNESS"}, Exit.USAGE),
        ({"--key": "none.key"}, Exit.FAILURE),
        ({"--state": "none/state"}, Exit.FAILURE),
        ({"--listen": "192.0.2.1:8100"}, Exit.FAILURE),
    ],
)
def test_what_serve_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, str], code: Exit
) -> None:
    monkeypatch.chdir(tmp_path)
    witness = run("init", "--key", "witness.key", "--name", "w.example").stdout.strip()
    words = {"--key": "witness.key", "--state": "state", "--log": format_verifier_key(LOG.verifier_key)}
    words |= {name: witness if value == "WITNESS" else value for name, value in changed.items()}
    result = run("serve", *(word for pair in words.items() for word in pair))
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
