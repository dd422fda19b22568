"""`appliance cluster info|nodes`: the cluster as one node sees it. What changes it is in `membership`."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import typer

from appliance.cli.exits import CliError, Exit
from appliance.cli.output import emit, emit_json, emit_table
from appliance.cli.session import Session
from appliance.cli.shapes import Member, Members

app = typer.Typer(
    help="The members of the cluster: list, add, remove, replace; move the leadership.", no_args_is_help=True
)

COLUMNS: Final = ("node", "role", "address", "peer address", "connected", "match", "lag", "last contact", "version")


@app.command()
def info(ctx: typer.Context) -> None:
    """Show identity, term, leader and indexes, as one node sees them; answered without a quorum."""
    session: Session = ctx.obj
    with session.client() as client:
        answer = client.request("GET", "/cluster/info").json()
    if session.as_json:
        emit_json(answer)
        return
    emit_table(("figure", "value"), [(name, value) for name, value in answer.items() if not isinstance(value, list)])
    if len(answer.get("key_history") or ()) > 1:
        emit_table(
            ("keys of this log, the first one first; the last one signs",), [(k,) for k in answer["key_history"]]
        )
    if "members" in answer:
        emit_table(COLUMNS, map(member_row, read_members(answer["members"])))


@app.command()
def nodes(ctx: typer.Context) -> None:
    """List the members: role, addresses, how far each one is; answered without a quorum."""
    session: Session = ctx.obj
    with session.client() as client:
        answer = client.request("GET", "/cluster/nodes").json()
    members = read_members(answer["nodes"] if isinstance(answer, dict) else answer)
    emit(session, Members(nodes=members), columns=COLUMNS, table=map(member_row, members))


def read_members(rows: Any) -> list[Member]:
    """Read members as a node sends them; fields that this version does not know are left out."""
    known = Member.__struct_fields__
    try:
        picked = [{name: row[name] for name in known if name in row} for row in rows]
        return msgspec.convert(picked, list[Member])
    except (msgspec.ValidationError, TypeError) as error:
        raise CliError(
            Exit.FAILURE, f"the node lists its members in a way this version does not know: {error}", code="protocol"
        ) from None


def member_row(member: Member) -> tuple[Any, ...]:
    """A member as a row under `COLUMNS`."""
    contact = None if member.last_contact_s is None else f"{member.last_contact_s:.1f} s"
    return (
        f"{member.node_id}{' (asked)' if member.is_self else ''}",
        "leader" if member.is_leader else member.role,
        member.address,
        member.raft_address,
        "yes" if member.connected or member.is_self else "no",
        member.match_index,
        member.lag,
        contact,
        member.version,
    )
