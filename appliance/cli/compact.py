"""`appliance compact`: drop what need not be kept of a node's Raft log, and give space back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import typer

from appliance.cli.node_by_node import AllOption, NodeOption, chosen_nodes, each_in_turn, some_failed
from appliance.cli.output import emit, size_text
from appliance.cli.progress import Waiting
from appliance.cli.session import Session
from appliance.cli.shapes import Compacted, Compaction

ANSWER_TIMEOUT_S: Final = 3600.0  # it reads and writes all of a ledger of some gigabytes
COLUMNS: Final = ("node", "entries dropped", "log up to", "log", "ledger", "seconds", "why not")


def register(app: typer.Typer) -> None:
    """Put the command on the root."""
    app.command()(compact)


def compact(
    ctx: typer.Context,
    *,
    node: NodeOption = "",
    every: AllOption = False,
) -> None:
    """Compact a node: drop what its ledger file covers from its Raft log, and give space back; writes go on.

    Values and their history are never dropped. Waits for the end, an hour at most for each node. With --all, exit code
    8 when some nodes were compacted and others not.
    """
    session: Session = ctx.obj
    done, failures = each_in_turn(
        chosen_nodes(session, node, every=every),
        lambda url: _compact(session, url),
        lambda url, error: Compacted(url=url, status=error.code, error=error.message),
    )
    emit(session, Compaction(nodes=done), columns=COLUMNS, table=map(_row, done))
    if failures:
        raise some_failed(failures, len(done), "not compacted", "appliance compact")


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
