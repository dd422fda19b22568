"""Memory over a time: with the processes that one starts, and the most that it was, not what is left of it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from benchmarks.footprint import Footprint, Footprints, followed, footprint_of

MIB = 2**20
LARGE_MIB = 64
WAIT_S = 20.0
CHILD = f"""
import sys
print("small", flush=True)
sys.stdin.readline()
held = bytearray(b"x" * {LARGE_MIB * MIB})
print("large", flush=True)
sys.stdin.readline()
"""
PARENT = (
    f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}]); print('alone', flush=True); input()"
)


@contextmanager
def parent() -> Iterator[subprocess.Popen[str]]:
    """A process with a child that becomes large and ends, as it is told; it says what has become of it."""
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def tell(process: subprocess.Popen[str]) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def test_what_a_child_held_for_a_while_is_in_the_peak() -> None:
    with parent() as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "small\n"
        with followed({"node": process.pid}) as found:
            before = found.before["node"]
            assert before.resident_mib > before.anonymous_mib > 0
            assert tell(process) == "large"
            deadline_s, looks = time.monotonic() + WAIT_S, found.looks
            while found.looks < looks + 2:
                assert time.monotonic() < deadline_s
                time.sleep(0.01)  # the looks are taken by the clock, on a thread that tells nobody
            assert tell(process) == "alone"
        assert footprint_of(process.pid).anonymous_mib < before.anonymous_mib
        for name in ("resident_mib", "anonymous_mib"):
            grown = getattr(found.peak["node"], name) - getattr(before, name)
            assert LARGE_MIB - 1 < grown < 2 * LARGE_MIB + 10, name


def test_a_process_that_is_gone_is_an_error() -> None:
    with parent() as process:
        pass
    with pytest.raises(OSError, match=str(process.pid)):
        footprint_of(process.pid)


def test_figures_are_named_for_people() -> None:
    found = Footprints({"leader": Footprint(10.0, 4.0)}, {"leader": Footprint(12.0, 5.0)})
    assert found.figures() == {
        "leader MiB before": 10.0,
        "leader MiB peak": 12.0,
        "leader anonymous MiB before": 4.0,
        "leader anonymous MiB peak": 5.0,
    }
