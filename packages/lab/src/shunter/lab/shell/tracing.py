"""A span for each request that its caller traces, as vLLM makes with ``--otlp-traces-endpoint``: where a trace ends.

Off unless OTEL_EXPORTER_OTLP_ENDPOINT names a collector (OTLP over HTTP); OTEL_SERVICE_NAME says who we are. Needs the extra
``shunter-lab[tracing]``.
"""

from aiohttp import web
from aiohttp.typedefs import Handler
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

__all__ = ["Tracing"]

# What vLLM calls it.
NAME = "llm_request"

# For the SDK's 10 s a collector that is away would hold up a server that is told to end.
EXPORT_S = 2.0


class Tracing:
    """Everything that the server has to do with traces: give ``middleware`` to the application, ``close`` at the end."""

    def __init__(self) -> None:
        """Read the environment."""
        self._provider = TracerProvider(resource=Resource.create(), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(timeout=EXPORT_S)))
        self._tracer = self._provider.get_tracer("shunter.lab")
        self._propagator = TraceContextTextMapPropagator()

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Make the span, from the request's head to the response's end."""
        if request.method != "POST":
            return await handler(request)
        context = self._propagator.extract({name.lower(): value for name, value in request.headers.items()})
        told = {"url.path": request.path}
        with self._tracer.start_as_current_span(NAME, context, kind=SpanKind.SERVER, attributes=told) as span:
            response = await handler(request)
            span.set_attribute("http.response.status_code", response.status)
            return response

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()
