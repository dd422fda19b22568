"""The container stack, through `docker compose` run at the root of the source tree."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from appliance.cli.exits import CliError, Exit
from appliance.cli.init import STACK_NODES
from appliance.cli.init_files import PRIVATE_FILE, make_private_dir, read_env_file, write_file
from appliance.cli.logs import Source, read_line, show
from appliance.cli.output import say
from appliance.cli.preflight import check_machine
from appliance.cli.probing import health_of, probe_all
from appliance.cli.session import CREDENTIALS_FILE, Session, parse_urls
from appliance.cli.shapes import NodeHealth, Process, Processes, Started, Stopped
from appliance.cli.stack_files import (
    COMPOSE_FILE,
    NODES_FILE,
    NODES_MAX,
    ROOT,
    environment,
    further_nodes,
    port_name,
    port_of,
    published_port,
    render_nodes,
    settings,
)

STORED_CREDENTIALS: Final = f"/secrets/operator/{CREDENTIALS_FILE}"
ENGINE_TIMEOUT_S: Final = 15.0
LAST_LINES: Final = 20
PURGE_FILE: Final = "stack.purge.yaml"
_PORTS: Final = {"PROMETHEUS_PORT": 9090, "ALERTMANAGER_PORT": 9093}  # published by compose/compose.yaml, beside nodes
_ENDED_WELL: Final = frozenset({"", "0"})


def engine_problem() -> str:
    """Why no container stack can be run here; empty when it can."""
    if not COMPOSE_FILE.is_file():
        return f"{COMPOSE_FILE} is not there"
    for command in (("docker", "compose", "version"), ("docker", "info")):
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=ENGINE_TIMEOUT_S)
        except FileNotFoundError:
            return "docker is not installed"
        except subprocess.TimeoutExpired:
            return f"`{' '.join(command)}` does not answer"
        if done.returncode:
            lines = (done.stderr or done.stdout).strip().splitlines()
            return lines[-1] if lines else f"`{' '.join(command)}` fails"
    return ""


def up(session: Session, *, timeout_s: float) -> Started:
    """Start the stack, wait until its services are healthy, fetch the credentials.

    COMPOSE_PROFILES chooses the parts beside the ledger (`dashboards`, `logs`), as always with Compose. They start
    behind it, one after the other, and nobody waits for them: an image that cannot be pulled costs its part alone.
    """
    began_s = time.monotonic()
    directory = session.directory
    already = any(row["Service"].startswith("node") and row["State"] == "running" for row in _rows(directory))
    if not already:
        others = f"{port_name(1)}, PROMETHEUS_PORT and their like (.env)"
        check_machine(directory, _ports(directory), other_ports=others)
    say("starting the container stack (the first time builds the image)")
    words = ("up", "--detach", "--build", "--wait", "--wait-timeout", str(int(timeout_s)))
    if compose(directory, *words, profiles="", stdout=sys.stderr).returncode:
        raise _failed_start(directory)
    for profile in _profiles():
        if compose(directory, "up", "--detach", profiles=profile, stdout=sys.stderr).returncode:
            say(f"the ledger is up, but its part `{profile}` is not; the words of docker are above")
    credentials = fetch_credentials(directory)
    urls = parse_urls(read_env_file(credentials).get("APPLIANCE_URL", ""))
    return Started(
        mode="stack",
        urls=list(urls),
        credentials=str(credentials),
        already=already,
        seconds=round(time.monotonic() - began_s, 3),
    )


def compose(
    directory: Path, *arguments: str, nodes_file: str = NODES_FILE, profiles: str | None = None, **options: Any
) -> subprocess.CompletedProcess[Any]:
    """Run Compose over the stack, the nodes that were added among it.

    Args:
        directory: the state directory.
        arguments: of `docker compose`.
        nodes_file: name of the file in it that adds nodes.
        profiles: the parts beside the ledger that are on; by default those of the environment and `.env`.
        options: of `subprocess.run`.
    """
    others = {} if profiles is None else {"COMPOSE_PROFILES": profiles}
    return subprocess.run(
        ["docker", "compose", *arguments],
        check=False,
        cwd=ROOT,
        env=environment(directory / nodes_file, **others),
        **options,
    )


def _profiles() -> list[str]:
    """The parts beside the ledger that the environment or `.env` asks for."""
    return [name for name in settings().get("COMPOSE_PROFILES", "").split(",") if name]


def fetch_credentials(directory: Path) -> Path:
    """Copy the credentials that the service `init` made into the state directory, mode 0600; answers the file."""
    path = make_private_dir(directory.resolve()) / CREDENTIALS_FILE
    command = ("run", "--rm", "--no-deps", "--no-TTY", "init", "cat", STORED_CREDENTIALS)
    done = compose(directory, *command, capture_output=True)
    if done.returncode:
        raise CliError(
            Exit.FAILURE,
            f"the stack's credentials cannot be read: {done.stderr.decode('utf-8', 'replace').strip()}",
            hint="`appliance logs init` shows what the service that makes them says",
            code="stack",
        )
    write_file(path, done.stdout, PRIVATE_FILE)
    return path


def down(session: Session, *, purge: bool) -> Stopped:
    """Stop and remove the stack's containers; with `purge` its volumes and the fetched credentials too."""
    need_engine()
    directory = session.directory
    names = sorted({row["Service"] for row in _rows(directory) if row["State"] == "running"})
    nodes_file = NODES_FILE
    if purge and directory.is_dir():  # the volumes of nodes that were removed are there still
        nodes_file = PURGE_FILE
        every = render_nodes(COMPOSE_FILE.read_text(encoding="utf-8"), range(STACK_NODES + 1, NODES_MAX + 1))
        write_file(directory / nodes_file, every.encode())
    command = ("--profile", "*", "down", *(["--volumes"] if purge else []))
    if compose(directory, *command, nodes_file=nodes_file, stdout=sys.stderr).returncode:
        raise CliError(
            Exit.FAILURE, "docker compose could not stop the stack; its words are above", hint="try again", code="stack"
        )
    if purge:
        for name in (CREDENTIALS_FILE, NODES_FILE, PURGE_FILE):
            (directory / name).unlink(missing_ok=True)
    return Stopped(mode="stack", stopped=names, killed=[], purged=purge)


