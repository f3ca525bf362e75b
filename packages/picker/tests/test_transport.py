"""Both transports on the real wire, asked by the gRPC library's own client: the same promises."""

import asyncio
import os
import stat
import time
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import pytest
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from envoy.service.ext_proc.v3 import external_processor_pb2_grpc as pb_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from shunter.picker.core.events import BodyMode
from shunter.picker.core.judgement import DropReason, Refusal
from shunter.picker.core.limits import Budget, Limits
from shunter.picker.core.session import Session
from shunter.picker.errors import ConfigError
from shunter.picker.testing import StubJudge
from shunter.picker.transport.grpcio import GrpcServer
from shunter.picker.transport.health import Health
from shunter.picker.transport.native import NativeServer
from shunter.picker.transport.parking import Parking

HEADERS = pb.ProcessingRequest(request_headers=pb.HttpHeaders())
BODY = pb.ProcessingRequest(request_body=pb.HttpBody(body=b"{}", end_of_stream=True))
DEADLINE_S = 10
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def headers(mode):
    message = pb.ProcessingRequest(request_headers=pb.HttpHeaders())
    message.protocol_config.request_body_mode = int(mode)
    return message


async def until(condition):
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110  the condition is another task's, which has no event for it
            await asyncio.sleep(0.001)


class Picker:
    """A server, a client and the judge between them."""

    def __init__(self, transport, judge, limits):
        self.judge = judge
        self.health = Health()
        budget = Budget(limits.buffered_bytes)
        self.parking = Parking(judge, time.monotonic)
        self.server = transport(lambda: Session(judge, limits, budget), self.health, limits, parking=self.parking)

    def process(self):
        return pb_grpc.ExternalProcessorStub(self.channel).Process()

    async def check(self, service):
        stub = health_pb2_grpc.HealthStub(self.channel)
        return (await stub.Check(health_pb2.HealthCheckRequest(service=service))).status


@pytest.fixture(params=[NativeServer, GrpcServer], ids=["native", "grpcio"])
def transport(request):
    return request.param


@pytest.fixture
def running(transport):
    @asynccontextmanager
    async def running(judge=None, limits=None):
        picker = Picker(transport, judge or StubJudge(), limits or Limits())
        port = await picker.server.start("127.0.0.1", 0)
        picker.port = port
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as picker.channel:
            yield picker
            await picker.server.stop()

    return running


@pytest.mark.parametrize(("given", "mode"), [({}, 0o600), ({"socket_mode": 0o660}, 0o660), ({"socket_mode": 0o666}, 0o666)])
async def test_at_a_socket_by_name_those_may_ask_who_are_let_whatever_the_umask_is(transport, tmp_path, given, mode):
    path = tmp_path / "picker"
    server = transport(lambda: None, Health(), Limits(), **given)
    before = os.umask(0)
    try:
        await server.start(f"unix:{path}", 0)
        assert stat.S_IMODE(path.stat().st_mode) == mode
        assert os.umask(0) == 0
    finally:
        os.umask(before)
        await server.stop()


async def test_what_the_gateway_says_when_it_opens_the_stream(running):
    async with running() as picker:
        told = (("x-shunter-pool", "llama"), ("traceparent", TRACEPARENT))
        process = pb_grpc.ExternalProcessorStub(picker.channel).Process(metadata=told)
        for message in (HEADERS, BODY):
            await process.write(message)
        await process.read()
        (ask,) = picker.judge.asks
        assert (ask.pool, ask.traceparent) == ("llama", TRACEPARENT)


async def test_one_stream_is_one_session(running):
    async with running() as picker:
        call = picker.process()
        await call.write(HEADERS)
        await call.write(BODY)
        assert (await call.read()).WhichOneof("response") == "request_headers"
        assert (await call.read()).request_body.response.body_mutation.streamed_response.body == b"{}"
        await call.done_writing()
        assert await call.code() is grpc.StatusCode.OK
        await until(lambda: picker.judge.released)


async def test_streams_run_side_by_side(running):
    async with running() as picker:
        calls = [picker.process() for _ in range(50)]
        for message in (HEADERS, BODY):
            await asyncio.gather(*(call.write(message) for call in calls))
        answers = await asyncio.gather(*(call.read() for call in calls))
        assert {answer.WhichOneof("response") for answer in answers} == {"request_headers"}
        for call in calls:
            call.cancel()
        await until(lambda: len(picker.judge.released) == len(calls))


