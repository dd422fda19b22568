"""What is done to one node, or to each of several in turn: which ones, and what comes of those that fail."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar

import typer

from appliance.cli.exits import CliError, Exit, no_node_known
from appliance.cli.session import Session, parse_urls

NodeOption = Annotated[str, typer.Option("--node", help="URL of the node; by default the first one of --url.")]
AllOption = Annotated[bool, typer.Option("--all", help="All nodes of --url, each in turn.")]

T = TypeVar("T")


def chosen_nodes(session: Session, node: str, *, every: bool) -> Sequence[str]:
    """URLs of the nodes that `--node` and `--all` mean, one at least. Raises `CliError`."""
    if node and every:
        raise CliError(Exit.USAGE, "--node and --all exclude each other", hint="give one of them", code="usage")
    urls = parse_urls(node) or session.urls
    chosen = urls if every else urls[:1]
    if not chosen:
        raise no_node_known()
    return chosen


def each_in_turn(
    urls: Sequence[str], work: Callable[[str], T], failed: Callable[[str, CliError], T]
) -> tuple[list[T], list[CliError]]:
    """Do the work to each node, also when others failed.

    Args:
        urls: the nodes, one at least.
        work: does it to one.
        failed: what stands in the answer for a node to which it could not be done.

    Returns:
        What is answered for each node, in their order, and the failures.

    Raises:
        CliError: it could be done to none of them; the first failure.
    """
    done: list[T] = []
    failures: list[CliError] = []
    for url in urls:
        try:
            done.append(work(url))
        except CliError as error:
            failures.append(error)
            done.append(failed(url, error))
    if len(failures) == len(urls):
        raise failures[0]
    return done, failures


def some_failed(failures: Sequence[CliError], number: int, what: str, command: str) -> CliError:
    """That it was done to some nodes and not to others.

    Args:
        failures: why not, one at least.
        number: of all nodes.
        what: was not done to them, as in "not compacted".
        command: that does it to one of them.
    """
    return CliError(
        Exit.PARTIAL,
        f"{len(failures)} of {number} nodes were {what}",
        hint=f"`{command} --node URL` for each of them, when it answers",
        code=failures[0].code,
        retryable=True,
    )
