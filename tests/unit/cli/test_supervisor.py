"""The supervisor as a real process, over small real programs instead of `scribe-node` (which `tests/cluster` has)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from appliance.cli import local
from appliance.cli.processes import ProcessId, identify_started, is_alive, send_signal
from appliance.cli.session import Output, Session
from appliance.cli.supervisor import EXIT_LOCKED, EXIT_NO_PLAN, MODULE
from appliance.cli.supervisor_files import (
    ChildPlan,
    ChildState,
    Plan,
    SupervisorState,
    read_plan,
    read_state,
    write_plan,
    write_state,
)

# Notes its starts and its orderly end in files beside it; `stubborn` does not listen to SIGTERM, `crash` ends at once
PROGRAM = """
import pathlib, signal, sys, time
home, mode = pathlib.Path(sys.argv[1]), sys.argv[2]
with (home / "starts").open("a") as file:
    file.write("started\\n")
if mode == "crash":
    sys.exit("boom: the configuration is wrong")
def on_term(*_):
    if mode != "stubborn":
        (home / "graceful").touch()
        sys.exit(0)
signal.signal(signal.SIGTERM, on_term)
signal.signal(signal.SIGHUP, lambda *_: (home / "hangup").touch())
(home / "ready").touch()
while True:
    time.sleep(0.05)
"""
DEADLINE_S = 20.0


def until(condition: Callable[[], object], what: str) -> None:
    end_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end_s, f"{what} did not happen in time"
        time.sleep(0.02)


class Rig:
    """A state directory, its supervisor, and the children that were seen."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.session = Session((), "", directory, Output.TABLE, 5.0)
        self.supervisors: list[subprocess.Popen[bytes]] = []
        self.seen: dict[str, ProcessId] = {}

    def plan(self, *modes: str, grace_s: float = 10.0, steady_s: float = 30.0) -> None:
        children = []
        for number, mode in enumerate(modes, 1):
            home = self.directory / f"node{number}"
            home.mkdir(exist_ok=True)
            script = home / "program.py"
            script.write_text(PROGRAM)
            children.append(
                ChildPlan(
                    name=home.name,
                    argv=(sys.executable, str(script), str(home), mode),
                    marker=str(script),
                    console=str(home / "console.log"),
                )
            )
        write_plan(
            self.directory,
            Plan(children=tuple(children), backoff_s_min=0.05, backoff_s_max=0.4, steady_s=steady_s, grace_s=grace_s),
        )

    def start(self) -> subprocess.Popen[bytes]:
        with (self.directory / "supervisor.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", MODULE, str(self.directory)], stdout=log, stderr=log, start_new_session=True
            )
        self.supervisors.append(process)
        return process

    def start_ready(self) -> subprocess.Popen[bytes]:
        process = self.start()
        for child in self.directory.glob("node*"):
            until((child / "ready").exists, f"{child.name} ready")
        until(lambda: all(c.process for c in self.children()) and self.state().supervisor.pid == process.pid, "state")
        return process

    def state(self) -> SupervisorState:
        state = read_state(self.directory)
        assert state is not None
        return state

    def children(self) -> list[ChildState]:
        state = read_state(self.directory)
        found = list(state.children) if state else []
        self.seen |= {str(child.process.pid): child.process for child in found if child.process}
        return found

    def child(self, name: str = "node1") -> ChildState:
        return next(child for child in self.children() if child.name == name)

    def process(self, name: str = "node1") -> ProcessId:
        process = self.child(name).process
        assert process is not None
        return process

    def end(self) -> None:
        for process in self.supervisors:
            process.kill()
            process.wait()
        self.children()
        for child in self.seen.values():
            send_signal(child, signal.SIGKILL)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    rig.end()