async def test_a_reset_stream_is_released(running):
    async with running() as picker:
        call = picker.process()
        await call.write(HEADERS)
        await call.write(BODY)
        await call.read()
        call.cancel()
        await until(lambda: picker.judge.released)
        assert not picker.judge.outcome.complete


async def test_a_broken_protocol_is_invalid_argument_with_the_reason(running):
    async with running() as picker:
        call = picker.process()
        await call.write(HEADERS)
        await call.write(HEADERS)
        assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "request headers in state OPEN" in await call.details()


async def test_bytes_that_are_no_message_are_invalid_argument(running):
    async with running() as picker:
        call = picker.channel.stream_stream("/envoy.service.ext_proc.v3.ExternalProcessor/Process")()
        await call.write(b"\xff\xff")
        assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_bug_of_ours_is_internal_and_logged_and_the_next_stream_works(running, caplog):
    def fail(ask):
        raise ZeroDivisionError("a plugin's bug")

    judge = StubJudge(verdict=fail)
    async with running(judge) as picker:
        call = picker.process()
        await call.write(HEADERS)
        await call.write(BODY)
        assert await call.code() is grpc.StatusCode.INTERNAL
        assert "a plugin's bug" in caplog.text
        judge._verdict = None
        call = picker.process()
        await call.write(HEADERS)
        await call.write(BODY)
        assert (await call.read()).WhichOneof("response") == "request_headers"


async def test_the_last_word_ends_the_stream_with_status_0(running):
    limits = Limits(body_bytes=1)
    async with running(limits=limits) as picker:
        call = picker.process()
        await call.write(HEADERS)
        await call.write(BODY)
        answer = Listener(call)
        assert await answer.end() is grpc.StatusCode.OK
        assert answer.messages[0].immediate_response.status.code == 413


async def test_a_body_of_the_largest_size_is_not_too_large_a_message(running):
    limits = Limits(body_bytes=6 * 1024 * 1024)  # the library's default for a message is 4 MiB
    async with running(limits=limits) as picker:
        call = picker.process()
        await call.write(headers(BodyMode.BUFFERED))
        await call.read()
        body = b"x" * limits.body_bytes
        await call.write(pb.ProcessingRequest(request_body=pb.HttpBody(body=body, end_of_stream=True)))
        assert (await call.read()).WhichOneof("response") == "request_body"


async def test_health_by_every_name_and_liveness_always(running):
    async with running() as picker:
        names = ["", "envoy.service.ext_proc.v3.ExternalProcessor", "inference-extension", "readiness"]
        assert {await picker.check(name) for name in names} == {health_pb2.HealthCheckResponse.NOT_SERVING}
        picker.health.set_ready(True)
        assert {await picker.check(name) for name in names} == {health_pb2.HealthCheckResponse.SERVING}
        picker.health.set_ready(False)
        assert await picker.check("liveness") == health_pb2.HealthCheckResponse.SERVING


async def test_health_lists_every_name(running):
    async with running() as picker:
        picker.health.set_ready(True)
        listed = await picker.channel.unary_unary("/grpc.health.v1.Health/List")(b"")
        assert listed.count(b"\x12\x02\x08\x01") == 5  # SERVING
        assert b"readiness" in listed


async def test_a_method_that_is_not_there_is_unimplemented(running):
    async with running() as picker:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await picker.channel.unary_unary("/grpc.health.v1.Health/Chekc")(b"")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_deadline_of_the_client_ends_the_call(running):
    async with running() as picker:
        await picker.channel.channel_ready()  # or on a busy machine the call might end before anybody hears of it
        call = pb_grpc.ExternalProcessorStub(picker.channel).Process(timeout=10)
        await call.write(headers(BodyMode.BUFFERED))
        await call.write(BODY)
        assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: picker.judge.released)


async def test_large_bodies_pass_both_ways_at_once(running):
    async with running(limits=Limits(body_bytes=8 << 20)) as picker:
        body = bytes(range(256)) * 8192  # 2 MiB: more than any window holds

        async def echo():
            call = picker.process()
            await call.write(HEADERS)
            await call.write(pb.ProcessingRequest(request_body=pb.HttpBody(body=body, end_of_stream=True)))
            assert (await call.read()).WhichOneof("response") == "request_headers"
            echoed = b""
            while len(echoed) < len(body):
                echoed += (await call.read()).request_body.response.body_mutation.streamed_response.body
            return echoed

        assert set(await asyncio.gather(*(echo() for _ in range(8)))) == {body}


