"""Ten million ext_proc streams, most of them in some way wrong, through all of the picker that has no socket.

HTTP/2, gRPC, codec, session and the default judgement over thirty endpoints, as in a worker; the peer is a generator. Each
stream is a conversation as Envoy would have it in one of the 25 pairs of body modes, and then, mostly, spoiled: messages left
out, doubled, swapped, cut, with a flipped bit, with another body mode announced in the middle. The streams of a connection are
shuffled into each other and cut into reads at random; how they end is drawn too.

Promises, checked after each connection:

- nothing raises, and no error of ours was caught at a boundary;
- every pick is released, once; the ledger is empty, the budgets are whole, no stream, call or deadline is left;
- a connection whose bytes come in other pieces is told the same (one in SPLIT_EVERY is played again for that).
"""

import argparse
import logging
import math
import random
import subprocess
import sys
import time
from collections import Counter

from bench_pick import world
from fuzz_h2 import HELLO, PROCESS, agree, frame, request

from shunter.picker import config
from shunter.picker.core.events import BodyMode
from shunter.picker.core.judge import FleetJudge
from shunter.picker.core.limits import Budget, Limits
from shunter.picker.core.session import Session
from shunter.picker.transport import frames
from shunter.picker.transport.frames import Code, Flag, Kind, Setting
from shunter.picker.transport.grpc import GrpcConnection
from shunter.picker.transport.h2 import Terms
from shunter.picker.transport.protobuf import field
from shunter.picker.transport.services import Process

STREAMS = 10_000_000
ENDPOINTS = 30
STREAMS_PER_CONNECTION = 50
SPLIT_EVERY = 10
NOW_S = 100.0
REPORT_S = 60
VIEW = world(ENDPOINTS, int(NOW_S * 1e9))

# Small, so that they are reached.
LIMITS = Limits(body_bytes=1 << 14, buffered_bytes=1 << 17)
TERMS = Terms(streams=40, stream_window_bytes=1 << 16, window_bytes=1 << 20, waiting_bytes=1 << 16)

WIDE = HELLO + frames.settings({Setting.INITIAL_WINDOW_SIZE: 1 << 20}) + frames.update_window(0, 1 << 24)
NARROW = HELLO + frames.settings({Setting.INITIAL_WINDOW_SIZE: 200})
OPENINGS = (request, lambda stream_id, path: request(stream_id, path, ("grpc-timeout", "1S")))


def headers(kind: int, path: str = "", *, end: bool = False, modes: tuple[int, int] | None = None) -> bytes:
    """A ProcessingRequest with request_headers (2) or response_headers (3), and the modes that a first one announces."""
    pairs = (
        [(b":path", path), (b"content-type", "application/json")]
        if path
        else [(b":status", "200"), (b"content-type", "text/event-stream")]
    )
    fields = b"".join([field(0x0A, field(0x0A, key) + field(0x1A, value.encode())) for key, value in pairs])
    announcement = field(0x5A, b"\x08%c\x10%c" % modes) if modes else b""
    return field(kind << 3 | 2, field(0x0A, fields) + (b"\x18\x01" if end else b"")) + announcement


def body(kind: int, data: bytes, *, end: bool) -> bytes:
    """A ProcessingRequest with request_body (4) or response_body (5)."""
    return field(kind << 3 | 2, field(0x0A, data) + (b"\x10\x01" if end else b""))


# How the statuses of gRPC look on the wire.
ENDS = {
    "ended well": b"grpc-status\x010",
    "protocol errors": b"grpc-status\x013",
    "deadlines": b"grpc-status\x014",
    "too much at once": b"grpc-status\x018",
}

TRAILERS = {"request": b"\x32\x00", "response": b"\x3a\x00"}
PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/messages", "/other")
BODIES = [
    b'{"model":"lab/llama-3-8b","messages":[{"role":"user","content":"%s"}]}' % (b"which track? " * times)
    for times in (1, 40, 900, 3000)
] + [b'{"model":"m","prompt":["a","b"],"max_tokens":7}', b'{"model":1}', b"[" * 300, b"", b"{}", b"\xff\xfe"]
EVENTS = [
    b'data: {"choices":[{"text":"x"}]}\n\n',
    b'data: {"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n',
    b"data: [DONE]\n\n",
    b'{"model":',
]
MODES = [int(mode) for mode in BodyMode]
BEGINNINGS = {
    (path, request_mode, response_mode, end): headers(2, path, end=end, modes=(request_mode, response_mode))
    for path in PATHS
    for request_mode in MODES
    for response_mode in MODES
    for end in (False, True)
}
ANSWERS = {end: headers(3, end=end) for end in (False, True)}


