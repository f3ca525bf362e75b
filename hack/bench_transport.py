"""What an exchange with the picker costs in CPU: our own transport beside grpc.aio, over real sockets, in turns.

Each server is a process of its own with the default judgement over ten endpoints, on uvloop. The client replays what Envoy
sends, on one HTTP/2 connection with many streams at once, and ends each by RST_STREAM as Envoy does. Counted is the CPU of the
server alone (/proc/PID/stat), after a warm-up. Absolute figures belong to this machine and this minute; the ratio is what to
compare.
"""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import random
import struct
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median

import uvloop
from bench_pick import bodies, world
from envoy.service.ext_proc.v3.external_processor_pb2 import ProcessingRequest

from shunter.picker import config
from shunter.picker.core.judge import FleetJudge
from shunter.picker.core.limits import Budget, Limits
from shunter.picker.core.session import Session
from shunter.picker.transport import frames, hpack
from shunter.picker.transport.frames import MAX_FRAME_BYTES, Code, Flag, Kind, Setting
from shunter.picker.transport.grpcio import GrpcServer
from shunter.picker.transport.health import Health
from shunter.picker.transport.native import NativeServer
from shunter.picker.transport.server import PROCESS

__all__ = ["main"]

TRANSPORTS = {"native": NativeServer, "grpcio": GrpcServer}
STREAMS = 32
ROUNDS = 5
ROUND_S = 1.5  # of wall time; the clock of /proc has ticks of 10 ms
WARM_S = 0.5
CHUNKS = 100
TICK_S = 1 / os.sysconf("SC_CLK_TCK")

HEADERS = {
    ":path": "/v1/chat/completions",
    ":method": "POST",
    ":scheme": "http",
    ":authority": "gateway",
    "content-type": "application/json",
    "user-agent": "bench",
    "accept": "*/*",
    "x-request-id": "bench",
}
CHUNK = b'data: {"id":"c-1","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":" word"}}]}\n\n'
ANSWER = json.dumps({"id": "c-1", "object": "chat.completion", "usage": {"prompt_tokens": 9, "completion_tokens": 9}}).encode()


def request_headers(request_mode, response_mode):
    message = ProcessingRequest()
    message.protocol_config.request_body_mode = request_mode
    message.protocol_config.response_body_mode = response_mode
    for name, value in HEADERS.items():
        message.request_headers.headers.headers.add(key=name, raw_value=value.encode())
    return message


def response_headers(kind):
    message = ProcessingRequest()
    for name, value in ((":status", "200"), ("content-type", kind)):
        message.response_headers.headers.headers.add(key=name, raw_value=value.encode())
    return message


def body(side, data, *, end):
    message = ProcessingRequest()
    part = getattr(message, side)
    part.body, part.end_of_stream = data, end
    return message


def framed(*messages):
    texts = [message.SerializeToString() for message in messages]
    return b"".join(struct.pack(">BL", 0, len(text)) + text for text in texts)