@pytest.mark.parametrize("transport", [NativeServer], ids=["native"])
async def test_a_thousand_streams_at_once(running):
    async with running() as picker:
        calls = [picker.process() for _ in range(1000)]
        await asyncio.gather(*(call.write(headers(BodyMode.BUFFERED)) for call in calls))
        await asyncio.gather(*(call.read() for call in calls))
        await asyncio.gather(*(call.write(BODY) for call in calls))
        answers = await asyncio.gather(*(call.read() for call in calls))
        assert {answer.WhichOneof("response") for answer in answers} == {"request_body"}
        await asyncio.gather(*(call.done_writing() for call in calls))
        assert {await call.code() for call in calls} == {grpc.StatusCode.OK}
        await until(lambda: len(picker.judge.released) == len(calls))


@pytest.mark.parametrize("service", ["other", "x" * 500])
async def test_health_of_an_unknown_service_is_not_found(running, service):
    async with running() as picker:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await picker.check(service)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        assert "'readiness'" in caught.value.details()


class Listener:
    """Reads a call from its start: grpc.aio's ``read`` loses a message if the status came before it was called."""

    def __init__(self, call):
        self.messages = []
        self.call = call
        self._task = asyncio.create_task(self._listen())

    async def _listen(self):
        async for message in self.call:
            self.messages.append(message)

    async def until(self, count):
        await until(lambda: len(self.messages) >= count)

    async def end(self):
        await self._task
        return await self.call.code()


async def test_a_watch_is_told_each_change_and_ends_with_the_server(running):
    async with running() as picker:
        stub = health_pb2_grpc.HealthStub(picker.channel)
        watch = Listener(stub.Watch(health_pb2.HealthCheckRequest(service="readiness")))
        await watch.until(1)
        for told, ready in enumerate((True, False, True), start=2):
            picker.health.set_ready(ready)
            await watch.until(told)
        await picker.server.drain(DEADLINE_S)
        assert await watch.end() is grpc.StatusCode.OK
        assert [message.status for message in watch.messages] == [2, 1, 2, 1, 2]


async def test_a_drain_ends_idle_streams_and_waits_for_undecided_ones(running):
    async with running() as picker:
        calls = picker.process(), picker.process()
        idle, waiting = map(Listener, calls)
        for listener in (idle, waiting):
            await listener.call.write(headers(BodyMode.BUFFERED))
            await listener.until(1)
        await idle.call.write(BODY)
        await idle.until(2)
        drain = asyncio.create_task(picker.server.drain(DEADLINE_S))
        assert await idle.end() is grpc.StatusCode.OK
        assert not drain.done()
        await waiting.call.write(BODY)
        assert await waiting.end() is grpc.StatusCode.OK
        assert waiting.messages[1].request_body.response.header_mutation.set_headers
        await drain
        assert [outcome.complete for _, outcome in picker.judge.released] == [False, False]


async def test_at_the_deadline_the_undecided_are_refused(running):
    async with running() as picker:
        call = Listener(picker.process())
        await call.call.write(headers(BodyMode.BUFFERED))
        await call.until(1)
        await picker.server.drain(0.0)
        assert await call.end() is grpc.StatusCode.OK
        assert call.messages[1].immediate_response.status.code == 503


async def test_a_taken_port_is_named(running, transport):
    async with running() as picker:
        other = Picker(transport, StubJudge(), Limits())
        with pytest.raises(ConfigError, match=f"port {picker.port} is taken"):
            await other.server.start("127.0.0.1", picker.port)
        await other.server.stop()


async def test_an_ipv6_address_and_a_second_door_for_health(transport):
    picker = Picker(transport, StubJudge(), Limits())
    port = await picker.server.start("::1", 0, health_port=0)
    async with grpc.aio.insecure_channel(f"[::1]:{port}") as picker.channel:
        assert await picker.check("liveness") == health_pb2.HealthCheckResponse.SERVING
    await picker.server.stop()


