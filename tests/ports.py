"""Ports on loopback for programs that are about to be started.

They lie below the range from which Linux takes the ports of outgoing connections (32768 and up): such a connection,
above all one to a peer that does not listen yet, may otherwise have taken a port before the program binds it.
"""

from __future__ import annotations

import random
from typing import Final

from appliance.cli.preflight import port_is_free

LOWEST: Final = 10_000
END: Final = 32_000
RAFT_PORT_ABOVE: Final = 1_000


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    found: list[int] = []
    for port in random.sample(range(LOWEST, END), 500):
        if len(found) == count:
            break
        if port_is_free(port):
            found.append(port)
    assert len(found) == count, "too few free ports"
    return found


def free_base_port(nodes: int) -> int:
    """A port such that it and the next ones are free, and those a thousand above."""
    for base in random.sample(range(LOWEST, END - RAFT_PORT_ABOVE - nodes), 200):
        if all(port_is_free(port) for n in range(nodes) for port in (base + n, base + n + RAFT_PORT_ABOVE)):
            return base
    raise AssertionError("no free ports")
