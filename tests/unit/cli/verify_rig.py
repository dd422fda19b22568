"""Runs `appliance verify` as one user, who remembers checkpoints between the runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from log_standin import API_KEY, ORIGIN, VERIFIER_KEY
from typer.testing import CliRunner

from appliance.adapters.ed25519 import verify as ed25519_verify
from appliance.cli import shapes
from appliance.cli.checkpoint_memory import CheckpointMemory
from appliance.cli.main import app
from appliance.ledger.note import Ed25519Verifier, parse_verifier_key


class Done(NamedTuple):
    """A run: its exit code, its answer, and its error."""

    exit_code: int
    answer: dict[str, Any]
    error: shapes.ErrorDetail | None
    stderr: str

    @property
    def code(self) -> str:
        return self.error.code if self.error else ""

    @property
    def detail(self) -> str:
        return self.error.detail if self.error else ""

    @property
    def checks(self) -> dict[str, str]:
        return {check["name"]: check["result"] for check in self.answer["checks"]}


class Verifier:
    """One user of the program."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environment = {
            "XDG_CONFIG_HOME": str(home),
            "APPLIANCE_API_KEY": API_KEY,
            "APPLIANCE_VERIFIER_KEY": VERIFIER_KEY,
        }
        self.memory = CheckpointMemory(
            home / "appliance" / "checkpoints", Ed25519Verifier(parse_verifier_key(VERIFIER_KEY), ed25519_verify)
        )

    def run(self, *words: str, urls: list[str] | None = None, timeout_s: float = 5.0) -> Done:
        """Run `appliance verify` with JSON output."""
        place = ["--url", ",".join(urls)] if urls else ["--dir", str(self.home)]
        result = self.invoke(*words, *place, "--timeout", str(timeout_s), "-o", "json")
        answer = json.loads(result.stdout) if result.stdout else {}
        last = result.stderr.splitlines()[-1] if result.exit_code else ""
        error = msgspec.json.decode(last, type=shapes.ErrorReport).error if last else None
        if error is not None:
            assert error.exit_code == result.exit_code, result.stderr
        return Done(result.exit_code, answer, error, result.stderr)

    def invoke(self, *words: str) -> Any:
        """Run `appliance verify` with these words."""
        result = CliRunner(env=self.environment).invoke(app, ["verify", *words])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    @property
    def remembered_size(self) -> int:
        last = self.memory.last()
        return last.checkpoint.size if last else 0

    def evidence(self) -> list[str]:
        """What was kept of alarms."""
        return [path.read_text() for path in (self.home / "appliance" / "checkpoints").glob("alarms/*")]


__all__ = ["ORIGIN", "Done", "Verifier"]
