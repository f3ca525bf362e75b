"""The exam's own streams to a picker: they never wait for ever, whatever the picker does or does not."""

import asyncio
import contextlib

import pytest

from shunter.conformance.core.case import Bound
from shunter.conformance.errors import Unanswered
from shunter.conformance.sections.pickers.asking import chat, hear_request, request
from shunter.conformance.sections.pickers.messages import Ended, Message, Mode, Part
from shunter.conformance.sections.pickers.stream import expect_same_body
from shunter.conformance.shell.extproc import load
from shunter.conformance.shell.pickers import streams
from shunter.conformance.shell.pickers.streams import Line

PB = load("envoy.service.ext_proc.v3.external_processor_pb2")
RPC, AIO = load("grpc"), load("grpc.aio")

LONG = Bound("long", 60.0, "whoever waits for this has lost")
SHORT = Bound("short", 0.3, "what never comes is not waited for longer")

# More than all windows and buffers between two ends of a connection together.
LARGE_BYTES = 20_000_000
PIECE_BYTES = 64 << 10


def answer(body=b"", *, end=False):
    response = PB.ProcessingResponse(request_body=PB.BodyResponse())
    streamed = response.request_body.response.body_mutation.streamed_response
    streamed.body, streamed.end_of_stream = body, end
    return response.SerializeToString()


async def hand_on(_, context):
    """What comes goes on at once: this picker decides by headers alone."""
    while (data := await context.read()) is not AIO.EOF:
        said = PB.ProcessingRequest.FromString(data)
        if said.HasField("request_headers"):
            response = PB.ProcessingResponse(request_headers=PB.HeadersResponse())
            header = response.request_headers.response.header_mutation.set_headers.add().header
            header.key, header.raw_value = "x-gateway-destination-endpoint", b"127.0.0.1:1"
            await context.write(response.SerializeToString())
        else:
            await context.write(answer(said.request_body.body, end=said.request_body.end_of_stream))


async def be_deaf(_, context):
    del context
    await asyncio.Event().wait()


async def say_on(_, context):
    while True:
        await context.write(answer(b"more"))


async def drip(_, context):
    while True:
        await context.write(answer(b"more"))
        await asyncio.sleep(0.01)


async def end_at_once(_, context):
    await context.abort(RPC.StatusCode.RESOURCE_EXHAUSTED, "full")


@contextlib.asynccontextmanager
async def talking_to(process, **options):
    """A line to a picker that does this with each stream."""
    server = AIO.server()
    handler = RPC.stream_stream_rpc_method_handler(process)
    server.add_generic_rpc_handlers(
        (RPC.method_handlers_generic_handler("envoy.service.ext_proc.v3.ExternalProcessor", {"Process": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    line = Line(f"127.0.0.1:{port}", lambda bound: bound.seconds, **options)
    try:
        async with line.stream(Mode.FULL_DUPLEX_STREAMED) as stream:
            yield line, stream
    finally:
        await line.close()
        await server.stop(0)


def large():
    body = chat("x" * LARGE_BYTES)
    return body, request(*(body[at : at + PIECE_BYTES] for at in range(0, len(body), PIECE_BYTES)))


async def test_a_picker_that_hands_a_large_body_on_as_it_comes_is_heard_meanwhile():
    body, told = large()
    async with talking_to(hand_on) as (_, stream):
        await stream.send(*told)
        expect_same_body(await hear_request(stream, told, bound=LONG), body)


async def test_a_picker_that_takes_nothing_is_not_waited_for_for_ever():
    async with talking_to(be_deaf, timeout_s=0.3) as (line, stream):
        with pytest.raises(Unanswered, match=r"not taken within 0\.3 s: request_body, 65536 bytes"):
            await stream.send(*large()[1])
        assert "not taken" in line.evidence()[0].problem


async def test_a_picker_that_answers_without_end_is_not_heard_for_ever(monkeypatch):
    monkeypatch.setattr(streams, "MOST_HEARD_BYTES", 20_000)
    async with talking_to(say_on) as (_, stream):
        await stream.send(*request(b"{}"))
        with pytest.raises(Unanswered, match="no end of them"):
            while True:
                await stream.receive(SHORT)


async def test_a_bound_is_for_all_answers_together():
    async with talking_to(drip) as (_, stream):
        await stream.send(*request(b"{}"))
        with pytest.raises(Unanswered, match=r"no end of them, within 0\.3 s"):
            while True:
                await stream.receive(SHORT)


async def test_the_end_is_heard_as_often_as_it_is_asked_for():
    async with talking_to(end_at_once) as (_, stream):
        await stream.send(Message(part=Part.NOTHING))
        ended = Ended("RESOURCE_EXHAUSTED", "full")
        assert [await stream.receive(LONG), await stream.receive(LONG)] == [ended, ended]
