"""A good gateway passes everything; for each case there is one, broken in exactly that way, that fails exactly it."""

import asyncio
import os
import socket
import ssl

import msgspec
import pytest
import trustme
import yaml
from click.testing import CliRunner

from shunter.conformance.cli import main
from shunter.conformance.core.case import select
from shunter.conformance.core.events import CaseFinished, Side, Started
from shunter.conformance.core.profile import named
from shunter.conformance.core.verdict import Verdict
from shunter.conformance.errors import UsageError
from shunter.conformance.sections.gateways import CASES, PROFILES, answers, failures, picks, requests
from shunter.conformance.sections.gateways.setup import Place, intent
from shunter.conformance.sections.gateways.trial import DESTINATION, Pool
from shunter.conformance.shell.access import OPEN, Access
from shunter.conformance.shell.extproc import load
from shunter.conformance.shell.gateways import stage
from shunter.conformance.shell.gateways.exam import examine
from shunter.conformance.shell.ports import free_ports
from shunter.conformance.testing.gateways.fake import PROFILE, Failure, FakeGateway, NotPickedError
from shunter.conformance.testing.gateways.faults import BROKEN

# Time limits here: 1.5 s to notice who has left, 3.6 s to give up a picker.
PATIENCE = 0.3

# What takes long, and is asked only where it is the subject or everything is.
SLOW = {"gw.failure.open-hang", "gw.failure.close-hang"}


# `make conformance-mutants` asks each gateway everything.
EVERYTHING = "SHUNTER_EVERY_CASE" in os.environ


def asked(case_id):
    """What the gateway is asked that breaks this: everything, or the case's section and what that needs."""
    section = case_id.rpartition(".")[0]
    ids = {case.id for case in CASES if EVERYTHING or case.id.rpartition(".")[0] == section}
    for case in reversed(CASES):  # what is needed stands before
        ids |= set(case.needs) if case.id in ids else set()
    return [case for case in CASES if case.id in (ids if EVERYTHING else ids - SLOW | {case_id})]


@pytest.fixture
def places():
    at = [f"127.0.0.1:{port}" for port in free_ports(7)]
    return {Pool.OPEN: Place(at[0], tuple(at[1:4])), Pool.CLOSE: Place(at[4], tuple(at[5:]))}


@pytest.fixture
def hold(places):
    """Examine a gateway of a kind; returns the findings by case id."""

    async def hold(kind=FakeGateway, *, cases=CASES, profile=PROFILE, tries=1, seen=lambda event: event):
        async with kind(places).serving() as url:
            exam = examine(url, places=places, cases=cases, profile=profile, patience=PATIENCE, tries=tries)
            return {event.id: event async for event in exam if isinstance(seen(event), CaseFinished)}

    return hold


@pytest.fixture
def in_a_hurry(monkeypatch):
    """The same exam with fewer requests, and limits of 1.8 s where they are long or a busy machine is late."""
    for name, count in {"ROUNDS": 1, "DIVIDED": 20, "IN_TURN": 3, "CONCURRENT": 12}.items():
        monkeypatch.setattr(picks, name, count)
    for module, name in ((stage, "RECOVERS"), (failures, "RECOVERS"), (failures, "SEEN_AWAY"), (answers, "PASSED_ON")):
        monkeypatch.setattr(module, name, msgspec.structs.replace(getattr(module, name), seconds=6.0))
    monkeypatch.setattr(requests, "LARGE_BYTES", 1_200_000)


