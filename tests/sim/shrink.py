"""Making a failing plan smaller: fewer faults, fewer clients, a kinder network, as long as it fails the same way."""

from __future__ import annotations

from msgspec.structs import replace

from .histories import HISTORY_INVARIANT
from .outcome import Outcome, run
from .plan import BACKGROUND_KINDS, Plan

RUNS_MAX = 150
FAULT_EVENTS = 100  # so many events more are a fair price for a fault less,
CLIENT_EVENTS = 50  # and these for a client less


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


def replay_command(original: Plan, plan: Plan, bug: str = "") -> str:
    """The command that runs this plan again, with the deliberate bug that it needs."""
    parts = [f"python -m tests.sim --seed {plan.seed}"]
    if bug:
        parts.append(f"--bug {bug}")
    if plan.faults != original.faults:
        parts.append("--faults " + (",".join(str(f.number) for f in plan.faults) or "none"))
    if plan.clients != original.clients:
        parts.append(f"--clients {plan.clients}")
    dropped = [k for k in BACKGROUND_KINDS if without(plan, k) == plan and without(original, k) != original]
    if dropped:
        parts.append("--without " + ",".join(dropped))
    if plan.events_max:
        parts.append(f"--events {plan.events_max}")
    return " ".join([*parts, "--trace"])


def shrink(failed: Outcome, runs_max: int = RUNS_MAX) -> Outcome:
    """Look for a shorter run that violates the same invariant; at most `runs_max` runs. Answers the shortest, with its
    transcript.
    """
    search = _Search(failed, runs_max)
    size = None
    while size != _size(search.best):
        size = _size(search.best)
        search.leave_out_what_never_happened()
        search.leave_out_clients()
        search.leave_out_background()
        search.leave_out_faults()
        search.end_earlier()
    return run(search.best.plan, traced=True)


def _size(outcome: Outcome) -> int:
    return outcome.events + FAULT_EVENTS * len(outcome.plan.faults) + CLIENT_EVENTS * outcome.plan.clients


class _Search:
    """The smallest run so far. A candidate is given up when it has become larger than that."""

    def __init__(self, failed: Outcome, runs_max: int) -> None:
        self.best = failed
        self._invariant = failed.invariant
        self._is_judged_at_end = failed.invariant == HISTORY_INVARIANT
        self._runs_left = runs_max

    def _is_better(self, plan: Plan, events_max: int = 0) -> bool:
        """Take a plan for the best if it fails in the same way and is smaller."""
        if not self._runs_left:
            return False
        self._runs_left -= 1
        bound = events_max or (self.best.events if self._is_judged_at_end else _size(self.best))
        outcome = run(replace(plan, events_max=bound))
        if outcome.events < bound:  # it was not stopped by that
            outcome.plan = replace(plan, events_max=0)
        if outcome.invariant != self._invariant or _size(outcome) >= _size(self.best):
            return False
        self.best = outcome
        return True

    def leave_out_what_never_happened(self) -> None:
        """Faults that were due after the end."""
        plan = self.best.plan
        happened = tuple(f for f in plan.faults if f.at <= self.best.ticks)
        if happened != plan.faults:
            self._is_better(replace(plan, faults=happened))

    def leave_out_clients(self) -> None:
        """As many as possible."""
        for clients in range(1, self.best.plan.clients):
            if self._is_better(replace(self.best.plan, clients=clients)):
                return

    def leave_out_background(self) -> None:
        """Whatever the network and the disks do all the time."""
        for kind in BACKGROUND_KINDS:
            kinder = without(self.best.plan, kind)
            if kinder != self.best.plan:
                self._is_better(kinder)

    def leave_out_faults(self) -> None:
        """Half of them, quarters, and so on to single ones."""
        width = len(self.best.plan.faults)
        while width:
            start = 0
            while start < len(faults := self.best.plan.faults):
                if not self._is_better(replace(self.best.plan, faults=faults[:start] + faults[start + width :])):
                    start += width
            width //= 2

    def end_earlier(self) -> None:
        """What is judged at the end may be violated long before."""
        low, high = 0, self.best.events
        while self._is_judged_at_end and high - low > max(high // 50, 1):
            middle = (low + high) // 2
            if self._is_better(self.best.plan, middle):
                high = self.best.events
            else:
                low = middle
