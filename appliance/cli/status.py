"""`appliance status` and `appliance health`: what the nodes say of themselves."""

from __future__ import annotations

import time
from typing import Final

import typer

from appliance.cli.exits import CliError, Exit
from appliance.cli.output import emit, say
from appliance.cli.probing import health_of, probe_all, status_of
from appliance.cli.session import Session
from appliance.cli.shapes import HealthReport, NodeStatus, Status

AGREEMENT_WAIT_S: Final = 3.0
AGREEMENT_POLL_S: Final = 0.2

_WORDS: Final = {
    "agree": "the trees agree: one root hash at one size on every node that answers",
    "diverged": "THE TREES DIVERGE: two root hashes at one size",
    "moving": "the trees were never of one size while this looked (writes go on, or a node lags); look again",
    "unknown": "fewer than two nodes tell their tree, so there is nothing to compare",
}


def register(app: typer.Typer) -> None:
    """Put the commands of this chapter on the root."""
    app.command()(status)
    app.command()(health)


def status(ctx: typer.Context) -> None:
    """Show every node's role, health, indexes, keys and Merkle root on one screen, and whether the roots agree.

    Exit code 0 when every node is healthy and the roots do not contradict each other, 9 when they do, 6 when no node
    answers, else 1.
    """
    session: Session = ctx.obj
    nodes = probe_all(session.urls, session, status_of)
    agreement = agreement_of(nodes)
    until_s = time.monotonic() + AGREEMENT_WAIT_S
    while agreement == "moving" and time.monotonic() < until_s:
        time.sleep(AGREEMENT_POLL_S)
        nodes = probe_all(session.urls, session, status_of)
        agreement = agreement_of(nodes)
    leaders = {node.health.leader_id for node in nodes if node.health.leader_id}
    result = Status(
        healthy=all(node.health.healthy for node in nodes) and agreement != "diverged",
        leader_id=leaders.pop() if len(leaders) == 1 else None,
        agreement=agreement,
        nodes=nodes,
    )
    emit(
        session,
        result,
        columns=("node", "url", "role", "health", "term", "commit", "applied", "lag", "keys", "leaves", "root"),
        table=(
            (
                node.health.node_id,
                node.health.url,
                node.health.role,
                node.health.status,
                node.health.term,
                node.health.commit_index,
                node.health.applied_index,
                node.health.lag,
                node.keys,
                node.tree_size,
                node.root_hash and node.root_hash[:16],
            )
            for node in nodes
        ),
    )
    if not session.as_json:
        say(_WORDS[agreement])
        _say_reasons(nodes)
    if agreement == "diverged":
        raise CliError(
            Exit.DIVERGED,
            "nodes hold different trees of the same size",
            hint="stop writing, keep the data directories, and compare `appliance kv history` on the nodes",
            code="diverged",
        )
    if not result.healthy:
        raise _unhealthy([node.health.status for node in nodes])


def health(ctx: typer.Context) -> None:
    """Ask every node whether it can serve linearizable reads: exit code 0 when all can, else 1 (for health checks)."""
    session: Session = ctx.obj
    nodes = probe_all(session.urls, session, health_of)
    result = HealthReport(healthy=all(node.healthy for node in nodes), nodes=nodes)
    emit(
        session,
        result,
        columns=("node", "url", "health", "role", "leader", "why"),
        table=((n.node_id, n.url, n.status, n.role, n.leader_id or None, "; ".join(n.reasons)) for n in nodes),
    )
    if not result.healthy:
        raise typer.Exit(Exit.FAILURE)


def agreement_of(nodes: list[NodeStatus]) -> str:
    """Compare roots where sizes are equal: `agree`, `diverged`, `moving` or `unknown` (see `Status`)."""
    roots: dict[int, set[str]] = {}
    told = 0
    for node in nodes:
        if node.tree_size is not None and node.root_hash is not None:
            roots.setdefault(node.tree_size, set()).add(node.root_hash)
            told += 1
    if any(len(found) > 1 for found in roots.values()):
        return "diverged"
    if told < 2:
        return "unknown"
    return "agree" if len(roots) == 1 else "moving"


def _say_reasons(nodes: list[NodeStatus]) -> None:
    for node in nodes:
        for reason in (*node.health.reasons, *(f"alarm {alarm}" for alarm in node.health.alarms)):
            say(f"{node.health.url}: {reason}")


def _unhealthy(states: list[str]) -> CliError:
    if all(state == "unreachable" for state in states):
        return CliError(
            Exit.UNAVAILABLE,
            "no node answers",
            hint="`appliance ps` shows what runs, `appliance up` starts it",
            code="no_connection",
            retryable=True,
        )
    return CliError(
        Exit.FAILURE,
        f"{sum(state != 'ok' for state in states)} of {len(states)} nodes are not healthy",
        hint="`appliance logs` shows why; `appliance up` starts nodes that are down",
        code="unhealthy",
        retryable=True,
    )
