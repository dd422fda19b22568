"""What wrk is asked to send: one row, one kind of load at one number of connections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

KEYS: Final = 100_000
READS: Final = frozenset({"get", "stale", "mix"})


@dataclass(frozen=True)
class Row:
    """One row of load.

    Attributes:
        name: what people read, and what `--rows` looks for.
        kind: `put`, `get` (linearizable), `stale`, `batch` or `mix` (nine reads to one write).
        connections: connections that send without pause.
        value_bytes: size of each value.
        keys: keys that are drawn from, each as likely as the others.
        stride: every how many-th key of the numbered ones is drawn from.
        batch: operations in one batch.
        through: `leader` or `follower`.
    """

    name: str
    kind: str
    connections: int
    value_bytes: int = 128
    keys: int = KEYS
    stride: int = 1
    batch: int = 1
    through: str = "leader"

    @property
    def entries(self) -> int:
        """Entries that one request writes or reads."""
        return self.batch if self.kind == "batch" else 1

    @property
    def writes(self) -> bool:
        """Whether every request writes."""
        return self.kind in ("put", "batch")


SPEED: Final = (
    *(Row(f"PUT c={c}", "put", c) for c in (1, 16, 64, 256)),
    Row("PUT through a follower c=64", "put", 64, through="follower"),
    Row("GET linearizable c=64", "get", 64),
    Row("GET stale c=64", "stale", 64),
    *(Row(f"batch of 100 c={c}", "batch", c, batch=100) for c in (1, 4, 16)),
    Row("mix 90/10 c=64", "mix", 64),
)

SIZE: Final = (
    Row("PUT 1 KiB c=64", "put", 64, value_bytes=1024),
    Row("PUT 16 KiB c=64", "put", 64, value_bytes=16 * 1024, keys=10_000),
    Row("PUT 256 KiB c=16", "put", 16, value_bytes=256 * 1024, keys=200),
)