def ps(session: Session) -> Processes:
    """What the engine says of every service, and what the nodes say of themselves."""
    need_engine()
    rows = _rows(session.directory)
    numbers = _numbers(session.directory) if rows else ()
    urls = [f"http://127.0.0.1:{published_port(number)}" for number in numbers]
    seen = probe_all(urls, session, health_of) if urls else []
    told = {f"node{number}": health for number, health in zip(numbers, seen, strict=True)}
    facts = _inspect([row["ID"] for row in rows])
    return Processes(
        mode="stack" if rows else "none",
        directory=str(session.directory),
        supervisor_pid=None,
        processes=[
            _process(row, facts.get(row["ID"], {}), told.get(row["Service"]))
            for row in sorted(rows, key=lambda row: str(row["Service"]))
        ],
    )


def logs(session: Session, *, node: str | None, follow_on: bool, count: int) -> None:
    """Show the containers' logs; all nodes' without `node`."""
    need_engine()
    directory = session.directory
    services = [node] if node else sorted({r["Service"] for r in _rows(directory) if r["Service"].startswith("node")})
    if not services:
        raise CliError(Exit.NOT_FOUND, "no stack is running", hint="start it: `appliance up`", code="not_found")
    options = ["--tail", str(count), *(["--follow"] if follow_on else [])]
    if not session.as_json:
        compose(directory, "logs", *options, *services)
        return
    command = ["docker", "compose", "logs", *options, *services]
    seen = environment(directory / NODES_FILE)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, errors="replace", cwd=ROOT, env=seen) as process:
        assert process.stdout is not None
        for line in process.stdout:
            prefix, _, text = line.rstrip("\n").partition("| ")
            service = prefix.strip().rsplit("-", 1)[0]
            show(read_line(Source(service, "container", Path()), text), as_json=True)


