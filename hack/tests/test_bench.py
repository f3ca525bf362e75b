"""The benchmark tells what it measured, and says why where it could not."""

import json
import shutil
import struct
import subprocess
import sys
import time
from functools import partial
from statistics import median

import msgspec
import pytest
from hack.bench import engines, programs, report, seeing, streams
from hack.bench.cases import CASES, STEADY, STREAMED, Case
from hack.bench.floor.exchange import Floor
from hack.bench.measure import QUICK, Times, measure
from hack.bench.peers import PEER_CASES, PEERS
from hack.bench.processes import Children, Trouble, Unavailable
from hack.bench.programs import run
from hack.bench.reference import find_reference, go_epp_version
from hack.bench.rounds import measure_all
from hack.bench.rows import Result, Sample, read, row, write
from hack.bench.subjects import SUBJECTS
from hack.bench.verdicts import judge, judge_peers

REQUIRED = {
    "case",
    "subject",
    "rounds",
    "picker_us_per_request",
    "envoy_us_per_request",
    "p50_ms",
    "p99_ms",
    "rss_mb",
    "failures",
}
needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="the load generators are C programs: apt install gcc")


def sample(picker_us=100.0, **fields):
    values = {
        "envoy_us_per_request": 50.0,
        "p50_ms": 1.0,
        "p99_ms": 2.0,
        "rss_mb": 90.0,
        "largest_mb": 60.0,
        "per_second": 10.0,
    }
    return Sample(picker_us_per_request=picker_us, **(values | fields))


@pytest.fixture
def result(monkeypatch):
    """Three rounds in which the product takes 1.8 times the floor, and the Go picker is not there."""
    monkeypatch.setattr("hack.bench.rounds.calibrate", lambda: 30.0)
    turns = iter(range(10**6))

    def measure(case, subject):
        if subject == "go-epp":
            raise Unavailable("nobody has it")
        if case.tls:
            raise Trouble("the certificate is made of cheese")
        if case.workers > 1:
            raise ConnectionResetError("by a peer")
        return sample((100.0 if subject == "floor" else 180.0) + next(turns) % 3, p99_ms=3.0 if subject == "none" else 5.0)

    return measure_all(CASES, measure, 3, 4.0, lambda line: None, {"go-epp": "v0"})


def test_rows_have_the_fields_that_others_read(result, tmp_path):
    write(tmp_path / "deep" / "picker.json", result)
    rows = json.loads((tmp_path / "deep" / "picker.json").read_text())["rows"]
    assert all(row.keys() >= REQUIRED for row in rows)
    assert {row["subject"] for row in rows} == {"shunter-native", "shunter-grpcio", "floor", "go-epp", "none"}
    assert read(tmp_path / "deep" / "picker.json") == result


def test_each_case_is_one_row_of_each_subject(result):
    keys = [(row.case, row.subject) for row in result.rows]
    assert len(set(keys)) == len(keys)
    assert all(set(case.subjects) <= {*SUBJECTS, "go-epp", "none"} for case in CASES)
    assert all(set(case.subjects) <= {*PEERS, "none"} for case in PEER_CASES)


@pytest.mark.parametrize(
    ("info", "told"),
    [
        (b"sigs.k8s.io/gateway-api-inference-extension\t(devel)\t", "gateway-api-inference-extension v1.5.0"),
        (b"github.com/llm-d/llm-d-router\tv0.10.0\th1:x=", "llm-d-router v0.10.0"),
        (b"example.com/else\tv1\t", "else v1"),
    ],
)
def test_a_go_picker_says_itself_what_it_is(info, told, tmp_path, monkeypatch):
    program = tmp_path / "epp"
    program.write_bytes(b"\x7fELF" + bytes(5000) + b"path\tits/cmd/epp\nmod\t" + info + b"\ndep\tmore\tv2\t\n" + bytes(99))
    program.chmod(0o755)
    monkeypatch.setenv("EPP_BIN", str(program))
    monkeypatch.setenv("EPP_VERSION", "v1.5.0")
    assert go_epp_version() == told


def test_a_picker_that_is_none_is_left_out_with_the_reason(tmp_path, monkeypatch):
    for path, reason in ((tmp_path, "is not an executable file"), (shutil.which("true"), "wanted is cmd/epp of")):
        monkeypatch.setenv("EPP_BIN", str(path))
        with pytest.raises(Unavailable, match=reason):
            find_reference()