def test_a_killed_child_is_started_again_and_counted(rig: Rig) -> None:
    rig.plan("calm", "calm")
    rig.start_ready()
    first, other = rig.process("node1"), rig.process("node2")
    for restarts in (1, 2):
        assert send_signal(rig.process("node1"), signal.SIGKILL)
        until(lambda wanted=restarts: rig.child().restarts == wanted and rig.child().process, "restart")
    assert rig.process("node1") != first
    assert is_alive(rig.process("node1"))
    assert rig.child("node1").last_exit == -signal.SIGKILL
    assert rig.process("node2") == other
    assert rig.child("node2").restarts == 0


def test_the_back_off_grows_to_its_limit(rig: Rig) -> None:
    rig.plan("crash")
    rig.start()
    starts = rig.directory / "node1" / "starts"
    until(lambda: starts.exists() and len(starts.read_text().splitlines()) >= 6, "six starts")
    assert rig.child().failures >= 5
    log = (rig.directory / "supervisor.log").read_text()
    assert [float(line.split()[-2]) for line in log.splitlines() if "starting it in" in line][:5] == [
        0.05,
        0.1,
        0.2,
        0.4,
        0.4,
    ]
    assert "boom" in (rig.directory / "node1" / "console.log").read_text()


def test_down_stops_everything_in_order_and_keeps_the_files(rig: Rig) -> None:
    rig.plan("calm", "calm")
    supervisor = rig.start_ready()
    processes = [rig.process("node1"), rig.process("node2")]
    stopped = local.down(rig.session, purge=False)
    assert (stopped.stopped, stopped.killed) == (["node1", "node2"], [])
    assert supervisor.wait(5) == 0
    assert not any(map(is_alive, processes))
    assert (rig.directory / "node1" / "graceful").exists()
    assert (rig.directory / "node1" / "starts").exists()
    assert local.down(rig.session, purge=False).stopped == []


def test_down_kills_what_does_not_listen_and_says_so(rig: Rig) -> None:
    rig.plan("calm", "stubborn", grace_s=3.0)
    rig.start_ready()
    process = rig.process("node2")
    assert local.down(rig.session, purge=False).killed == ["node2"]
    assert not is_alive(process)


def test_children_of_a_dead_supervisor_are_adopted_by_the_next(rig: Rig) -> None:
    rig.plan("calm", "calm")
    supervisor = rig.start_ready()
    kept, lost = rig.process("node1"), rig.process("node2")
    supervisor.kill()
    supervisor.wait()
    assert is_alive(kept)
    send_signal(lost, signal.SIGKILL)
    rig.start_ready()
    until(lambda: rig.child("node2").process not in (None, lost), "node2 started again")
    assert rig.process("node1") == kept
    assert (rig.directory / "node1" / "starts").read_text().count("started") == 1
    assert local.down(rig.session, purge=False).stopped == ["node1", "node2"]
    assert not is_alive(kept)


def test_down_stops_the_children_of_a_dead_supervisor(rig: Rig) -> None:
    rig.plan("calm")
    supervisor = rig.start_ready()
    process = rig.process()
    supervisor.kill()
    supervisor.wait()
    assert local.down(rig.session, purge=False).stopped == ["node1"]
    assert not is_alive(process)


@pytest.mark.parametrize("wrong", ["birth", "marker"])
def test_a_stale_pid_that_is_a_stranger_now_is_not_touched(wrong: str, rig: Rig) -> None:
    """The state file names a process that is gone, and its number belongs to somebody else."""
    rig.plan("calm")
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "stranger"])
    try:
        found = identify_started(stranger, "stranger")
        other = {"birth": "another boot:1"} if wrong == "birth" else {"marker": str(rig.directory)}
        stale = msgspec.structs.replace(found, **other)
        child = ChildState(name="node1", state="running", since="2026-11-23T00:00:00Z", process=stale)
        write_state(rig.directory, SupervisorState(supervisor=stale, started="", children=(child,)))
        assert local.down(rig.session, purge=False).stopped == []
        write_state(rig.directory, SupervisorState(supervisor=stale, started="", children=(child,)))
        rig.start()
        until((rig.directory / "node1" / "ready").exists, "an own child")
        until(lambda: rig.child().process not in (None, stale), "state")
        assert local.down(rig.session, purge=False).stopped == ["node1"]
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_second_supervisor_does_not_start(rig: Rig) -> None:
    rig.plan("calm")
    rig.start_ready()
    assert rig.start().wait(10) == EXIT_LOCKED
    assert (rig.directory / "node1" / "starts").read_text().count("started") == 1


