"""Model servers that cost next to nothing, so that hundreds of requests a second leave the machine to what is struck.

``python -m hack.chaos.engines 3`` listens on three free ports of 127.0.0.1, prints them in one line, and ends when its standard
input does, that is with whoever started it. Each answers like vLLM: a completion at once, or, if a stream is asked for,
some events ``INTERVAL_S`` apart, usage in the last; and a metrics page with its real queue.
"""

import asyncio
import json
import sys

import uvloop

__all__ = ["EVENTS", "MODEL"]

MODEL = "chaos/engine"
CHUNKS = 20
EVENTS = CHUNKS + 2  # the last one with content is followed by usage and [DONE]
# A stream lives for a second: some are always in the middle of their answer when something dies.
INTERVAL_S = 0.05

USAGE = {"prompt_tokens": 80, "completion_tokens": CHUNKS, "total_tokens": 80 + CHUNKS}


def whole(kind, body):
    return f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()


def event(body):
    text = f"data: {body}\n\n"
    return f"{len(text):x}\r\n{text}\r\n".encode()


def completion(kind, choice, **more):
    return json.dumps({"id": "chatcmpl-1", "object": kind, "created": 0, "model": MODEL, "choices": [choice], **more})


ANSWER = whole(
    "application/json",
    completion(
        "chat.completion",
        {"index": 0, "message": {"role": "assistant", "content": "wagon"}, "finish_reason": "stop"},
        usage=USAGE,
    ),
)
MODELS = whole("application/json", json.dumps({"object": "list", "data": [{"id": MODEL, "object": "model"}]}))
HEALTHY = whole("text/plain", "")
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
CHUNK = event(completion("chat.completion.chunk", {"index": 0, "delta": {"content": "wagon "}, "finish_reason": None}))
LAST = event(completion("chat.completion.chunk", {"index": 0, "delta": {}, "finish_reason": "stop"}, usage=USAGE))
DONE = event("[DONE]") + b"0\r\n\r\n"


def read_body(received, at, fields):
    """Return the body that begins ``at``, and where it ends, which is further than what was received if it is not all there."""
    if b"transfer-encoding: chunked" not in fields:
        start = fields.find(b"content-length:")
        end = at + (int(fields[start + 15 :].split(b"\r", 1)[0]) if start >= 0 else 0)
        return bytes(received[at:end]), end
    body = b""  # Envoy does not know the length of what the picker may still change
    while (line := received.find(b"\r\n", at)) >= 0:
        size = int(received[at:line], 16)
        at = line + 2 + size + 2
        if not size:
            return body, at
        body += received[line + 2 : at - 2]
    return body, len(received) + 1


class Engine:
    """What one server has to do."""

    def __init__(self):
        self.running = 0

    def page(self):
        labels = f'{{engine="0",model_name="{MODEL}"}}'
        gauges = {"num_requests_running": self.running, "num_requests_waiting": 0, "kv_cache_usage_perc": self.running / 1000}
        return whole(
            "text/plain; version=0.0.4",
            "".join(f"# TYPE vllm:{name} gauge\nvllm:{name}{labels} {value:.6g}\n" for name, value in gauges.items()),
        )


class Connection(asyncio.Protocol):
    """One connection of Envoy's or the scraper's; one request at a time, as both of them do."""

    def __init__(self, engine):
        self.engine = engine
        self.received = bytearray()
        self.beat = None

    def connection_made(self, transport):
        self.transport = transport

    def connection_lost(self, exc):
        del exc
        if self.beat is not None:
            self.beat.cancel()
            self.engine.running -= 1

    def data_received(self, data):
        self.received += data
        while (head := self.received.find(b"\r\n\r\n") + 4) >= 4:
            fields = bytes(self.received[:head]).lower()
            body, end = read_body(self.received, head, fields)
            if len(self.received) < end:
                return
            del self.received[:end]
            self.answer(fields.split(b" ", 2)[1], body)

    def answer(self, path, body):
        if path == b"/metrics":
            self.transport.write(self.engine.page())
        elif path == b"/v1/models":
            self.transport.write(MODELS)
        elif not body:
            self.transport.write(HEALTHY)
        elif b'"stream": true' in body:
            self.engine.running += 1
            self.transport.write(STREAM)
            self.speak(CHUNKS)
        else:
            self.transport.write(ANSWER)

    def speak(self, left):
        if left:
            self.transport.write(CHUNK)
            self.beat = asyncio.get_running_loop().call_later(INTERVAL_S, self.speak, left - 1)
        else:
            self.transport.write(LAST + DONE)
            self.beat = None
            self.engine.running -= 1


async def serve(count):
    loop = asyncio.get_running_loop()
    engines = [Engine() for _ in range(count)]
    servers = [await loop.create_server(lambda engine=engine: Connection(engine), "127.0.0.1", 0) for engine in engines]
    print(*(server.sockets[0].getsockname()[1] for server in servers), flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
