"""Prompts are computed by some engines and answered by others: Envoy, picker, sidecars and the lab's engines."""

import asyncio
import json
import os
import secrets
import signal

import pytest

from shunter.stack.testing import running_stack

pytestmark = pytest.mark.envoy


@pytest.fixture(scope="module")
def stages():
    """Two engines that prefill and two that decode, which tests leave as they found it."""
    with running_stack("--disaggregated", "--speed", "20") as stack:
        yield stack


def prompt(words=600):
    return " ".join([secrets.token_hex(4), *("wagon" for _ in range(words))])


def roles(stack):
    return {engine.authority: engine.name for engine in stack.state.plan.engines}


async def metric(client, authority, name):
    async with client.session.get(f"http://{authority}/metrics") as page:
        lines = (await page.text()).splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


async def computed(client, role):
    """Requests that engines of a role have ended."""
    engines = [engine.authority for engine in client.stack.state.plan.engines if engine.role == role]
    return sum([await metric(client, each, "vllm:request_success_total") for each in engines])


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
async def test_one_engine_prefills_and_another_decodes(connect, stages, streamed):
    client = connect(stages)
    before = [await computed(client, role) for role in ("prefill", "decode")]
    reply = await client.chat(prompt(), stream=streamed, temperature=0)
    assert (reply.status, reply.streamed) == (200, streamed)
    assert reply.text
    after = [await computed(client, role) for role in ("prefill", "decode")]
    assert [now - then for now, then in zip(after, before, strict=True)] == [1, 1]
    decision = await client.decision(reply.request_id)
    assert roles(stages)[reply.served].startswith("decode")
    assert roles(stages)[decision.others["prefill"].chosen[0]].startswith("prefill")


async def test_the_text_is_the_same_as_from_one_engine(connect, stages):
    client = connect(stages)
    question = prompt(100)
    alone = next(engine for engine in stages.state.plan.engines if engine.role == "prefill")
    divided = await client.chat(question, temperature=0)
    whole = await client.chat(question, temperature=0, url=f"http://{alone.authority}")
    assert divided.text == whole.text


async def test_a_client_cannot_say_who_prefills(connect, stages):
    """The picker's header replaces the client's; nobody is asked whom the client names."""
    asked = []

    async def take(_reader, writer):
        asked.append(1)
        writer.close()

    client = connect(stages)
    async with await asyncio.start_server(take, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        reply = await client.chat(prompt(), headers={"x-prefiller-host-port": f"127.0.0.1:{port}"})
        assert reply.status == 200
        # Past the gateway the sidecar itself refuses, since that is no endpoint of the pool.
        sidecar = next(engine for engine in stages.state.plan.engines if engine.role == "decode")
        reply = await client.chat(
            prompt(), headers={"x-prefiller-host-port": f"127.0.0.1:{port}"}, url=f"http://{sidecar.authority}"
        )
        assert reply.status == 403
        assert "no endpoint of the pool" in json.loads(reply.body)["error"]["message"]
    assert asked == []


async def test_nobody_is_left_in_the_account(connect, stages, eventually):
    client = connect(stages)
    replies = await asyncio.gather(*(client.chat(prompt()) for _ in range(8)))
    assert {reply.status for reply in replies} == {200}
    await eventually(lambda: not any(row.in_flight for row in stages.fleet().endpoints))


async def test_every_request_is_answered_although_a_prefiller_dies_with_its_prompt(connect):
    """Slow engines, so that it dies while it computes; the decoders' sidecars turn to whoever is left."""
    with running_stack("--disaggregated", "--speed", "1") as stack:
        client = connect(stack)
        asked = [asyncio.create_task(client.chat(prompt(4000), max_tokens=2)) for _ in range(4)]
        victim = next(engine for engine in stack.state.plan.engines if engine.role == "prefill")
        async with asyncio.timeout(60):
            while not await metric(client, victim.authority, "vllm:num_requests_running"):  # noqa: ASYNC110  it tells nobody
                await asyncio.sleep(0.02)
        os.kill(stack.state.pids[victim.name], signal.SIGKILL)
        replies = await asyncio.gather(*asked)
        assert {reply.status for reply in replies} == {200}
        assert all(roles(stack)[reply.served].startswith("decode") for reply in replies)


async def test_a_prefiller_that_hangs_is_given_up_and_found_again(connect):
    """Its metrics come, so that the picker goes on naming it; the sidecars turn to the other, and tell who it is."""
    with running_stack("--disaggregated", "--speed", "20", "--sidecar-option=--prefill-timeout=0.5") as stack:
        client = connect(stack)
        victim = next(engine for engine in stack.state.plan.engines if engine.role == "prefill")

        async def let_it(*faults):
            async with client.session.put(f"http://{victim.authority}/admin/faults", json=faults) as answer:
                assert answer.status == 200

        async def ask_until(words):
            async with asyncio.timeout(60):
                while not any(words in log.read_text() for log in stack.directory.glob("logs/decode-*.log")):
                    reply = await client.chat(prompt(), max_tokens=2)
                    assert reply.status == 200

        await let_it({"name": "latency", "seconds": 86_400})
        await ask_until(f"prefill by {victim.authority} failed: no answer within 0.5 s; until it works one request at a time")
        await let_it()
        before = await metric(client, victim.authority, "vllm:request_success_total")
        await ask_until(f"prefill by {victim.authority} works again, after")
        assert await metric(client, victim.authority, "vllm:request_success_total") > before
