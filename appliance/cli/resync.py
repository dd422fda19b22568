"""`appliance cluster resync`: a node gives up what it holds, and gets it again from the others."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any, Final

import msgspec
import typer

from appliance.cli.exits import CliError, Exit
from appliance.cli.membership import ANSWER_TIMEOUT_S, CATCH_UP_S_MAX, NodeIdArgument, look
from appliance.cli.output import emit, say
from appliance.cli.probing import health_of, info_of, probe_all
from appliance.cli.progress import Waiting
from appliance.cli.session import Session
from appliance.cli.shapes import Member, Resynced

POLL_S: Final = 0.5
COMES_BACK_S_MAX: Final = 120.0  # a supervisor waits longer with each start, and what is held is set aside first
COLUMNS: Final = ("node", "stands as", "changed", "incarnation", "seconds")


def register(app: typer.Typer) -> None:
    """Put the command under `cluster`."""
    app.command()(resync)


def resync(ctx: typer.Context, *, node_id: NodeIdArgument) -> None:
    """Let a node that is quarantined, or whose data have rotted, get all of them again from the others.

    It hands over if it leads, gives up its vote, sets aside what it holds (`damaged-*` in its data directory), is
    started again by its supervisor, and comes back as a learner, then as a voter. Waits for that, 10 minutes at most;
    Ctrl-C ends the wait and not the resync. Refused (exit code 4) when too few live voters would be left.
    """
    session: Session = ctx.obj
    began_s = time.monotonic()
    url, info = _find(session, node_id)
    before = str(info["incarnation"])
    with Waiting(f"resyncing node {node_id}") as waiting:
        changed = not _is_under_way(session, url, info) and _ask(session, url, before)
        if changed:
            info = _until_another(session, node_id, url, before, waiting)
        role = _until_voter(session, node_id, url, waiting)
    done = Resynced(
        node_id=node_id,
        url=url,
        role=role,
        changed=changed,
        incarnation_before=before,
        incarnation=str(info["incarnation"]),
        seconds=round(time.monotonic() - began_s, 3),
    )
    words = "yes" if changed else "no, it was under way"
    emit(session, done, columns=COLUMNS, table=[(node_id, done.role, words, done.incarnation, done.seconds)])
    if role == "learner" and not session.as_json:
        say("the leader promotes it once it has caught up; `appliance cluster nodes` shows how far it is")


def _find(session: Session, node_id: int) -> tuple[str, dict[str, Any]]:
    """The node's URL, and what it says of the cluster. Raises `CliError` when it does not answer."""
    infos = probe_all(session.urls, session, info_of)
    for url, info in zip(session.urls, infos, strict=True):
        if info.get("node_id") == node_id:
            return url, info
    member = _member(session, node_id)
    if member is None:
        raise CliError(
            Exit.NOT_FOUND,
            f"node {node_id} is no member, and none of the nodes that were asked",
            hint="`appliance cluster nodes` lists them; --url names others",
            code="not_found",
        )
    url = f"{session.urls[0].partition('://')[0]}://{member.address}"
    info = info_of(url, session)
    if info.get("node_id") != node_id:
        raise CliError(
            Exit.UNAVAILABLE,
            f"node {node_id} does not answer at {url}",
            hint="start it; one that does not start sets damaged data aside by itself, and `appliance logs` says why",
            code="no_connection",
            retryable=True,
        )
    return url, info


def _member(session: Session, node_id: int) -> Member | None:
    return next((member for member in look(session) if member.node_id == node_id), None)


def _is_under_way(session: Session, url: str, info: dict[str, Any]) -> bool:
    """Whether the node is catching up already, with data that are not in doubt."""
    alarms = set(health_of(url, session).alarms)
    return info["role"] in {"learner", "outsider", "founding"} and not alarms & {"diverged", "storage_rotten"}


def _ask(session: Session, url: str, incarnation: str) -> bool:
    """Have the node give up what it holds; asked again because an answer was lost, it may be another one already."""
    alone = replace(session, urls=(url,))
    content = msgspec.json.encode({"incarnation": incarnation})
    with alone.client(answer_timeout_s=ANSWER_TIMEOUT_S, patient=True) as client:
        client.request("POST", "/admin/resync", content=content, repeatable=True)
    return True


def _until_another(session: Session, node_id: int, url: str, before: str, waiting: Waiting) -> dict[str, Any]:
    """Wait until the node answers as another incarnation."""
    until_s = time.monotonic() + COMES_BACK_S_MAX
    waiting.note("it is started again")
    while time.monotonic() < until_s:
        info = info_of(url, session)
        if info.get("incarnation", before) != before:
            return info
        time.sleep(POLL_S)
    raise CliError(
        Exit.UNAVAILABLE,
        f"node {node_id} has given up its data and has not come back within {COMES_BACK_S_MAX:g} s",
        hint="start it (`appliance up`, or its service): it gets its data from the others by itself",
        code="no_connection",
        retryable=True,
    )


def _until_voter(session: Session, node_id: int, url: str, waiting: Waiting) -> str:
    """Wait until the node votes and serves, or time is over; answers how it stands. One that is no member stays so."""
    until_s = time.monotonic() + CATCH_UP_S_MAX
    role = "learner"
    while time.monotonic() < until_s:
        members = look(session)
        member = next((member for member in members if member.node_id == node_id), None)
        if members and member is None:
            return "removed"
        if member is not None and member.role == "voter":
            role = "voter"
            if health_of(url, session).healthy:
                return role
        waiting.note(_standing(member))
        time.sleep(POLL_S)
    return role


def _standing(member: Member | None) -> str:
    if member is None:
        return "nobody tells how it stands"
    lag = "" if member.lag is None else f", {member.lag:,} entries behind"
    return f"a {member.role}{lag}"
