"""Where a trace ends: the model server's own span, of requests whose caller traces them."""

import asyncio

import pytest
from aiohttp import ClientSession, web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from shunter.lab.shell.server import LabServer
from shunter.lab.shell.tracing import Tracing

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
async def spans(monkeypatch):
    """Spans that were sent, by the name of the service."""
    spans = []

    async def take(request):
        for resource in ExportTraceServiceRequest.FromString(await request.read()).resource_spans:
            (name,) = [each.value.string_value for each in resource.resource.attributes if each.key == "service.name"]
            spans.extend((name, span) for scope in resource.scope_spans for span in scope.spans)
        return web.Response()

    app = web.Application()
    app.router.add_post("/v1/traces", take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{runner.addresses[0][1]}")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "engine-7")
    yield spans
    await runner.cleanup()


@pytest.mark.parametrize(
    ("flags", "model", "status"), [("01", "lab/llama-3-8b", 200), ("01", "none", 404), ("00", "none", 404)]
)
async def test_a_request_that_its_caller_traces_has_a_span(flags, model, status, spans):
    tracing = Tracing()
    async with LabServer(middlewares=[tracing.middleware]) as server, ClientSession() as session:
        body = {"model": model, "prompt": "hi", "max_tokens": 2, "stream": True}
        headers = {"Traceparent": f"00-{TRACE}-{CALLER}-{flags}"}
        async with session.post(f"{server.url}/v1/completions", json=body, headers=headers) as response:
            assert response.status == status
            await response.read()
        async with session.post(f"{server.url}/v1/completions", json=body) as response:
            await response.read()
    await asyncio.to_thread(tracing.close)  # sends what there is, and waits for the answer
    told = [(name, span.name, span.trace_id.hex(), span.parent_span_id.hex()) for name, span in spans]
    assert told == ([("engine-7", "llm_request", TRACE, CALLER)] if flags == "01" else [])
    for _, span in spans:
        assert {each.key: each.value.int_value for each in span.attributes}["http.response.status_code"] == status
