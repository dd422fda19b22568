"""Spans of sampled requests, exported by OTLP over HTTP when an endpoint is set."""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Sequence
from typing import Final, Protocol

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace import Span as SdkSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import NonRecordingSpan, SpanContext, Status, StatusCode, TraceFlags, set_span_in_context
from opentelemetry.trace import Tracer as SdkTracer

from appliance import __version__
from appliance.adapters.telemetry.logs import SERVICE_NAME
from appliance.node.ports import Instruments, Log, Span, Tracer
from appliance.tables.settings import TelemetrySettings

QUEUE_SPANS_MAX: Final = 2048
BATCH_SPANS_MAX: Final = 256
EXPORT_TIMEOUT_S: Final = 3.0
SCHEDULE_S: Final = 1.0
CLOSE_WAIT_S: Final = 2.0
_TRACES_PATH: Final = "/v1/traces"
_TRACEPARENT: Final = re.compile(r"^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?$")


def parse_traceparent(traceparent: str) -> SpanContext | None:
    """The context of a W3C `traceparent` (Trace Context, 3.2), or None when it is not a valid one.

    Version ff and all-zero ids are invalid; only version 00 must end after the flags.
    """
    match = _TRACEPARENT.match(traceparent.strip())
    if match is None:
        return None
    version, trace_id, span_id, flags, rest = match.groups()
    if version == "ff" or (version == "00" and rest) or not int(trace_id, 16) or not int(span_id, 16):
        return None
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16)))


def format_traceparent(context: SpanContext) -> str:
    """The W3C `traceparent` of a context, version 00."""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags & 0x01:02x}"


def sample(ratio: float, chance: random.Random) -> bool:
    """Whether a request without a traceparent starts a trace."""
    return ratio > 0.0 and (ratio >= 1.0 or chance.random() < ratio)


class GatewayTracer(Tracer, Protocol):
    """What the gateway and the wiring need besides `Tracer`: the start of a trace, and the end of all."""

    def root(self, name: str, **attributes: str | int) -> Span | None:
        """Start a trace of its own for `sample_ratio` of the calls; None for the others."""
        ...

    def close(self) -> None:
        """Export what waits, for two seconds at most, and stop. Call it on a worker thread."""
        ...


class NoTracer:
    """Records nothing; a `Tracer` for a node without an endpoint."""

    def root(self, name: str, **attributes: str | int) -> Span | None:
        """None."""
        return None

    def start(self, name: str, traceparent: str, **attributes: str | int) -> Span | None:
        """None."""
        return None

    def record(self, name: str, traceparent: str, start_us: int, end_us: int, **attributes: str | int) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class OtlpSpan:
    """A span that is being recorded; `traceparent` names it as the parent of others."""

    __slots__ = ("_span", "traceparent")

    def __init__(self, span: SdkSpan) -> None:
        self._span = span
        self.traceparent = format_traceparent(span.get_span_context())

    def end(self, error: str = "") -> None:
        """Finish it now; `error` is an error code of the table."""
        if error:
            self._span.set_status(Status(StatusCode.ERROR, error))
            self._span.set_attribute("error.type", error)
        self._span.end()