async def test_a_good_gateway_passes_everything_within_the_bounds_that_each_case_names(hold, watch_limits):
    limits = watch_limits(stage.Stage)
    findings = await hold(tries=3, seen=limits.follow)
    assert limits.undeclared(CASES) == {}
    assert list(findings) == [case.id for case in CASES]
    assert {name for name, each in findings.items() if each.verdict is not Verdict.PASSED} == {"gw.request.http2"}
    assert findings["gw.request.http2"].reason == "it speaks HTTP/1.1 only"


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.case)
async def test_a_broken_gateway_fails_exactly_one_case(hold, in_a_hurry, note, broken):
    cases = asked(broken.case)
    lacks = {feature: why for feature, why in PROFILE.lacks.items() if broken.case != "gw.request.http2"}
    findings = await hold(broken.kind, cases=cases, profile=msgspec.structs.replace(PROFILE, lacks=lacks))
    note(broken.case, broken.breaks, findings)
    failed = {name: each for name, each in findings.items() if each.verdict is Verdict.FAILED}
    assert [(name, each.actual) for name, each in failed.items() if name != broken.case] == []
    assert list(failed) == [broken.case]
    assert not [each for each in findings.values() if each.verdict is Verdict.ERROR]
    assert failed[broken.case].expected
    assert failed[broken.case].evidence


async def test_servers_in_ipv6_are_examined_as_well(places):
    if not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    at = {
        pool: Place(place.picker, tuple(each.replace("127.0.0.1", "[::1]") for each in place.servers))
        for pool, place in places.items()
    }
    cases = select(CASES, ["gw.pick.each", "gw.pick.first-choice", "gw.pick.spoofed", "gw.pick.outside", "gw.fallback.refused"])
    async with FakeGateway(at).serving() as url:
        exam = examine(url, places=at, cases=cases, profile=PROFILE, patience=PATIENCE, tries=3)
        findings = [event async for event in exam if isinstance(event, CaseFinished)]
    assert {each.id: each.actual for each in findings if each.verdict is not Verdict.PASSED} == {}
    assert any("a pick of [::1]:" in each.observed for each in findings)