def converse(dice: random.Random) -> list[bytes]:
    """The messages of a stream as Envoy sends them."""
    request_mode, response_mode = dice.choice(MODES), dice.choice(MODES)
    alone = dice.random() < 0.1
    said = [BEGINNINGS[dice.choice(PATHS), request_mode, response_mode, alone]]
    if not alone:
        said += pieces(dice, 4, dice.choice(BODIES), request_mode, "request")
    if dice.random() < 0.7:
        empty = dice.random() < 0.1
        said.append(ANSWERS[empty])
        if not empty:
            said += pieces(dice, 5, b"".join(dice.choices(EVENTS, k=dice.choice((1, 2, 5)))), response_mode, "response")
    return said


def pieces(dice: random.Random, kind: int, data: bytes, mode: int, side: str) -> list[bytes]:
    """A body in the form of a mode, with trailers now and then."""
    trailed = dice.random() < 0.2
    if mode == BodyMode.NONE:
        return [TRAILERS[side]] if trailed else []
    cut = dice.randint(0, len(data)) if mode in (BodyMode.STREAMED, BodyMode.FULL_DUPLEX_STREAMED) else 0
    said = [body(kind, data[:cut], end=False)] if cut else []
    said.append(body(kind, data[cut:], end=not trailed))
    return [*said, TRAILERS[side]] if trailed else said


def spoil(dice: random.Random, said: list[bytes]) -> None:
    """Make one thing wrong."""
    at = dice.randrange(len(said))
    match dice.randrange(7):
        case 0:
            del said[at]
        case 1:
            said.insert(at, said[at])
        case 2:
            dice.shuffle(said)
        case 3:
            del said[at + 1 :]
        case 4:
            said[at] = said[at][: dice.randint(0, len(said[at]))]
        case 5 if said[at]:
            flipped = bytearray(said[at])
            flipped[dice.randrange(len(flipped))] ^= 1 << dice.randrange(8)
            said[at] = bytes(flipped)
        case _:
            said.insert(at, BEGINNINGS[dice.choice(PATHS), dice.choice(MODES), dice.choice(MODES), False])


def frame_stream(dice: random.Random, stream_id: int) -> list[bytes]:
    """A stream as the frames that carry it."""
    said = converse(dice)
    while said and dice.random() < 0.5:
        spoil(dice, said)
    framed = [OPENINGS[dice.random() < 0.1](stream_id, PROCESS)]
    together = b"".join([b"\0" + len(message).to_bytes(4, "big") + message for message in said])
    if dice.random() < 0.5:
        at = dice.randint(0, len(together))
        parts = [together[:at], together[at:]]
    else:
        parts = [b"\0" + len(message).to_bytes(4, "big") + message for message in said] or [b""]
    end = dice.random()
    for index, part in enumerate(parts):
        for at in range(0, len(part) or 1, frames.MAX_FRAME_BYTES):
            last = end < 0.2 and index == len(parts) - 1 and at + frames.MAX_FRAME_BYTES >= len(part)
            framed.append(frame(Kind.DATA, Flag.END_STREAM if last else 0, stream_id, part[at : at + frames.MAX_FRAME_BYTES]))
    if 0.2 <= end < 0.8:
        framed.append(frames.reset(stream_id, dice.choice((Code.NO_ERROR, Code.CANCEL))))
    if dice.random() < 0.05:
        framed.append(frames.update_window(stream_id, 1 << dice.randrange(20)))
    return framed


def fill_connection(dice: random.Random) -> bytes:
    """All frames of a connection; streams are opened in the order of their numbers and then go on side by side."""
    waiting = [frame_stream(dice, 2 * at + 1)[::-1] for at in range(STREAMS_PER_CONNECTION)][::-1]
    sent, open_streams = [NARROW if dice.random() < 0.2 else WIDE], []
    while waiting or open_streams:
        if waiting and (not open_streams or dice.random() < 0.3):
            open_streams.append(waiting.pop())
            at = len(open_streams) - 1
        else:
            at = dice.randrange(len(open_streams))
        framed, several = open_streams[at], dice.choice((1, 2, 9))
        sent += framed[: -several - 1 : -1]
        del framed[-several:]
        if not framed:
            open_streams[at] = open_streams[-1]
            open_streams.pop()
    if dice.random() < 0.02:
        spoiled = bytearray(b"".join(sent))
        spoiled[dice.randrange(len(spoiled))] ^= 1 << dice.randrange(8)
        return bytes(spoiled)
    return b"".join(sent)


class Errors(logging.Handler):
    """What was caught at a boundary of ours is as bad as if it had not been caught."""

    def emit(self, record: logging.LogRecord) -> None:
        raise AssertionError(self.format(record))