class OtlpTracer:
    """Implements `appliance.node.ports.Tracer`. Nothing here waits for the collector: ended spans go into a bounded
    queue that a thread empties; what finds it full is dropped.

    Args:
        endpoint: base URL of the collector, such as `http://collector:4318`; spans go to its `/v1/traces`.
        ratio: share of requests without a traceparent that start a trace.
        node_id: becomes `service.instance.id`.
        log: told once when the collector stops taking spans and once when it takes them again.
        instruments: counts batches that were lost.
        chance: source of trace ids, span ids and of the sampling decision.
        export_timeout_s: how long one batch may take, retries included.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        ratio: float,
        node_id: int,
        log: Log,
        instruments: Instruments,
        chance: random.Random,
        export_timeout_s: float = EXPORT_TIMEOUT_S,
    ) -> None:
        self._ratio = ratio
        self._chance = chance
        url = endpoint.rstrip("/")
        self._exporter = _CountingExporter(
            OTLPSpanExporter(
                endpoint=url if url.endswith(_TRACES_PATH) else url + _TRACES_PATH, timeout=export_timeout_s
            ),
            endpoint,
            log,
            instruments,
        )
        self._processor = BatchSpanProcessor(
            self._exporter,
            max_queue_size=QUEUE_SPANS_MAX,
            schedule_delay_millis=SCHEDULE_S * 1000,
            max_export_batch_size=BATCH_SPANS_MAX,
        )
        provider = TracerProvider(
            sampler=ALWAYS_ON,  # whoever calls start has decided
            resource=Resource(
                {
                    "service.name": SERVICE_NAME,
                    "service.version": __version__,
                    "service.instance.id": f"node{node_id}",
                    "service.node.name": f"node{node_id}",
                }
            ),
            shutdown_on_exit=False,  # `close` bounds the wait
            id_generator=_Ids(chance),
            span_limits=SpanLimits(max_span_attributes=32, max_attribute_length=1024),
        )
        provider.add_span_processor(self._processor)
        self._tracer: SdkTracer = provider.get_tracer("appliance", __version__)

    def root(self, name: str, **attributes: str | int) -> Span | None:
        """Start a trace of its own for `sample_ratio` of the calls; None for the others."""
        if not sample(self._ratio, self._chance):
            return None
        return self._start(name, None, attributes, None)

    def start(self, name: str, traceparent: str, **attributes: str | int) -> Span | None:
        """Start a child of a sampled parent; None when `traceparent` is empty, invalid or not sampled."""
        parent = parse_traceparent(traceparent) if traceparent else None
        if parent is None or not parent.trace_flags.sampled:
            return None
        return self._start(name, parent, attributes, None)

    def record(self, name: str, traceparent: str, start_us: int, end_us: int, **attributes: str | int) -> None:
        """Record a child that is over already; times are Unix microseconds. Nothing when the parent is not sampled."""
        parent = parse_traceparent(traceparent) if traceparent else None
        if parent is not None and parent.trace_flags.sampled:
            self._span(name, parent, attributes, start_us * 1000).end(end_us * 1000)

    def flush(self) -> None:
        """Export what waits; blocks as long as that takes."""
        self._processor.force_flush()

    def close(self) -> None:
        """Export what waits, for two seconds at most, and stop. Call it on a worker thread."""
        self._exporter.closing = True
        worker = threading.Thread(target=self._processor.shutdown, daemon=True)
        worker.start()
        worker.join(CLOSE_WAIT_S)

    def _start(
        self, name: str, parent: SpanContext | None, attributes: dict[str, str | int], start_ns: int | None
    ) -> Span:
        return OtlpSpan(self._span(name, parent, attributes, start_ns))

    def _span(
        self, name: str, parent: SpanContext | None, attributes: dict[str, str | int], start_ns: int | None
    ) -> SdkSpan:
        context = None if parent is None else set_span_in_context(NonRecordingSpan(parent))
        span = self._tracer.start_span(
            name, context=context, attributes=attributes, start_time=start_ns or time.time_ns()
        )
        assert isinstance(span, SdkSpan)
        return span


def make_tracer(
    settings: TelemetrySettings, *, node_id: int, log: Log, instruments: Instruments, chance: random.Random
) -> GatewayTracer:
    """The tracer for `[telemetry]`: one that records nothing when there is no endpoint."""
    if not settings.otlp_endpoint:
        return NoTracer()
    return OtlpTracer(
        settings.otlp_endpoint,
        ratio=settings.sample_ratio,
        node_id=node_id,
        log=log,
        instruments=instruments,
        chance=chance,
    )


class _Ids(IdGenerator):
    """Trace and span ids from the given source of chance; zero is not an id."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    def generate_span_id(self) -> int:
        return self._chance.getrandbits(64) or 1

    def generate_trace_id(self) -> int:
        return self._chance.getrandbits(128) or 1

    def is_trace_id_random(self) -> bool:
        return True


class _CountingExporter(SpanExporter):
    """Counts batches that no collector took, and says so once until one is taken again."""

    def __init__(self, exporter: SpanExporter, endpoint: str, log: Log, instruments: Instruments) -> None:
        self._exporter = exporter
        self._endpoint = endpoint
        self._log = log
        self._failed = instruments.counter("scribe_trace_export_failures_total")
        self._failures = 0
        self.closing = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if self.closing and self._failures:
            return SpanExportResult.FAILURE  # a dead collector must not hold up the end
        try:
            result = self._exporter.export(spans)
        except Exception:
            result = SpanExportResult.FAILURE
        if result is SpanExportResult.SUCCESS:
            if self._failures:
                self._log.info("trace.export_resumed", endpoint=self._endpoint, failures=self._failures)
                self._failures = 0
            return result
        self._failed.inc()
        self._failures += 1
        if self._failures == 1:
            self._log.warning("trace.export_failed", endpoint=self._endpoint)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()
