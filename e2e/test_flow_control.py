"""Requests that wait for room, through everything that is real: Envoy, two workers, and engines that take their time."""

import asyncio

import msgspec
import pytest

from shunter.stack.shell import web
from shunter.stack.testing import running_stack

pytestmark = pytest.mark.envoy

CONFIG = {
    "apiVersion": "llm-d.ai/v1alpha1",
    "kind": "EndpointPickerConfig",
    "featureGates": ["flowControl"],
    "plugins": [{"type": "concurrency-detector", "parameters": {"maxConcurrency": 1}}],
    "flowControl": {
        "maxRequests": "2",
        "defaultRequestTTL": "20s",
        "saturationDetector": {"pluginRef": "concurrency-detector"},
    },
}
GOLD = {
    "apiVersion": "llm-d.ai/v1alpha2",
    "kind": "InferenceObjective",
    "metadata": {"name": "gold"},
    "spec": {"priority": 1, "poolRef": {"name": "engines"}},
}
DEADLINE_S = 30
LONG_TOKENS = 30  # at a quarter of a small GPU's speed: longer than Envoy waits for a pick


@pytest.fixture
def own(request, tmp_path):
    config, manifests = tmp_path / "picker.yaml", tmp_path / "objectives.yaml"
    config.write_bytes(msgspec.yaml.encode(CONFIG))
    manifests.write_bytes(msgspec.yaml.encode(GOLD))
    arguments = ["--engines", "2", "--speed", "0.25", "--config", str(config), "--manifests", str(manifests)]
    with running_stack("--profile", request.param, *arguments) as stack:
        yield stack


def number(page, name):
    return sum(float(line.split()[-1]) for line in page.splitlines() if line.startswith(name))


async def metrics(stack):
    ports = stack.state.plan.ports
    picker = (await asyncio.to_thread(web.get, f"127.0.0.1:{ports.admin}", "/metrics")).body.decode()
    return {
        "waiting": number(picker, "llm_d_epp_flow_control_queue_size"),
        "dispatched": number(picker, 'llm_d_epp_flow_control_requests_total{inference_pool="default",outcome="Dispatched"'),
        "left": number(picker, 'llm_d_epp_flow_control_requests_total{inference_pool="default",outcome="EvictedC'),
    }


async def until(stack, **wanted):
    async with asyncio.timeout(DEADLINE_S):
        while not wanted.items() <= (found := await metrics(stack)).items():  # noqa: ASYNC110  other processes tell nobody
            await asyncio.sleep(0.05)
        return found


@pytest.mark.parametrize("own", ["lean", "strict", "full"], indirect=True)
async def test_who_waits_longer_than_envoy_does_for_a_pick_is_picked_in_order_and_who_is_too_many_is_refused(own, connect):
    client = connect(own)
    before = await metrics(own)
    ended = []

    async def ask(name, tokens, objective=None):
        headers = {"x-llm-d-inference-objective": objective} if objective else {}
        reply = await client.chat(name, headers=headers, max_tokens=tokens)
        ended.append(name)
        return reply

    running = [asyncio.create_task(ask(f"long {at}", LONG_TOKENS)) for at in range(2)]
    await until(own, dispatched=before["dispatched"] + 2)
    waiting = asyncio.create_task(ask("waits", LONG_TOKENS))
    await until(own, waiting=1)
    better = asyncio.create_task(ask("better", 4, "gold"))
    await until(own, waiting=2)
    refused = await ask("too many", 4)
    assert (refused.status, refused.headers["x-llm-d-request-dropped-reason"]) == (429, "rejected-saturated")
    replies = await asyncio.gather(*running, waiting, better)
    assert [reply.status for reply in replies] == [200] * 4
    assert ended.index("better") < ended.index("waits")
    after = await until(own, waiting=0)
    assert after["dispatched"] == before["dispatched"] + 4, "each was picked"
    assert after["left"] == 0, "Envoy gave nobody up"
    if own.state.plan.profile == "full":
        assert int(replies[2].headers["x-llm-d-flow-queue-duration-ms"]) > 1000


@pytest.mark.parametrize("own", ["lean", "full"], indirect=True)
async def test_who_waited_for_a_pool_of_none_is_served_by_its_first_endpoint(own, connect, eventually):
    client = connect(own)
    endpoints = own.directory / "cluster" / "endpoints.yaml"
    before = endpoints.read_bytes()
    endpoints.write_bytes(before[: before.index(b"endpoints:")] + b"endpoints: []\n")
    await eventually(lambda: not own.fleet().endpoints)
    waiting = [asyncio.create_task(client.chat(f"anybody {at}?", max_tokens=1)) for at in range(2)]
    await until(own, waiting=2)
    endpoints.write_bytes(before)  # of which Envoy hears later than the picker
    assert [reply.status for reply in await asyncio.gather(*waiting)] == [200, 200]