class Picker:
    """The judgement that all connections share."""

    def __init__(self, seed: str) -> None:
        self.judge = FleetJudge(config.load().policy, lambda _now_ns: VIEW, random.Random(seed))
        self.budget, self.unfinished = Budget(LIMITS.buffered_bytes), Budget(LIMITS.buffered_bytes)

    def serve(self, sent: bytes, dice: random.Random, largest_read: int) -> bytes:
        """Serve a peer that sends this and hangs up; return what it was told."""
        running: set[Process] = set()

        def process(exchange):
            running.add(call := Process(Session(self.judge, LIMITS, self.budget), exchange, "peer", running.discard))
            return call

        connection = GrpcConnection({PROCESS: process}, self.unfinished, max_message_bytes=1 << 15, terms=TERMS)
        told, at = [], 0
        while at < len(sent):
            read = largest_read if largest_read == len(sent) else dice.randint(1, largest_read)
            connection.receive(sent[at : at + read], NOW_S)
            told.append(connection.http.take())
            at += read
        connection.expire(NOW_S + 2)
        told.append(connection.http.take())
        connection.close(NOW_S + 2)
        assert not running, "a call was not closed"
        assert not connection._deadlines, "a deadline is left"
        assert not connection.http._streams, "a stream is left"
        assert self.budget.taken_bytes == self.unfinished.taken_bytes == 0, "bytes of a budget are lost"
        assert not self.judge.ledger._by_ticket, "a request is still on the books"
        assert not self.judge.ledger._by_endpoint, "an endpoint is still charged"
        return b"".join(told)


def play(picker: Picker, seed: str, number: int) -> bytes:
    """Play one connection, and now and then twice more: in one read and in many, for the same answers."""
    dice = random.Random(f"{seed}/{number}")
    sent = fill_connection(dice)
    told = picker.serve(sent, dice, dice.choice((len(sent), 65_536, 4000, 1000)))
    if number % SPLIT_EVERY == 0 and sent.startswith(WIDE):  # what waits for a window depends on when its updates come
        whole, split = (Picker(seed).serve(sent, dice, largest) for largest in (len(sent), 300))
        assert agree(whole, split, sent[len(frames.PREFACE) :]), "in other pieces the same bytes mean something else"
    return told


def run(streams: int, seed: str, report=print, *, longest_s: float = math.inf) -> Counter:
    """Play this many streams, if there is time; count what became of them. Raise at the first broken promise, saying where."""
    alarm, logger = Errors(logging.ERROR), logging.getLogger("shunter.picker")
    level = logger.level
    logger.addHandler(alarm)
    logger.setLevel(logging.ERROR)
    picker, seen = Picker(seed), Counter()
    begun_s = said_s = time.monotonic()
    try:
        for number in range(-(-streams // STREAMS_PER_CONNECTION)):
            try:
                told = play(picker, seed, number)
            except BaseException:
                report(f"connection {number} of seed {seed}: play it alone with --seed {seed} --only {number}")
                raise
            seen["streams"] += STREAMS_PER_CONNECTION
            for name, mark in ENDS.items():
                seen[name] += told.count(mark)
            now_s = time.monotonic()
            if now_s - begun_s > longest_s:
                break
            if now_s - said_s > REPORT_S:
                said_s = now_s
                report(f"{seen['streams']} streams, {seen['streams'] / (said_s - begun_s):.0f} a second")
    finally:
        logger.removeHandler(alarm)
        logger.setLevel(level)
    tally = picker.judge.counters.tally()
    return seen + Counter(picks=tally.picks, refusals=sum(tally.refusals.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streams", type=int, default=STREAMS)
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after as much time, however many it were")
    parser.add_argument("--seed", default=str(random.SystemRandom().randrange(1 << 32)))
    parser.add_argument("--jobs", type=int, default=1, help="processes, each with a share of the streams and a seed of its own")
    parser.add_argument("--only", type=int, metavar="N", help="play this connection alone")
    arguments = parser.parse_args()
    if arguments.only is not None:
        play(Picker(arguments.seed), arguments.seed, arguments.only)
        return
    print(f"seed {arguments.seed}", flush=True)
    if arguments.jobs > 1:
        share = ["--streams", str(-(-arguments.streams // arguments.jobs)), "--minutes", str(arguments.minutes)]
        command = [sys.executable, __file__, *share, "--seed"]
        jobs = [subprocess.Popen([*command, f"{arguments.seed}.{job}"]) for job in range(arguments.jobs)]
        sys.exit(max([job.wait() for job in jobs]))
    begun_s, begun_cpu_s = time.monotonic(), time.process_time()
    report = lambda line: print(line, flush=True)  # noqa: E731  one line is what it is
    seen = run(arguments.streams, arguments.seed, report, longest_s=arguments.minutes * 60)
    took_s, cpu_s = time.monotonic() - begun_s, time.process_time() - begun_cpu_s
    print(
        f"{seen['streams']} streams in {took_s:.0f} s ({cpu_s / seen['streams'] * 1e6:.0f} µs of CPU each): every promise kept"
    )
    print(", ".join(f"{count} {name}" for name, count in seen.most_common() if name != "streams"))


if __name__ == "__main__":
    main()
