"""What an exchange costs in process: the product's sans-IO core beside the floor, on the same bytes, without a socket.

Each subject is fed what it would read from one connection of Envoy, stream after stream, and its answers are thrown away.
Subjects take turns; the ratio of each turn is what to compare, its absolute figures belong to this machine and this minute.
The floor's figure for 1 KB is the calibration that stands beside every benchmark.
"""

import contextlib
import platform
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median

import msgspec
from hack.bench import streams
from hack.bench.floor import http2
from hack.bench.floor.exchange import Floor
from hack.bench.streams import Step
from hack.bench_pick import world

from shunter.picker import config
from shunter.picker.core.decisions import KEEP
from shunter.picker.core.judge import FleetJudge
from shunter.picker.core.limits import Budget, Limits
from shunter.picker.core.policy import Policy
from shunter.picker.core.session import Session
from shunter.picker.shell.memory import Memory, Seat
from shunter.picker.transport.grpc import GrpcConnection
from shunter.picker.transport.server import PROCESS
from shunter.picker.transport.services import Process

__all__ = ["CASES", "Cost", "compare", "spread", "table"]

ENDPOINTS = 10
PROMPTS = 40
TURNS = 15
TURN_S = 0.06  # of CPU, for one subject
NOW_S = 100.0
SEATS = 3  # a worker's, its successor's, the collector's


class Case(msgspec.Struct, frozen=True):
    """What a stream is like. The floor knows only the profile full, and is measured in it even beside lean."""

    prompt_bytes: int
    chunks: int | None = None
    paced: bool = False  # chunks come one by one, else all in one read
    lean: bool = False


CASES = {
    "1 KB": Case(1 << 10),
    "8 KB": Case(8 << 10),
    "64 KB": Case(64 << 10),
    "256 KB": Case(256 << 10),
    "1 KB, lean": Case(1 << 10, lean=True),
    "SSE, 100 at once": Case(1 << 10, chunks=100),
    "SSE, 100 apart": Case(1 << 10, chunks=100, paced=True),
}

Feed = Callable[[bytes], None]


class Cost(msgspec.Struct, frozen=True):
    """CPU µs per exchange, turn by turn."""

    floor_us: list[float]
    product_us: list[float]

    @property
    def ratios(self) -> list[float]:
        return [ours / floor for floor, ours in zip(self.floor_us, self.product_us, strict=True)]


class Sink:
    """A transport that nobody reads."""

    def write(self, data: bytes | list[bytes | memoryview]) -> None:
        self.last = data


def floor_connection() -> Feed:
    connection = http2.Connection(Floor([f"10.0.0.{at}:8000" for at in range(ENDPOINTS)]).open_call)
    connection.connection_made(Sink())  # all it uses of a transport
    return connection.data_received


def product_judge(memory: Memory, policy: Policy | None = None, *, keep: int = KEEP) -> FleetJudge:
    """The account that it shares, the journal for the others, and theirs; it remembers so many decisions."""
    view = world(ENDPOINTS, int(NOW_S * 1e9))
    shared = {"counters": memory.counters, "journal": memory.journal, "peers": memory.peers}
    return FleetJudge(policy or config.load().policy, lambda _now_ns: view, random.Random(7), keep=keep, **shared)


def product_connection(judge: FleetJudge) -> Feed:
    """Everything that a worker has but its sockets."""
    limits = Limits()
    budget = Budget(limits.buffered_bytes)
    processes: set[Process] = set()

    def serve(exchange):
        process = Process(Session(judge, limits, budget), exchange, "bench", processes.discard)
        processes.add(process)
        return process

    connection = GrpcConnection({PROCESS: serve}, Budget(limits.buffered_bytes), max_message_bytes=limits.body_bytes + 65_536)
    sink = Sink()

    def feed(data: bytes) -> None:
        connection.receive(data, NOW_S)
        sink.write(connection.http.take_pieces())
        while len(sink.last) > 1:  # a part of much
            sink.write(connection.http.take_pieces())

    return feed


