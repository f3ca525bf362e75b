"""What it costs to see: CPU per pick with each way of seeing on, beside the same picks with all of them off.

A pick here is all that one request costs a worker but its sockets: both messages of the profile lean on one connection, the end
of the stream, and what Envoy's record tells of it. What a way of seeing does later, beside requests, is counted too: lines are
written, spans are sent, the page's viewer is told. Subjects take turns, an eighth of a second each until a turn is over; the
ratio of each turn is what to compare.
"""

import asyncio
import contextlib
import gc
import io
import logging
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median

import msgspec
from hack.bench import streams
from hack.bench.inprocess import NOW_S, PROMPTS, SEATS, Client, floor_connection, product_connection, product_judge, spread

from shunter.picker import config
from shunter.picker.config.tracing import TracingSettings
from shunter.picker.core.accounts import Accounts
from shunter.picker.core.canonical import Canon, describe
from shunter.picker.core.decisions import KEEP
from shunter.picker.core.judge import FleetJudge
from shunter.picker.core.judgement import Outcome
from shunter.picker.core.kinds import Named
from shunter.picker.core.ledger import first_ticket
from shunter.picker.shell.memory import Memory, Seat
from shunter.picker.shell.telemetry import Telemetry
from shunter.snapshot.stderr import JsonLines

__all__ = ["ALL", "BASE", "PARTS", "added", "compare", "table"]

TURNS = 9
BODY_BYTES = 1 << 10

# Picks between two looks of whatever works beside them, at a thousand picks a second: a quarter of a second's lines; the page,
# which asks a worker for its last eight decisions every two seconds; spans, which are sent every five.
LINES_EVERY = 250
PAGE_EVERY, PAGE_DECISIONS = 2000, 8
SPANS_EVERY = 5000

# A turn has everything once. It is taken in pieces, so that subjects meet the same neighbours on a busy machine.
EXCHANGES = 5000
PIECES = 20


def _records(count: int) -> Iterator[Outcome]:
    """What Envoy tells of requests, no two alike: where a figure belongs is not to be guessed from the one before."""
    dice = random.Random(7)
    for _ in range(count):
        first_s, tokens = dice.lognormvariate(-1.5, 1), 2 + int(dice.lognormvariate(4, 1))
        yield Outcome(
            complete=True,
            status=200,
            first_token_s=first_s,
            duration_s=first_s + 0.02 * tokens,
            prompt_tokens=256,
            completion_tokens=tokens,
            cached_tokens=64 * dice.randrange(4),
            sent_bytes=60 * tokens,
            first_byte_s=first_s,
        )


RECORDS = tuple(_records(997))

Later = tuple[int, Callable[[], object]]
"""Something to be done after every so many picks."""


def metrics(judge: FleetJudge) -> list[Later]:
    judge.decisions.witnesses.append(Accounts(judge.counters.accounts, lambda: judge.models))
    return []


def lines(share: float) -> Callable[[FleetJudge], list[Later]]:
    def see(judge: FleetJudge) -> list[Later]:
        canon = Canon(random.Random(7), share)
        judge.decisions.witnesses.append(canon)
        handler = logging.StreamHandler(io.StringIO())
        handler.setFormatter(JsonLines("worker-0"))

        def tell() -> None:
            for entry in canon.take(NOW_S):
                record = logging.LogRecord("decisions", logging.INFO, "", 0, "decision", (), None)
                record.fields = describe(entry)
                handler.handle(record)
            handler.stream.seek(0)

        return [(LINES_EVERY, tell)]

    return see


def page(judge: FleetJudge) -> list[Later]:
    return [(PAGE_EVERY, lambda: [entry.explain() for entry in judge.decisions.latest(PAGE_DECISIONS)])]


class Part(msgspec.Struct, frozen=True):
    """Ways of seeing; which part of requests is traced, None: there is no tracer; how many decisions are remembered."""

    see: tuple[Callable[[FleetJudge], list[Later]], ...] = ()
    traced: float | None = None
    keep: int = KEEP


BASE = "nothing but remembered decisions"
ALL = "all of it, 1 % of traces and lines"
PARTS = {
    BASE: Part(),
    "not even these": Part(keep=0),
    "metrics by class": Part((metrics,)),
    "traces of 0 %": Part(traced=0.0),
    "traces of 1 %": Part(traced=0.01),
    "traces of 100 %": Part(traced=1.0),
    "a line for 1 % of decisions": Part((lines(0.01),)),
    "a line for each": Part((lines(1.0),)),
    "the page, looked at": Part((page,)),
    ALL: Part((metrics, lines(0.01), page), traced=0.01),
}

