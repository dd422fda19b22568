"""`appliance compact`: drop what need not be kept of a node's Raft log, and give space back."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Final

import typer

from appliance.cli.exits import CliError, Exit
from appliance.cli.output import emit, size_text
from appliance.cli.progress import Waiting
from appliance.cli.session import Session, parse_urls
from appliance.cli.shapes import Compacted, Compaction

ANSWER_TIMEOUT_S: Final = 3600.0  # it reads and writes all of a ledger of some gigabytes
COLUMNS: Final = ("node", "entries dropped", "log up to", "log", "ledger", "seconds", "why not")


def register(app: typer.Typer) -> None:
    """Put the command on the root."""
    app.command()(compact)


def compact(
    ctx: typer.Context,
    *,
    node: Annotated[str, typer.Option(help="URL of the node; by default the first one of --url.")] = "",
    every: Annotated[bool, typer.Option("--all", help="All nodes of --url, each in turn.")] = False,
) -> None:
    """Compact a node: drop what its ledger file covers from its Raft log, and give space back; writes go on.

    Values and their history are never dropped. Waits for the end, an hour at most for each node. With --all, exit code
    8 when some nodes were compacted and others not.
    """
    session: Session = ctx.obj
    if node and every:
        raise CliError(Exit.USAGE, "--node and --all exclude each other", hint="give one of them", code="usage")
    urls = parse_urls(node) or session.urls
    chosen = urls if every else urls[:1]
    if not chosen:
        raise CliError(
            Exit.USAGE,
            "no node is known",
            hint="start a cluster with `appliance up`, or give --url http://host:port (APPLIANCE_URL)",
            code="usage",
        )
    done: list[Compacted] = []
    failures: list[CliError] = []
    for url in chosen:
        try:
            done.append(_compact(session, url))
        except CliError as error:
            failures.append(error)
            done.append(Compacted(url=url, status=error.code, error=error.message))
    if len(failures) == len(chosen):
        raise failures[0]
    emit(session, Compaction(nodes=done), columns=COLUMNS, table=map(_row, done))
    if failures:
        raise CliError(
            Exit.PARTIAL,
            f"{len(failures)} of {len(chosen)} nodes were not compacted",
            hint="`appliance compact --node URL` for each of them, when it answers",
            code=failures[0].code,
            retryable=True,
        )


def _compact(session: Session, url: str) -> Compacted:
    alone = replace(session, urls=(url,))
    with (
        Waiting(f"compacting {url}"),
        alone.client(answer_timeout_s=ANSWER_TIMEOUT_S, patient=True) as client,
    ):
        answer: dict[str, Any] = client.request("POST", "/admin/compact", repeatable=True).json()
    return Compacted(
        url=url,
        status=answer["status"],
        error=None,
        snapshot_index=int(answer["snapshot_index"]),
        entries_dropped=int(answer["entries_dropped"]),
        log_bytes_before=int(answer["log_bytes_before"]),
        log_bytes_after=int(answer["log_bytes_after"]),
        ledger_bytes_before=int(answer["ledger_bytes_before"]),
        ledger_bytes_after=int(answer["ledger_bytes_after"]),
        seconds=answer["seconds"],
    )


def _row(node: Compacted) -> tuple[Any, ...]:
    return (
        node.url,
        node.entries_dropped,
        node.snapshot_index,
        _sizes(node.log_bytes_before, node.log_bytes_after),
        _sizes(node.ledger_bytes_before, node.ledger_bytes_after),
        node.seconds,
        node.error,
    )


def _sizes(before: int | None, after: int | None) -> str | None:
    return None if before is None or after is None else f"{size_text(before)} → {size_text(after)}"