def test_who_is_not_there_is_asked_for_once_and_who_fails_once_more(monkeypatch):
    monkeypatch.setattr("hack.bench.rounds.calibrate", lambda: 30.0)
    asked = []

    def measure(case, subject):
        asked.append(subject)
        raise {"go-epp": Unavailable, "floor": Trouble}[subject]("no")

    cases = [Case(load=load, subjects=("go-epp", "floor")) for load in (STEADY, STREAMED)]
    found = measure_all(cases, measure, 3, 4.0, lambda line: None, {"go-epp": "v0"})
    assert asked.count("go-epp") == 1
    assert asked.count("floor") == 4
    assert {(row.rounds, row.reason, row.picker_us_per_request) for row in found.rows} == {(0, "no", None)}


def test_a_row_is_the_median_with_its_extremes(result):
    found = next(each for each in result.rows if each.subject == "floor")
    assert found.rounds == 3
    assert found.picker_us_range[0] <= found.picker_us_per_request <= found.picker_us_range[1]


def test_the_page_has_every_row_and_every_reason(result):
    page = report.page(result, result)
    for each in result.rows:
        assert f"| {each.case} " in page
    assert "go-epp: nobody has it" in page
    assert "made of cheese" in page
    assert "ConnectionResetError: by a peer" in page
    assert all(len(line) <= 128 for line in (report.METHOD + report.BROKEN).splitlines())


def test_the_page_says_why_budgets_are_broken_only_where_some_are(result):
    assert report.BROKEN in report.page(result)
    assert report.BROKEN not in report.page(Result(result.head, []))


def test_budgets_are_kept_or_broken_or_not_measured(result):
    verdicts = {verdict.budget: verdict.kept for verdict in judge(result) if "the Go picker" not in verdict.limit}
    assert verdicts[f"CPU, {STEADY.name}, full"] is True, "1.8 times the floor"
    assert verdicts[f"CPU, {STREAMED.name}, full"] is False, "1.3 times is the most for streams"
    assert verdicts[f"CPU, {STREAMED.name}, lean"] is False, "lean costs as much as full"
    assert verdicts[f"p99, {STEADY.name}"] is True
    assert {verdict.kept for verdict in judge(result) if "the Go picker" in verdict.limit} == {None}


def test_lean_is_held_against_the_cheapest_router(result):
    ours = row(PEER_CASES[0], "shunter, lean", [sample(490.0)])
    theirs = row(PEER_CASES[0], "sglang-router", [sample(450.0, envoy_us_per_request=0.0)])
    [verdict] = judge_peers(Result(result.head, [ours, theirs]))
    assert (verdict.found, verdict.kept) == ("1.20 ×", True)


def test_a_result_without_rows_breaks_nothing(result):
    empty = Result(result.head, [])
    assert {verdict.kept for verdict in judge(empty)} == {None}
    assert report.page(empty)


def test_the_floor_names_an_endpoint_and_gives_the_body_back():
    from envoy.service.ext_proc.v3.external_processor_pb2 import ProcessingResponse

    endpoints = [f"10.0.0.{at}:8000" for at in range(3)]
    floor = Floor(endpoints)
    for size in (1000, 100_000):
        body = streams.prompts(size, 1)[0]
        asked, answered = streams.exchange(body)
        receive = floor.open_call()
        first, *rest = [ProcessingResponse.FromString(reply) for message in asked.messages for reply in receive(message)]
        mutation = first.request_headers.response.header_mutation
        assert mutation.set_headers[0].header.raw_value.decode() in endpoints
        pieces = [reply.request_body.response.body_mutation.streamed_response for reply in rest]
        assert b"".join(piece.body for piece in pieces) == body
        assert [piece.end_of_stream for piece in pieces] == [False] * (len(pieces) - 1) + [True]
        replies = [reply for message in answered.messages for reply in receive(message)]
        assert len(replies) == 3
    assert floor.in_flight == [0, 0, 0]
    assert floor.tokens == 2 * 192


def test_the_floor_sends_a_prompt_where_it_was_before():
    floor = Floor([f"10.0.0.{at}:8000" for at in range(5)])
    floor.base = [1.0] * 5
    hashes = floor.hash("model", b"x" * 4096)
    floor.remember(hashes[:8], 3)
    assert floor.pick(hashes) == 3
    assert floor.match(hashes)[3] == 8


