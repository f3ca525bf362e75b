"""Sends spans to an OpenTelemetry collector, by OTLP over HTTP and in the SDK's thread.

Importing this takes the SDK, 0.1 s and 25 MB: only a worker that has somebody to send to does it, and makes one of its own,
for the SDK does not survive a fork.

A collector that is down, slow or refusing costs nobody anything but spans. At most so many wait; what comes beyond that is
dropped, and what the exporter has given up on after its timeout is too. Both are counted.
"""

import asyncio
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from shunter.picker.config.tracing import TracingSettings
from shunter.picker.core.spans import Span
from shunter.picker.core.tracecontext import TraceContext
from shunter.picker.core.tracer import Tracer

__all__ = ["SERVICE", "Telemetry"]

SERVICE = "shunter-picker"

# The SDK's thread and the event loop take turns with the interpreter; with its usual 5 ms a pick would wait as long.
SWITCH_S = 0.0005

# Between looks at whose end was waited for long enough.
LOOK_S = 0.5

# What a picker that goes may take for its last spans.
LAST_WORDS_S = 2.0

_SCOPE = InstrumentationScope("shunter.picker")
_KINDS = {"server": SpanKind.SERVER, "internal": SpanKind.INTERNAL}
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_UNSET = Status(StatusCode.UNSET)


class Telemetry:
    """One worker's spans on their way out."""

    def __init__(
        self, settings: TracingSettings, worker: int, note: Callable[[str, int], None], clock: Callable[[], float]
    ) -> None:
        """Be ready to send; ``note`` is told now and then what became of how many spans. ``clock`` is monotonic."""
        self._settings = settings
        self._note = note
        self._clock = clock
        self._exporter = _Observed(OTLPSpanExporter())
        self._processor = BatchSpanProcessor(
            self._exporter, max_queue_size=settings.queue_spans, max_export_batch_size=settings.batch_spans
        )
        self._taken = 0  # by the processor, since we began
        self._resource = _resource(worker)
        # Ids have to differ between workers, whatever the seed of their decisions.
        self.tracer = Tracer(random.Random(), settings.share, clock, self._send)  # noqa: S311  ids are no secrets
        """Who finds spans: a Witness, and a Follower."""
        sys.setswitchinterval(SWITCH_S)

    async def run(self) -> None:
        """Go on until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            self.tracer.expire(self._clock())
            self._tell()

    async def finish(self) -> None:
        """Send what is left; what a collector does not take within LAST_WORDS_S is lost."""
        self.tracer.finish()
        leaving = threading.Thread(target=self._processor.shutdown, daemon=True)
        leaving.start()
        deadline_s = self._clock() + LAST_WORDS_S
        while leaving.is_alive() and self._clock() < deadline_s:  # noqa: ASYNC110  a thread sets no event of the loop's
            await asyncio.sleep(0.01)
        if leaving.is_alive():
            self._exporter.shutdown()
        self._tell()
        self._note("failed", self._taken - self._exporter.handled)

    def _send(self, spans: Sequence[Span]) -> None:
        if self._taken - self._exporter.handled + len(spans) > self._settings.queue_spans:
            self._note("full", len(spans))
            return
        self._taken += len(spans)
        since_1970_ns = time.time_ns() - int(self._clock() * 1e9)
        for span in spans:
            self._processor.on_end(self._write(span, since_1970_ns))

    def _tell(self) -> None:
        for result, count in self._exporter.take().items():
            self._note(result, count)

    def _write(self, span: Span, since_1970_ns: int) -> ReadableSpan:
        """Return the SDK's form of a span."""

        def at_ns(at_s: float) -> int:
            return int(at_s * 1e9) + since_1970_ns

        parent = TraceContext(span.context.trace_id, span.parent_id, sampled=True) if span.parent_id is not None else None
        return ReadableSpan(
            span.name,
            _context(span.context),
            parent and _context(parent),
            self._resource,
            span.attributes,
            [Event(name, timestamp=at_ns(at_s)) for at_s, name in span.events],
            kind=_KINDS[span.kind],
            status=Status(StatusCode.ERROR, span.error) if span.error is not None else _UNSET,
            start_time=at_ns(span.began_s),
            end_time=at_ns(span.ended_s),
            instrumentation_scope=_SCOPE,
        )


class _Observed(SpanExporter):
    """An exporter that is counted; all but ``take`` runs in the SDK's thread."""

    def __init__(self, exporter: SpanExporter) -> None:
        self.handled = 0
        """Spans that have left, or been lost."""
        self._exporter = exporter
        self._results = Counter[str]()
        self._lock = threading.Lock()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        finally:
            with self._lock:
                self.handled += len(spans)
                self._results["exported" if result is SpanExportResult.SUCCESS else "failed"] += len(spans)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def take(self) -> Counter[str]:
        """Return what became of spans since the last time."""
        with self._lock:
            results, self._results = self._results, Counter[str]()
        return results


class _Itself(Resource):
    """Is told from others as an object: by value its hash is a JSON document, once a span, a fifth of the export."""

    __hash__ = object.__hash__


def _resource(worker: int) -> Resource:
    resource = Resource.create({"shunter.worker": worker})
    if str(resource.attributes["service.name"]).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": SERVICE}))
    return _Itself(resource.attributes, resource.schema_url)


def _context(context: TraceContext) -> SpanContext:
    return SpanContext(int(context.trace_id, 16), int(context.span_id, 16), is_remote=False, trace_flags=_SAMPLED)
