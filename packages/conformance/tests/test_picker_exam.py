"""A good picker passes everything; for each case there is a picker, broken in exactly that way, that fails exactly it."""

import asyncio
import contextlib
import importlib.util
import os
import shutil
import ssl
from pathlib import Path

import pytest
import trustme
import yaml
from click.testing import CliRunner
from hack.conformance.pickers import page
from hypothesis import given
from hypothesis import strategies as st

from shunter.conformance.cli import main
from shunter.conformance.core.case import select
from shunter.conformance.core.chance import beyond_chance
from shunter.conformance.core.events import CaseFinished, Side, Started
from shunter.conformance.core.verdict import Verdict
from shunter.conformance.errors import UsageError
from shunter.conformance.sections.pickers import CASES
from shunter.conformance.sections.pickers.messages import Part, Reply, Set
from shunter.conformance.sections.pickers.profiles import find_profile
from shunter.conformance.shell.extproc import load
from shunter.conformance.shell.pickers.exam import PlayedTarget, examine
from shunter.conformance.shell.pickers.launching import Process
from shunter.conformance.shell.pickers.messages import Codec
from shunter.conformance.shell.pickers.recipes import RECIPES, Shunter
from shunter.conformance.shell.ports import free_ports
from shunter.conformance.testing.pickers.codec import Codec as PickerCodec
from shunter.conformance.testing.pickers.fake import FakePicker
from shunter.conformance.testing.pickers.faults import FAULTS

# The pickers here answer within milliseconds; what never comes is waited for two seconds, by several exams at once.
PATIENCE, AT_ONCE = 0.4, 3

# Later than the limit on what is fresh, sooner than that on what is noticed at all.
LAG_S = 3.0

REPORTS = sorted((Path(__file__).parents[1] / "reports" / "pickers").glob("*/*-report.yaml"))

CODEC = Codec()

SECTIONS = sorted({fault.case.split(".")[1] for fault in FAULTS.values()})


def find_envoy() -> Path | None:
    """Any Envoy will do: there is one where other tests have put it, or on PATH."""
    tools = Path(os.environ.get("SHUNTER_TOOLS_DIR", Path(__file__).parents[3] / ".tools"))
    found = sorted(tools.glob("envoy/*/envoy"))
    return found[-1] if found else (Path(on_path) if (on_path := shutil.which("envoy")) else None)


ENVOY = find_envoy()


async def hold(picker, cases=CASES, seen=lambda event: event, **options):
    """The findings by case."""
    options = {"patience": PATIENCE, "tries": 1} | options
    events = [seen(event) async for event in examine(picker, cases=cases, **options)]
    return {event.id: event for event in events if isinstance(event, CaseFinished)}


def by_verdict(findings, *verdicts):
    return {case_id for case_id, finding in findings.items() if finding.verdict in verdicts}


def related(case_id):
    """The cases of the same section and whatever these need, in their order.

    Of the choice, whose cases take seconds, only the one; `make conformance-pickers` tries all of them.
    """
    section = case_id.rpartition(".")[0]
    alone = section == "ep.choice" and "SHUNTER_EVERY_CASE" not in os.environ
    wanted = {case_id} if alone else {case.id for case in select(CASES, [section])}
    for case in reversed(CASES):
        if case.id in wanted:
            wanted.update(case.needs)
    return [case for case in CASES if case.id in wanted]


@pytest.fixture
def limits(watch_limits):
    return watch_limits(PlayedTarget)


