"""`appliance cluster add|remove|replace|transfer`: members come and go, the leadership moves."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Any, Final

import msgspec
import typer

from appliance.cli import bundle
from appliance.cli.cluster import COLUMNS, member_row, read_members
from appliance.cli.exits import CliError, Exit
from appliance.cli.output import emit, emit_json, emit_table, say
from appliance.cli.probing import members_of, probe_all
from appliance.cli.progress import Waiting
from appliance.cli.session import Session
from appliance.cli.shapes import Member, MemberChange, Replaced, Transferred

CATCH_UP_S_MAX: Final = 600.0
POLL_S: Final = 0.5
ANSWER_TIMEOUT_S: Final = 120.0  # a change waits for other nodes, and a removal may wait for another leader first
NODE_ID_MAX: Final = 65_535

NodeIdArgument = Annotated[int, typer.Argument(help="Number of the node.", min=1, max=NODE_ID_MAX)]
RaftAddressOption = Annotated[
    str, typer.Option(help="Its peer address, host:port; else the node is asked, else the same host and port + 1000.")
]
NoWaitOption = Annotated[bool, typer.Option("--no-wait", help="Do not wait until it has caught up and votes.")]


def register(app: typer.Typer) -> None:
    """Put the commands of this chapter under `cluster`."""
    app.command()(add)
    app.command()(remove)
    app.command()(replace)
    app.command()(transfer)


def add(
    ctx: typer.Context,
    *,
    node_id: NodeIdArgument,
    address: Annotated[
        str,
        typer.Argument(
            help="Its client address, host:port, as the other nodes reach it; without it, the cluster that `appliance "
            "up` started gets the node."
        ),
    ] = "",
    raft_address: RaftAddressOption = "",
    no_wait: NoWaitOption = False,
) -> None:
    """Make a node a member: a learner first, a voter once it has caught up.

    With an address, the node runs already. With its number alone (up to 9), a cluster that `appliance up` started gets
    it: its configuration and secrets are written and it is started, as one more local process or one more service of
    the container stack, which `up`, `down`, `ps`, `logs` and Prometheus know from then on.

    Waits for that, 10 minutes at most; then the node stands as a learner, exit code 0, and the leader promotes it all
    the same once it has caught up. Ctrl-C ends the wait and not the change. A node that is a member already stays so,
    and whatever an interrupted command left undone the next one does.
    """
    session: Session = ctx.obj
    url = None
    if not address:
        if raft_address:
            raise CliError(Exit.USAGE, "--raft-address goes with an address", hint="give both", code="usage")
        address, url = bundle.start_node(session, node_id)
    change = _add(session, node_id, address, raft_address, wait=not no_wait)
    _emit_change(session, msgspec.structs.replace(change, url=url))


def remove(
    ctx: typer.Context,
    *,
    node_id: NodeIdArgument,
    purge: Annotated[
        bool, typer.Option("--purge", help="Delete its data too, where `cluster add` started it; needs --yes.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove a member; a leader hands over first. Stop the node afterwards.

    A node that `cluster add` started by its number is stopped, too, and forgotten by `up` and its like; its data stay
    without --purge. Refused (exit code 4) when too few live voters would be left. A node that is no member stays so.
    """
    session: Session = ctx.obj
    if purge and not yes:
        bundle.confirm_purge(node_id)
    change = _remove(session, node_id)
    stopped = bundle.stop_node(session, node_id, purge=purge)
    _emit_change(session, msgspec.structs.replace(change, stopped=stopped))
    if stopped and not purge and not session.as_json:
        say(f"its data stay; `appliance cluster remove {node_id} --purge` deletes them")


def replace(
    ctx: typer.Context,
    *,
    node_id: NodeIdArgument,
    address: Annotated[
        str, typer.Argument(help="Client address of the new node, host:port; by default that of the member.")
    ] = "",
    raft_address: RaftAddressOption = "",
    no_wait: NoWaitOption = False,
) -> None:
    """Put a new node in the place of a member that cannot be reached: remove it, then add the new one.

    Start the new node first, with an empty data directory. Repeat the command when it was interrupted. A member that
    can be reached is not removed; one whose data are gone comes back by itself, and is only waited for.
    """
    session: Session = ctx.obj
    held = next((member for member in look(session) if member.node_id == node_id), None)
    if held is None and not address:
        raise CliError(
            Exit.USAGE,
            f"node {node_id} is no member, so its address is not known",
            hint=f"appliance cluster replace {node_id} HOST:PORT",
            code="usage",
        )
    reached = held is not None and (held.connected or held.is_self)
    if held is not None and address in ("", held.address):
        address, raft_address = held.address, raft_address or held.raft_address
    elif held is not None and reached:
        raise CliError(
            Exit.CONFLICT,
            f"node {node_id} is a member at {held.address} and can be reached, so it is not replaced",
            hint=f"stop it first; or `appliance cluster remove {node_id}`, then `cluster add {node_id} {address}`",
            code="conflict",
        )
    removed = held is not None and not reached and _remove(session, node_id).changed
    try:
        added = _add(session, node_id, address, raft_address, wait=not no_wait)
    except CliError as error:
        if not removed:
            raise
        raise CliError(
            error.exit_code,
            f"node {node_id} is removed, but the new one is not added: {error.message}",
            hint=f"when it runs: appliance cluster replace {node_id} {address}",
            code=error.code,
            retryable=error.retryable,
            status=error.status,
        ) from None
    _emit_change(
        session,
        Replaced(
            status=added.status,
            node_id=added.node_id,
            role=added.role,
            changed=added.changed or removed,
            removed=removed,
            index=added.index,
            members=added.members,
        ),
    )


