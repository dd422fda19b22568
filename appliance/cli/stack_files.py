"""The Compose file of nodes beyond the stack's three: rendered into the state directory, where every command finds it.

Such a node is node 3 of `compose/compose.yaml` with another number: its text is taken from there, so that there is no
second description of a node that could differ from the first.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from appliance.cli.exits import CliError, Exit
from appliance.cli.init import STACK_CLIENT_PORT, STACK_NODES
from appliance.cli.init_files import make_private_dir, read_env_file, write_file

ROOT: Final = Path(__file__).resolve().parents[2]
COMPOSE_FILE: Final = ROOT / "compose" / "compose.yaml"
NODES_FILE: Final = "stack.nodes.yaml"
NODES_MAX: Final = 9  # client port 800N, peer port 900N

_HEADING: Final = "# Made by `appliance cluster add` and `remove`: nodes beyond those of compose/compose.yaml.\n"
_SHARED: Final = re.compile(r"^x-service:.*?(?=^services:)", re.MULTILINE | re.DOTALL)
_NODE: Final = re.compile(rf"^  node{STACK_NODES}:\n(?:^(?:    .*)?\n)+", re.MULTILINE)
_RENDERED: Final = re.compile(r"^  node([0-9]+):$", re.MULTILINE)


def further_nodes(directory: Path) -> tuple[int, ...]:
    """The numbers of the nodes that `cluster add` has put beside the stack's three."""
    path = directory / NODES_FILE
    return tuple(map(int, _RENDERED.findall(path.read_text(encoding="utf-8")))) if path.exists() else ()


def write_nodes(directory: Path, numbers: Sequence[int]) -> None:
    """Have these nodes beside the stack's three, and no others."""
    path = make_private_dir(directory) / NODES_FILE
    if numbers:
        write_file(path, render_nodes(COMPOSE_FILE.read_text(encoding="utf-8"), numbers).encode())
    else:
        path.unlink(missing_ok=True)


def render_nodes(compose: str, numbers: Sequence[int]) -> str:
    """The Compose file that, put behind the stack's own, adds these nodes.

    Args:
        compose: the text of `compose/compose.yaml`.
        numbers: of the nodes, in order.
    """
    shared, node = _SHARED.search(compose), _NODE.search(compose)
    assert shared is not None, "compose.yaml has its shared parts between `name` and `services`"
    assert node is not None, "compose.yaml has a node 3"
    urls = ",".join(node_url(number) for number in (*range(1, STACK_NODES + 1), *numbers))
    services = [_numbered(node[0].rstrip("\n"), number) for number in numbers]
    init = [
        "  init:",
        "    environment:",
        f'      APPLIANCE_JOINING: "{",".join(map(str, numbers))}"',
        f'      APPLIANCE_URL: "{urls}"',
        "    volumes:",
        *(f"      - node{number}-config:/secrets/node{number}" for number in numbers),
    ]
    volumes = [f"  node{number}-{what}: {{}}" for number in numbers for what in ("config", "data")]
    parts = (shared[0].rstrip("\n"), "services:\n" + "\n".join(init), *services, "volumes:\n" + "\n".join(volumes))
    return _HEADING + "\n\n".join(parts) + "\n"


def node_url(number: int) -> str:
    """The client URL of a node as the host sees it, its port a variable of Compose."""
    return f"http://127.0.0.1:${{{port_name(number)}:-{STACK_CLIENT_PORT + number}}}"


def port_name(number: int) -> str:
    """The variable that moves the published client port of a node."""
    return f"NODE{number}_PORT"


def published_port(number: int) -> int:
    """The client port of a node on this host. Raises `CliError` when the environment names none."""
    return port_of(port_name(number), STACK_CLIENT_PORT + number)


def port_of(name: str, default: int) -> int:
    """A port as the environment or `.env` sets it. Raises `CliError` for what is no port."""
    text = settings().get(name) or str(default)
    if not text.isdecimal():
        raise CliError(Exit.USAGE, f"{name}={text} is no port", hint="give a number", code="usage")
    return int(text)


def settings() -> dict[str, str]:
    """The variables that Compose reads: `.env` at the root, and the environment on top."""
    return {**read_env_file(ROOT / ".env"), **os.environ}


def environment(nodes_file: Path, **others: str) -> dict[str, str]:
    """The environment in which Compose, run in ROOT, sees the whole stack: its own file, and the rendered one."""
    found = {**os.environ, **others}
    if nodes_file.exists():
        chosen = settings()
        separator = chosen.get("COMPOSE_PATH_SEPARATOR") or os.pathsep
        base = chosen.get("COMPOSE_FILE") or str(COMPOSE_FILE)
        found["COMPOSE_FILE"] = f"{base}{separator}{nodes_file.absolute()}"
    return found


def _numbered(text: str, number: int) -> str:
    """The text of node 3 as that of another node."""
    old_port, new_port = (str(STACK_CLIENT_PORT + n) for n in (STACK_NODES, number))
    pairs = ((f"node{STACK_NODES}", f"node{number}"), (port_name(STACK_NODES), port_name(number)), (old_port, new_port))
    for old, new in pairs:
        text = text.replace(old, new)
    return text
