"""The local cluster: three plain processes under a supervisor, with all their state in one directory."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from appliance.cli.exits import CliError, Exit
from appliance.cli.init import CREDENTIALS_FILE, LOG_KEY_FILE, PEER_PORT_OFFSET, LocalCluster, initialise_local
from appliance.cli.logs import follow, last_lines, show_last, sources_of
from appliance.cli.output import say
from appliance.cli.preflight import check_machine
from appliance.cli.probing import health_of, probe_all
from appliance.cli.processes import is_alive, send_signal
from appliance.cli.session import Session
from appliance.cli.shapes import NodeHealth, Process, Processes, Started, Stopped
from appliance.cli.supervisor import MODULE, end
from appliance.cli.supervisor_files import (
    CONSOLE_FILE,
    LOCK_FILE,
    LOG_FILE,
    PLAN_FILE,
    STATE_FILE,
    ChildPlan,
    ChildState,
    Lock,
    Plan,
    living_children,
    read_plan,
    read_state,
    write_plan,
)

DEFAULT_BASE_PORT: Final = 8001
DEFAULT_NODES: Final = 3
START_FAILURES_MAX: Final = 3
POLL_S: Final = 0.2
SUPERVISOR_START_S: Final = 10.0
STOP_MARGIN_S: Final = 10.0
LAST_LINES: Final = 15


def is_local(directory: Path) -> bool:
    """Whether this state directory is a local cluster's."""
    return (directory / PLAN_FILE).exists()


def up(session: Session, *, base_port: int | None, nodes: int | None, timeout_s: float) -> Started:
    """Start the cluster, or finish starting it, and wait until it is healthy.

    Ports and count are those of the last time unless they are given. Raises `CliError`: the machine is not ready,
    another shape is running already, a node fails at its start, time is over.
    """
    began_s = time.monotonic()
    directory = session.directory.resolve()
    old = read_plan(directory)
    state = read_state(directory)
    supervised = state is not None and is_alive(state.supervisor)
    base_port = base_port or (old.base_port if old else DEFAULT_BASE_PORT)
    founders = nodes or (founders_of(old) if old else DEFAULT_NODES)
    if supervised and old and (base_port, founders) != (old.base_port, founders_of(old)):
        raise CliError(
            Exit.CONFLICT,
            f"a cluster of {founders_of(old)} nodes from port {old.base_port} on is running here",
            hint="`appliance down` first, then `up` with the new ports",
            code="conflict",
        )
    if not supervised:
        _refuse_shrinking(old, founders)
        numbers = numbers_of(old) if old else tuple(range(1, founders + 1))
        _check_ports(directory, base_port, numbers, left=living_children(state), old=old)
        lay_out(directory, base_port, founders, numbers)
        _start_supervisor(directory)
    plan = read_plan(directory)
    assert plan is not None, "the plan was written now, or by the one who started the supervisor"
    urls = [child.url for child in plan.children]
    _await_healthy(session, directory, plan, until_s=began_s + timeout_s, stop_on_failure=not supervised)
    return Started(
        mode="local",
        urls=urls,
        credentials=str(directory / CREDENTIALS_FILE),
        already=supervised,
        seconds=round(time.monotonic() - began_s, 3),
    )


def lay_out(directory: Path, base_port: int, founders: int, numbers: Sequence[int]) -> Plan:
    """Bring the files of all nodes up to date, and the plan that runs one `scribe-node` for each."""
    cluster = initialise_local(directory, base_port=base_port, founders=founders, numbers=numbers)
    plan = make_plan(cluster, base_port, founders)
    write_plan(directory, plan)
    return plan


def make_plan(cluster: LocalCluster, base_port: int, founders: int) -> Plan:
    """The plan that runs one `scribe-node` for each configuration."""
    children = []
    for config, url in zip(cluster.configs, cluster.urls, strict=True):
        argv = (sys.executable, "-P", "-m", "appliance.cli.node_main", "--config", str(config))
        children.append(
            ChildPlan(
                name=config.parent.name,
                argv=argv,
                marker=str(config),
                console=str(config.parent / CONSOLE_FILE),
                url=url,
            )
        )
    return Plan(children=tuple(children), base_port=base_port, founders=founders)


def founders_of(plan: Plan) -> int:
    """How many nodes, counted from 1, have founded the cluster of a plan."""
    return plan.founders or len(plan.children)


