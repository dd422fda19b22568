"""What one seed stands for: sizes, odds and the list of faults, drawn before anything runs.

Everything here follows from the seed alone, so a plan can be cut down (fewer faults, fewer clients, fewer events)
without changing what is left: each fault draws from its own stream, and so do the network, the disks, the clients
and the nodes.
"""

from __future__ import annotations

from random import Random
from typing import Final

from msgspec import Struct

TICK: Final = 100  # units of virtual time in a tick of a node whose clock runs true
ELECTION_TICKS: Final = 10
HEARTBEAT_TICKS: Final = 2

EVENTS_MIN: Final = 2_000  # raft.md: the size of a seed
OPERATIONS_MIN: Final = 200
FAULTS_MIN: Final = 5
SAFETY_TICKS_MAX: Final = 6_000  # a bound on the phase with faults, far beyond what any seed needs

FIGURE_8_ODDS: Final = 0.08

MEMBER_KINDS: Final = ("grow", "shrink", "shrink_leader", "lose_disk", "copy_disk", "set_back")
UNFIT_KINDS: Final = ("unfit",)
RESYNC_KINDS: Final = ("resync",)
RESYNC_ODDS: Final = 0.3  # of seeds that change the membership, those in which nodes get their data again
UNFIT_ODDS: Final = 0.3  # of seeds, those in which nodes are not fit to lead
MEMBER_ODDS: Final = 0.6  # of seeds, those that change the membership
FAULT_KINDS: Final = (
    "crash",
    "crash_leader",
    "power_loss",
    "blink",
    "contested_election",
    "short_reigns",
    "drowsy_leader",
    "partition",
    "one_way",
    "isolate_leader",
    "loss",
    "duplicates",
    "delays",
    "pause",
    "pause_leader",
    "skew",
    "slow_disk",
    "fsync_failure",
    "disk_full",
    "transfer",
    "compact",
)
BACKGROUND_KINDS: Final = ("drop", "duplicate", "reorder", "apply_lag")
KINDS: Final = FAULT_KINDS + MEMBER_KINDS + RESYNC_KINDS + UNFIT_KINDS + BACKGROUND_KINDS


class Fault(Struct, frozen=True):
    """One fault to come: `at` in ticks of true time; `number` names its own stream of chance."""

    number: int
    at: int
    kind: str
    ticks: int  # how long it lasts


class Plan(Struct, frozen=True, kw_only=True):
    """Everything that a seed decides before the first event."""

    seed: int
    nodes: int
    spares: int  # nodes that are no members at the beginning
    clients: int
    keys: int
    think_ticks: int
    drop: float
    duplicate: float
    latency: tuple[int, int]
    ordered_links: bool
    fsync: tuple[int, int]
    apply_lag: int
    snapshot_chunks: int
    append_entries_max: int
    append_bytes_max: int
    inflight_messages_max: int
    inflight_bytes_max: int
    committed_bytes_max: int
    window_bytes_max: int
    spare_entries_max: int
    faults: tuple[Fault, ...]
    events_max: int = 0  # stop there, if positive: set by the shrinker

    def stream(self, name: str) -> Random:
        """A stream of chance of its own; text seeds do not depend on the hash seed of the process."""
        return Random(f"{self.seed}/{name}")