def test_without_a_plan_it_says_so(rig: Rig) -> None:
    assert rig.start().wait(10) == EXIT_NO_PLAN
    assert "appliance up" in (rig.directory / "supervisor.log").read_text()


def test_a_hangup_is_passed_on(rig: Rig) -> None:
    rig.plan("calm")
    os.kill(rig.start_ready().pid, signal.SIGHUP)
    until((rig.directory / "node1" / "hangup").exists, "hangup")


def test_a_child_that_the_plan_gets_is_started_and_one_that_it_loses_is_stopped(rig: Rig) -> None:
    rig.plan("calm", "calm")
    rig.start_ready()
    stays, leaves = rig.process("node1"), rig.process("node2")
    rig.plan("calm", "calm", "calm")
    until((rig.directory / "node3" / "ready").exists, "node3 ready")
    until(lambda: len(rig.children()) == 3 and rig.child("node3").process, "state")
    plan = read_plan(rig.directory)
    assert plan is not None
    write_plan(rig.directory, msgspec.structs.replace(plan, children=(plan.children[0], plan.children[2])))
    until(lambda: [child.name for child in rig.children()] == ["node1", "node3"], "node2 gone")
    assert not is_alive(leaves)
    assert (rig.directory / "node2" / "graceful").exists()
    assert rig.process("node1") == stays
    write_plan(rig.directory, plan)
    until(lambda: len(rig.children()) == 3 and rig.child("node2").process, "node2 back")
    assert rig.process("node1") == stays


def test_a_child_that_the_plan_loses_and_that_does_not_listen_is_killed(rig: Rig) -> None:
    rig.plan("calm", "stubborn", grace_s=3.0)
    rig.start_ready()
    stubborn = rig.process("node2")
    rig.plan("calm", grace_s=3.0)
    until(lambda: rig.child("node2").state == "stopping", "stopping")
    until(lambda: len(rig.children()) == 1, "node2 gone")
    assert not is_alive(stubborn)


def test_a_child_that_the_plan_lost_while_nobody_supervised_is_stopped(rig: Rig) -> None:
    rig.plan("calm", "calm")
    supervisor = rig.start_ready()
    leaves = rig.process("node2")
    supervisor.kill()
    supervisor.wait()
    rig.plan("calm")
    rig.start()
    until(lambda: not is_alive(leaves), "node2 gone")
    until(lambda: [child.name for child in rig.children()] == ["node1"], "state")


def test_ps_tells_states_and_restarts(rig: Rig) -> None:
    rig.plan("calm", "crash")
    rig.start()
    until(lambda: rig.children() and rig.child("node2").restarts >= 2, "restarts")
    until((rig.directory / "node1" / "ready").exists, "node1")
    rows = {row.name: row for row in local.ps(rig.session).processes}
    assert rows["node1"].state == "running"
    assert rows["node1"].pid == rig.process("node1").pid
    assert (rows["node2"].restarts or 0) >= 2
    local.down(rig.session, purge=False)
    after = local.ps(rig.session)
    assert after.supervisor_pid is None
    assert {row.state for row in after.processes} == {"stopped"}


def test_purge_deletes_what_is_ours_and_nothing_else(rig: Rig) -> None:
    rig.plan("calm")
    rig.start_ready()
    (rig.directory / "credentials.env").write_text("APPLIANCE_API_KEY=x\n")
    (rig.directory / "notes.txt").write_text("mine")
    local.down(rig.session, purge=True)
    assert [path.name for path in rig.directory.iterdir()] == ["notes.txt"]


def test_a_torn_state_file_is_as_good_as_none(rig: Rig) -> None:
    rig.plan("calm")
    (rig.directory / "supervisor.json").write_bytes(b'{"supervisor":')
    rig.start_ready()
    assert is_alive(rig.process())
