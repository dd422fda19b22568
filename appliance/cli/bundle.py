"""The cluster that `appliance up` started here, as `cluster add` and `remove` grow and shrink it."""

from __future__ import annotations

import sys
import time
from typing import Final

from appliance.cli.exits import CliError, Exit
from appliance.cli.output import say
from appliance.cli.probing import health_of
from appliance.cli.session import CREDENTIALS_FILE, Session, parse_urls, read_credentials

START_S: Final = 90.0  # for a new node to answer at its client port
POLL_S: Final = 0.2


def is_bundled(session: Session) -> bool:
    """Whether the cluster that is asked is the one of the state directory."""
    stored = read_credentials(session.directory / CREDENTIALS_FILE).get("APPLIANCE_URL", "")
    return bool(set(parse_urls(stored)) & set(session.urls))


def start_node(session: Session, number: int) -> tuple[str, str]:
    """Make what node `number` of the bundled cluster needs, start it and wait until it answers.

    Whatever of it is done already stays as it is, so that an interrupted call can be repeated.

    Returns:
        The client address at which other nodes reach it, and its URL on this machine.

    Raises:
        CliError: no cluster of `appliance up` is here, the machine is not ready, or the node does not start.
    """
    from appliance.cli import local

    if not is_bundled(session):
        raise CliError(
            Exit.USAGE,
            f"only a cluster that `appliance up` started from {session.directory} gets node {number} by its number",
            hint=f"start the node, then: appliance cluster add {number} HOST:PORT",
            code="usage",
        )
    if local.is_local(session.directory):
        from appliance.cli import local_nodes

        address, url = local_nodes.start(session, number)
    else:
        from appliance.cli import stack, stack_nodes

        stack.need_engine()
        address, url = stack_nodes.start(session, number)
    _await_answer(session, number, url)
    return address, url


def stop_node(session: Session, number: int, *, purge: bool) -> bool:
    """Stop what `start_node` started, and with `purge` delete its data; answers whether something was stopped."""
    from appliance.cli import local

    if not is_bundled(session):
        return False
    if local.is_local(session.directory):
        from appliance.cli import local_nodes

        return local_nodes.stop(session, number, purge=purge)
    from appliance.cli import stack, stack_nodes

    if stack.engine_problem():
        return False
    return stack_nodes.stop(session, number, purge=purge)


def confirm_purge(number: int) -> None:
    """Ask whether a node's data shall be deleted. Raises `CliError` unless somebody says yes."""
    if not sys.stdin.isatty():
        raise CliError(
            Exit.USAGE,
            f"--purge deletes the data of node {number} and there is nobody to ask",
            hint="add --yes if that is what you want",
            code="usage",
        )
    say(f"This deletes the data of node {number}.")
    if input("Type yes to go on: ").strip() != "yes":
        raise CliError(Exit.USAGE, "nothing was done", hint="answer yes, or leave --purge out", code="usage")


def _await_answer(session: Session, number: int, url: str) -> None:
    """Wait until a node answers at all: it cannot be healthy before it is a member."""
    from appliance.cli import local

    until_s = time.monotonic() + START_S
    while health_of(url, session).status == "unreachable":
        if local.is_local(session.directory):
            local.refuse_failing(session, session.directory.resolve(), name=f"node{number}")
        if time.monotonic() >= until_s:
            raise CliError(
                Exit.UNAVAILABLE,
                f"node {number} was started and does not answer at {url}",
                hint=f"`appliance logs node{number}` says why; then give the same command again",
                code="unavailable",
                retryable=True,
            )
        time.sleep(POLL_S)