class TestParked:
    """Requests that wait for room."""

    @asynccontextmanager
    async def waiting(self, running, mode=BodyMode.FULL_DUPLEX_STREAMED, **stub):
        async with running(StubJudge(park_s=60.0, **stub)) as picker:
            call = picker.process()
            await call.write(headers(mode))
            await call.write(BODY)
            await until(lambda: len(picker.parking) == 1)
            yield picker, call

    async def test_full_duplex_hears_nothing_until_its_turn_comes(self, running):
        async with self.waiting(running) as (picker, call):
            picker.judge.open()
            assert (await call.read()).WhichOneof("response") == "request_headers"
            assert (await call.read()).request_body.response.body_mutation.streamed_response.end_of_stream
            assert len(picker.parking) == 0
            await call.done_writing()
            assert await call.code() is grpc.StatusCode.OK
            await until(lambda: picker.judge.released)

    async def test_buffered_is_asked_for_the_time_first(self, running):
        async with self.waiting(running, BodyMode.BUFFERED) as (picker, call):
            assert (await call.read()).WhichOneof("response") == "request_headers"
            assert (await call.read()).override_message_timeout.seconds == 61
            picker.judge.open()
            assert (await call.read()).request_body.response.header_mutation.set_headers
            call.cancel()
            await until(lambda: picker.judge.released)

    async def test_a_refusal_ends_the_stream(self, running):
        refusal = Refusal(429, "ResourceExhausted", "no capacity became free in time", DropReason.TTL_EXPIRED)
        async with self.waiting(running, verdict=refusal) as (picker, call):
            picker.judge.open()
            assert (await call.read()).immediate_response.status.code == 429
            assert await call.code() is grpc.StatusCode.OK

    async def test_who_goes_away_leaves_the_queue(self, running):
        async with self.waiting(running) as (picker, call):
            call.cancel()
            await until(lambda: picker.judge.left)
            assert len(picker.parking) == 0
            assert not picker.judge.released

    async def test_what_comes_meanwhile_is_heard(self, running):
        async with self.waiting(running, BodyMode.BUFFERED) as (picker, call):
            await call.read()
            await call.read()
            await call.write(pb.ProcessingRequest(response_headers=pb.HttpHeaders(end_of_stream=True)))
            assert (await call.read()).WhichOneof("response") == "response_headers"
            assert picker.judge.left == [1]
            assert len(picker.parking) == 0, "its timer has nobody to ask for"

    async def test_the_end_of_one_lets_the_next_one_go_on_at_once(self, running):
        async with self.waiting(running) as (picker, first):
            second = picker.process()
            await second.write(headers(BodyMode.FULL_DUPLEX_STREAMED))
            await second.write(BODY)
            await until(lambda: len(picker.parking) == 2)
            picker.judge.open()
            first.cancel()
            assert (await second.read()).WhichOneof("response") == "request_headers"

    async def test_a_drain_lets_them_go_on_if_there_is_room_in_time(self, running):
        async with self.waiting(running) as (picker, call):
            draining = asyncio.create_task(picker.server.drain(DEADLINE_S))
            await asyncio.sleep(0)
            picker.judge.open()
            assert (await call.read()).WhichOneof("response") == "request_headers"
            call.cancel()
            await draining

    async def test_a_drain_without_room_refuses_them(self, running):
        async with self.waiting(running) as (picker, call):
            draining = asyncio.create_task(picker.server.drain(0.05))
            answer = await call.read()
            assert answer.immediate_response.status.code == 503
            reasons = {header.header.key: header.header.raw_value for header in answer.immediate_response.headers.set_headers}
            assert reasons["x-llm-d-request-dropped-reason"] == b"rejected-shutting-down"
            assert await call.code() is grpc.StatusCode.OK
            await draining
            assert picker.judge.left == [1]

    @pytest.mark.parametrize("answered", [False, True])
    async def test_a_pick_may_be_evicted_later(self, running, answered):
        async with running(StubJudge(evictable=True)) as picker:
            call = picker.process()
            await call.write(headers(BodyMode.BUFFERED))
            await call.write(BODY)
            await call.read()
            await call.read()
            if answered:
                await call.write(pb.ProcessingRequest(response_headers=pb.HttpHeaders()))
                await call.read()
            picker.judge.evicting[1] = Refusal(429, "ResourceExhausted", "request evicted", DropReason.EVICTED)
            picker.parking._dispatch(time.monotonic())
            assert (await call.read()).immediate_response.status.code == 429
            assert await call.code() is grpc.StatusCode.OK
            await until(lambda: picker.judge.released)
            assert not picker.judge.outcome.complete
            assert not picker.parking._resumes

    async def test_one_that_fails_then_is_ended(self, running):
        async with self.waiting(running) as (picker, call):
            picker.judge._endpoints = (None,)  # nobody can write that down
            picker.judge.open()
            assert await call.code() is grpc.StatusCode.INTERNAL
            await until(lambda: not picker.server.streams)
