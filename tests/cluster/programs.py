"""The program `appliance` as an operator runs it, in a directory of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from tests.ports import free_base_port

APPLIANCE = str(Path(sys.executable).with_name("appliance"))
COMMAND_S = 150.0


class Bundle:
    """A cluster of `appliance up --local` in a directory of its own, driven by the program alone."""

    def __init__(self, directory: Path) -> None:
        self.state = directory / ".scribe"
        self.base_port = free_base_port(9)

    def run(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        command = [APPLIANCE, "--dir", str(self.state), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_S, check=False)
        assert done.returncode == code, f"{words}\n{done.stdout}\n{done.stderr}"
        return done

    def answer(self, *words: str) -> Any:
        return json.loads(self.run(*words, "-o", "json").stdout)

    def running(self) -> dict[str, int]:
        """Name and pid of every node."""
        return {row["name"]: row["pid"] for row in self.answer("ps")["processes"] if row["state"] == "running"}


def appliance(directory: Path, *words: str, codes: Collection[int] = (0,)) -> str:
    """Run a command on what is in a directory; answers what it prints. It must end with one of the codes."""
    done = subprocess.run(
        [APPLIANCE, "--dir", str(directory), *words],
        env={k: v for k, v in os.environ.items() if not k.startswith("APPLIANCE_")},
        capture_output=True,
        text=True,
        timeout=COMMAND_S,
        check=False,
    )
    assert done.returncode in codes, done.stderr
    return done.stdout
