"""What a round of load measures, made up."""

from typing import Any


def reading(rate: float, p99_ms: float = 10.0, **more: Any) -> dict[str, Any]:
    """A round of one side, with one node."""
    node = {"role": "leader", "cpu_s_per_100k": rate / 100, "resident_mib": rate / 10, "lag_ms": p99_ms}
    return {
        "rate": rate,
        "p50_ms": p99_ms / 2,
        "p99_ms": p99_ms,
        "p999_ms": p99_ms * 2,
        "max_ms": p99_ms * 3,
        "requests": 10,
        "errors": 0,
        "loader_us": 10.0,
        "loader_share": 0.1,
        "leader_stayed": True,
        "nodes": [node],
    } | more
