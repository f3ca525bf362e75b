"""The exam of gateways on real Envoys that envoyconf configured: everything is met, or known with its reason."""

import pytest

from shunter.conformance.core.case import select
from shunter.conformance.core.events import CaseFinished
from shunter.conformance.core.profile import named
from shunter.conformance.core.verdict import Verdict
from shunter.conformance.sections.gateways import CASES, PROFILES
from shunter.conformance.sections.gateways.setup import Place, intent
from shunter.conformance.sections.gateways.trial import Pool
from shunter.conformance.shell.gateways.exam import examine
from shunter.conformance.shell.ports import free_ports
from shunter.envoyconf import load_intent
from shunter.envoyconf.core.generate import generate
from shunter.envoyconf.core.targets import Target
from shunter.envoyconf.testing import running_envoy

pytestmark = pytest.mark.envoy


@pytest.fixture
def places():
    at = [f"127.0.0.1:{port}" for port in free_ports(7)]
    return {Pool.OPEN: Place(at[0], tuple(at[1:4])), Pool.CLOSE: Place(at[4], tuple(at[5:]))}


async def examined(places, profile, change=lambda _: None, cases=CASES):
    """Return the findings about an Envoy with what envoyconf makes of the exam's setup, changed."""
    told = load_intent(intent(places, profile, 0))
    (bootstrap,) = generate(told, Target.ENVOY_STATIC).documents
    change(bootstrap)
    async with running_envoy(bootstrap) as envoy:
        exam = examine(envoy.url, places=places, cases=cases, profile=profile)
        return {event.id: event async for event in exam if isinstance(event, CaseFinished)}


@pytest.mark.parametrize("name", ["lean", "full"])
async def test_an_envoy_of_ours_keeps_the_protocol(places, name):
    findings = await examined(places, named(PROFILES, f"shunter-{name}"))
    assert len(findings) == len(CASES)
    excused = {Verdict.PASSED, Verdict.KNOWN_FAILURE, Verdict.NOT_SUPPORTED}
    assert {name: each.actual or each.reason for name, each in findings.items() if each.verdict not in excused} == {}


FOUND_OUT = {
    "gw.pick.first-choice",  # a list is no address
    "gw.pick.outside",
    "gw.failure.spoofed",
    "gw.failure.open-error",  # nobody knows where else to go
}


def go_anywhere(bootstrap):
    """Go to whatever address the header says, as examples for older gateways have it, and believe clients too."""
    for cluster in bootstrap["static_resources"]["clusters"]:
        if cluster["name"].startswith("pool/"):
            for field in ("load_assignment", "load_balancing_policy"):
                del cluster[field]
            header = {"use_http_header": True, "http_header_name": "x-gateway-destination-endpoint"}
            cluster |= {"type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED", "original_dst_lb_config": header}
    (listener,) = bootstrap["static_resources"]["listeners"]
    for chain in listener["filter_chains"]:
        del chain["filters"][0]["typed_config"]["early_header_mutation_extensions"]


async def test_an_envoy_that_goes_where_the_header_says_is_found_out(places):
    asked = select(CASES, ["gw.pick", "gw.pools.own-picker", "gw.fallback", "gw.failure.recovers", *FOUND_OUT])
    findings = await examined(places, named(PROFILES, "shunter-lean"), go_anywhere, asked)
    assert {name for name, each in findings.items() if each.verdict is Verdict.FAILED} == FOUND_OUT