def script(case, prompt):
    """What one stream sends, step by step: content, and how many replies come before the next."""
    lean = framed(request_headers(2, 0)), framed(body("request_body", prompt, end=True))
    if case.startswith("lean"):
        return [(lean[0], 1), (lean[1], 1)]
    asked = framed(
        request_headers(4, 4), body("request_body", prompt, end=False), body("request_body", b"", end=True)
    )  # Envoy sends all three in one go
    replies = 1 + max(1, -(-len(prompt) // 62_000))
    if case.startswith("full"):
        answered = [response_headers("application/json"), body("response_body", ANSWER, end=False)]
        return [(asked, replies), (framed(*answered, body("response_body", b"", end=True)), 3)]
    chunk = framed(body("response_body", CHUNK, end=False))
    end = framed(body("response_body", b"", end=True))
    return [(asked, replies), (framed(response_headers("text/event-stream")), 1), *[(chunk, 1)] * CHUNKS, (end, 1)]


# name → (KB of prompt, exchanges that one stream counts as)
CASES = {
    "lean, 1 KB": (1, 1),
    "full, 1 KB": (1, 1),
    "full, 64 KB": (64, 1),
    f"one of {CHUNKS} SSE chunks": (1, CHUNKS),
}


class Replay(asyncio.Protocol):
    """A client that goes through the script on so many streams at once, again and again, while ``running``."""

    def __init__(self, steps):
        self.steps = steps
        self.running = True
        self.done = 0
        self.next_id = 1
        self.streams = {}  # id → [step, replies to come, bytes of the reply under way]
        self.buffer = b""
        self.window = 65_535
        self.initial_window = 65_535
        self.windows = {}
        self.waiting = {}  # id → content that no window lets through
        self.taken = 0
        self.out = []
        fields = [(":method", "POST"), (":scheme", "http"), (":path", PROCESS), (":authority", "picker"), ("te", "trailers")]
        self.block = hpack.encode([*fields, ("content-type", "application/grpc")])

    def connection_made(self, transport):
        self.transport = transport
        self.out += [frames.PREFACE, frames.settings({Setting.INITIAL_WINDOW_SIZE: 1 << 24})]
        self.out.append(frames.update_window(0, 1 << 30))
        for _ in range(STREAMS):
            self.open()
        self.flush()

    def flush(self):
        self.transport.write(b"".join(self.out))
        self.out.clear()

    def open(self):
        stream, self.next_id = self.next_id, self.next_id + 2
        self.windows[stream] = self.initial_window
        self.out += [frames.head(Kind.HEADERS, Flag.END_HEADERS, stream, len(self.block)), self.block]
        self.streams[stream] = [0, self.steps[0][1], bytearray()]
        self.send(stream, self.steps[0][0])

    def send(self, stream, content):
        at = 0
        while at < len(content):
            size = min(len(content) - at, MAX_FRAME_BYTES, self.window, self.windows[stream])
            if size <= 0:
                self.waiting[stream] = content[at:]
                return
            self.window -= size
            self.windows[stream] -= size
            self.out += [frames.head(Kind.DATA, 0, stream, size), content[at : at + size]]
            at += size

    def data_received(self, data):
        data = self.buffer + data
        at, size = 0, len(data)
        while size - at >= 9:
            high, low, kind, flags, stream = frames.read_head(data, at)
            end = at + 9 + (high << 8 | low)
            if end > size:
                break
            if kind == Kind.DATA:
                self.take(stream, data[at + 9 : end])
            elif kind == Kind.SETTINGS and not flags & Flag.ACK:
                grown = frames.read_settings(data[at + 9 : end]).get(Setting.INITIAL_WINDOW_SIZE, self.initial_window)
                for each in self.windows:
                    self.windows[each] += grown - self.initial_window
                self.initial_window = grown
                self.out.append(frames.head(Kind.SETTINGS, Flag.ACK, 0, 0))
                self.retry()
            elif kind == Kind.WINDOW_UPDATE:
                increment = int.from_bytes(data[at + 9 : end], "big")
                if not stream:
                    self.window += increment
                elif stream in self.windows:
                    self.windows[stream] += increment
                self.retry()
            elif kind == Kind.PING and not flags & Flag.ACK:
                self.out += [frames.head(Kind.PING, Flag.ACK, 0, 8), data[at + 9 : end]]
            elif kind in {Kind.GOAWAY, Kind.RST_STREAM} or (kind == Kind.HEADERS and flags & Flag.END_STREAM):
                raise SystemExit(f"the server ended something: {data[at:end]}")
            at = end
        self.buffer = data[at:]
        self.flush()

    def retry(self):
        for stream in [*self.waiting]:
            self.send(stream, self.waiting.pop(stream))

    def take(self, stream, content):
        self.taken += len(content)
        if self.taken > 1 << 29:
            self.out.append(frames.update_window(0, self.taken))
            self.taken = 0
        state = self.streams[stream]
        unread = state[2]
        unread += content
        while len(unread) >= 5 and len(unread) >= (end := 5 + int.from_bytes(unread[1:5], "big")):
            del unread[:end]
            state[1] -= 1
        if state[1]:
            return
        state[0] += 1
        if state[0] < len(self.steps):
            state[1] = self.steps[state[0]][1]
            self.send(stream, self.steps[state[0]][0])
            return
        self.out.append(frames.reset(stream, Code.CANCEL))
        del self.streams[stream], self.windows[stream]
        self.done += 1
        if self.running:
            self.open()


def cpu_s(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S


async def measure(server, steps):
    """Return CPU µs per stream and streams per second."""
    loop = asyncio.get_running_loop()
    transport, replay = await loop.create_connection(lambda: Replay(steps), "127.0.0.1", server.port)
    await asyncio.sleep(WARM_S)
    done, cpu, begin = replay.done, cpu_s(server.pid), time.monotonic()
    await asyncio.sleep(ROUND_S)
    done, cpu, wall = replay.done - done, cpu_s(server.pid) - cpu, time.monotonic() - begin
    replay.running = False
    while replay.streams:  # noqa: ASYNC110  the end of the streams under way
        await asyncio.sleep(0.01)
    transport.close()
    return cpu / done * 1e6, done / wall


async def serve(name):
    now_s = 100.0
    view = world(10, int(now_s * 1e9))
    judge = FleetJudge(config.load().policy, lambda _now_ns: view, random.Random(7))
    limits = Limits()
    budget = Budget(limits.buffered_bytes)
    server = TRANSPORTS[name](lambda: Session(judge, limits, budget), Health(), limits, clock=lambda: now_s)
    print(await server.start("127.0.0.1", 0), flush=True)
    await asyncio.Event().wait()


@contextlib.contextmanager
def started(name):
    process = subprocess.Popen([sys.executable, __file__, "--serve", name], stdout=subprocess.PIPE, text=True)
    try:
        process.port = int(process.stdout.readline())
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


async def compare(rounds):
    with started("native") as native, started("grpcio") as grpcio:
        for case, (size_kb, parts) in CASES.items():
            steps = script(case, bodies(size_kb)[0])
            found = [(await measure(native, steps), await measure(grpcio, steps)) for _ in range(rounds)]
            columns = [[each[at][0] / parts for each in found] for at in range(2)]
            told = [f"{median(each):.1f} ({min(each):.1f} to {max(each):.1f})" for each in columns]
            ratio = median(theirs / ours for ours, theirs in zip(*columns, strict=True))
            rates = [median(each[at][1] * parts for each in found) for at in range(2)]
            print(f"{case:>22} {told[0]:>24} {told[1]:>26} {ratio:>14.1f} {rates[0]:>9.0f} {rates[1]:>9.0f}", flush=True)


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--serve", choices=TRANSPORTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        uvloop.run(serve(arguments.serve))
        return
    cores = len(os.sched_getaffinity(0))
    print(f"Python {platform.python_version()}, grpcio {version('grpcio')}, uvloop {version('uvloop')}, {cores} cores")
    print(f"CPU µs of the server per exchange, {STREAMS} streams at once, median of {arguments.rounds} rounds, in turns\n")
    print(f"{'':>22} {'native':>24} {'grpcio':>26} {'grpcio/native':>14} {'native/s':>9} {'grpcio/s':>9}")
    uvloop.run(compare(arguments.rounds))


if __name__ == "__main__":
    main()
