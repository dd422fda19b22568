"""What a node has found wrong with what it stores: said in `/health`, counted, and kept until the node starts anew."""

from __future__ import annotations

from enum import StrEnum

from appliance.node.ports import Instruments, Log


class Finding(StrEnum):
    """Kinds of findings; their names are alarms."""

    PROOF_FAILED = "proof_failed"  # stored leaves do not lead to the root that was worked out when they were written
    DIVERGED = "diverged"  # a majority of the voters came to another state
    DIVERGENCE_SEEN = "divergence_seen"  # nodes came to different states, and no majority agrees
    FORK_SEEN = "fork_seen"  # a witness has cosigned what does not lead to this log's tree
    STORAGE_ROTTEN = "storage_rotten"  # a scrub read something else than was written


class Findings:
    """The findings of one node.

    Args:
        instruments: metrics.
        log: structured log.

    Attributes:
        rotten_leaves: indexes of leaves that a scrub found rotten; what stands there is not told.
    """

    def __init__(self, instruments: Instruments, log: Log) -> None:
        self._log = log
        self._details: dict[Finding, str] = {}
        self.rotten_leaves: frozenset[int] = frozenset()
        self._gauges = {one: instruments.gauge("scribe_integrity_alarm", alarm=one.value) for one in Finding}
        self._counters = {
            one: instruments.counter("scribe_verification_failures_total", alarm=one.value) for one in Finding
        }

    def report(self, finding: Finding, detail: str) -> None:
        """Something is wrong. The first detail of a kind is kept, each is logged and counted."""
        self._details.setdefault(finding, detail)
        self._gauges[finding].set(1)
        self._counters[finding].inc()
        self._log.error("ledger.integrity", alarm=finding.value, reason=detail)

    def withdraw(self, finding: Finding) -> None:
        """It is wrong no more."""
        if self._details.pop(finding, None) is not None:
            self._gauges[finding].set(0)

    def renew(self) -> None:
        """Another ledger file, checked whole, took the place of the one in which something was wrong."""
        self.rotten_leaves = frozenset()
        for finding in Finding:
            self.withdraw(finding)

    def detail(self, finding: Finding) -> str:
        """What was found, or an empty text."""
        return self._details.get(finding, "")

    def alarms(self) -> tuple[str, ...]:
        """The kinds that stand, in the order of the table above."""
        return tuple(one.value for one in Finding if one in self._details)
