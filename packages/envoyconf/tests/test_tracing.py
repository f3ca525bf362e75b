"""What a real Envoy tells an OpenTelemetry collector of a request."""

import asyncio

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb

from shunter.envoyconf.core.envoy.tracing import trace_configuration
from shunter.envoyconf.core.intent import Tracing
from shunter.envoyconf.core.versions import DEFAULT_VERSION

pytestmark = pytest.mark.envoy

CALLERS = "0af7651916cd43dd8448eb211c80319c"
SERVER, CLIENT = 2, 3  # Span.SpanKind
SPANS_OF_SCOPE = 2  # field number; its name has changed since the first release


class Collector:
    """Keeps the spans that it is sent."""

    def __init__(self):
        self.spans, self.services, self.news = [], set(), asyncio.Event()

    async def export(self, request, _context):
        for resource in request.resource_spans:
            self.services |= {each.value.string_value for each in resource.resource.attributes if each.key == "service.name"}
            for scope in next(value for field, value in resource.ListFields() if field.number == SPANS_OF_SCOPE):
                self.spans += scope.spans
        self.news.set()
        return pb.ExportTraceServiceResponse()

    async def hear(self, count):
        async with asyncio.timeout(20):
            while len(self.spans) < count:
                self.news.clear()
                await self.news.wait()
        return self.spans


@pytest.fixture
async def collector():
    collector = Collector()
    server = grpc.aio.server()
    export = grpc.unary_unary_rpc_method_handler(
        collector.export, pb.ExportTraceServiceRequest.FromString, pb.ExportTraceServiceResponse.SerializeToString
    )
    service = "opentelemetry.proto.collector.trace.v1.TraceService"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Export": export}),))
    collector.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield collector
    await server.stop(None)


def traced(scene, collector, percent):
    tracing = {"collector": collector.address, "samplePercent": percent, "serviceName": "gateway-7"}
    at_once = {"tracing.opentelemetry.flush_interval_ms": 50, "tracing.opentelemetry.min_flush_spans": 1}
    layers = [{"name": "test", "static_layer": at_once}]
    return scene.bootstrap(observability={"tracing": tracing}) | {"layered_runtime": {"layers": layers}}


def tags(span):
    return {each.key: each.value.string_value for each in span.attributes}


def parent_in(traceparent):
    _, trace, span, flags = traceparent.split("-")
    return trace, span, flags


async def test_the_spans_of_a_request_that_was_tried_twice(scene, collector, until):
    upstream = scene.upstreams[0]
    scene.pickers[0].pick = f"{scene.nobody},{upstream.authority}"
    async with scene.envoy(traced(scene, collector, 100)) as envoy:
        await scene.ask(envoy, "/v1/completions?key=secret")
        spans = await collector.hear(3)
        await until(envoy.access_log)
        lines = envoy.access_log()
    (server,) = [span for span in spans if span.kind == SERVER]
    question = next(span for span in spans if "ExternalProcessor" in span.name)
    (attempt,) = [span for span in spans if span.kind == CLIENT and tags(span).get("upstream_address") == upstream.authority]
    assert {span.trace_id for span in spans} == {server.trace_id}
    assert {span.parent_span_id for span in spans if span is not server} == {server.span_id}
    told = tags(server)
    assert (told["pick"], told["ticket"]) == (scene.pickers[0].pick, "7-1")
    assert (told["http.url"], told["http.status_code"]) == ("/v1/completions", "200")
    assert "secret" not in str(spans)
    assert collector.services == {"gateway-7"}
    assert [line["trace_id"] for line in lines] == [server.trace_id.hex()]
    # Both go on with the trace: the picker from the metadata of its call, the model server from a header.
    headers = {name.lower(): value for name, value in upstream.requests[0][1].items()}
    for heard, span in ((scene.pickers[0].called[0]["traceparent"], question), (headers["traceparent"], attempt)):
        assert parent_in(heard) == (server.trace_id.hex(), span.span_id.hex(), "01")


@pytest.mark.parametrize(("percent", "of_a_million"), [(0, 0), (0.00001, 1), (0.0001, 1), (1, 10_000), (100, 1_000_000)])
def test_no_percentage_is_nothing_but_0(percent, of_a_million):
    provider = trace_configuration(Tracing(collector="c:1", sample_percent=percent), DEFAULT_VERSION)["tracing"]["provider"]
    chance = provider["typed_config"]["sampler"]["typed_config"]["wrapped_sampler"]["typed_config"]
    assert chance["sampling_percentage"] == {"numerator": of_a_million, "denominator": "MILLION"}


@pytest.mark.parametrize(("percent", "flags", "traced_too"), [(0, "01", True), (100, "00", False), (0, None, False)])
async def test_a_callers_decision_holds(percent, flags, traced_too, scene, collector):
    scene.pickers[0].pick = scene.upstreams[0].authority
    async with scene.envoy(traced(scene, collector, percent)) as envoy:
        headers = {"traceparent": f"00-{CALLERS}-b7ad6b7169203331-{flags}"} if flags else None
        await scene.ask(envoy, headers=headers)
        # One that is traced for sure: when its spans are there, those of the other would be.
        await scene.ask(envoy, headers={"traceparent": f"00-{'1' * 32}-b7ad6b7169203331-01"})
        spans = await collector.hear(6 if traced_too else 3)
    found = {span.trace_id.hex() for span in spans} - {"1" * 32}
    assert found == ({CALLERS} if traced_too else set())


@pytest.mark.parametrize("request_id", ["chat-7", "6f1c1f4e-0d5b-4f0e-8c3a-2d9c1b7a5e10"])
async def test_a_request_is_traced_whatever_its_client_calls_it(request_id, scene, collector):
    scene.pickers[0].pick = scene.upstreams[0].authority
    async with scene.envoy(traced(scene, collector, 100)) as envoy:
        await scene.ask(envoy, headers={"x-request-id": request_id})
        spans = await collector.hear(3)
    (server,) = [span for span in spans if span.kind == SERVER]
    assert tags(server)["guid:x-request-id"] == request_id
    headers = {name.lower(): value for name, value in scene.upstreams[0].requests[0][1].items()}
    assert headers["x-request-id"] == request_id
