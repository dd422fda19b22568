"""The supervisor of local nodes: a process of its own that starts them again when they die, until `down`.

It is told to stop by SIGTERM. It never kills what it did not start: children that an earlier supervisor left behind
are adopted when they can be proved to be the same processes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

from appliance.cli.output import now_text
from appliance.cli.processes import ProcessId, identify, identify_started, is_alive, send_signal, wait_gone
from appliance.cli.supervisor_files import (
    STATE_FILE,
    ChildPlan,
    ChildState,
    Lock,
    Plan,
    SupervisorState,
    living_children,
    plan_mark,
    read_plan,
    read_state,
    write_state,
)

MODULE: Final = "appliance.cli.supervisor"
POLL_S: Final = 0.1
CONSOLE_BYTES_MAX: Final = 8 * 1024 * 1024
EXIT_LOCKED: Final = 75  # sysexits.h EX_TEMPFAIL: another supervisor is at work
EXIT_NO_PLAN: Final = 78  # EX_CONFIG


@dataclass(slots=True)
class Child:
    """A program that is kept running. `popen` is None for one that was adopted; times are monotonic seconds.
    `kill_s` is set once the plan has it no more: then it is to end, and is killed at that time.
    """

    plan: ChildPlan
    popen: subprocess.Popen[bytes] | None = None
    process: ProcessId | None = None
    state: str = "restarting"
    since: str = ""
    restarts: int = 0
    failures: int = 0
    last_exit: int | None = None
    starts: int = 0
    started_s: float = 0.0
    next_start_s: float = 0.0
    kill_s: float | None = None

    def enter(self, state: str) -> None:
        """Come into a state now."""
        self.state = state
        self.since = now_text()

    def snapshot(self) -> ChildState:
        """The child as a value."""
        return ChildState(
            name=self.plan.name,
            state=self.state,
            since=self.since,
            restarts=self.restarts,
            failures=self.failures,
            last_exit=self.last_exit,
            process=self.process,
        )


class Supervisor:
    """Keeps the children of a plan running.

    Args:
        directory: the state directory.
        plan: what to run.
        me: this process.
    """

    def __init__(self, directory: Path, plan: Plan, me: ProcessId) -> None:
        self._directory = directory
        self._plan = plan
        self._me = me
        self._children = [Child(child) for child in plan.children]
        self._stop = False
        self._hangup = False
        self._started = now_text()
        self._mark = (0, 0)  # of the plan as it was read: it may have changed since
        self._written: SupervisorState | None = None

    def on_signal(self, number: int, _frame: FrameType | None) -> None:
        """SIGTERM and SIGINT stop, SIGHUP is passed on (nodes reopen their logs)."""
        if number == signal.SIGHUP:
            self._hangup = True
        else:
            self._stop = True

    def run(self) -> None:
        """Keep everything running until a signal says stop; then stop everything."""
        self._adopt()
        while not self._stop:
            now_s = time.monotonic()
            self._follow_plan(now_s)
            for child in tuple(self._children):
                self._tend(child, now_s)
            if self._hangup:
                self._hangup = False
                self._signal_all(signal.SIGHUP)
            self._publish()
            time.sleep(POLL_S)
        self._stop_all()
        self._publish()

    def _adopt(self) -> None:
        planned = {child.plan.name: child for child in self._children}
        for old in living_children(read_state(self._directory)):
            child = planned.get(old.name)
            assert old.process is not None, "it lives"
            if child is None or old.process.marker != child.plan.marker:
                log(f"{old.name}: stopping pid {old.process.pid}, which the plan does not have any more")
                end(old.process, self._plan.grace_s)
                continue
            log(f"{old.name}: adopting pid {old.process.pid}")
            child.process, child.restarts, child.failures = old.process, old.restarts, old.failures
            child.state, child.since = old.state, old.since
            child.starts, child.started_s = 1, time.monotonic()

    def _follow_plan(self, now_s: float) -> None:
        """Take in a plan that was written since: new children are started, those it has no more are stopped."""
        mark = plan_mark(self._directory)
        if mark == self._mark:
            return
        self._mark = mark
        plan = read_plan(self._directory)
        if plan is None:
            return
        self._plan = plan
        wanted = {child.name: child for child in plan.children}
        for child in self._children:
            if child.plan.name not in wanted and child.kill_s is None:
                log(f"{child.plan.name}: stopping it, which the plan does not have any more")
                child.kill_s = now_s + plan.grace_s
                child.enter("stopping")
                _signal(child, signal.SIGTERM)
        staying = {child.plan.name for child in self._children if child.kill_s is None}
        leaving = {child.plan.name for child in self._children} - staying
        if leaving & wanted.keys():
            self._mark = (0, 0)  # one that comes back at once has to end first: look at the plan again
        self._children += [Child(child) for name, child in wanted.items() if name not in staying | leaving]

    def _tend(self, child: Child, now_s: float) -> None:
        if child.kill_s is not None:
            if not _running(child):
                log(f"{child.plan.name}: has ended")
                self._children.remove(child)
            elif now_s >= child.kill_s:
                log(f"{child.plan.name}: still there after {self._plan.grace_s:.0f} s, killing it")
                child.kill_s = now_s + self._plan.grace_s
                _signal(child, signal.SIGKILL)
            return
        if child.process is None:
            if now_s >= child.next_start_s:
                self._start(child, now_s)
            return
        if _running(child):
            if child.failures and now_s - child.started_s >= self._plan.steady_s:
                child.failures = 0
            return
        child.last_exit = child.popen.returncode if child.popen else None
        steady = now_s - child.started_s >= self._plan.steady_s
        child.failures = 1 if steady else child.failures + 1
        wait_s = min(self._plan.backoff_s_min * 2 ** (child.failures - 1), self._plan.backoff_s_max)
        log(f"{child.plan.name}: pid {child.process.pid} ended with {child.last_exit}; starting it in {wait_s:.2f} s")
        child.process = child.popen = None
        child.next_start_s = now_s + wait_s
        child.enter("restarting")

    def _start(self, child: Child, now_s: float) -> None:
        console = Path(child.plan.console)
        if console.exists() and console.stat().st_size > CONSOLE_BYTES_MAX:
            console.replace(console.with_name(console.name + ".1"))
        try:
            with console.open("ab") as sink:
                child.popen = subprocess.Popen(
                    child.plan.argv, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, cwd=self._directory
                )
        except OSError as error:
            log(f"{child.plan.name}: cannot be started: {error}")
            child.failures += 1
            child.next_start_s = now_s + self._plan.backoff_s_max
            return
        child.restarts += 1 if child.starts else 0
        child.starts += 1
        child.started_s = now_s
        child.process = identify_started(child.popen, child.plan.marker)
        child.enter("running")
        log(f"{child.plan.name}: started as pid {child.popen.pid}")

    def _signal_all(self, number: signal.Signals) -> None:
        for child in self._children:
            _signal(child, number)

    def _stop_all(self) -> None:
        log("stopping")
        self._signal_all(signal.SIGTERM)
        until_s = time.monotonic() + self._plan.grace_s
        while any(map(_running, self._children)) and time.monotonic() < until_s:
            time.sleep(POLL_S)
        for child in self._children:
            late = _running(child)
            if late:
                log(f"{child.plan.name}: still there after {self._plan.grace_s:.0f} s, killing it")
                _signal(child, signal.SIGKILL)
            if child.popen is not None:
                child.last_exit = child.popen.wait()
            child.process = None
            child.enter("killed" if late else "stopped")
        log("stopped")

    def _publish(self) -> None:
        state = SupervisorState(
            supervisor=self._me, started=self._started, children=tuple(child.snapshot() for child in self._children)
        )
        if state != self._written:
            try:
                write_state(self._directory, state)
            except OSError as error:  # a full disk must not end the supervision
                log(f"cannot write {STATE_FILE}: {error}")
                return
            self._written = state


def end(process: ProcessId, grace_s: float) -> bool:
    """Ask a process to end and wait; kill it after `grace_s`. Answers whether it had to be killed."""
    send_signal(process, signal.SIGTERM)
    if wait_gone(process, grace_s):
        return False
    send_signal(process, signal.SIGKILL)
    wait_gone(process, grace_s)
    return True


def log(text: str) -> None:
    """Write a line of the supervisor's log."""
    print(f"{now_text()} {text}", flush=True)


def _signal(child: Child, number: signal.Signals) -> None:
    """Signal a child; one of our own keeps its number until it is waited for, an adopted one has to be looked at."""
    if child.popen is not None:
        child.popen.send_signal(number)
    elif child.process is not None:
        send_signal(child.process, number)


def _running(child: Child) -> bool:
    if child.popen is not None:
        return child.popen.poll() is None
    return child.process is not None and is_alive(child.process)


def main(directory: Path) -> int:
    """Supervise the plan of a state directory; answers the exit code."""
    lock = Lock(directory)
    if not lock.take():
        log("another supervisor is at work here")
        return EXIT_LOCKED
    plan = read_plan(directory)
    me = identify(os.getpid(), MODULE)
    if plan is None or me is None:
        log("there is no plan to carry out; start with `appliance up --local`")
        return EXIT_NO_PLAN
    supervisor = Supervisor(directory, plan, me)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, supervisor.on_signal)
    log(f"supervising {', '.join(child.name for child in plan.children)} as pid {me.pid}")
    supervisor.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
