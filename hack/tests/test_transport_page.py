"""The exchange that docs/transport.md shows is the one that happens."""

import re
from pathlib import Path

import pytest

from shunter.picker.core.limits import Budget, Limits
from shunter.picker.core.session import Session
from shunter.picker.testing import StubJudge
from shunter.picker.transport import frames, hpack
from shunter.picker.transport.frames import Code, Flag, Kind
from shunter.picker.transport.grpc import GrpcConnection
from shunter.picker.transport.protobuf import field
from shunter.picker.transport.server import PROCESS
from shunter.picker.transport.services import Process

PAGE = Path(__file__).resolve().parents[2] / "docs" / "transport.md"
REQUEST = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", PROCESS),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
]
PATH = field(0x0A, field(0x0A, b":path") + field(0x1A, b"/v1/chat/completions"))
HEADERS = field(0x12, field(0x0A, PATH)) + field(0x5A, b"\x08\x02")  # request_headers, and protocol_config {BUFFERED}
BODY = field(0x22, field(0x0A, b'{"model": "m"}') + b"\x10\x01")  # request_body, end_of_stream
NAMES = {number: name for name, number in vars(Kind).items() if name.isupper()}
SHOWN = re.compile(r"/envoy\.[\w.]+/Process|x-gateway[a-z-]+|application/grpc|127\.0\.0\.1:\d+|/v1/[a-z/]+|\{.*\}")
FLAGS = {Kind.HEADERS: {Flag.END_STREAM: "END_STREAM", Flag.END_HEADERS: "END_HEADERS"}, Kind.SETTINGS: {Flag.ACK: "ACK"}}


def frame(kind, flags, stream_id, payload):
    return frames.head(kind, flags, stream_id, len(payload)) + payload


def message(data):
    return b"\0" + len(data).to_bytes(4, "big") + data


def describe(arrow, data):
    """One line for each frame."""
    if data.startswith(frames.PREFACE):
        yield f"{arrow} preface"
        data = data.removeprefix(frames.PREFACE)
    while data:
        high, low, kind, flags, stream_id = frames.read_head(data, 0)
        payload, data = data[9 : 9 + (high << 8 | low)], data[9 + (high << 8 | low) :]
        said = [name for flag, name in FLAGS.get(kind, {}).items() if flags & flag]
        shown = SHOWN.findall(payload.decode("ascii", "replace"))
        yield " ".join([arrow, NAMES[kind], f"stream {stream_id}", *said, f"{len(payload)} bytes", *dict.fromkeys(shown)])


def play():
    judge, limits = StubJudge(["127.0.0.1:8101", "127.0.0.1:8102"]), Limits()
    budget = Budget(limits.buffered_bytes)
    services = {PROCESS: lambda exchange: Process(Session(judge, limits, budget), exchange, "Envoy", lambda _: None)}
    connection = GrpcConnection(services, budget, max_message_bytes=1 << 20)
    reads = [
        frames.PREFACE + frames.settings({}),
        frame(Kind.HEADERS, Flag.END_HEADERS, 1, hpack.encode(REQUEST)) + frame(Kind.DATA, 0, 1, message(HEADERS)),
        frame(Kind.DATA, 0, 1, message(BODY)),
        frames.reset(1, Code.NO_ERROR),
    ]
    for read in reads:
        yield from describe("->", read)
        connection.receive(read, 0.0)
        yield from describe("<-", connection.http.take())
    assert judge.released


@pytest.fixture
def page():
    return PAGE.read_text()


def test_the_exchange_is_what_happens(page):
    assert "\n".join(play()) in page, "\n".join(play())


def test_every_module_is_on_the_page(page):
    modules = {path.name for path in (PAGE.parents[1] / "packages/picker/src/shunter/picker/transport").glob("*.py")}
    assert modules - {"__init__.py"} == set(re.findall(r"transport/(\w+\.py)\)", page))
