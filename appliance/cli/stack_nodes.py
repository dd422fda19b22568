"""Nodes that the container stack gets beyond its three, or loses again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from appliance.cli import stack
from appliance.cli.exits import CliError, Exit
from appliance.cli.init import STACK_CLIENT_PORT, STACK_NODES
from appliance.cli.output import say
from appliance.cli.preflight import check_machine
from appliance.cli.session import Session
from appliance.cli.stack_files import NODES_MAX, further_nodes, published_port, write_nodes
from appliance.cli.supervisor_files import changing


def start(session: Session, number: int) -> tuple[str, str]:
    """Have a service for node `number`, with configuration and certificate, and start it; answers the client address at
    which other nodes reach it, and its URL on this host. What is there already stays.
    """
    directory = session.directory.resolve()
    if number > NODES_MAX:
        raise CliError(
            Exit.USAGE,
            f"the container stack has nodes 1 to {NODES_MAX}, and no node {number}",
            hint=f"for a node of its own: appliance cluster add {number} HOST:PORT",
            code="usage",
        )
    port = published_port(number)
    if number > STACK_NODES:
        with changing(directory):
            numbers = further_nodes(directory)
            if number not in numbers:
                check_machine(directory, [port], other_ports=f"NODE{number}_PORT")
                write_nodes(directory, sorted((*numbers, number)))
                say(f"node{number} is written into {directory / 'stack.nodes.yaml'}")
    say(f"starting the service node{number}")
    _run(directory, "up", "--detach", "--no-build", f"node{number}", what=f"start node{number}")
    stack.fetch_credentials(directory)
    return f"node{number}:{STACK_CLIENT_PORT + number}", f"http://127.0.0.1:{port}"


def stop(session: Session, number: int, *, purge: bool) -> bool:
    """Stop the service of a node beyond the three and forget it; with `purge`, delete its volumes too. Answers whether
    there was one.
    """
    directory = session.directory.resolve()
    if number <= STACK_NODES:
        if purge:
            raise CliError(
                Exit.USAGE,
                f"node{number} is one of the {STACK_NODES} that the stack consists of: its data are not deleted alone",
                hint=f"docker compose stop node{number}; or `appliance down --purge` for the whole stack",
                code="usage",
            )
        return False
    with changing(directory):
        numbers = further_nodes(directory)
        project = stack.project(directory)
        if number in numbers:
            _run(directory, "rm", "--stop", "--force", f"node{number}", what=f"stop node{number}")
            write_nodes(directory, [other for other in numbers if other != number])
            # A new `init` lets go of the node's volume, and of its URL and its target for Prometheus in what it writes.
            _run(directory, "up", "--no-build", "--no-deps", "init", what="run the service init")
            stack.fetch_credentials(directory)
        if purge:
            _delete_volumes(project, number)
    return number in numbers


def _run(directory: Path, *arguments: str, what: str) -> None:
    done = stack.compose(directory, *arguments, profiles="", stdout=sys.stderr)
    if done.returncode:
        raise CliError(
            Exit.FAILURE,
            f"docker compose could not {what}; its words are above",
            hint="correct what they name, and give the same command again",
            code="stack",
        )


def _delete_volumes(project: str, number: int) -> None:
    for what in ("config", "data"):
        labels = (f"com.docker.compose.project={project}", f"com.docker.compose.volume=node{number}-{what}")
        filters = [word for label in labels for word in ("--filter", f"label={label}")]
        listed = subprocess.run(
            ["docker", "volume", "ls", "--quiet", *filters], capture_output=True, text=True, check=False
        )
        for name in listed.stdout.split():
            subprocess.run(["docker", "volume", "rm", name], check=False, stdout=sys.stderr)
            say(f"volume {name} is deleted")
