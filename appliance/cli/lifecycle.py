"""`appliance up`, `down`, `ps`, `logs`: the cluster's life, in containers or as plain local processes."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from appliance.cli.exits import CliError, Exit
from appliance.cli.output import emit, say
from appliance.cli.session import Session
from appliance.cli.shapes import Started

COLUMNS: Final = ("name", "state", "pid", "role", "health", "restarts", "since", "url")

_NEXT: Final = (
    ("status", "what every node says, and whether their trees agree"),
    ("kv put hello world", "write; then `kv get hello`"),
    ("kv import FILE", 'many records, NDJSON of {"key","value"}'),
    ("audit query 'FROM audit'", "who wrote what, in SQL"),
    ("logs -f", "what the nodes log"),
    ("down", "stop; data stay"),
)


def register(app: typer.Typer) -> None:
    """Put the commands of this chapter on the root."""
    app.command()(up)
    app.command()(down)
    app.command()(ps)
    app.command()(logs)


def up(
    ctx: typer.Context,
    *,
    local: Annotated[
        bool, typer.Option("--local", help="Plain processes under a supervisor; no container engine is needed.")
    ] = False,
    base_port: Annotated[
        int | None,
        typer.Option(
            help="Client port of node 1 (local); peer ports are 1000 above. [default: 8001]", min=1, max=64000
        ),
    ] = None,
    nodes: Annotated[int | None, typer.Option(help="Number of nodes (local). [default: 3]", min=1, max=9)] = None,
    wait: Annotated[float, typer.Option(help="Seconds until the cluster must be healthy.", min=1)] = 300.0,
) -> None:
    """Start the cluster and wait until it is healthy; what runs already is left running.

    The container stack where `docker compose` and its engine answer, else, and with --local, three nodes as plain
    processes. The state directory remembers which; data and credentials are kept from one start to the next.
    """
    session: Session = ctx.obj
    from appliance.cli import local as local_mode
    from appliance.cli import stack

    directory = session.directory
    if local or local_mode.is_local(directory):
        started = local_mode.up(session, base_port=base_port, nodes=nodes, timeout_s=wait)
    elif base_port is not None or nodes is not None:
        raise CliError(
            Exit.USAGE,
            "--base-port and --nodes are for local clusters",
            hint="add --local; the stack's ports are set by NODE1_PORT, NODE2_PORT, NODE3_PORT",
            code="usage",
        )
    else:
        engine = stack.engine_problem()
        if engine:
            say(f"no container engine ({engine}); starting three local processes instead")
            started = local_mode.up(session, base_port=None, nodes=None, timeout_s=wait)
        else:
            started = stack.up(session, timeout_s=wait)
    _emit_started(session, started)


def down(
    ctx: typer.Context,
    *,
    purge: Annotated[
        bool, typer.Option("--purge", "--volumes", help="Delete all data and credentials too; needs --yes.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Stop the cluster in order. Data and credentials stay unless --purge says otherwise."""
    session: Session = ctx.obj
    from appliance.cli import local as local_mode
    from appliance.cli import stack

    if purge and not yes:
        _ask(session)
    if local_mode.is_local(session.directory):
        stopped = local_mode.down(session, purge=purge)
    else:
        stopped = stack.down(session, purge=purge)
    emit(
        session,
        stopped,
        columns=("stopped", "had to be killed", "data"),
        table=[(", ".join(stopped.stopped), ", ".join(stopped.killed), "deleted" if stopped.purged else "kept")],
    )


def ps(ctx: typer.Context) -> None:
    """List the nodes: pid, role, health, restarts, since when."""
    session: Session = ctx.obj
    from appliance.cli import local as local_mode

    if local_mode.is_local(session.directory):
        result = local_mode.ps(session)
        if result.supervisor_pid is None and not session.as_json:
            say("no supervisor is running: `appliance up` starts one")
    else:
        from appliance.cli import stack

        result = stack.ps(session)
    emit(
        session,
        result,
        columns=COLUMNS,
        table=((p.name, p.state, p.pid, p.role, p.health, p.restarts, p.since, p.url) for p in result.processes),
    )


def logs(
    ctx: typer.Context,
    *,
    node: Annotated[str | None, typer.Argument(help="node1, node2, ... or another service; all nodes without.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new lines until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", help="Lines of each node to begin with.", min=0)] = 50,
) -> None:
    """Show the nodes' logs, oldest line first."""
    session: Session = ctx.obj
    from appliance.cli import local as local_mode

    if local_mode.is_local(session.directory):
        local_mode.logs(session, node=node, follow_on=follow, count=lines)
    else:
        from appliance.cli import stack

        stack.logs(session, node=node, follow_on=follow, count=lines)


def _ask(session: Session) -> None:
    if not sys.stdin.isatty():
        raise CliError(
            Exit.USAGE,
            "--purge deletes all data of this cluster and there is nobody to ask",
            hint="add --yes if that is what you want",
            code="usage",
        )
    say(f"This deletes all data and credentials of the cluster in {session.directory}.")
    if input("Type yes to go on: ").strip() != "yes":
        raise CliError(Exit.USAGE, "nothing was deleted", hint="answer yes, or leave --purge out", code="usage")


def _emit_started(session: Session, started: Started) -> None:
    emit(session, started, columns=("node",), table=[(url,) for url in started.urls])
    if session.as_json:
        return
    word = "was running already" if started.already else "is up"
    say(f"The cluster {word} and healthy ({started.mode}, {started.seconds:.1f} s).")
    say(f"API keys: {started.credentials} (the commands below find it by themselves)")
    program = program_word()
    for number, (command, meaning) in enumerate(_NEXT):
        say(f"{'Next:' if number == 0 else '     '} {program} {command:26} # {meaning}")


def program_word() -> str:
    """How the user calls this program: by its name when that finds it, else by the path that was used."""
    used = Path(sys.argv[0])
    found = shutil.which("appliance")
    if found is None and used.name == "appliance" and used.exists():
        return str(used)
    return "appliance"
