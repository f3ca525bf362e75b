"""What Envoy sends a picker for one HTTP request, message by message: for the replayer, and for the benchmark in process.

Modelled on recordings of Envoy 1.40 (FULL_DUPLEX_STREAMED and BUFFERED): header fields, the cut of bodies, one TCP read for all
that is sent before a reply, an empty last body message, and RST_STREAM at the end of every stream.
"""

import json
import random
import struct
from collections.abc import Iterator, Sequence

import hpack
import msgspec
from hack.bench.floor.messages import REQUEST_BODY, REQUEST_HEADERS, RESPONSE_BODY, RESPONSE_HEADERS, nested

__all__ = ["ANSWER", "CHUNK", "LAST_CHUNK", "TICKET", "Step", "blocks", "exchange", "framed", "prompts", "write"]

MODEL = "lab/llama-3-8b"
GROUPS, SHARED = 4, 0.8  # prompts per system prompt, and its part of each

# How Envoy 1.40 cuts what it has read of a body; the larger piece once its buffers have grown.
PIECE_BYTES, LARGE_PIECE_BYTES, LARGE_BODY_BYTES = 16_384, 65_536, 100_000

# What every request has another of: within its id, and in the metadata that come back with its response.
TICKET = b"4294967982"

# ProcessingResponse with a body reply, as its first byte.
REQUEST_BODY_REPLY, RESPONSE_BODY_REPLY = 0x1A, 0x22

METADATA_CONTEXT = 0x42  # of a ProcessingRequest

# Values of BodyMode.
BUFFERED, FULL_DUPLEX_STREAMED = 2, 4

ANSWER = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": MODEL,
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "words " * 40}, "logprobs": None, "finish_reason": "stop"}
        ],
        "usage": {"prompt_tokens": 128, "total_tokens": 192, "completion_tokens": 64, "prompt_tokens_details": None},
    },
    separators=(",", ":"),
).encode()


def event(**fields: object) -> bytes:
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": MODEL, **fields}
    return b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"


CHUNK = event(choices=[{"index": 0, "delta": {"content": " words"}, "logprobs": None, "finish_reason": None}])
LAST_CHUNK = (
    event(choices=[], usage={"prompt_tokens": 128, "total_tokens": 228, "completion_tokens": 100}) + b"data: [DONE]\n\n"
)


class Step(msgspec.Struct, frozen=True):
    """Messages sent in one go, and the reply that ends the step: its first byte, and whether it must end the body."""

    messages: tuple[bytes, ...]
    reply: int
    final: bool


