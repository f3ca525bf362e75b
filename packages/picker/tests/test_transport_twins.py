"""Generated conversations, most of them spoiled, mean the same to both transports: the gRPC library is the oracle of ours."""

import asyncio
import random
import time
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import grpc
import pytest
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb

from shunter.picker.core.limits import Budget, Limits
from shunter.picker.core.session import Session
from shunter.picker.testing import StubJudge
from shunter.picker.transport.grpcio import GrpcServer
from shunter.picker.transport.health import Health
from shunter.picker.transport.native import NativeServer
from shunter.picker.transport.parking import Parking
from shunter.picker.transport.server import PROCESS

CONVERSATIONS = 250
DEADLINE_S = 60
LIMITS = Limits(body_bytes=2000, buffered_bytes=1 << 20)
BODIES = (b"", b"{}", b'{"model":"m","prompt":"x"}', b'{"model":1}', b"[" * 300, b"\xff", b"x" * 2500)
TOO_LARGE, RARELY = b"y" * 70_000, 0.02  # the gRPC library takes a tenth of a second to refuse it
NO_BODY = {
    "request_trailers": pb.ProcessingRequest(request_trailers=pb.HttpTrailers()),
    "response_trailers": pb.ProcessingRequest(response_trailers=pb.HttpTrailers()),
}


def headers(name, *, end=False):
    return pb.ProcessingRequest(**{name: pb.HttpHeaders(end_of_stream=end)})


def pieces(dice, name):
    """A body in one message or several, with trailers now and then."""
    parts = [TOO_LARGE if dice.random() < RARELY else dice.choice(BODIES) for _ in range(dice.choice((1, 1, 2, 3)))]
    said = [pb.ProcessingRequest(**{name: pb.HttpBody(body=part)}) for part in parts]
    if dice.random() < 0.2:
        return [*said, NO_BODY[name.replace("body", "trailers")]]
    getattr(said[-1], name).end_of_stream = True
    return said


def converse(dice):
    """The messages of a stream, as a gateway would send them."""
    alone = dice.random() < 0.1
    first = headers("request_headers", end=alone)
    if dice.random() < 0.9:
        first.protocol_config.request_body_mode = dice.randrange(5)
        first.protocol_config.response_body_mode = dice.randrange(5)
    said = [first, *([] if alone else pieces(dice, "request_body"))]
    if dice.random() < 0.7:
        said += [headers("response_headers"), *pieces(dice, "response_body")]
    return [message.SerializeToString() for message in said]


def spoil(dice, said):
    """Leave out, double, swap, cut or change some of it, or nothing."""
    for _ in range(dice.choice((0, 0, 1, 1, 2))):
        if not said:
            return said
        at, other = dice.randrange(len(said)), dice.randrange(len(said))
        match dice.randrange(5):
            case 0:
                del said[at]
            case 1:
                said.insert(other, said[at])
            case 2:
                said[at], said[other] = said[other], said[at]
            case 3:
                said[at] = said[at][: dice.randrange(len(said[at]) + 1)]
            case 4 if said[at]:
                changed = bytearray(said[at])
                changed[dice.randrange(len(changed))] ^= 1 << dice.randrange(8)
                said[at] = bytes(changed)
    return said


@asynccontextmanager
async def serving(kind):
    judge, budget = StubJudge(), Budget(LIMITS.buffered_bytes)
    parking = Parking(judge, time.monotonic)
    server = kind(lambda: Session(judge, LIMITS, budget), Health(), LIMITS, parking=parking)
    port = await server.start("127.0.0.1", 0)
    try:
        # Not grpc.aio's: that one says INTERNAL of a call which has ended while it was writing.
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel, judge, budget
    finally:
        await server.stop()


def ask(channel, said):
    """Say all of it; return what was answered and how it ended."""
    call, answers = channel.stream_stream(PROCESS)(iter(said)), []
    with suppress(grpc.RpcError):
        for answer in call:
            answers.append(answer)  # noqa: PERF402  what came before the end must be kept
    code = call.code()
    return answers, code, call.details() if code is not grpc.StatusCode.RESOURCE_EXHAUSTED else "in words of its own"


@pytest.mark.parametrize("seed", ["first", "second"])
async def test_whatever_is_said_both_answer_the_same_and_end_the_same(seed):
    dice = random.Random(seed)
    spoken = [spoil(dice, converse(dice)) for _ in range(CONVERSATIONS)]
    ends = set()
    async with AsyncExitStack() as stack, asyncio.timeout(DEADLINE_S):
        twins = [await stack.enter_async_context(serving(kind)) for kind in (NativeServer, GrpcServer)]
        for said in spoken:
            ours, theirs = await asyncio.gather(*(asyncio.to_thread(ask, channel, said) for channel, *_ in twins))
            assert ours == theirs, said
            ends.add(ours[1])
    for _, judge, budget in twins:
        assert len(judge.released) == len(judge.picked)
        assert not budget.taken_bytes
    assert len(twins[0][1].picked) == len(twins[1][1].picked) > CONVERSATIONS / 4
    assert ends >= {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED}
