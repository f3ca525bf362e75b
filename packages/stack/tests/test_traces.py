"""Spans from anywhere come into one file, and out of it as a tree or as what viewers read."""

import gzip
import json
import socket

import grpc
import grpc.aio
import pytest
from aiohttp import ClientSession
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status

from shunter.stack.core.traces import document, find, read_spans, tree
from shunter.stack.shell.traces import read_lines
from shunter.stack.traces import FILE, OLDER, collector
from shunter.stack.traces.collector import TraceCollector, as_json

TRACE, OTHER = bytes(range(16)), bytes(range(16, 32))
MS = 1_000_000


def attribute(key, **value):
    return KeyValue(key=key, value=AnyValue(**value))


def span(number, parent=0, *, trace=TRACE, name="s", began_ms=0, took_ms=1, **fields):
    return Span(
        trace_id=trace,
        span_id=number.to_bytes(8),
        parent_span_id=parent.to_bytes(8) if parent else b"",
        name=name,
        start_time_unix_nano=(1_000 + began_ms) * MS,
        end_time_unix_nano=(1_000 + began_ms + took_ms) * MS,
        **fields,
    )


def batch(service, *spans):
    resource = ResourceSpans(scope_spans=[ScopeSpans(spans=spans)])
    resource.resource.attributes.append(attribute("service.name", string_value=service))
    return ExportTraceServiceRequest(resource_spans=[resource])


def lines(*batches):
    return [json.dumps(as_json(each)).encode() for each in batches]


PICKERS = batch(
    "picker",
    span(3, 2, name="choose", began_ms=5, took_ms=2, attributes=[attribute("shunter.cached_tokens", int_value=64)]),
    span(2, 1, name="request", began_ms=4, took_ms=90, status=Status(code=2, message="too late")),
    span(9, trace=OTHER, began_ms=500),
)
GATEWAYS = batch(
    "gateway", span(1, 77, name="ingress", took_ms=100, attributes=[attribute("guid:x-request-id", string_value="mine")])
)


def test_a_trace_is_told_from_the_outside_in():
    assert tree(find(read_spans(lines(PICKERS, GATEWAYS)), "mine")) == [
        f"trace {TRACE.hex()}, 3 spans of 2 services",
        "     0.00    100.00  gateway  ingress",
        "     4.00     90.00  picker     request  failed=too late",
        "     5.00      2.00  picker       choose  cached=64",
    ]


@pytest.mark.parametrize(("wanted", "trace"), [(None, OTHER), ("mine", TRACE), (OTHER.hex(), OTHER), ("yours", None)])
def test_a_trace_is_found_by_its_id_or_the_requests_or_is_the_last(wanted, trace):
    found = find(read_spans(lines(PICKERS, GATEWAYS)), wanted)
    assert {span.trace_id for span in found} == ({trace.hex()} if trace else set())


def test_a_document_for_viewers_has_the_trace_whole():
    half = lines(PICKERS)[0][:-9]  # as it is being written
    whole = json.loads(document([*lines(PICKERS, GATEWAYS, batch("engine", span(5, trace=OTHER))), half], TRACE.hex()))
    assert [[span["name"] for span in each["scopeSpans"][0]["spans"]] for each in whole["resourceSpans"]] == [
        ["choose", "request"],
        ["ingress"],
    ]


def test_a_span_without_an_id_hides_none_of_those_that_came_with_it():
    stray = Span(name="stray", attributes=[attribute("of", string_value=TRACE.hex())])
    told = lines(batch("engine", span(5), stray))
    assert [each.name for each in find(read_spans(told), TRACE.hex())] == ["s"]
    assert len(json.loads(document(told, TRACE.hex()))["resourceSpans"][0]["scopeSpans"][0]["spans"]) == 1


def test_spans_that_are_each_others_parents_end():
    assert len(tree(read_spans(lines(batch("s", span(1, 2), span(2, 1), span(3)))))) == 2


KEYS = st.sampled_from(["resourceSpans", "scopeSpans", "spans", "traceId", "spanId", "attributes"])
DOCUMENTS = st.recursive(
    st.none() | st.text(max_size=5), lambda each: st.dictionaries(KEYS, each | st.lists(each, max_size=2)), max_leaves=8
)


@given(st.lists(st.binary(max_size=40) | DOCUMENTS.map(lambda each: json.dumps(each).encode()), max_size=3))
def test_whatever_is_in_the_file_is_passed_over(noise):
    assert len(read_spans([*noise, *lines(GATEWAYS)])) >= 1


@pytest.fixture
async def running(tmp_path):
    taking = TraceCollector(tmp_path)
    yield await taking.start(0, 0)
    await taking.stop()


async def test_spans_are_taken_in_both_ways(running, tmp_path):
    grpc_port, http_port = running
    async with grpc.aio.insecure_channel(f"127.0.0.1:{grpc_port}") as channel:
        export = channel.unary_unary("/opentelemetry.proto.collector.trace.v1.TraceService/Export")
        await export(GATEWAYS.SerializeToString())
        with pytest.raises(grpc.aio.AioRpcError, match="INVALID_ARGUMENT"):
            await export(b"\xff")
    url = f"http://127.0.0.1:{http_port}/v1/traces"
    headers = {"content-type": "application/x-protobuf", "content-encoding": "gzip"}
    async with ClientSession() as session:
        async with session.post(url, data=gzip.compress(PICKERS.SerializeToString()), headers=headers) as response:
            assert response.status == 200
        async with session.post(url, data=b"\xff") as response:
            assert response.status == 400
    assert [span.name for span in read_spans(read_lines(tmp_path))] == ["ingress", "choose", "request", "s"]


@pytest.mark.parametrize("which", [0, 1])
async def test_a_port_that_is_taken_is_an_error_and_nothing_stays_open(which, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as squatter:
        ports = [0, 0]
        ports[which] = squatter.getsockname()[1]
        with pytest.raises(OSError, match=str(ports[which])):
            await TraceCollector(tmp_path).start(*ports)


async def test_the_file_is_bounded(running, tmp_path, monkeypatch):
    monkeypatch.setattr(collector, "FILE_BYTES", 2_000)
    async with ClientSession() as session:
        for _ in range(20):
            await session.post(f"http://127.0.0.1:{running[1]}/v1/traces", data=GATEWAYS.SerializeToString())
    assert {path.name for path in tmp_path.iterdir()} == {FILE, OLDER}
    assert all(path.stat().st_size <= 2_000 for path in tmp_path.iterdir())
    assert len(read_lines(tmp_path)) > 2


async def test_spans_are_passed_on_and_kept_although_nobody_takes_them(running, tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    for forward in (f"http://127.0.0.1:{running[1]}/v1/traces", "http://127.0.0.1:1/v1/traces"):
        relay = TraceCollector(own, forward)
        _, port = await relay.start(0, 0)
        async with (
            ClientSession() as session,
            session.post(f"http://127.0.0.1:{port}/v1/traces", data=GATEWAYS.SerializeToString()) as response,
        ):
            assert response.status == 200
        await relay.stop()
    assert (len(read_lines(own)), len(read_lines(tmp_path))) == (2, 1)