def test_recorded_streams_are_what_protobuf_says():
    from envoy.service.ext_proc.v3.external_processor_pb2 import ProcessingRequest

    body = streams.prompts(1000, 1, stream=True)[0]
    steps = streams.exchange(body, chunks=3, paced=True)
    messages = [ProcessingRequest.FromString(message) for step in steps for message in step.messages]
    assert [message.WhichOneof("request") for message in messages] == [
        *("request_headers", "request_body", "request_body", "response_headers"),
        *["response_body"] * 5,
    ]
    assert messages[0].protocol_config.request_body_mode == messages[0].protocol_config.response_body_mode == 4
    assert b"".join(message.request_body.body for message in messages) == body
    assert msgspec.json.decode(body)["stream"] is True
    told = [{**message.metadata_context.filter_metadata["envoy.lb"]}.get("id") for message in messages]
    assert told == [None] * 3 + [streams.TICKET.decode()] * 6, "a pick comes back with the response"


def test_prompts_are_as_long_as_asked_and_share_their_beginning():
    made = streams.prompts(5000, 8)
    assert all(abs(len(body) - 5000) < 100 for body in made)
    assert len(set(made)) == 8
    assert len({body[:3500] for body in made}) == 2


@needs_gcc
@pytest.mark.parametrize("name", sorted(path.stem for path in programs.SOURCES.glob("*.c")))
def test_the_programs_compile_without_a_warning(name, tmp_path):
    command = [*programs.COMPILER, "-Werror", "-o", tmp_path / name, programs.SOURCES / f"{name}.c"]
    assert subprocess.run(command, check=False).returncode == 0


def test_without_gcc_there_is_a_reason_instead_of_a_figure(monkeypatch, tmp_path):
    monkeypatch.setenv("SHUNTER_TOOLS_DIR", str(tmp_path))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr("hack.bench.rounds.calibrate", lambda: 30.0)
    programs.compiled.cache_clear()
    case = next(case for case in CASES if case.load.direct)
    try:
        found = measure_all([case], partial(measure, times=QUICK), 1, 4.0, lambda line: None, {})
    finally:
        programs.compiled.cache_clear()
    assert all("no gcc" in each.reason for each in found.rows)


@needs_gcc
@pytest.mark.parametrize("subject", ["floor", "shunter-native"])
def test_a_subject_can_be_measured(subject, tmp_path):
    case = next(case for case in CASES if case.load.direct and not case.load.chunks)
    found = measure(case, subject, Times(load=0.2, warm=0.1, idle=0.1, settle=0.1))
    assert found.failures == 0
    assert found.picker_us_per_request > 0
    assert found.rss_mb >= found.largest_mb > 10


@needs_gcc
def test_load_counts_what_fails_as_failed(tmp_path):
    with Children(tmp_path) as children:
        servers = engines.start(children, 1)
        good, bad = (f"{verb} HTTP/1.1\r\nHost: x\r\n\r\n".encode() for verb in ("GET /health", "GET /nowhere"))
        (tmp_path / "requests").write_bytes(b"".join(struct.pack("<I", len(each)) + each for each in (good, bad)))
        told = run("load", servers.addresses[0], servers.port, tmp_path / "requests", 2, 100, 0.2, seconds=1)
    assert told["sent"] == 20
    assert told["ok"] == told["failed"] == 10


@pytest.fixture
def calls(monkeypatch):
    """Let the clock of CPU time count calls of functions: no other process is in it, and no faster machine."""
    made = 0

    def count(_frame, event, _called):
        nonlocal made
        made += event in ("call", "c_call")

    monkeypatch.setattr(time, "process_time_ns", lambda: made)
    before = sys.getprofile()
    sys.setprofile(count)
    yield
    sys.setprofile(before)


@pytest.mark.usefixtures("calls")
def test_what_seeing_costs_is_measured_of_what_sees(monkeypatch):
    monkeypatch.setattr(seeing, "EXCHANGES", 2 * seeing.PIECES)
    floor, found = seeing.compare(turns=3)
    assert len(floor) == 3
    assert found.keys() == seeing.PARTS.keys()
    nothing, least, *more = (
        median(found[name])
        for name in ("not even these", seeing.BASE, "metrics by class", "traces of 100 %", "a line for each")
    )
    assert nothing < least < min(more)
