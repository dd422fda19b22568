"""Processes are told apart by birth and command line, and only the right one is signalled."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import msgspec
import pytest

from appliance.cli.processes import identify, identify_started, is_alive, send_signal, wait_gone


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    # A process of the test's own, to be found and ended: it sleeps, the test waits for nothing.
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "marked"])
    yield process
    process.kill()
    process.wait()


def test_a_process_is_known_while_it_runs_and_not_after(sleeper: subprocess.Popen[bytes]) -> None:
    found = identify_started(sleeper, "marked")
    assert is_alive(found)
    assert send_signal(found, signal.SIGTERM)
    assert wait_gone(found, 10.0)  # a zombie until it is waited for, which counts as gone
    assert not send_signal(found, signal.SIGTERM)
    sleeper.wait()
    assert not is_alive(found)


@pytest.mark.parametrize("wrong", [{"birth": "earlier boot:1"}, {"marker": "another program"}])
def test_a_stranger_with_the_same_number_is_left_alone(wrong: dict[str, str], sleeper: subprocess.Popen[bytes]) -> None:
    found = identify_started(sleeper, "marked")
    stale = msgspec.structs.replace(found, **wrong)
    assert not is_alive(stale)
    assert not send_signal(stale, signal.SIGKILL)
    assert sleeper.poll() is None


def test_a_wrong_marker_is_nobody(sleeper: subprocess.Popen[bytes]) -> None:
    identify_started(sleeper, "marked")
    assert identify(sleeper.pid, "something else") is None


def test_a_number_that_nobody_has_is_nobody() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert identify(gone.pid, "python") is None


def test_this_very_process_is_known() -> None:
    assert identify(os.getpid(), "python") is not None
