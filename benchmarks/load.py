"""One measurement: wrk with our script, its result as values."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.clusters import Peer
from benchmarks.rows import Row

SCRIPT = Path(__file__).with_name("lua") / "load.lua"


def measure(peer: Peer, row: Row, seconds: float) -> dict[str, Any]:
    """Send a row's load for some seconds. `rate` is entries a second; `errors` are answers that were no 2xx or 3xx,
    and failures of sockets.
    """
    command = [
        "wrk",
        "-t",
        "1",
        "-c",
        str(row.connections),
        "-d",
        f"{round(seconds)}s",
        "--timeout",
        "30s",
        "-s",
        str(SCRIPT),
    ]
    command += [peer.url(row.through), "--", peer.name, row.kind]
    command += [str(row.keys), str(row.value_bytes), str(row.batch), peer.token or "none"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds * 4 + 120)
    result = next((line for line in done.stdout.splitlines() if line.startswith("RESULT ")), None)
    if result is None:
        raise RuntimeError(f"wrk said: {done.stdout}{done.stderr}")
    found = json.loads(result.removeprefix("RESULT "))
    return {
        "rate": found["requests"] * row.entries / found["seconds"],
        "p50_ms": found["p50_ms"],
        "p99_ms": found["p99_ms"],
        "max_ms": found["max_ms"],
        "errors": found["status_errors"] + found["socket_errors"],
    }
