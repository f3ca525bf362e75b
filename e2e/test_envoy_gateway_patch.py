"""The real Envoy Gateway with our patch: every profile, records, models in bodies, each weighted pool with its own picker."""

import asyncio
import contextlib
import os
from collections import Counter

import pytest

from shunter.envoyconf import load_intent, render
from shunter.envoyconf.core.generate import generate
from shunter.envoyconf.core.output import Settings
from shunter.envoyconf.core.targets import Target
from shunter.stack.testing import running_stack

pytestmark = pytest.mark.envoy

PORT = 10080
PROFILES = ("lean", "usage", "strict", "headers", "full", "native")


def intent(stack):
    plan = stack.state.plan
    engines = [engine.authority for engine in plan.engines]

    def pool(name, endpoints, mode="FailOpen"):
        addresses = [f"127.0.0.1:{port}" for port in plan.ports.picker]
        picker = {"addresses": addresses, "failureMode": mode, "collector": f"127.0.0.1:{plan.ports.collector}"}
        return {"name": name, "endpoints": endpoints, "picker": picker}

    return {
        "kubernetes": {"namespace": "llm"},
        "listeners": [{"port": PORT}],
        "pools": [
            pool("open", engines),
            pool("closed", engines, "FailClose"),
            pool("first", engines[:1]),
            pool("second", engines[1:2]),
        ],
        "routes": [
            {"hosts": ["model.test"], "models": [plan.model], "pool": "second"},
            {"hosts": ["split.test"], "pools": [{"name": "first", "weight": 3}, {"name": "second", "weight": 1}]},
            *(
                {"hosts": [f"{profile}.test"], "pool": "closed" if profile == "strict" else "open", "profile": profile}
                for profile in PROFILES
            ),
        ],
    }


LATER = pytest.mark.skipif("SHUNTER_EVERY_GATEWAY" not in os.environ, reason="needs its time: make envoyconf-gateways")


@pytest.fixture(scope="module", params=[pytest.param(1, id="names v1"), pytest.param(2, id="names v2", marks=LATER)])
def site(envoy_gateway, request):
    """The stack and its gateway, with both schemes of names in Envoy Gateway."""
    with contextlib.ExitStack() as resources:
        stack = resources.enter_context(running_stack("--speed", "20"))
        asked = load_intent(render(intent(stack), "json"))
        made = generate(asked, Target.ENVOY_GATEWAY_PATCH, Settings(xds_names=request.param))
        flags = ["XDSNameSchemeV2"] if request.param == 2 else []
        yield stack, resources.enter_context(envoy_gateway(made.documents, flags=flags))


@pytest.fixture
def ask(site, connect):
    client = connect(site[0])

    async def ask(case, prompt="which track?", **more):
        return await client.chat(prompt, url=f"http://127.0.0.1:{PORT}", headers={"host": f"{case}.test"}, **more)

    ask.decision = client.decision
    return ask


def names(stack):
    return {each.authority: f"lab-{each.port}" for each in stack.state.plan.engines}


async def test_all_patches_are_programmed(site):
    states = {(each.type, each.status) for each in site[1].conditions() if each.kind == "EnvoyPatchPolicy"}
    assert states == {("Accepted", "True"), ("Programmed", "True")}


@pytest.mark.parametrize("profile", [each for each in PROFILES if each != "native"])
async def test_who_is_picked_answers_and_the_picker_is_told_how_it_ended(site, ask, eventually, profile):
    stack, _ = site
    reply = await ask(profile, f"as {profile}", stream=True, stream_options={"include_usage": True})
    assert reply.status == 200
    decision = await ask.decision(reply.request_id)
    assert reply.fingerprint == names(stack)[decision.chosen[0]]

    async with asyncio.timeout(60):
        while not ((told := (await ask.decision(reply.request_id)).outcome) and told.served):
            pass  # the record is under way
    assert (told.complete, told.status, names(stack)[told.served]) == (True, 200, reply.fingerprint)
    if profile in {"usage", "full"}:
        assert told.completion_tokens == 8
    await eventually(lambda: sum(row.in_flight for row in stack.fleet().endpoints) == 0)


async def test_in_the_profile_native_nobody_is_asked(site, ask):
    replies = [await ask("native", f"native {n}") for n in range(3)]
    assert {reply.status for reply in replies} == {200}
    assert not {reply.request_id for reply in replies} & {each.request_id for each in site[0].decisions()}


async def test_a_route_goes_by_the_model_in_the_body(site, ask):
    reply = await ask("model")
    assert (reply.status, reply.fingerprint) == (200, names(site[0])[site[0].state.plan.engines[1].authority])
    assert (await ask("model", model="another")).status == 404


async def test_requests_are_divided_by_weight(site, ask):
    served = Counter([(await ask("split", f"part {n}")).fingerprint for n in range(40)])
    first, second = (names(site[0])[each.authority] for each in site[0].state.plan.engines[:2])
    assert set(served) == {first, second}
    assert served[first] > served[second]
