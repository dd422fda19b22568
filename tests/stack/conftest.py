"""Tests of containers are skipped without a container engine, unless REQUIRE_STACK=1 says that one must be there."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from stack_rig import COMMAND_TIMEOUT_S, FILES, ROOT, Stack, make_stack

HERE = Path(__file__).parent
LEDGER_SERVICES = ("prometheus", "alertmanager")


def unavailable(reason: str) -> NoReturn:
    """Skip, or fail where containers were promised."""
    if os.environ.get("REQUIRE_STACK") == "1":
        pytest.fail(f"REQUIRE_STACK=1, but {reason}")
    pytest.skip(reason)  # no engine on this machine; CI sets REQUIRE_STACK where one answers


def answer(*command: str, timeout_s: float = 30) -> str | None:
    """Standard output of a command, or None when it fails."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


@pytest.fixture(scope="session")
def compose_config() -> dict[str, Any]:
    """The stack as Compose resolves it, with every profile; needs the client but no engine."""
    text = answer("docker", "compose", "--file", FILES[0], "--profile", "*", "config", "--format", "json")
    if text is None:
        unavailable("`docker compose` is not installed")
    config: dict[str, Any] = json.loads(text)
    return config


@pytest.fixture(scope="session")
def engine() -> None:
    """A container engine that answers."""
    if answer("docker", "info") is None or answer("docker", "compose", "version") is None:
        unavailable("no container engine answers")


@pytest.fixture(scope="session")
def image_of(engine: None, compose_config: dict[str, Any]) -> Callable[[str], str]:
    """The image of a service; it is here or can be pulled."""

    def find(service: str) -> str:
        image = str(compose_config["services"][service]["image"])
        present = answer("docker", "image", "inspect", image) is not None
        if not present and answer("docker", "pull", "--quiet", image, timeout_s=COMMAND_TIMEOUT_S) is None:
            unavailable(f"{image} is not here and cannot be pulled")
        return image

    return find


@pytest.fixture(scope="session")
def stack(image_of: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The stack, built, started and healthy; removed with its volumes and its image at the end."""
    for service in LEDGER_SERVICES:
        image_of(service)
    made = make_stack(tmp_path_factory.mktemp("prometheus"))
    try:
        made.compose.start()
        yield made
    except AssertionError:
        print(made.compose.command("logs", "--tail", "40"))
        raise
    finally:
        made.compose.command("down", "--volumes", "--remove-orphans", "--timeout", "10", "--rmi", "local")
        answer("docker", "image", "rm", made.compose.environ["APPLIANCE_IMAGE"])
