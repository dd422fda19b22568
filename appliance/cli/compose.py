"""Drives `docker compose` for the container stack of this source tree, and fetches the credentials that `init` made."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from appliance.cli.exits import CliError, Exit
from appliance.cli.init import CREDENTIALS_FILE
from appliance.cli.init_files import make_private_dir, write_file
from appliance.cli.output import say

COMPOSE_FILE: Final = "compose/compose.yaml"
CREDENTIALS_PATH: Final = f"/secrets/operator/{CREDENTIALS_FILE}"  # in the container of `init`
ANSWER_TIMEOUT_S: Final = 60.0  # for commands that neither build nor wait


def source_tree() -> Path:
    """The root of the source tree, where `docker compose` is run: its `.env` names the file and the profiles."""
    root = Path(__file__).resolve().parents[2]
    if not (root / COMPOSE_FILE).is_file():
        raise CliError(
            Exit.NOT_READY,
            "the container stack is started from a source tree, and this is an installed package",
            hint="clone the project and run `appliance up` there, or start three local nodes: appliance up --local",
            code="not_ready",
        )
    return root


def run_compose(
    arguments: Sequence[str], *, environ: Mapping[str, str] | None = None, timeout_s: float = ANSWER_TIMEOUT_S
) -> bytes:
    """Run one `docker compose` command at the root of the source tree and answer its standard output.

    Its progress goes to our standard error. Raises `CliError` when it fails or takes too long.
    """
    command = ["docker", "compose", *arguments]
    try:
        done = subprocess.run(
            command,
            cwd=source_tree(),
            env={**os.environ, **(environ or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            timeout=timeout_s,
            check=False,
        )
    except FileNotFoundError:
        raise CliError(
            Exit.NOT_READY, "there is no `docker` command", hint="appliance up --local needs none", code="not_ready"
        ) from None
    except subprocess.TimeoutExpired:
        raise CliError(
            Exit.FAILURE,
            f"`{' '.join(command)}` took more than {timeout_s:.0f} s",
            hint="`docker compose ps` and `docker compose logs` tell how far it came",
        ) from None
    if done.returncode != 0:
        raise CliError(
            Exit.FAILURE,
            f"`{' '.join(command)}` failed",
            hint="what it printed stands above; `docker compose logs SERVICE` has the log of a service",
        )
    return done.stdout


def compose_up(directory: Path, *, timeout_s: float = 300.0) -> Path:
    """Build and start the stack, wait until the ledger is healthy, and fetch the credentials into `directory`.

    Grafana, Elasticsearch and Filebeat are started after it and not waited for: when they cannot be had, the ledger
    runs all the same, and a line on standard error says so.

    Returns:
        the path of `credentials.env`.
    """
    ledger_only = {"COMPOSE_PROFILES": ""}
    limit = f"{timeout_s:.0f}"
    run_compose(
        ["up", "--build", "--detach", "--wait", "--wait-timeout", limit], environ=ledger_only, timeout_s=timeout_s + 600
    )
    credentials = compose_credentials(directory)
    if os.environ.get("COMPOSE_PROFILES") != "":
        try:
            run_compose(["up", "--detach", "--no-build"], timeout_s=timeout_s + 600)
        except CliError as error:
            say(f"dashboards or logs could not be started: {error.message}; the ledger is up without them")
    return credentials


def compose_credentials(directory: Path) -> Path:
    """Copy `credentials.env` out of the stack's volume into `directory`, mode 0600, and answer its path there.

    By hand: `docker compose cp init:/secrets/operator/credentials.env .scribe/credentials.env`.
    """
    archive = run_compose(["cp", f"init:{CREDENTIALS_PATH}", "-"])
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        member = tar.extractfile(CREDENTIALS_FILE)
        assert member is not None
        content = member.read()
    path = make_private_dir(directory) / CREDENTIALS_FILE
    write_file(path, content)
    return path


def compose_down(*, purge: bool = False, timeout_s: float = 120.0) -> None:
    """Stop the stack and all of its profiles; with `purge` its volumes go too."""
    run_compose(["--profile", "*", "down", *(["--volumes"] if purge else [])], timeout_s=timeout_s)