# Takes spans and throws them away, in a process of its own: what a collector costs is not ours.
SINK = """
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Sink(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()
    def log_message(self, *args): pass
server = ThreadingHTTPServer(("127.0.0.1", 0), Sink)
print(server.server_port, flush=True)
server.serve_forever()
"""


@contextlib.contextmanager
def span_sink() -> Iterator[str]:
    """The URL of a collector."""
    with subprocess.Popen([sys.executable, "-c", SINK], stdout=subprocess.PIPE, text=True) as process:
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


class Subject:
    """Picks, one after the other."""

    def __init__(self, part: Part, memory: Memory, exchanges: Sequence[Sequence[streams.Step]]) -> None:
        self._telemetry: Telemetry | None = None
        policy = config.load().policy
        if part.traced is not None:
            self._telemetry = Telemetry(TracingSettings(part.traced), 0, lambda *_: None, time.monotonic)
            policy = msgspec.structs.replace(policy, others=(*policy.others, Named("the tracer", self._telemetry.tracer)))
        self._judge = product_judge(memory, policy, keep=part.keep)
        if self._telemetry is not None:
            self._judge.decisions.witnesses.append(self._telemetry.tracer)
        self._later = [each for see in part.see for each in see(self._judge)]
        if self._telemetry is not None:
            self._later.append((SPANS_EVERY, self._telemetry._processor.force_flush))
        self._client = Client(product_connection(self._judge), exchanges)
        self._ticket = first_ticket(memory.counters.life)
        self.picks = 0

    def turn(self, times: int) -> float:
        """CPU µs per pick, of all threads."""
        made = [self._client.reads() for _ in range(times)]
        gc.freeze()  # what the others keep is not for this one to look through
        feed, measured, ticket = self._client.feed, self._judge.measured, self._ticket
        begin = time.process_time_ns()
        for reads in made:
            for read in reads:
                feed(read)
            ticket += 1
            measured(ticket, RECORDS[ticket % len(RECORDS)], NOW_S)
            self.picks += 1
            for every, act in self._later:
                if self.picks % every == 0:
                    act()
        taken_us = (time.process_time_ns() - begin) / times / 1000
        self._ticket = ticket
        return taken_us

    async def close(self) -> None:
        if self._telemetry is not None:
            await self._telemetry.finish()


def compare(turns: int, parts: Mapping[str, Part] = PARTS) -> tuple[list[float], dict[str, list[float]]]:
    """µs of the floor, and of the picks in each turn by part."""
    bodies = streams.prompts(BODY_BYTES, PROMPTS)
    lean = [streams.exchange(body, lean=True) for body in bodies]
    floor = Client(floor_connection(), [streams.exchange(body) for body in bodies])
    with contextlib.ExitStack() as stack:
        os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = stack.enter_context(span_sink())
        subjects: dict[str, Subject] = {}
        for name, part in parts.items():
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shunter-bench-")))
            memory = stack.enter_context(contextlib.closing(Memory(Seat(directory, index=0, seats=SEATS, life=1))))
            subjects[name] = subject = Subject(part, memory, lean)
            stack.callback(lambda subject=subject: asyncio.run(subject.close()))
        for subject in subjects.values():
            subject.turn(2 * PROMPTS)
        found: dict[str, list[float]] = {name: [] for name in subjects}
        floor_us: list[float] = []
        order, dice = [*subjects], random.Random(7)
        for _ in range(turns):
            floor_us.append(floor.turn(EXCHANGES))
            taken_us = dict.fromkeys(order, 0.0)
            for _ in range(PIECES):
                dice.shuffle(order)  # whoever comes next finds the caches as its predecessor left them
                for name in order:
                    taken_us[name] += subjects[name].turn(EXCHANGES // PIECES) / PIECES
            for name, each_us in taken_us.items():
                found[name].append(each_us)
    return floor_us, found


def added(found: Mapping[str, Sequence[float]], name: str) -> float:
    """What a part adds to a pick, as a part of it."""
    return median(ours / base - 1 for ours, base in zip(found[name], found[BASE], strict=True))


def table(turns: int = TURNS) -> Iterator[str]:
    """The table, line by line."""
    floor_us, found = compare(turns)
    yield f"Python {platform.python_version()}, CPU µs per pick of 1 KB, median of {turns} turns (lowest to highest)"
    yield f"added: to the same turn's without; the floor's exchange, for comparison: {spread(floor_us)}\n"
    yield f"| {'on':<34} | {'µs per pick':>24} | {'added':>7} |"
    yield f"|{'-' * 36}|{'-' * 25}:|{'-' * 8}:|"
    for name, values in found.items():
        yield f"| {name:<34} | {spread(values):>24} | {100 * added(found, name):>5.1f} % |"
