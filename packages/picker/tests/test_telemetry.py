"""Spans on their way to a collector that takes them, refuses them, hangs or is not there."""

import asyncio
import random
import sys
import time
from collections import Counter

import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from shunter.picker import config
from shunter.picker.config.tracing import TracingSettings, read_tracing
from shunter.picker.core.spans import Span
from shunter.picker.core.tracecontext import TraceContext
from shunter.picker.errors import ConfigError
from shunter.picker.shell import telemetry
from shunter.picker.shell.telemetry import Telemetry
from shunter.picker.shell.worker import Settings, Worker

TRACE, PARENT, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "00f067aa0ba902b7"
DEADLINE_S = 30


class Collector:
    """Takes what it is sent, in its own way."""

    def __init__(self, status=200):
        self.status = status
        self.requests = []
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def take(self, request):
        body = await request.read()
        await self.go_on.wait()
        if self.status == 200:
            self.requests.append(ExportTraceServiceRequest.FromString(body))
        return web.Response(status=self.status)

    @property
    def resources(self):
        return [resource for request in self.requests for resource in request.resource_spans]

    @property
    def spans(self):
        return [span for resource in self.resources for scope in resource.scope_spans for span in scope.spans]


@pytest.fixture
async def collector(monkeypatch):
    collector = Collector()
    app = web.Application(client_max_size=1 << 24)
    app.router.add_post("/v1/traces", collector.take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{runner.addresses[0][1]}")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    yield collector
    collector.go_on.set()
    await runner.cleanup()


@pytest.fixture
async def make(monkeypatch):
    monkeypatch.setattr(telemetry, "SWITCH_S", 0.005)  # of the whole process: tests share it
    monkeypatch.setattr(telemetry, "LOOK_S", 0.02)
    running = []

    def make(**settings):
        results = Counter()
        made = Telemetry(TracingSettings(**settings), 3, lambda result, count: results.update({result: count}), time.monotonic)
        running.append((made, asyncio.create_task(made.run())))
        return made, results

    yield make
    for made, task in running:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await made.finish()


def span(**fields):
    now_s = time.monotonic()
    context = TraceContext(TRACE, SPAN, sampled=True)
    defaults = {"name": "gateway.request", "context": context, "parent_id": PARENT, "began_s": now_s - 1, "ended_s": now_s}
    return Span(**defaults | {"attributes": {}} | fields)


async def until(condition):
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110  the condition is of another thread's making
            await asyncio.sleep(0.01)


async def test_a_collector_is_told_everything(collector, make):
    made, results = make()
    attributes = {"s": "text", "b": True, "i": 7, "f": 0.5, "l": ["a", "b"], "n": [0.25, 1.0]}
    made._send([span(kind="server", attributes=attributes, events=[(time.monotonic() - 0.5, "first token")], error="why")])
    await until(lambda: results["exported"])
    (told,), (resource,) = collector.spans, collector.resources
    assert (told.name, told.kind, told.status.code, told.status.message) == ("gateway.request", 2, 2, "why")
    assert (told.trace_id.hex(), told.span_id.hex(), told.parent_span_id.hex()) == (TRACE, SPAN, PARENT)
    assert abs(told.end_time_unix_nano - time.time_ns()) < DEADLINE_S * 1e9
    assert told.end_time_unix_nano - told.start_time_unix_nano == pytest.approx(1e9)
    assert told.events[0].time_unix_nano - told.start_time_unix_nano == pytest.approx(0.5e9, rel=0.01)
    assert [each.key for each in told.attributes] == list(attributes)
    assert told.attributes[5].value.array_value.values[1].double_value == 1.0
    named = {each.key: each.value for each in resource.resource.attributes}
    assert named["service.name"].string_value == "shunter-picker"
    assert named["shunter.worker"].int_value == 3
    assert results == {"exported": 1}


async def test_a_clock_that_is_set_shifts_what_comes_next_and_stretches_nothing(collector, make, monkeypatch):
    made, _ = make()
    made._send([span()])
    real_ns = time.time_ns
    with monkeypatch.context() as clock:
        clock.setattr(telemetry.time, "time_ns", lambda: real_ns() - 3_600_000_000_000)
        made._send([span()])
    await until(lambda: len(collector.spans) == 2)
    before, after = collector.spans
    assert before.start_time_unix_nano - after.start_time_unix_nano == pytest.approx(3600e9, abs=DEADLINE_S * 1e9)
    assert [each.end_time_unix_nano - each.start_time_unix_nano for each in collector.spans] == pytest.approx([1e9, 1e9])


async def test_what_a_service_is_called_is_its_owners_to_say(collector, make, monkeypatch):
    monkeypatch.setenv("OTEL_SERVICE_NAME", "my-picker")
    made, results = make()
    made._send([span(parent_id=None)])
    await until(lambda: results["exported"])
    assert 'string_value: "my-picker"' in str(collector.resources)
    assert not collector.spans[0].parent_span_id


async def test_what_a_collector_refuses_is_counted(collector, make):
    collector.status = 400
    made, results = make()
    made._send([span()] * 5)
    await until(lambda: results["failed"] == 5)


async def test_a_collector_that_hangs_costs_spans_and_no_more(collector, make):
    collector.go_on.clear()
    made, results = make(queue_spans=10, batch_spans=4)
    for _ in range(1_000):
        made._send([span(), span()])
    assert results == {"full": 1_990}
    collector.go_on.set()
    await until(lambda: results["exported"] == 10)
    made._send([span()])
    await until(lambda: results["exported"] == 11)


async def test_a_picker_that_goes_sends_what_it_has(collector, make, monkeypatch):
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "3600000")
    made, results = make(share=1.0)
    made._send([span()])
    await made.finish()
    assert +results == {"exported": 1}


