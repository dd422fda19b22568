"""`appliance writes pause|resume`: a cluster whose data files rest, for a copy of them."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

import typer

from appliance.cli.exits import CliError, Exit
from appliance.cli.membership import post
from appliance.cli.output import emit, say, when
from appliance.cli.progress import Waiting
from appliance.cli.session import Session
from appliance.cli.shapes import WritesPause
from appliance.http.limits import PAUSE_TTL_MAX_S

app = typer.Typer(help="Pause and resume the writes of clients, on all nodes.", no_args_is_help=True)

_DURATION: Final = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)([smhd]?)", re.ASCII)
_UNIT_S: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


@app.command()
def pause(
    ctx: typer.Context,
    *,
    ttl: Annotated[
        str, typer.Option(help="The pause ends by itself after this: 90s, 15m, 2h; at most 24h.", metavar="DURATION")
    ] = "15m",
) -> None:
    """Refuse writes on all nodes (503 writes_paused) until `writes resume`, or the time is over; reads go on.

    Answers when the files of each node that can be reached are settled: what is in `ledger.db` rests then. Exit code 8
    when writes are paused and some node's files are not settled. Asked again, it sets a new end.
    """
    session: Session = ctx.obj
    ttl_s = seconds_of(ttl)
    with Waiting("pausing writes"):
        paused = _pause(post(session, "/admin/pause-writes", {"ttl_seconds": ttl_s}))
    _emit_pause(session, paused)
    if paused.unsettled:
        nodes = ", ".join(map(str, paused.unsettled))
        raise CliError(
            Exit.PARTIAL,
            f"writes are paused, but the files of node {nodes} are not settled",
            hint="copy the files of a settled node, or pause again when the node can be reached",
            code="unsettled",
            retryable=True,
        )


@app.command()
def resume(ctx: typer.Context) -> None:
    """Take writes again; nothing changes when they are not paused."""
    session: Session = ctx.obj
    with Waiting("resuming writes"):
        resumed = _pause(post(session, "/admin/resume-writes", {}))
    _emit_pause(session, resumed)


def seconds_of(text: str) -> float:
    """Read a duration: a number with s, m, h or d, or of seconds.

    Raises `CliError` for what is none or out of bounds.
    """
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise CliError(Exit.USAGE, f"{text!r} is no duration", hint="write it as 90s, 15m or 2h", code="usage")
    seconds = float(found[1]) * _UNIT_S[found[2]]
    if not 1 <= seconds <= PAUSE_TTL_MAX_S:
        raise CliError(
            Exit.USAGE,
            f"a pause lasts from 1 to {PAUSE_TTL_MAX_S} s, not {seconds:g} s",
            hint="--ttl 15m",
            code="usage",
        )
    return seconds


def _pause(answer: dict[str, Any]) -> WritesPause:
    return WritesPause(
        status=answer["status"],
        paused=answer["paused"],
        paused_until=answer["paused_until"],
        index=int(answer["index"]),
        settled=answer["settled"],
        unsettled=answer["unsettled"],
    )


def _emit_pause(session: Session, found: WritesPause) -> None:
    emit(
        session,
        found,
        columns=("writes", "until", "index", "settled", "not settled"),
        table=[
            (
                "paused" if found.paused else "taken",
                when(found.paused_until) if found.paused_until else None,
                found.index,
                ", ".join(map(str, found.settled)) or None,
                ", ".join(map(str, found.unsettled)) or None,
            )
        ],
    )
    if found.paused and not session.as_json:
        say("`appliance writes resume` ends the pause")
