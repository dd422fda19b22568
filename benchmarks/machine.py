"""What machine this is, in one line that stands over every figure."""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import subprocess
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import apsw

from appliance import __version__

FSYNCS = 200


def fsync_ms(directory: Path) -> float:
    """Median time of an fdatasync after a write of 4 KiB, where the clusters keep their files."""
    times = []
    with tempfile.TemporaryFile(dir=directory) as file:
        for _ in range(FSYNCS):
            file.write(b"x" * 4096)
            file.flush()
            began_s = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - began_s)
    return round(statistics.median(times) * 1000, 3)


def first_line(*command: str) -> str:
    """What a program says of its version; empty when it is not there."""
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = (done.stdout or done.stderr).strip().splitlines()
    return lines[0] if lines else ""


def cpu_model() -> str:
    """The processor's name."""
    with open("/proc/cpuinfo", encoding="utf-8") as lines:
        return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def describe(directory: Path) -> dict[str, Any]:
    """The machine as values; `directory` is on the disk that is measured."""
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "fsync_ms": fsync_ms(directory),
        "python": platform.python_version(),
        "sqlite": apsw.sqlite_lib_version(),
        "uvloop": version("uvloop"),
        "appliance": __version__,
        "etcd": first_line("etcd", "--version").removeprefix("etcd Version: "),
        "wrk": first_line("wrk", "-v").split(" [")[0],
        "load_before": round(os.getloadavg()[0], 2),
    }
