"""Making a failing plan smaller: fewer faults, fewer clients, a kinder network, as long as it fails the same way."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from msgspec.structs import replace

from .outcome import Outcome, run
from .plan import BACKGROUND_KINDS, Plan

RUNS_MAX = 120


def without(plan: Plan, kind: str) -> Plan:
    """The plan without a kind of fault, or without a property of the network that lasts all the time."""
    if kind == "drop":
        return replace(plan, drop=0.0)
    if kind == "duplicate":
        return replace(plan, duplicate=0.0)
    if kind == "reorder":
        return replace(plan, ordered_links=True)
    if kind == "apply_lag":
        return replace(plan, apply_lag=0)
    return replace(plan, faults=tuple(f for f in plan.faults if f.kind != kind))


def replay_command(original: Plan, plan: Plan) -> str:
    """The command that runs this plan again."""
    parts = [f"python -m tests.sim --seed {plan.seed}"]
    if plan.faults != original.faults:
        parts.append("--faults " + (",".join(str(f.number) for f in plan.faults) or "none"))
    if plan.clients != original.clients:
        parts.append(f"--clients {plan.clients}")
    dropped = [k for k in BACKGROUND_KINDS if without(plan, k) == plan and without(original, k) != original]
    if dropped:
        parts.append("--without " + ",".join(dropped))
    return " ".join([*parts, "--trace"])


def shrink(failed: Outcome, runs_max: int = RUNS_MAX) -> Outcome:
    """Look for a shorter run that violates the same invariant; at most `runs_max` runs. Answers the shortest."""
    best = failed
    runs = 0
    made_progress = True
    while made_progress and runs < runs_max:
        made_progress = False
        for candidate in _smaller(best):
            if runs == runs_max:
                break
            runs += 1
            outcome = run(candidate(best.plan))
            if outcome.invariant == failed.invariant and _size(outcome) < _size(best):
                best = outcome
                made_progress = True
                break
    return run(best.plan, traced=True)


def _size(outcome: Outcome) -> tuple[int, int]:
    return outcome.events + 100 * len(outcome.plan.faults) + 50 * outcome.plan.clients, outcome.events


def _smaller(outcome: Outcome) -> Iterator[Callable[[Plan], Plan]]:
    """Ways to make a plan smaller, the boldest first."""
    happened = tuple(f for f in outcome.plan.faults if f.at <= outcome.ticks)
    if len(happened) < len(outcome.plan.faults):
        yield lambda plan: replace(plan, faults=happened)
    for clients in range(1, outcome.plan.clients):
        yield lambda plan, n=clients: replace(plan, clients=n)  # type: ignore[misc]
    for kind in BACKGROUND_KINDS:
        if without(outcome.plan, kind) != outcome.plan:
            yield lambda plan, k=kind: without(plan, k)  # type: ignore[misc]
    faults = outcome.plan.faults
    width = len(faults) // 2
    while width:
        for start in range(0, len(faults), width):
            kept = faults[:start] + faults[start + width :]
            yield lambda plan, f=kept: replace(plan, faults=f)  # type: ignore[misc]
        width //= 2
