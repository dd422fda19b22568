"""`appliance scrub`: have a node read back all that it stores, and say what has rotted."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Final

import msgspec
import typer

from appliance.cli.exits import CliError, Exit
from appliance.cli.node_by_node import AllOption, NodeOption, chosen_nodes, each_in_turn, some_failed
from appliance.cli.output import emit, say, size_text
from appliance.cli.probing import figures_of
from appliance.cli.progress import Waiting
from appliance.cli.session import Session
from appliance.cli.shapes import Scrubbed, Scrubs

RATE_DEFAULT: Final = 16 * 1024 * 1024
RATE_MIN: Final = 64 * 1024
POLL_S: Final = 0.5
SILENCE_S_MAX: Final = 30.0  # of a node that is being read back
COLUMNS: Final = ("node", "findings", "read", "seconds", "why not")


def register(app: typer.Typer) -> None:
    """Put the command on the root."""
    app.command()(scrub)


def scrub(
    ctx: typer.Context,
    *,
    node: NodeOption = "",
    every: AllOption = False,
    rate: Annotated[int, typer.Option(help="Bytes a second that are read at most.", min=RATE_MIN)] = RATE_DEFAULT,
) -> None:
    """Have a node read back all that it stores, now, and wait: leaves, values, tiles, heads, log, audit segments.

    Nodes do that by themselves, slowly ([storage] scrub_rate). Ctrl-C ends the wait and not the scrub. What has rotted
    is named, is an alarm of the node from then on, and exit code 9; `appliance cluster resync` gets it from the others.
    """
    session: Session = ctx.obj
    done, failures = each_in_turn(
        chosen_nodes(session, node, every=every),
        lambda url: _scrub(session, url, rate),
        lambda url, error: Scrubbed(url=url, status=error.code, error=error.message),
    )
    emit(session, Scrubs(nodes=done), columns=COLUMNS, table=map(_row, done))
    for one in done:
        for detail in one.details:
            say(f"{one.url}: {detail}")
    _judge(done, failures)


def _judge(done: list[Scrubbed], failures: list[CliError]) -> None:
    rotten = [one.url for one in done if one.findings]
    if rotten:
        raise CliError(
            Exit.DIVERGED,
            f"something has rotted at {', '.join(rotten)}",
            hint="`appliance cluster resync N` gets that node's data again from the others; look at its disk, too",
            code="storage_rotten",
        )
    if failures:
        raise some_failed(failures, len(done), "not read back", "appliance scrub")


def _scrub(session: Session, url: str, rate: int) -> Scrubbed:
    alone = replace(session, urls=(url,))
    with Waiting(f"reading back {url}") as waiting:
        with alone.client() as client:
            content = msgspec.json.encode({"rate": rate})
            begun = client.request("POST", "/admin/scrub", params={"wait": "false"}, content=content).json()
        ended = _until_done(session, url, begun["number"], waiting)
    return Scrubbed(
        url=url,
        status="ok",
        error=None,
        findings=int(ended["findings"]),
        details=[str(detail) for detail in ended["details"]],
        bytes_read=int(ended["bytes_read"]),
        seconds=ended["seconds"],
    )


def _until_done(session: Session, url: str, number: int, waiting: Waiting) -> Mapping[str, Any]:
    """Look at the pass until it is completed. Raises `CliError` when the node is gone."""
    heard_s = time.monotonic()
    while True:
        figures = figures_of(url, session).get("scrub")
        if figures is not None:
            heard_s = time.monotonic()
            if figures["number"] != number:
                raise _cut_short(url, "the node was started anew meanwhile, or scrubs again")
            if not figures["running"]:
                return dict(figures)
            waiting.note(f"{figures['share']:.0%}, {size_text(int(figures['bytes_read']))}")
        elif time.monotonic() - heard_s > SILENCE_S_MAX:
            raise _cut_short(url, f"it has not answered for {SILENCE_S_MAX:g} s")
        time.sleep(POLL_S)


def _cut_short(url: str, reason: str) -> CliError:
    return CliError(
        Exit.UNAVAILABLE,
        f"what became of the scrub of {url} is not known: {reason}",
        hint="the same command again, when it answers",
        code="no_connection",
        retryable=True,
    )


def _row(node: Scrubbed) -> tuple[Any, ...]:
    read = None if node.bytes_read is None else size_text(node.bytes_read)
    return (node.url, node.findings, read, node.seconds, node.error)
