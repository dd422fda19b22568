"""Running one plan, and what came of it."""

from __future__ import annotations

import hashlib
import traceback

from msgspec import Struct

from .checker import Violation
from .plan import Plan
from .world import World


class Outcome(Struct):
    """What came of a run. `invariant` is empty when nothing was violated."""

    plan: Plan
    events: int
    operations: int
    faults: int
    ticks: int
    totals: dict[str, int]
    invariant: str = ""
    detail: str = ""
    lines: list[str] = []

    def digest(self) -> str:
        """Hash of the transcript and the totals."""
        text = "\n".join([*self.lines, str(self.totals), str(self.events), self.invariant, self.detail])
        return hashlib.sha256(text.encode()).hexdigest()


def run(plan: Plan, *, traced: bool = False) -> Outcome:
    """Run a plan to its end or to its first violation."""
    invariant = detail = ""
    world = World(plan, traced=traced)
    try:
        world.run()
    except Violation as violation:
        invariant, detail = violation.name, violation.detail
    except Exception:  # a bug of the core, the ledger or the simulator: reported like a violation, with its place
        invariant, detail = "no exception", traceback.format_exc()
    if invariant:
        world.trace("VIOLATED", invariant, detail)
    return Outcome(
        plan,
        world.events,
        world.clients.operations,
        world.faults.count,
        world.now // 100,
        dict(sorted(world.totals.items())),
        invariant,
        detail,
        world.lines or [],
    )