async def test_a_gateway_behind_tls_is_examined_by_who_trusts_it(places):
    authority, context = trustme.CA(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    cases = select(CASES, ["gw.pick.each", "gw.pick.connection", "gw.answer.unbuffered", "gw.answer.hang-up-waiting"])
    async with FakeGateway(places).serving(context) as url:
        findings = {}
        for access in (Access(tls=trusting), OPEN):
            exam = examine(url, places=places, cases=cases, profile=PROFILE, patience=PATIENCE, access=access)
            findings[access] = [event async for event in exam if isinstance(event, CaseFinished)]
    trusted, untrusted = findings.values()
    assert {each.id: each.actual or each.reason for each in trusted if each.verdict is not Verdict.PASSED} == {}
    assert all("is not to be trusted" in each.reason and "--ca-file" in each.reason for each in untrusted)


class _OpensLateForAnybody(FakeGateway):
    """Sees only after a while that a picker is away, as by a health check, and then goes where clients say."""

    refused = 0

    def failed(self, pool, failure, incoming):
        if pool is Pool.OPEN and failure is Failure.AWAY:
            self.refused += 1
            if self.refused < 3:
                raise NotPickedError(failure)
        return super().failed(pool, failure, incoming)

    async def pick(self, pool, incoming):
        pick, talk = await super().pick(pool, incoming)
        if talk:
            self.refused = 0
        return pick, talk

    def candidates(self, pool, picked, incoming):
        spoofed = incoming.headers.get(DESTINATION)
        return [spoofed] if spoofed and not picked else super().candidates(pool, picked, incoming)


async def test_a_gateway_that_opens_late_is_asked_when_it_is_open(hold, in_a_hurry):
    cases = [msgspec.structs.replace(case, needs=()) for case in select(CASES, ["gw.failure.open-away", "gw.failure.spoofed"])]
    findings = await hold(_OpensLateForAnybody, cases=cases)
    assert [each.verdict for each in findings.values()] == [Verdict.PASSED, Verdict.FAILED]


def test_each_case_has_been_seen_to_fail():
    assert [broken.case for broken in BROKEN] == [case.id for case in CASES]


async def test_what_is_examined_is_said(places):
    async with FakeGateway(places).serving() as url:
        events = [event async for event in examine(url, places=places, cases=CASES[:1], profile=PROFILE, patience=PATIENCE)]
    started = events[0]
    assert isinstance(started, Started)
    assert (started.side, started.url, started.profile, started.scale) == (Side.GATEWAY, url, "fake", PATIENCE)


async def test_a_gateway_that_is_not_there_is_an_error_for_every_case(places, unused_tcp_port):
    exam = examine(f"http://127.0.0.1:{unused_tcp_port}", places=places, patience=0.01, tries=1)
    findings = [event async for event in exam if isinstance(event, CaseFinished)]
    assert {each.verdict for each in findings} == {Verdict.ERROR}
    assert len(findings) == len(CASES)


async def test_an_address_that_is_taken_is_said_and_nothing_stays_behind(places):
    host, _, port = places[Pool.CLOSE].servers[0].rpartition(":")
    with socket.create_server((host, int(port))), pytest.raises(UsageError, match=f"a model server at {host}:{port}"):
        await anext(examine("http://127.0.0.1:9", places=places))
    for place in places.values():
        with socket.create_server((host, int(place.picker.rpartition(":")[2]))):
            pass
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []


@pytest.mark.parametrize(
    "options", [{"timeout_s": 0}, {"patience": 0}, {"patience": float("inf")}, {"profile": "shunter-leen"}]
)
def test_what_cannot_be_is_refused_before_anything_happens(options):
    with pytest.raises(UsageError):
        examine("http://127.0.0.1:9", **options)


@pytest.fixture
def addressed(places):
    """Run the command with these places."""

    def run(*words):
        stated = [(f"--{pool}-picker", place.picker) for pool, place in places.items()]
        stated += [(f"--{pool}-servers", ",".join(place.servers)) for pool, place in places.items()]
        return CliRunner().invoke(main, ["gateway", *(word for pair in stated for word in pair), *words])

    return run


def test_the_command_prints_what_the_gateway_is_to_be_told(addressed, places):
    result = addressed("http://127.0.0.1:8080/", "--profile", "shunter-full", "--explain-setup")
    assert result.exit_code == 0
    assert result.output == intent(places, named(PROFILES, "shunter-full"), 8080)


def test_a_gateway_with_tls_listens_at_its_port_unless_another_is_named(addressed):
    assert yaml.safe_load(addressed("https://gateway.test", "--explain-setup").output)["listeners"] == [{"port": 443}]


def test_what_a_gateway_is_to_be_told_is_explained_without_one(addressed):
    assert yaml.safe_load(addressed("--explain-setup").output)["listeners"] == [{"port": 8080}]
    examined = addressed()
    assert examined.exit_code == 2
    assert "Missing argument 'URL'" in examined.output


def test_the_command_shows_what_it_would_ask(addressed):
    result = addressed("http://127.0.0.1:9", "--dry-run", "--select", "gw.pools", "--level", "MUST")
    assert result.output.splitlines() == [
        "MUST    gw.pools.own-picker",
        "MUST    gw.pools.weighted",
        "MUST    gw.pools.unknown-host",
    ]


def test_the_command_says_that_nobody_is_there(addressed, unused_tcp_port, tmp_path):
    report = tmp_path / "gateway.yaml"
    result = addressed(f"http://127.0.0.1:{unused_tcp_port}", "--select", "gw.pick.each", "--report", str(report))
    assert result.exit_code == 3
    assert "Connection refused" in result.output
    assert yaml.safe_load(report.read_text())["profiles"][0]["name"] == "gateway/generic"


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--profile", "shunter-ful"], "did you mean shunter-full?"),
        (["--open-servers", "127.0.0.1:1"], "want 2 servers or more"),
        (["--patience", "0"], "--patience"),
        (["--ca-file", "/nowhere"], "--ca-file /nowhere: No such file"),
        (["--select", "gw.pik"], "did you mean gw.pick"),
    ],
)
def test_the_command_refuses_what_cannot_be(addressed, words, problem):
    result = addressed("http://127.0.0.1:9", *words)
    assert result.exit_code == 2
    assert problem in result.output


def test_what_is_not_installed_is_named_with_what_installs_it():
    with pytest.raises(UsageError, match=r"shunter-conformance\[picker\]"):
        load("envoy.service.ext_proc.v9.nothing_pb2")