def numbers_of(plan: Plan) -> tuple[int, ...]:
    """The numbers of the nodes of a plan."""
    return tuple(int(child.name.removeprefix("node")) for child in plan.children)


def down(session: Session, *, purge: bool) -> Stopped:
    """Stop supervisor and nodes in order; with `purge`, delete the cluster's files too."""
    directory = session.directory.resolve()
    state = read_state(directory)
    plan = read_plan(directory) or Plan(children=())
    before = [child.name for child in living_children(state)]
    killed: list[str] = []
    if state is not None and is_alive(state.supervisor):
        send_signal(state.supervisor, signal.SIGTERM)
        _await_lock(directory, plan.grace_s + STOP_MARGIN_S)
        state = read_state(directory)
        killed = [child.name for child in state.children if child.state == "killed"] if state else []
    # Whatever a supervisor that died left behind
    for child in living_children(state):
        if child.process is not None and end(child.process, plan.grace_s):
            killed.append(child.name)
    (directory / STATE_FILE).unlink(missing_ok=True)
    if purge:
        purge_files(directory, plan)
    return Stopped(mode="local", stopped=before, killed=killed, purged=purge)


def purge_files(directory: Path, plan: Plan) -> None:
    """Delete what `up --local` made, and the directory when nothing else is in it."""
    removed = directory.glob("node[1-9]/config.toml")  # nodes that the plan has no more may have left theirs
    for home in {*(directory / child.name for child in plan.children), *(path.parent for path in removed)}:
        if home.is_dir() and not home.is_symlink():
            shutil.rmtree(home)
    names = (
        PLAN_FILE,
        STATE_FILE,
        LOCK_FILE,
        LOG_FILE,
        CREDENTIALS_FILE,
        LOG_KEY_FILE,
        "api-keys.json",
        "cluster.secret",
    )
    for name in (*names, "cluster.id"):
        (directory / name).unlink(missing_ok=True)
    if directory.is_dir() and not any(directory.iterdir()):
        directory.rmdir()


def ps(session: Session) -> Processes:
    """What runs, with each node's own word on its role and health."""
    directory = session.directory.resolve()
    plan = read_plan(directory) or Plan(children=())
    state = read_state(directory)
    told = {child.name: child for child in state.children} if state else {}
    alive = {child.name for child in living_children(state)}
    urls = [child.url for child in plan.children]
    health = probe_all(urls, session, health_of) if urls else []
    supervised = state is not None and is_alive(state.supervisor)
    return Processes(
        mode="local",
        directory=str(directory),
        supervisor_pid=state.supervisor.pid if state and supervised else None,
        processes=[
            _process(child, told.get(child.name), child.name in alive, supervised, seen)
            for child, seen in zip(plan.children, health, strict=True)
        ],
    )


def logs(session: Session, *, node: str | None, follow_on: bool, count: int) -> None:
    """Show the nodes' log files. Raises `CliError` for a node that is not there."""
    directory = session.directory.resolve()
    names = [child.name for child in (read_plan(directory) or Plan(children=())).children]
    if node is not None and node not in names:
        raise CliError(
            Exit.NOT_FOUND, f"there is no {node} here", hint=f"there are {', '.join(names)}", code="not_found"
        )
    sources = sources_of(directory, [node] if node else names, CONSOLE_FILE)
    show_last(sources, count, as_json=session.as_json)
    if follow_on:
        follow(sources, as_json=session.as_json)


def _process(plan: ChildPlan, state: ChildState | None, alive: bool, supervised: bool, health: NodeHealth) -> Process:
    word = "running" if alive else "restarting" if supervised else "stopped"
    return Process(
        name=plan.name,
        node_id=int(plan.name.removeprefix("node")),
        state=word,
        pid=state.process.pid if alive and state and state.process else None,
        url=plan.url,
        role=health.role,
        health=health.status if alive or health.healthy else None,
        restarts=state.restarts if state else None,
        since=state.since if state else None,
    )


def _refuse_shrinking(old: Plan | None, founders: int) -> None:
    if old and founders_of(old) != founders:
        raise CliError(
            Exit.CONFLICT,
            f"this directory holds a cluster that {founders_of(old)} nodes have founded, not {founders}",
            hint="`appliance cluster add` and `remove` change it; use another --dir for another cluster",
            code="conflict",
        )


