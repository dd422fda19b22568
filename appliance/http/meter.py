"""What is counted of each request: Prometheus children bound once, and the latest latencies."""

from __future__ import annotations

from collections import deque

from appliance.http.limits import LATENCY_SAMPLES
from appliance.http.route import DATA_OPS, Op, Route
from appliance.node.ports import Instruments
from appliance.tables.errors import ERRORS

_CLASSES = {2: "2xx", 3: "3xx", 4: "4xx", 5: "5xx"}  # of 3xx, 304 alone
PERCENTILES = {"p50": 0.50, "p95": 0.95, "p99": 0.99}


class Meter:
    """Counts answers by operation and status class, 5xx by code, and time by operation."""

    def __init__(self, instruments: Instruments) -> None:
        self._answered = {
            op: {
                number: instruments.counter("scribe_ops_total", op=op.value, status=name)
                for number, name in _CLASSES.items()
            }
            for op in Op
        }
        self._seconds = {op: instruments.histogram("scribe_request_latency_seconds", op=op.value) for op in Op}
        self._errors = {
            row.code: instruments.counter("scribe_errors_total", code=row.code)
            for row in ERRORS.values()
            if row.status >= 500
        }
        self._latest_s: deque[float] = deque(maxlen=LATENCY_SAMPLES)

    def answered(self, route: Route, status: int, code: str, seconds: float, traceparent: str) -> None:
        """Count one answer; `code` is the error's; a sampled request leaves its trace id as exemplar."""
        op = route.op
        self._answered[op][status // 100].inc()
        if not route.waits:
            exemplar = {"trace_id": traceparent[3:35]} if traceparent else None
            self._seconds[op].observe(seconds, exemplar)
        if status >= 500:
            self._errors[code].inc()
        if op in DATA_OPS:
            self._latest_s.append(seconds)

    def latency_ms(self) -> dict[str, float | None]:
        """Percentiles over the latest `LATENCY_SAMPLES` requests on data, in milliseconds; None before the first."""
        ordered = sorted(self._latest_s)
        if not ordered:
            return dict.fromkeys(PERCENTILES)
        last = len(ordered) - 1
        return {name: round(ordered[round(share * last)] * 1000, 3) for name, share in PERCENTILES.items()}
