"""The exam of gateways on real Envoys that envoyconf configured: everything is met, or known with its reason."""

import contextlib
import socket

import pytest

from shunter.conformance.core.events import CaseFinished
from shunter.conformance.core.profile import named
from shunter.conformance.core.verdict import Verdict
from shunter.conformance.sections.gateways import CASES, PROFILES
from shunter.conformance.sections.gateways.setup import Place, intent
from shunter.conformance.sections.gateways.trial import Pool
from shunter.conformance.shell.gateways.exam import examine
from shunter.envoyconf import load_intent
from shunter.envoyconf.core.generate import generate
from shunter.envoyconf.core.targets import Target
from shunter.envoyconf.testing import running_envoy

pytestmark = pytest.mark.envoy


@pytest.fixture
def places():
    with contextlib.ExitStack() as taken:
        sockets = [taken.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(7)]
        at = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    return {Pool.OPEN: Place(at[0], tuple(at[1:4])), Pool.CLOSE: Place(at[4], tuple(at[5:]))}


@pytest.mark.parametrize("name", ["lean", "full"])
async def test_an_envoy_of_ours_keeps_the_protocol(places, name):
    profile = named(PROFILES, f"shunter-{name}")
    told = load_intent(intent(places, profile, 0))
    (bootstrap,) = generate(told, Target.ENVOY_STATIC).documents
    async with running_envoy(bootstrap) as envoy:
        exam = examine(envoy.url, places=places, profile=profile)
        findings = {event.id: event async for event in exam if isinstance(event, CaseFinished)}
    assert len(findings) == len(CASES)
    excused = {Verdict.PASSED, Verdict.KNOWN_FAILURE, Verdict.NOT_SUPPORTED}
    assert {name: each.actual or each.reason for name, each in findings.items() if each.verdict not in excused} == {}
