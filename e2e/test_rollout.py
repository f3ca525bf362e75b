"""A new adapter takes over behind a real Envoy, under traffic; one that fails goes back; who lacks it gets no request for it.

The engines are the lab's, in this process: they answer 404 for an adapter that they do not have.
"""

import asyncio
import json
import sys
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec
import pytest

from shunter.lab.errors import ApiError
from shunter.lab.testing import lab_server
from shunter.stack.testing import running_stack

V1, V2 = "food-review-v1", "food-review-v2"
ENGINES = 3


def engine(name, **more):
    return lab_server(name=name, speed=50, enable_lora=True, max_loras=4, **more)


@pytest.fixture
async def engines():
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(engine(f"engine-{n}", loras=[V1])) for n in range(ENGINES)]


@pytest.fixture
async def own(engines):
    """A stack in front of these engines."""
    running = running_stack(*(word for each in engines for word in ("--backend", each.url)))
    stack = await asyncio.to_thread(running.__enter__)
    try:
        yield stack
    finally:
        await asyncio.to_thread(running.__exit__, None, None, None)


@pytest.fixture
async def client(own, connect):
    """Asks for the food review, which the old version does so far."""
    (own.directory / "cluster" / "food-review.yaml").write_bytes(rule())
    client = connect(own)
    async with asyncio.timeout(60):
        while (await ask(client)).status != 200:
            pass
    return client


@pytest.fixture
def rollout(own, tmp_path):
    """Run the rollout to its end; return the code and what it printed."""
    (tmp_path / "rollout.yaml").write_text(f"""
kind: Rollout
name: food-review-v2
model: food-review
from: {{model: {V1}, source: /adapters/{V1}}}
to: {{model: {V2}, source: /adapters/{V2}}}
pool: engines
traffic: {{rewriteFile: {own.directory}/cluster/food-review.yaml}}
pickers: ["http://127.0.0.1:{own.state.plan.ports.admin}"]
steps: [5, 50, 100]
pause: 1s
analysis: {{minRequests: 20, latency: null}}
""")

    async def rollout():
        arguments = ("start", "-f", tmp_path / "rollout.yaml", "--state", tmp_path / "state", "--interval", "0.3")
        command = (sys.executable, "-m", "shunter.rollout", *map(str, arguments))
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        output, _ = await process.communicate()
        return process.returncode, output.decode()

    return rollout


def rule(target=V1):
    rules = [{"matches": [{"model": {"value": "food-review"}}], "targets": [{"modelRewrite": target}]}]
    document = {
        "apiVersion": "llm-d.ai/v1alpha2",
        "kind": "InferenceModelRewrite",
        "metadata": {"name": "food-review"},
        "spec": {"poolRef": {"name": "engines"}, "rules": rules},
    }
    return msgspec.yaml.encode(document)


async def ask(client):
    return await client.chat("is it good?", model="food-review")


@asynccontextmanager
async def traffic(client, clients=4):
    """Ask all the time; yields how often there was each status, from each model on each engine."""
    answers, ending = Counter(), asyncio.Event()

    async def go_on():
        while not ending.is_set():
            reply = await ask(client)
            body = json.loads(reply.body)
            answers[reply.status, body.get("model"), body.get("system_fingerprint")] += 1

    asking = [asyncio.create_task(go_on()) for _ in range(clients)]
    yield answers
    ending.set()
    await asyncio.gather(*asking)


async def test_a_new_version_takes_over_and_no_request_fails(engines, client, rollout):
    async with traffic(client) as answers:
        code, output = await rollout()
    assert code == 0, output
    assert {status for status, *_ in answers} == {200}
    assert {model for _, model, _ in answers} == {V1, V2}
    assert [set(each.models.adapters) for each in engines] == [{V2}] * ENGINES


async def test_errors_of_the_new_version_bring_everybody_back(engines, client, rollout, eventually):
    def broken(model, resolve):
        if model == V2:
            raise ApiError(500, "its weights are no numbers")
        return resolve(model)

    for each in engines:
        each.models.resolve = lambda model, resolve=each.models.resolve: broken(model, resolve)
    async with traffic(client) as answers:
        code, output = await rollout()
        assert code == 1, output
        assert f"rolled back: {V2} is worse at 5 %" in output
        answers.clear()  # what comes from here on
        await eventually(lambda: answers.total() > 100)
    assert {answer[:2] for answer in answers} == {(200, V1)}
    assert [set(each.models.adapters) for each in engines] == [{V1}] * ENGINES


async def test_an_engine_that_comes_without_the_adapter_gets_its_requests_when_it_has_it(own, client, eventually):
    file = own.directory / "cluster" / "endpoints.yaml"
    *documents, endpoints = file.read_text().split("\n---\n")
    async with engine("newcomer") as newcomer, traffic(client) as answers:
        listed = msgspec.yaml.decode(endpoints.encode())
        listed["endpoints"].append({**listed["endpoints"][0], "name": "newcomer", "port": str(newcomer.port)})
        file.write_text("\n---\n".join([*documents, msgspec.yaml.encode(listed).decode()]))
        await eventually(lambda: any(row.name == "newcomer" and row.health == "fresh" for row in own.fleet().endpoints))
        seen = answers.total()
        await eventually(lambda: answers.total() > seen + 200)
        assert {fingerprint for *_, fingerprint in answers} == {f"engine-{n}" for n in range(ENGINES)}
        newcomer.models.load(V1, "/adapters/v1")
        await eventually(lambda: answers[200, V1, "newcomer"])
    assert {status for status, *_ in answers} == {200}