class Client:
    """What Envoy writes into one connection: stream by stream, the reads of each. Windows never close, for nothing is far."""

    GREETING = (
        http2.PREFACE
        + http2.frame(http2.SETTINGS, 0, 0, b"\x00\x04" + (1 << 24).to_bytes(4, "big"))
        + http2.frame(http2.WINDOW_UPDATE, 0, 0, (0x7FFFFFFF - http2.WINDOW_BYTES).to_bytes(4, "big"))
    )
    RESET = (2).to_bytes(4, "big")  # INTERNAL_ERROR, which is what Envoy says when it is done

    def __init__(self, feed: Feed, exchanges: Sequence[Sequence[Step]]) -> None:
        self.feed = feed
        self.exchanges = [[b"".join(map(streams.framed, step.messages)) for step in steps] for steps in exchanges]
        self.block, self.other_block = streams.blocks()
        self.next_id = 1
        feed(self.GREETING)

    def reads(self) -> list[bytes]:
        """The next stream's."""
        stream_id, self.next_id = self.next_id, self.next_id + 2
        made = [http2.frame(http2.HEADERS, http2.END_HEADERS, stream_id, self.block)]
        self.block = self.other_block
        ticket = b"%010d" % stream_id
        for recorded in self.exchanges[stream_id // 2 % len(self.exchanges)]:
            content = recorded.replace(streams.TICKET, ticket)
            pieces = [content[at : at + http2.FRAME_BYTES] for at in range(0, len(content), http2.FRAME_BYTES)]
            made.append(b"".join(http2.frame(http2.DATA, 0, stream_id, piece) for piece in pieces))
        made[:2] = [made[0] + made[1]]
        made.append(http2.frame(http2.RST_STREAM, 0, stream_id, self.RESET))
        return made

    def turn(self, times: int) -> float:
        """CPU µs per exchange; the making of bytes is not counted."""
        reads = [read for _ in range(times) for read in self.reads()]
        feed = self.feed
        begin = time.process_time_ns()
        for read in reads:
            feed(read)
        return (time.process_time_ns() - begin) / times / 1000


def compare(case: str, turns: int) -> Cost:
    """Measure one case, both subjects in every turn."""
    told = CASES[case]
    bodies = streams.prompts(told.prompt_bytes, PROMPTS, stream=told.chunks is not None)

    def exchanges(*, lean: bool) -> list[tuple[Step, ...]]:
        fields = {"chunks": told.chunks, "paced": told.paced, "lean": lean}
        return [streams.exchange(body, **fields) for body in bodies]

    with (
        tempfile.TemporaryDirectory(prefix="shunter-bench-") as directory,
        contextlib.closing(Memory(Seat(Path(directory), index=0, seats=SEATS, life=1))) as memory,
    ):
        clients = [
            Client(floor_connection(), exchanges(lean=False)),
            Client(product_connection(product_judge(memory)), exchanges(lean=told.lean)),
        ]
        slowest_us = max([client.turn(2 * PROMPTS) for client in clients])
        times = max(PROMPTS // 4, int(TURN_S * 1e6 / slowest_us))
        found = [[client.turn(times) for client in clients] for _ in range(turns)]
    return Cost([floor for floor, _ in found], [product for _, product in found])


def spread(values: Sequence[float], digits: int = 1) -> str:
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def table(turns: int = TURNS) -> Iterator[str]:
    """The table, line by line as it comes about."""
    yield f"Python {platform.python_version()}, CPU µs per exchange, median of {turns} turns (lowest to highest)\n"
    yield f"{'':>16} {'floor':>24} {'shunter':>26} {'shunter/floor':>22}"
    for case in CASES:
        cost = compare(case, turns)
        yield f"{case:>16} {spread(cost.floor_us):>24} {spread(cost.product_us):>26} {spread(cost.ratios, 2):>22}"
