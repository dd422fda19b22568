"""What the supervisor and the commands tell each other through the state directory."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

import msgspec
from msgspec import Struct

from appliance.cli.init_files import write_file
from appliance.cli.processes import ProcessId, is_alive

PLAN_FILE: Final = "supervisor.plan.json"
STATE_FILE: Final = "supervisor.json"
LOCK_FILE: Final = "supervisor.lock"
LOG_FILE: Final = "supervisor.log"
CONSOLE_FILE: Final = "console.log"

_T = TypeVar("_T")


class ChildPlan(Struct, frozen=True, kw_only=True):
    """A program to keep running.

    Attributes:
        name: its name, `node1`.
        argv: its command line; it holds `marker`.
        marker: text that tells its command line from others, the configuration file's path.
        console: file that takes its standard output and error.
        url: its client URL, empty for none.
    """

    name: str
    argv: tuple[str, ...]
    marker: str
    console: str
    url: str = ""


class Plan(Struct, frozen=True, kw_only=True):
    """What the supervisor keeps running; it looks again whenever the file changes.

    The back-off doubles from min to max and starts anew after `steady_s`. `founders` is how many nodes, counted from 1,
    have founded the cluster; 0 means as many as there are children.
    """

    children: tuple[ChildPlan, ...]
    base_port: int = 0
    founders: int = 0
    backoff_s_min: float = 0.25
    backoff_s_max: float = 10.0
    steady_s: float = 20.0
    grace_s: float = 20.0


class ChildState(Struct, frozen=True, kw_only=True):
    """One child as the supervisor last saw it.

    Attributes:
        state: running, restarting, stopping once the plan has it no more, and after the supervisor's orderly end
            stopped, or killed for want of that.
        since: when it came into this state, RFC 3339.
        restarts: starts after the first one.
        failures: ends in a row that came sooner than `steady_s` after the start.
        last_exit: exit code of its last end, negative for a signal, None when it never ended or is not known.
    """

    name: str
    state: str
    since: str
    restarts: int = 0
    failures: int = 0
    last_exit: int | None = None
    process: ProcessId | None = None


class SupervisorState(Struct, frozen=True, kw_only=True):
    """The supervisor and its children; the file outlives it, so each `process` has to be checked."""

    supervisor: ProcessId
    started: str
    children: tuple[ChildState, ...]


def read_plan(directory: Path) -> Plan | None:
    """The plan of the last `up --local`, or None."""
    return _read(directory / PLAN_FILE, Plan)


def write_plan(directory: Path, plan: Plan) -> None:
    """Write the plan that the supervisor reads when it starts, and whenever it changes."""
    write_file(directory / PLAN_FILE, msgspec.json.encode(plan))


def plan_mark(directory: Path) -> tuple[int, int]:
    """Two numbers that change whenever a plan is written; zeros without one."""
    try:
        found = (directory / PLAN_FILE).stat()
    except OSError:
        return (0, 0)
    return (found.st_ino, found.st_mtime_ns)


@contextmanager
def changing(directory: Path) -> Iterator[None]:
    """Keep others from changing what runs here meanwhile; waits for them."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def read_state(directory: Path) -> SupervisorState | None:
    """What the supervisor last wrote; None when it never ran here."""
    return _read(directory / STATE_FILE, SupervisorState)


def write_state(directory: Path, state: SupervisorState) -> None:
    """Replace the state file. It is no more durable than the processes it names, so it is not synced."""
    part = directory / f".{STATE_FILE}.part"
    part.write_bytes(msgspec.json.encode(state))
    part.chmod(0o600)
    part.replace(directory / STATE_FILE)


def living_children(state: SupervisorState | None) -> list[ChildState]:
    """The children of a state that still run, whether or not the supervisor does."""
    return [child for child in state.children if child.process and is_alive(child.process)] if state else []


class Lock:
    """The one lock of a state directory; whoever supervises holds it, and the kernel frees it when that one dies."""

    def __init__(self, directory: Path) -> None:
        self._handle = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)

    def take(self) -> bool:
        """Take it; False when somebody else has it."""
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """Give it back."""
        os.close(self._handle)


def _read(path: Path, kind: type[_T]) -> _T | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError:
        return None  # written by another version, or torn by a full disk: as good as none