async def test_a_picker_that_goes_does_not_wait_for_a_collector_that_hangs(collector, make, monkeypatch):
    monkeypatch.setattr(telemetry, "LAST_WORDS_S", 0.1)
    collector.go_on.clear()
    made, results = make()
    made._send([span()])
    await made.finish()
    assert results == {"failed": 1}


@pytest.mark.parametrize("transport", ["native", "grpcio"])
@pytest.mark.parametrize("gateways", [f"00-{TRACE}-{PARENT}-01", None], ids=["gateway traces", "nobody traces"])
async def test_a_workers_picks_are_traced_and_the_engine_is_told_where_the_gateway_does_not(
    gateways, transport, collector, publish, ask_pick, tmp_path, make
):
    publish(7001)
    settings = Settings(snapshot=tmp_path, port=0, health_port=0, transport=transport, tracing=TracingSettings(share=1.0))
    worker = Worker(config.load().policy, settings)
    address = f"127.0.0.1:{await worker.start()}"
    answer = await ask_pick(address, metadata=[("traceparent", gateways)] if gateways else None)
    await worker.drain(0.2)
    spans = {span.name: span for span in collector.spans}
    root = spans["gateway.request"]
    assert set(spans) == {"gateway.request", "gateway.request_orchestration", "run_scheduler_profile"}
    mutation = answer.request_body.response.header_mutation
    told = [each.header.raw_value.decode() for each in mutation.set_headers if each.header.key == "traceparent"]
    if gateways:
        assert (root.trace_id.hex(), root.parent_span_id.hex(), told) == (TRACE, PARENT, [])
    else:
        assert told == [f"00-{root.trace_id.hex()}-{root.span_id.hex()}-01"]
    assert worker.judge.counters.tally().spans_exported == 3


async def test_a_collector_that_is_named_needs_the_sdk(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "shunter.picker.shell.telemetry", None)
    with pytest.raises(ConfigError, match=r"install shunter-picker\[tracing\]"):
        Worker(config.load().policy, Settings(snapshot=tmp_path, tracing=TracingSettings()))


def test_ids_differ_between_workers_of_one_seed(monkeypatch, make):
    random.seed(1)
    drawn = []
    for worker in range(2):
        made = Telemetry(TracingSettings(), worker, lambda *_: None, time.monotonic)
        drawn.append(made.tracer._draw(32))
        made._processor.shutdown()
    assert drawn[0] != drawn[1]


ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}


@pytest.mark.parametrize(
    ("environment", "settings"),
    [
        ({}, None),
        ({"OTEL_TRACES_SAMPLER_ARG": "1"}, None),
        (ENDPOINT, TracingSettings(share=0.1)),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c/v1/traces"}, TracingSettings()),
        (ENDPOINT | {"OTEL_SDK_DISABLED": "TRUE"}, None),
        (ENDPOINT | {"OTEL_TRACES_EXPORTER": "none"}, None),
        (ENDPOINT | {"OTEL_TRACES_SAMPLER": "parentbased_always_on"}, TracingSettings(share=1.0)),
        (ENDPOINT | {"OTEL_TRACES_SAMPLER": "always_off"}, TracingSettings(share=0.0)),
        (ENDPOINT | {"OTEL_TRACES_SAMPLER_ARG": "0.25"}, TracingSettings(share=0.25)),
        (ENDPOINT | {"OTEL_BSP_MAX_QUEUE_SIZE": "10"}, TracingSettings(queue_spans=10, batch_spans=10)),
        (ENDPOINT | {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", "OTEL_TRACES_EXPORTER": " otlp "}, TracingSettings()),
    ],
)
def test_what_the_environment_says(environment, settings):
    assert read_tracing(environment) == settings


@pytest.mark.parametrize(
    ("variable", "value", "remedy"),
    [
        ("OTEL_TRACES_EXPORTER", "console", "none"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "otel-collector:4318", "http://otel-collector:4318"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "4318", "give a URL"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "4318"),
        ("OTEL_TRACES_SAMPLER", "jaeger_remote", "parentbased_traceidratio"),
        ("OTEL_TRACES_SAMPLER_ARG", "10", "from 0 to 1"),
        ("OTEL_TRACES_SAMPLER_ARG", "some", "from 0 to 1"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0", "from 1"),
    ],
)
def test_what_the_environment_cannot_say(variable, value, remedy):
    with pytest.raises(ConfigError, match=f"{variable}={value}: .*{remedy}"):
        read_tracing(ENDPOINT | {variable: value})