def _process(row: dict[str, Any], facts: dict[str, Any], health: NodeHealth | None) -> Process:
    state = facts.get("State", {})
    pid = state.get("Pid")
    return Process(
        name=row["Service"],
        node_id=health.node_id if health else None,
        state=row["State"],
        pid=pid or None,
        url=health.url if health else None,
        role=health.role if health else None,
        health=health.status if health else row.get("Health") or None,
        restarts=facts.get("RestartCount"),
        since=state.get("StartedAt"),
    )


def _failed_start(directory: Path) -> CliError:
    """Show the last lines of every service that failed, and name them."""
    failed = []
    for row in _rows(directory):
        ended_badly = row["State"] == "exited" and str(row.get("ExitCode", "")) not in _ENDED_WELL
        if ended_badly or row.get("Health") == "unhealthy" or row["State"] in ("restarting", "dead"):
            failed.append(row["Service"])
    for service in failed:
        say(f"the last lines of {service}:")
        compose(directory, "logs", "--no-color", "--tail", str(LAST_LINES), service, stdout=sys.stderr)
    names = ", ".join(failed)
    hint = "correct what its last lines say, then `appliance up` again"
    if not failed:
        hint = (
            "the words of docker are above; an image that cannot be pulled can be replaced (PYTHON_IMAGE, "
            "PROMETHEUS_IMAGE, ALERTMANAGER_IMAGE), and `appliance up --local` needs none"
        )
    return CliError(
        Exit.FAILURE, f"the stack did not start{f': {names} failed' if failed else ''}", hint=hint, code="stack"
    )


def need_engine() -> None:
    """See that a container engine answers. Raises `CliError`."""
    problem = engine_problem()
    if problem:
        raise CliError(
            Exit.NOT_READY,
            f"there is no local cluster in this state directory, and no container engine answers: {problem}",
            hint="run in the directory of .scribe/ or give --dir; start a cluster with `appliance up`",
            code="not_ready",
        )


def project(directory: Path) -> str:
    """The name that Compose gives the stack, and what belongs to it. Raises `CliError`."""
    return str(json.loads(_told(directory, "config", "--format", "json"))["name"])


def _numbers(directory: Path) -> tuple[int, ...]:
    """The numbers of the stack's nodes, in order."""
    return (*range(1, STACK_NODES + 1), *further_nodes(directory))


def _ports(directory: Path) -> list[int]:
    """The ports that the stack publishes on loopback, as the environment and `.env` set them."""
    with_dashboards = {"dashboards", "*"} & set(_profiles())
    others = {**_PORTS, **({"GRAFANA_PORT": 3000} if with_dashboards else {})}
    nodes = [published_port(number) for number in _numbers(directory)]
    return [*nodes, *(port_of(name, default) for name, default in others.items())]


def _rows(directory: Path) -> list[dict[str, Any]]:
    """The project's containers as `docker compose ps` tells them: one JSON object a line, or one array."""
    rows: list[dict[str, Any]] = []
    for line in _told(directory, "--profile", "*", "ps", "--all", "--format", "json").splitlines():
        found = json.loads(line)
        rows += found if isinstance(found, list) else [found]
    return rows


def _told(directory: Path, *arguments: str) -> str:
    """What Compose answers. Raises `CliError` with what it says when it cannot."""
    done = compose(directory, *arguments, capture_output=True, text=True)
    if done.returncode:
        raise CliError(Exit.FAILURE, f"docker compose: {done.stderr.strip()}", hint="check the engine", code="stack")
    return str(done.stdout)


def _inspect(ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """`docker inspect` of containers by their short id."""
    if not ids:
        return {}
    done = subprocess.run(["docker", "inspect", *ids], capture_output=True, text=True, check=False)
    found: list[dict[str, Any]] = json.loads(done.stdout or "[]")
    return {short: facts for short in ids for facts in found if str(facts["Id"]).startswith(short)}