@pytest.fixture
def tls():
    """A certificate that nobody knows, as pickers make themselves."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("picker.test").configure_cert(context)
    return context


async def test_a_good_picker_passes_everything_within_the_bounds_that_each_case_names(tls, limits):
    findings = await hold(FakePicker(tls=tls), tls=True, envoy=ENVOY, seen=limits.follow)
    assert limits.undeclared(CASES) == {}
    assert list(findings) == [case.id for case in CASES]
    unexamined = by_verdict(findings, Verdict.SKIPPED)
    assert unexamined == (set() if ENVOY else {case.id for case in select(CASES, ["ep.envoy"])})
    assert by_verdict(findings, Verdict.PASSED) == {*findings} - unexamined


@pytest.mark.parametrize("section", SECTIONS)
async def test_a_broken_picker_fails_exactly_one_case(section, note):
    """In spite of what other tests do to the machine: who is late once is asked again, and who is broken is so again."""
    if section == "envoy" and ENVOY is None:
        pytest.skip("no Envoy: shunter envoyconf fetches one, or put one on PATH")
    faults = [fault for fault in FAULTS.values() if fault.case.startswith(f"ep.{section}.")]

    turns = asyncio.Semaphore(AT_ONCE)

    async def examine_one(fault):
        envoy = ENVOY if section == "envoy" else None
        async with turns:
            if section == "tls":
                return await hold(FakePicker(fault.name, tls=tls), related(fault.case), tls=True, tries=3)
            return await hold(FakePicker(fault.name, lag_s=LAG_S), related(fault.case), envoy=envoy, tries=3)

    exams = await asyncio.gather(*map(examine_one, faults))
    for fault, findings in zip(faults, exams, strict=True):
        note(fault.case, fault.breaks, findings)
        assert by_verdict(findings, Verdict.FAILED) == {fault.case}, fault.name
        assert by_verdict(findings, Verdict.PASSED, Verdict.FAILED, Verdict.SKIPPED) == {*findings}, fault.name
        finding = findings[fault.case]
        assert finding.expected
        assert finding.actual
        assert finding.evidence or fault.case in {"ep.operation.ends", "ep.tls.http2"}, fault.name


def test_each_case_has_been_seen_to_fail():
    assert {fault.case for fault in FAULTS.values()} == {case.id for case in CASES}


async def test_our_picker_passes():
    """In spite of what other tests do to the machine: a limit that is missed once is tried again."""
    findings = await hold(Process(Shunter("", ())), patience=1.0, tries=3, envoy=ENVOY)
    unexamined = by_verdict(findings, Verdict.SKIPPED, Verdict.NOT_SUPPORTED)
    assert unexamined <= {"ep.metrics.tokens", "ep.tls.http2", *(case.id for case in select(CASES, ["ep.envoy"]))}
    assert by_verdict(findings, Verdict.PASSED) == {*findings} - unexamined


async def test_our_picker_passes_on_the_grpc_library_and_behind_tls(tmp_path):
    """All that its transport has a part in."""
    certificate = trustme.CA().issue_cert("picker.test")
    certificate.private_key_pem.write_to_path(tmp_path / "key")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert")
    arguments = ["--transport", "grpcio", "--tls-cert-file", str(tmp_path / "cert"), "--tls-key-file", str(tmp_path / "key")]
    cases = [case for case in CASES if case.id.split(".")[1] not in {"choice", "endpoints", "metrics"}]
    findings = await hold(Process(Shunter("", arguments)), cases, tls=True, patience=1.0, tries=3, envoy=ENVOY)
    assert by_verdict(findings, Verdict.PASSED) | {case.id for case in select(CASES, ["ep.envoy"])} == {*findings}


async def test_who_is_not_there_is_an_error_for_every_case(unused_tcp_port):
    findings = await hold(f"127.0.0.1:{unused_tcp_port}", servers=["127.0.0.1:0"])
    assert by_verdict(findings, Verdict.ERROR) == {case.id for case in CASES}


async def test_of_a_picker_at_an_address_what_needs_more_is_skipped_with_the_option_that_gives_it():
    servers = [f"127.0.0.1:{port}" for port in free_ports(2)]
    cases = select(
        CASES, ["ep.stream", "ep.subset.port", "ep.endpoints.none", "ep.metrics.exposition", "ep.envoy.post", "ep.tls"]
    )
    picker = FakePicker()
    async with picker as launched:
        picker.offered = servers  # it was configured by hand
        events = [event async for event in examine(launched.address, servers=servers, cases=cases, tries=1)]
    assert isinstance(events[0], Started)
    assert (events[0].side, events[0].url, events[0].profile) == (Side.PICKER, launched.address, "generic")
    skipped = {event.id: event.reason for event in events if isinstance(event, CaseFinished) and event.reason}
    options = {
        "endpoints.none": "--launch",
        "metrics.exposition": "--metrics-url",
        "envoy.post": "--envoy",
        "tls.http2": "--tls",
    }
    assert skipped.keys() == {f"ep.{name}" for name in options}
    assert all(option in skipped[f"ep.{name}"] for name, option in options.items())


@pytest.mark.parametrize(
    ("picker", "options", "problem"),
    [
        ("127.0.0.1", {"servers": ["127.0.0.1:0"]}, "want HOST:PORT"),
        ("127.0.0.1:9002", {}, "--servers is missing"),
        ("http://127.0.0.1:9002", {"servers": ["127.0.0.1:0"]}, "address 'http://127.0.0.1:9002': want HOST:PORT"),
        ("127.0.0.1:9002", {"servers": ["a"]}, "--servers 'a': want HOST:PORT"),
        ("127.0.0.1:9002", {"servers": ["::1:80"]}, "--servers '::1:80': want HOST:PORT"),
        ("127.0.0.1:9002", {"servers": ["127.0.0.1:1", " 127.0.0.1:2"]}, "want HOST:PORT"),
        ("127.0.0.1:9002", {"servers": ["localhost:80"]}, "--servers 'localhost:80': want IP:PORT"),
        ("127.0.0.1:9002", {"servers": ["127.0.0.1:0"], "profile": "shunted"}, "did you mean shunter"),
        ("127.0.0.1:9002", {"servers": ["127.0.0.1:0"], "dialect": "vlm"}, "did you mean vllm"),
        ("127.0.0.1:9002", {"servers": ["127.0.0.1:0"], "timeout_s": 0}, "above 0"),
        ("127.0.0.1:9002", {"servers": ["127.0.0.1:0"], "metrics_url": "localhost"}, "want http://HOST:PORT"),
    ],
)
def test_what_cannot_be_examined_is_refused_before_anything_happens(picker, options, problem):
    with pytest.raises(UsageError, match=problem):
        examine(picker, **options)


async def test_a_picker_that_speaks_no_tls_is_said_to_speak_none():
    findings = await hold(FakePicker(), select(CASES, ["ep.tls"]), tls=True)
    assert "no TLS with 127.0.0.1" in findings["ep.tls.http2"].actual


@given(st.binary(max_size=200))
def test_whatever_a_picker_answers_is_read_or_refused(data):
    with contextlib.suppress(ValueError):
        assert isinstance(CODEC.decode(data), Reply)


@given(
    st.builds(
        Reply,
        part=st.sampled_from([Part.REQUEST_HEADERS, Part.RESPONSE_BODY, Part.IMMEDIATE]),
        sets=st.lists(st.builds(Set, st.text(max_size=9), st.text(min_size=1, max_size=9), st.booleans()), max_size=3).map(
            tuple
        ),
        body=st.just(b""),
    )
)
def test_what_a_picker_says_is_what_is_read(reply):
    assert CODEC.decode(PickerCodec().encode(reply)) == reply


async def test_an_address_that_is_not_ours_is_refused():
    with pytest.raises(UsageError, match=r"--servers 192\.0\.2\.1:80: cannot listen there"):
        await hold("127.0.0.1:9", servers=["192.0.2.1:80"])


def test_an_extra_that_is_missing_is_named():
    with pytest.raises(UsageError, match=r"shunter-conformance\[picker\]"):
        load("envoy.of.nobody")


def test_a_picker_that_is_not_installed_is_not_started(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="--bin names the command `shunter`"):
        RECIPES["shunter"]("", ())


@pytest.mark.parametrize("path", REPORTS, ids=lambda path: path.name)
def test_the_failures_in_a_committed_report_are_known(path):
    report = yaml.safe_load(path.read_text(encoding="utf-8"))
    profile = find_profile(report["profiles"][-1]["name"].removeprefix("picker/"))
    verdicts = {case["id"]: case["verdict"] for case in report["cases"]}
    assert {*verdicts} <= {case.id for case in CASES}
    assert {case_id for case_id, verdict in verdicts.items() if verdict == Verdict.FAILED} == set()
    assert {case_id for case_id, verdict in verdicts.items() if verdict == Verdict.KNOWN_FAILURE} == {
        known.case for known in profile.known_failures
    }


def test_the_page_shows_the_reports_and_the_broken_pickers():
    path = Path(__file__).parents[3] / "docs" / "conformance" / "pickers.md"
    text = path.read_text(encoding="utf-8")
    assert page(text) == text, "make conformance-pickers ARGS='--only nobody' writes it"


def test_every_picker_that_was_examined_has_a_report():
    """Ours on both transports, and the Go one that could be built."""
    assert {path.parent.name for path in REPORTS} == {"gie-epp", "shunter"}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "want one HOST:PORT, or --launch KIND"),
        (["a:1", "b:1"], 2, "want one HOST:PORT"),
        (["a:1", "--bin", "epp"], 2, "--bin and --config are for a picker that --launch starts"),
        (["a:1"], 2, "--servers is missing"),
        (["--launch", "shunter", "--health", "a:1"], 2, "are for a picker at an address"),
        (["a:1", "--servers", "127.0.0.1:0", "--select", "ep.strem"], 2, "did you mean ep.stream"),
        (["a:1", "--servers", "127.0.0.1:0", "--select", "ep.stream.order", "--dry-run"], 0, "MUST    ep.stream.order"),
        (["--launch", "epp", "--bin", "/nowhere/epp"], 3, "cannot run /nowhere/epp"),
    ],
)
def test_the_command_says_what_it_cannot_do(arguments, code, said):
    result = CliRunner().invoke(main, ["picker", *arguments])
    assert (result.exit_code, said in result.output) == (code, True), result.output


@pytest.mark.parametrize(("tries", "chance"), [(40, 1 / 4), (40, 1 / 2), (20, 1 / 3)])
def test_luck_alone_does_not_pass(tries, chance):
    """The bound is the smallest one, and one less is within reach of luck."""
    from math import comb

    def tail(least):
        return sum(comb(tries, k) * chance**k * (1 - chance) ** (tries - k) for k in range(least, tries + 1))

    enough = beyond_chance(tries, chance)
    assert tail(enough) <= 1e-6 < tail(enough - 1)


def test_where_even_all_hits_prove_nothing_no_count_is_enough():
    assert beyond_chance(3, 1 / 2) == 4