def transfer(
    ctx: typer.Context,
    *,
    node_id: Annotated[
        int | None,
        typer.Argument(help="The voter that is to lead; by default the one furthest along.", min=1, max=NODE_ID_MAX),
    ] = None,
) -> None:
    """Let another voter lead, before the leader's machine is worked on, say."""
    session: Session = ctx.obj
    with Waiting("moving the leadership"):
        answer = post(session, "/cluster/leader/transfer", {} if node_id is None else {"node_id": node_id})
    moved = msgspec.convert(answer, Transferred, strict=False)
    emit(
        session,
        moved,
        columns=("leader", "term", "changed"),
        table=[(moved.leader_id, moved.term, _yes(moved.changed))],
    )


def post(session: Session, path: str, fields: dict[str, Any], params: dict[str, str | int] | None = None) -> Any:
    """Ask any node for a change, and again elsewhere when that may help; answers its JSON.

    `--timeout` bounds until when it is asked; an answer under way is waited for.
    """
    with session.client(answer_timeout_s=ANSWER_TIMEOUT_S, patient=True) as client:
        content = msgspec.json.encode(fields)
        return client.request("POST", path, params=params, content=content, repeatable=True).json()


def _add(session: Session, node_id: int, address: str, raft_address: str, *, wait: bool) -> MemberChange:
    fields: dict[str, Any] = {"node_id": node_id, "address": address}
    if raft_address:
        fields["raft_address"] = raft_address
    with Waiting(f"adding node {node_id}") as waiting:
        change = _change(post(session, "/cluster/nodes/add", fields, {"wait": "false"}))
        if not wait or change.role != "learner":
            return change
        say(f"node {node_id} is a learner; waiting until it has caught up (Ctrl-C ends the wait, not the change)")
        return _until_voter(session, change, waiting)


def _until_voter(session: Session, change: MemberChange, waiting: Waiting) -> MemberChange:
    """Look at the member until it is a voter, or time is over."""
    until_s = time.monotonic() + CATCH_UP_S_MAX
    role, members = change.role, change.members
    while role == "learner" and time.monotonic() < until_s:
        time.sleep(POLL_S)
        members = look(session) or members
        member = next((member for member in members if member.node_id == change.node_id), None)
        if member is not None:
            role = "learner" if member.role == "learner" else "voter"
            waiting.note("" if member.lag is None else f"{member.lag:,} entries behind")
        elif _leaders([members]) is not None:  # others may not know of it yet
            raise CliError(Exit.CONFLICT, f"node {change.node_id} was removed while it was waited for", code="conflict")
    return msgspec.structs.replace(change, role=role, members=members)


def _remove(session: Session, node_id: int) -> MemberChange:
    with Waiting(f"removing node {node_id}"):
        return _change(post(session, "/cluster/nodes/remove", {"node_id": node_id}))


def look(session: Session) -> list[Member]:
    """The members as the leader sees them, else as any node does; none when no node tells.

    The leader is asked at the address that the others know, too: a node that was added is not among `--url`.
    """
    views = _views(session, session.urls)
    view = _leaders(views)
    if view is None:
        scheme = session.urls[0].partition("://")[0] if session.urls else "http"
        leaders = {member.address for view in views for member in view if member.is_leader}
        view = _leaders(_views(session, sorted(f"{scheme}://{address}" for address in leaders)))
    return view or (views[0] if views else [])


def _views(session: Session, urls: Sequence[str]) -> list[list[Member]]:
    return [read_members(rows) for rows in probe_all(urls, session, members_of) if rows] if urls else []


def _leaders(views: list[list[Member]]) -> list[Member] | None:
    return next((view for view in views if any(m.is_self and m.is_leader for m in view)), None)


def _change(answer: dict[str, Any]) -> MemberChange:
    return MemberChange(
        status=answer["status"],
        node_id=answer["node_id"],
        role=answer["role"],
        changed=answer["changed"],
        index=int(answer["index"]),
        members=read_members(answer["members"]),
    )


def _emit_change(session: Session, change: MemberChange | Replaced) -> None:
    if session.as_json:
        emit_json(change)
        return
    role = "learner (not caught up yet)" if change.role == "learner" else change.role
    emit_table(("node", "stands as", "changed", "index"), [(change.node_id, role, _yes(change.changed), change.index)])
    emit_table(COLUMNS, map(member_row, change.members))
    if change.role == "learner":
        say("the leader promotes it once it has caught up; `appliance cluster nodes` shows how far it is")
    elif isinstance(change, MemberChange) and change.stopped:
        say(f"node {change.node_id} takes no part any more, and is stopped")
    elif change.role == "removed" and change.changed:
        say(f"node {change.node_id} takes no part any more; its process can be stopped")


def _yes(value: bool) -> str:
    return "yes" if value else "no, it stood so before"
