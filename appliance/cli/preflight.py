"""What a machine must have before nodes are started on it: free ports, disk, memory."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from appliance.cli.exits import CliError, Exit
from appliance.cli.output import size_text

MIB: Final = 1024 * 1024
DISK_BYTES_MIN: Final = 512 * MIB
MEMORY_BYTES_MIN: Final = 512 * MIB  # three nodes with empty caches take about half of it


def check_machine(directory: Path, ports: Sequence[int], *, other_ports: str) -> None:
    """Check ports, disk and memory. Raises `CliError` (exit 10) with everything that is missing.

    Args:
        directory: where data will be; it need not exist.
        ports: loopback ports that will be listened at.
        other_ports: how to choose other ones, for the hint.
    """
    problems: list[str] = []
    hints: list[str] = []
    taken = [port for port in ports if not port_is_free(port)]
    if taken:
        problems.append(f"ports in use: {', '.join(map(str, taken))}")
        hints.append(f"stop what listens there (`ss -ltnp`), or choose others with {other_ports}")
    free_bytes = shutil.disk_usage(_existing(directory)).free
    if free_bytes < DISK_BYTES_MIN:
        problems.append(f"only {size_text(free_bytes)} of disk are free, {size_text(DISK_BYTES_MIN)} are needed")
        hints.append("free some space, or use a state directory on another disk: --dir")
    memory_bytes = available_memory_bytes()
    if memory_bytes is not None and memory_bytes < MEMORY_BYTES_MIN:
        problems.append(
            f"only {size_text(memory_bytes)} of memory are available, {size_text(MEMORY_BYTES_MIN)} are needed"
        )
        hints.append("stop other programs, or use a larger machine")
    if problems:
        raise CliError(Exit.NOT_READY, "; ".join(problems), hint="; ".join(hints), code="not_ready")


def port_is_free(port: int) -> bool:
    """Whether a server may listen on a loopback port now (sockets in TIME_WAIT do not count)."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def available_memory_bytes() -> int | None:
    """Memory that programs can still take, or None where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    rows = dict(line.split(":", 1) for line in lines if ":" in line)
    text = rows.get("MemAvailable", "").strip().removesuffix(" kB")
    return int(text) * 1024 if text.isdecimal() else None


def _existing(path: Path) -> Path:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path
