"""Finds the processes that check received ledger files."""

from __future__ import annotations

import os
from pathlib import Path


def checkers(path: Path) -> list[int]:
    """Ids of the processes that check this file."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdecimal() else []
        except OSError:  # it has ended
            continue
        if b"appliance.adapters.ledger_checker" in words and os.fsencode(path) in words:
            found.append(int(entry.name))
    return found
