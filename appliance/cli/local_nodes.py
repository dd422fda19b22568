"""Nodes that a local cluster gets beyond those that it was founded with, or loses again."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Final

from appliance.cli.exits import CliError, Exit
from appliance.cli.local import founders_of, lay_out, numbers_of, ports_of
from appliance.cli.output import say
from appliance.cli.preflight import check_machine
from appliance.cli.processes import is_alive
from appliance.cli.session import Session
from appliance.cli.supervisor import end
from appliance.cli.supervisor_files import Plan, changing, living_children, read_plan, read_state

NODES_MAX: Final = 9  # as `up --nodes`
STOP_MARGIN_S: Final = 10.0
POLL_S: Final = 0.05


def start(session: Session, number: int) -> tuple[str, str]:
    """Have a configuration for node `number`, and the supervisor run it; answers its client address and its URL. What
    is there already stays.
    """
    directory = session.directory.resolve()
    with changing(directory):
        plan = _plan(directory)
        if not _is_supervised(directory):
            raise CliError(
                Exit.UNAVAILABLE, "the cluster is not running here", hint="start it: appliance up", code="unavailable"
            )
        numbers = numbers_of(plan)
        if number not in numbers:
            if number > NODES_MAX:
                raise CliError(
                    Exit.USAGE,
                    f"a local cluster has nodes 1 to {NODES_MAX}, and no node {number}",
                    hint=f"for a node of its own: appliance cluster add {number} HOST:PORT",
                    code="usage",
                )
            check_machine(directory, ports_of(plan.base_port, number), other_ports="another number")
            plan = lay_out(directory, plan.base_port, founders_of(plan), sorted((*numbers, number)))
            say(f"node{number}: its configuration is in {directory / f'node{number}'}, the supervisor starts it")
    url = next(child.url for child in plan.children if child.name == f"node{number}")
    return url.removeprefix("http://"), url


def stop(session: Session, number: int, *, purge: bool) -> bool:
    """Stop a node and take it out of what the supervisor runs; with `purge`, delete its files too. Answers whether it
    was there.
    """
    directory = session.directory.resolve()
    name = f"node{number}"
    with changing(directory):
        plan = _plan(directory)
        numbers = numbers_of(plan)
        if number in numbers:
            left = [other for other in numbers if other != number]
            lay_out(directory, plan.base_port, founders_of(plan), left)
        _await_gone(directory, name, plan.grace_s)
        home = directory / name
        if purge and home.is_dir() and not home.is_symlink():
            shutil.rmtree(home)
            say(f"{home} is deleted")
    return number in numbers


def _await_gone(directory: Path, name: str, grace_s: float) -> None:
    """Wait until the supervisor has stopped a child; where there is none, stop what it left behind."""
    until_s = time.monotonic() + grace_s + STOP_MARGIN_S
    while True:
        left = next((child for child in living_children(read_state(directory)) if child.name == name), None)
        if left is None:
            return
        if not _is_supervised(directory):
            assert left.process is not None, "it lives"
            end(left.process, grace_s)
            return
        if time.monotonic() >= until_s:
            raise CliError(
                Exit.FAILURE,
                f"the supervisor does not stop {name}; {directory / 'supervisor.log'} says what it waits for",
                hint="give the same command again",
                code="supervisor",
            )
        time.sleep(POLL_S)


def _plan(directory: Path) -> Plan:
    plan = read_plan(directory)
    if plan is None:
        raise CliError(
            Exit.NOT_FOUND, f"no local cluster is in {directory}", hint="start one: appliance up", code="not_found"
        )
    return plan


def _is_supervised(directory: Path) -> bool:
    state = read_state(directory)
    return state is not None and is_alive(state.supervisor)