def draw(seed: int) -> Plan:
    """The plan of a seed. Each seed enables a part of the kinds of faults only, so that rare mixtures come up; some are
    nothing but short reigns over five nodes to which entries travel one by one, which is what Figure 8 needs.
    """
    chance = Random(f"{seed}/plan")
    enabled = [kind for kind in FAULT_KINDS if chance.random() < 0.35] or ["crash", "partition"]
    figure_8 = chance.random() < FIGURE_8_ODDS
    if figure_8:
        enabled = ["short_reigns"]
    gap = chance.choice((12, 20, 30, 45))
    fast = chance.randint(2, 30)
    fsync = chance.randint(2, 40)
    changing = Random(f"{seed}/members")  # of its own, so that the other faults of a seed stay what they are
    spares = 0 if figure_8 or changing.random() >= MEMBER_ODDS else changing.randint(1, 2)
    return Plan(
        seed=seed,
        nodes=5 if figure_8 else chance.choices((1, 2, 3, 4, 5), (2, 4, 54, 8, 32))[0],
        spares=spares,
        clients=chance.randint(2, 5),
        keys=chance.randint(2, 10),
        think_ticks=chance.choice((2, 5, 9)),
        drop=chance.choice((0.0, 0.0, 0.01, 0.05, 0.15)),
        duplicate=chance.choice((0.0, 0.0, 0.02, 0.1)),
        latency=(1, fast) if chance.random() < 0.6 else (fast, fast + chance.randint(20, 250)),
        ordered_links=chance.random() < 0.4,
        fsync=(1, fsync) if chance.random() < 0.7 else (fsync, fsync + 200),
        apply_lag=chance.choice((0, 0, 0, 60, 400)),
        snapshot_chunks=chance.randint(1, 4),
        append_entries_max=1 if figure_8 else chance.choice((1, 2, 5, 512)),
        append_bytes_max=chance.choice((300, 1500, 1 << 20)),
        inflight_messages_max=chance.choice((1, 2, 8, 64)),
        inflight_bytes_max=chance.choice((400, 3000, 1 << 24)),
        committed_bytes_max=chance.choice((200, 1000, 1 << 22)),
        window_bytes_max=chance.choice((500, 4000, 1 << 26)),
        spare_entries_max=0 if figure_8 else Random(f"{seed}/spare").choice((0, 1, 4, 64)),
        faults=tuple(
            sorted(
                _draw_faults(chance, enabled, gap)
                + _draw_changes(changing, spares, gap)
                + _draw_resyncs(Random(f"{seed}/resync"), spares, gap)
                + (() if figure_8 else _draw_unfit(Random(f"{seed}/unfit"))),
                key=_when,
            )
        ),
    )


def _when(fault: Fault) -> tuple[int, int]:
    return fault.at, fault.number


def _draw_changes(chance: Random, spares: int, gap: int) -> tuple[Fault, ...]:
    """Changes of the membership and losses of disks among the faults, numbered from 101 on."""
    changes = []
    at = chance.randint(20, 60)
    for number in range(101, 121 if spares else 101):
        kind = chance.choices(MEMBER_KINDS, (5, 3, 1, 4, 3, 3))[0]
        changes.append(Fault(number, at, kind, chance.choice((3, 8, 15, 30))))
        at += chance.randint(5, 4 * gap)
    return tuple(changes)


def _draw_resyncs(chance: Random, spares: int, gap: int) -> tuple[Fault, ...]:
    """Nodes that get their data again, numbered from 301 on, from a stream of its own."""
    if not spares or chance.random() >= RESYNC_ODDS:
        return ()
    return tuple(
        Fault(number, chance.randint(30, 30 + 8 * gap), "resync", chance.choice((1, 3, 8, 15)))
        for number in range(301, 306)
    )


def _draw_unfit(chance: Random) -> tuple[Fault, ...]:
    """Nodes that are not fit to lead, numbered from 201 on, from a stream of its own."""
    if chance.random() >= UNFIT_ODDS:
        return ()
    ticks = chance.choice((30, 100, 300))
    return tuple(Fault(number, chance.randint(5, 250), "unfit", ticks) for number in range(201, 205))


def _draw_faults(chance: Random, enabled: list[str], gap: int) -> tuple[Fault, ...]:
    faults = []
    at = chance.randint(5, 40)
    for number in range(1, 41):
        ticks = chance.choice((3, 8, 15, 30, 60))
        faults.append(Fault(number, at, chance.choice(enabled), ticks))
        at += chance.randint(1, 2 * gap)
    return tuple(faults)