def prompts(size_bytes: int, count: int, *, stream: bool = False, user: bool = False) -> list[bytes]:
    """Chat requests of this size; those of a group begin alike, and may be one user's."""
    dice = random.Random(size_bytes)
    words = ["".join(dice.choices("etaoinshrdlucmfwypvbgkq", k=dice.randint(2, 9))) for _ in range(5000)]

    def text(length: int) -> str:
        return " ".join(dice.choices(words, k=length // 3 + 1))[:length]

    made: list[bytes] = []
    for at in range(count):
        if at % GROUPS == 0:
            system = text(int(size_bytes * SHARED))
        request = {"model": MODEL, "max_tokens": 64, "temperature": 0.7, "messages": [{"role": "system", "content": system}]}
        if user:
            request["user"] = f"user-{at // GROUPS}"
        if stream:
            request |= {"stream": True, "stream_options": {"include_usage": True}}
        left = size_bytes - len(json.dumps(request, separators=(",", ":"))) - 32
        request["messages"] += [{"role": "user", "content": text(max(16, left))}]
        made.append(json.dumps(request, separators=(",", ":")).encode())
    dice.shuffle(made)  # equals must not follow each other
    return made


def exchange(body: bytes, *, chunks: int | None = None, paced: bool = False, lean: bool = False) -> tuple[Step, ...]:
    """One stream in profile full (or lean) with a JSON answer, or with so many SSE chunks, ``paced`` or all in one read."""
    head = _headers(
        REQUEST_HEADERS,
        {
            ":authority": "gateway",
            ":path": "/v1/chat/completions",
            ":method": "POST",
            ":scheme": "http",
            "user-agent": "OpenAI/Python 1.99.0",
            "authorization": "Bearer sk-abcdefghijklmnopqrstuvwxyz",
            "content-type": "application/json",
            "content-length": str(len(body)),
            "x-forwarded-for": "192.0.2.2",
            "x-forwarded-proto": "http",
            "x-envoy-external-address": "127.0.0.1",
            "x-request-id": f"144958fc-4f66-4a7a-8c7e-7b{TICKET.decode()}",
        },
        BUFFERED if lean else FULL_DUPLEX_STREAMED,
        0 if lean else FULL_DUPLEX_STREAMED,
    )
    nothing = nested(METADATA_CONTEXT, b"")
    if lean:
        return (
            Step((head,), 0x0A, final=False),
            Step((_body(REQUEST_BODY, body, end=True) + nothing,), REQUEST_BODY_REPLY, final=False),
        )
    piece = PIECE_BYTES if len(body) < LARGE_BODY_BYTES else LARGE_PIECE_BYTES
    asked = (
        head,
        *(_body(REQUEST_BODY, body[at : at + piece]) + nothing for at in range(0, len(body), piece)),
        _body(REQUEST_BODY, b"", end=True) + nothing,
    )
    kind = "application/json" if chunks is None else "text/event-stream; charset=utf-8"
    begun = _headers(
        RESPONSE_HEADERS,
        {":status": "200", "server": "uvicorn", "content-type": kind, "x-envoy-upstream-service-time": "1"},
    )
    pieces = (ANSWER,) if chunks is None else (*[CHUNK] * chunks, LAST_CHUNK)
    answered = [begun, *(_body(RESPONSE_BODY, each) for each in pieces), _body(RESPONSE_BODY, b"", end=True)]
    dice = random.Random(len(body))
    answered = [message + _echo(dice) for message in answered]
    steps = [Step(asked, REQUEST_BODY_REPLY, final=True)]
    if paced:
        steps += [Step(tuple(answered[:2]), RESPONSE_BODY_REPLY, final=False)]
        steps += [Step((each,), RESPONSE_BODY_REPLY, final=False) for each in answered[2:-2]]
        answered = answered[-2:]
    return (*steps, Step(tuple(answered), RESPONSE_BODY_REPLY, final=True))


def _headers(kind: int, fields: dict[str, str], *modes: int) -> bytes:
    pairs = [nested(0x0A, nested(0x0A, name.encode()) + nested(0x1A, value.encode())) for name, value in fields.items()]
    message = nested(kind, nested(0x0A, b"".join(pairs)))
    if modes:  # protocol_config, and the empty metadata_context that comes with it
        config = b"".join(bytes((tag, mode)) for tag, mode in zip(b"\x08\x10", modes, strict=True) if mode)
        message += nested(METADATA_CONTEXT, b"") + nested(0x5A, config)
    return message


def _echo(dice: random.Random) -> bytes:
    """The metadata of a pick, which come back with each message of the response, each time in an order of their own.

    Envoy adds who served. A recording does not know who will be picked, and anybody else would be taken for a fallback.
    """
    told = {b"x-gateway-destination-endpoint": b"10.0.0.1:8000,10.0.0.2:8000,10.0.0.3:8000", b"id": TICKET}
    fields = [nested(0x0A, nested(0x0A, name) + nested(0x12, nested(0x1A, text))) for name, text in told.items()]
    dice.shuffle(fields)
    return nested(METADATA_CONTEXT, nested(0x0A, nested(0x0A, b"envoy.lb") + nested(0x12, b"".join(fields))))


def _body(kind: int, body: bytes, *, end: bool = False) -> bytes:
    return nested(kind, (nested(0x0A, body) if body else b"") + (b"\x10\x01" if end else b""))


def blocks() -> tuple[bytes, bytes]:
    """Return the header block of a connection's first stream, and that of all others."""
    encoder = hpack.Encoder()
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": "/envoy.service.ext_proc.v3.ExternalProcessor/Process",
        ":authority": "picker/bench",
        "te": "trailers",
        "grpc-timeout": "10000m",
        "content-type": "application/grpc",
        "x-envoy-internal": "true",
        "x-forwarded-for": "127.0.0.1",
    }
    return encoder.encode(fields.items()), encoder.encode(fields.items())


def framed(message: bytes) -> bytes:
    """A message as gRPC puts it into content."""
    return struct.pack(">BL", 0, len(message)) + message


def write(streams: Sequence[Sequence[Step]]) -> Iterator[bytes]:
    """The file that the replayer reads; little endian, every text with its length as u32 before it."""
    first, other = blocks()
    yield struct.pack("<I", len(first)) + first + struct.pack("<I", len(other)) + other + struct.pack("<I", len(streams))
    for steps in streams:
        yield struct.pack("<I", len(steps))
        for step in steps:
            yield struct.pack("<BBI", step.reply, step.final, len(step.messages))
            for message in step.messages:
                content = framed(message)
                yield struct.pack("<I", len(content)) + content