def _check_ports(
    directory: Path, base_port: int, numbers: Sequence[int], *, left: Sequence[ChildState], old: Plan | None
) -> None:
    """Check the machine; ports of nodes that outlived their supervisor are ours already."""
    ours = {child.name for child in left} if old and old.base_port == base_port else set()
    free = [number for number in numbers if f"node{number}" not in ours]
    ports = [port for number in free for port in ports_of(base_port, number)]
    check_machine(directory, ports, other_ports="--base-port")


def ports_of(base_port: int, number: int) -> tuple[int, int]:
    """Client port and peer port of a node."""
    port = base_port + number - 1
    return port, port + PEER_PORT_OFFSET


def _start_supervisor(directory: Path) -> None:
    log_path = directory / LOG_FILE
    with log_path.open("ab") as log:
        daemon = subprocess.Popen(
            [sys.executable, "-P", "-m", MODULE, str(directory)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=directory,
            start_new_session=True,
        )
    until_s = time.monotonic() + SUPERVISOR_START_S
    while time.monotonic() < until_s:
        state = read_state(directory)
        if state is not None and is_alive(state.supervisor):
            return
        if daemon.poll() is not None:
            break
        time.sleep(POLL_S / 4)
    say("\n".join(last_lines(log_path, LAST_LINES)))
    raise CliError(
        Exit.FAILURE,
        f"the supervisor did not start (exit code {daemon.poll()}); the end of {log_path} is above",
        hint="if another `appliance up` is running here, wait for it",
        code="supervisor",
    )


def _await_healthy(session: Session, directory: Path, plan: Plan, *, until_s: float, stop_on_failure: bool) -> None:
    urls = [child.url for child in plan.children]
    shown = ""
    while True:
        health = probe_all(urls, session, health_of)
        if all(node.healthy for node in health) and any(node.leader_id for node in health):
            return
        words = ", ".join(f"{child.name} {node.status}" for child, node in zip(plan.children, health, strict=True))
        if words != shown:
            shown = words
            say(f"waiting: {words}")
        refuse_failing(session, directory, stop_on_failure=stop_on_failure)
        if time.monotonic() >= until_s:
            reasons = "; ".join(f"{n.url}: {', '.join(n.reasons)}" for n in health if not n.healthy)
            raise CliError(
                Exit.UNAVAILABLE,
                f"the cluster did not become healthy in time ({reasons})",
                hint="it goes on trying: `appliance ps`, `appliance logs`; `appliance down` stops it",
                code="unhealthy",
                retryable=True,
            )
        time.sleep(POLL_S)


def refuse_failing(session: Session, directory: Path, *, name: str = "", stop_on_failure: bool = False) -> None:
    """Raise when a node, any without `name`, ends again and again, with the last lines it wrote."""
    state = read_state(directory)
    if state is None or not is_alive(state.supervisor):
        raise CliError(
            Exit.FAILURE,
            f"the supervisor ended; {directory / LOG_FILE} says why",
            hint="`appliance up` starts it again",
            code="supervisor",
        )
    watched = [child for child in state.children if name in ("", child.name)]
    failing = [child for child in watched if child.failures >= START_FAILURES_MAX]
    if not failing:
        return
    child = failing[0]
    say(f"{child.name} ended {child.failures} times in a row; its last lines:")
    show_last(sources_of(directory, [child.name], CONSOLE_FILE), LAST_LINES, as_json=False, stream=sys.stderr)
    if stop_on_failure:
        down(session, purge=False)
    raise CliError(
        Exit.FAILURE,
        f"{child.name} does not start (exit code {child.last_exit})",
        hint=f"correct what its last lines name, then `appliance up`; all its lines: `appliance logs {child.name}`",
        code="node_failed",
    )


def _await_lock(directory: Path, timeout_s: float) -> None:
    """Wait until the supervisor has let go of its lock, that is, has ended."""
    until_s = time.monotonic() + timeout_s
    lock = Lock(directory)
    try:
        while not lock.take():
            if time.monotonic() >= until_s:
                raise CliError(
                    Exit.FAILURE,
                    f"the supervisor does not stop; {directory / LOG_FILE} says what it waits for",
                    hint="run `appliance down` again",
                    code="supervisor",
                )
            time.sleep(POLL_S / 4)
    finally:
        lock.close()
