"""The container stack, through `docker compose` run at the root of the source tree."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from appliance.cli.exits import CliError, Exit
from appliance.cli.init_files import PRIVATE_FILE, make_private_dir, read_env_file, write_file
from appliance.cli.logs import Source, read_line, show
from appliance.cli.output import say
from appliance.cli.preflight import check_machine
from appliance.cli.probing import health_of, probe_all
from appliance.cli.session import CREDENTIALS_FILE, Session, parse_urls
from appliance.cli.shapes import NodeHealth, Process, Processes, Started, Stopped

ROOT: Final = Path(__file__).resolve().parents[2]
COMPOSE_FILE: Final = ROOT / "compose" / "compose.yaml"
STORED_CREDENTIALS: Final = f"/secrets/operator/{CREDENTIALS_FILE}"
ENGINE_TIMEOUT_S: Final = 15.0
LAST_LINES: Final = 20
_PORTS: Final = {
    "NODE1_PORT": 8001,
    "NODE2_PORT": 8002,
    "NODE3_PORT": 8003,
    "PROMETHEUS_PORT": 9090,
    "ALERTMANAGER_PORT": 9093,
}  # published by compose/compose.yaml with these names and defaults
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
    already = any(row["Service"].startswith("node") and row["State"] == "running" for row in _rows())
    if not already:
        check_machine(session.directory, _ports(), other_ports="NODE1_PORT, PROMETHEUS_PORT and their like (.env)")
    say("starting the container stack (the first time builds the image)")
    command = _compose("up", "--detach", "--build", "--wait", "--wait-timeout", str(int(timeout_s)))
    if _run_with_profiles(command, ""):
        raise _failed_start()
    for profile in _profiles():
        if _run_with_profiles(_compose("up", "--detach"), profile):
            say(f"the ledger is up, but its part `{profile}` is not; the words of docker are above")
    credentials = fetch_credentials(session.directory)
    urls = parse_urls(read_env_file(credentials).get("APPLIANCE_URL", ""))
    return Started(
        mode="stack",
        urls=list(urls),
        credentials=str(credentials),
        already=already,
        seconds=round(time.monotonic() - began_s, 3),
    )


def _profiles() -> list[str]:
    """The parts beside the ledger that the environment or `.env` asks for."""
    chosen = {**read_env_file(ROOT / ".env"), **os.environ}
    return [name for name in chosen.get("COMPOSE_PROFILES", "").split(",") if name]


def _run_with_profiles(command: list[str], profiles: str) -> int:
    """Run Compose with these profiles on; answers its exit code."""
    environment = {**os.environ, "COMPOSE_PROFILES": profiles}
    return subprocess.run(command, check=False, stdout=sys.stderr, cwd=ROOT, env=environment).returncode


def fetch_credentials(directory: Path) -> Path:
    """Copy the credentials that the service `init` made into the state directory, mode 0600; answers the file."""
    path = make_private_dir(directory.resolve()) / CREDENTIALS_FILE
    done = subprocess.run(
        _compose("run", "--rm", "--no-deps", "--no-TTY", "init", "cat", STORED_CREDENTIALS),
        capture_output=True,
        check=False,
        cwd=ROOT,
    )
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
    _need_engine()
    names = sorted({row["Service"] for row in _rows() if row["State"] == "running"})
    command = _compose("--profile", "*", "down", *(["--volumes"] if purge else []))
    if subprocess.run(command, check=False, stdout=sys.stderr, cwd=ROOT).returncode:
        raise CliError(
            Exit.FAILURE, "docker compose could not stop the stack; its words are above", hint="try again", code="stack"
        )
    if purge:
        (session.directory / CREDENTIALS_FILE).unlink(missing_ok=True)
    return Stopped(mode="stack", stopped=names, killed=[], purged=purge)


def ps(session: Session) -> Processes:
    """What the engine says of every service, and what the nodes say of themselves."""
    _need_engine()
    rows = _rows()
    stored = read_env_file(session.directory / CREDENTIALS_FILE)
    urls = parse_urls(stored.get("APPLIANCE_URL", "")) if rows else ()
    told = {f"node{number}": seen for number, seen in enumerate(probe_all(urls, session, health_of), 1)} if urls else {}
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
    _need_engine()
    services = [node] if node else sorted({r["Service"] for r in _rows() if r["Service"].startswith("node")})
    if not services:
        raise CliError(Exit.NOT_FOUND, "no stack is running", hint="start it: `appliance up`", code="not_found")
    options = ["--tail", str(count), *(["--follow"] if follow_on else [])]
    command = _compose("logs", *options, *services)
    if not session.as_json:
        subprocess.run(command, check=False, cwd=ROOT)
        return
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, errors="replace", cwd=ROOT) as process:
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


def _failed_start() -> CliError:
    """Show the last lines of every service that failed, and name them."""
    failed = []
    for row in _rows():
        ended_badly = row["State"] == "exited" and str(row.get("ExitCode", "")) not in _ENDED_WELL
        if ended_badly or row.get("Health") == "unhealthy" or row["State"] in ("restarting", "dead"):
            failed.append(row["Service"])
    for service in failed:
        say(f"the last lines of {service}:")
        subprocess.run(
            _compose("logs", "--no-color", "--tail", str(LAST_LINES), service), check=False, stdout=sys.stderr
        )
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


def _need_engine() -> None:
    problem = engine_problem()
    if problem:
        raise CliError(
            Exit.NOT_READY,
            f"there is no local cluster in this state directory, and no container engine answers: {problem}",
            hint="run in the directory of .scribe/ or give --dir; start a cluster with `appliance up`",
            code="not_ready",
        )


def _compose(*arguments: str) -> list[str]:
    """A command line of Compose; to be run in ROOT, whose `.env` names the file and the profiles."""
    return ["docker", "compose", *arguments]


def _ports() -> list[int]:
    """The ports that the stack publishes on loopback, as the environment and `.env` set them."""
    chosen = {**read_env_file(ROOT / ".env"), **os.environ}
    with_dashboards = {"dashboards", "*"} & set(_profiles())
    defaults = {**_PORTS, **({"GRAFANA_PORT": 3000} if with_dashboards else {})}
    texts = {name: chosen.get(name) or str(default) for name, default in defaults.items()}
    for name, text in texts.items():
        if not text.isdecimal():
            raise CliError(Exit.USAGE, f"{name}={text} is no port", hint="give a number", code="usage")
    return [int(text) for text in texts.values()]


def _rows() -> list[dict[str, Any]]:
    """The project's containers as `docker compose ps` tells them: one JSON object a line, or one array."""
    command = _compose("--profile", "*", "ps", "--all", "--format", "json")
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        raise CliError(Exit.FAILURE, f"docker compose: {done.stderr.strip()}", hint="check the engine", code="stack")
    rows: list[dict[str, Any]] = []
    for line in done.stdout.splitlines():
        found = json.loads(line)
        rows += found if isinstance(found, list) else [found]
    return rows


def _inspect(ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """`docker inspect` of containers by their short id."""
    if not ids:
        return {}
    done = subprocess.run(["docker", "inspect", *ids], capture_output=True, text=True, check=False)
    found: list[dict[str, Any]] = json.loads(done.stdout or "[]")
    return {short: facts for short in ids for facts in found if str(facts["Id"]).startswith(short)}
