"""A request reaches the endpoint that the picker named, and the picker names the right one."""

import asyncio
import secrets

import pytest

pytestmark = pytest.mark.envoy


def prompt(words=400):
    """A prompt nobody has sent before, long enough to be worth caching."""
    return " ".join([secrets.token_hex(4), *("wagon" for _ in range(words))])


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
async def test_the_endpoint_is_the_one_the_picker_named(client, streamed):
    reply = await client.chat("which track?", stream=streamed)
    assert reply.status == 200
    assert reply.streamed is streamed
    assert reply.text
    decision, log = await client.decision(reply.request_id), await client.log(reply.request_id)
    named = decision.chosen[0]
    assert reply.fingerprint == f"lab-{named.rpartition(':')[2]}", "the server itself says who answered"
    assert reply.served == named, "Envoy tells the client"
    assert log["served"] == named, "Envoy tells its log"
    assert log["pick"] == ",".join(decision.chosen), "the log has the picker's whole list"
    assert log["ticket"] == str(decision.ticket)
    assert (log["attempts"], log["status"]) == (1, 200)


async def test_the_text_is_the_servers_whatever_the_way(client):
    """Deterministic servers: the same prompt has the same text, whole, streamed, or fetched past the gateway."""
    question = prompt(20)
    whole = await client.chat(question, temperature=0)
    streamed = await client.chat(question, temperature=0, stream=True)
    direct = await client.chat(question, temperature=0, url=f"http://{whole.served}")
    assert whole.text == streamed.text == direct.text


async def test_the_account_is_closed_when_the_request_ends(client, eventually):
    reply = await client.chat("short")
    decision = await client.decision(reply.request_id)
    await eventually(lambda: next(d for d in client.stack.decisions() if d.ticket == decision.ticket).outcome)
    await eventually(lambda: not any(row.in_flight for row in client.stack.fleet().endpoints))


async def test_a_client_that_leaves_is_struck_from_the_account(client, eventually):
    url = f"{client.stack.gateway}/v1/chat/completions"
    body = {"model": client.stack.state.plan.model, "messages": [{"role": "user", "content": "long"}]}
    async with client.session.post(url, json=body | {"stream": True, "max_tokens": 2000, "ignore_eos": True}) as response:
        await response.content.readline()
        assert sum(row.in_flight for row in client.stack.fleet().endpoints) == 1
    await eventually(lambda: not any(row.in_flight for row in client.stack.fleet().endpoints))


async def test_equal_prefixes_stick(client):
    shared = prompt()
    first = await client.chat(shared + " one")
    again = [await client.chat(f"{shared} {n}") for n in range(5)]
    assert {reply.served for reply in again} == {first.served}
    decision = await client.decision(again[-1].request_id)
    scores = {each.endpoint: each.scores["expected-delay-scorer"] for each in decision.best}
    assert scores.pop(first.served) == 1.0
    assert max(scores.values()) < 1.0


async def test_strangers_spread(client):
    """A burst of unrelated requests goes to everybody: what was just sent somewhere counts at once."""
    replies = await asyncio.gather(*(client.chat(prompt(), max_tokens=32, ignore_eos=True) for _ in range(12)))
    counts = {reply.served: 0 for reply in replies}
    for reply in replies:
        counts[reply.served] += 1
    assert len(counts) == 3
    assert max(counts.values()) <= 6


async def test_a_longer_queue_moves_traffic(client, eventually):
    """Requests that went past the gateway to one engine show in its metrics, and traffic goes to the others."""
    busy = client.stack.state.plan.engines[0]
    model = client.stack.state.plan.model
    body = {"model": model, "prompt": "busy", "max_tokens": 4000, "ignore_eos": True, "stream": True}
    async with asyncio.TaskGroup() as tasks:

        async def occupy():
            async with client.session.post(f"http://{busy.authority}/v1/completions", json=body) as response:
                async for _ in response.content:
                    pass

        crowd = [tasks.create_task(occupy()) for _ in range(400)]
        try:

            def queue():
                return next(row.waiting or 0 for row in client.stack.fleet().endpoints if row.authority == busy.authority)

            await eventually(lambda: queue() > 20)
            replies = [await client.chat(prompt()) for _ in range(6)]
            assert queue() > 0, "the queue outlived the requests"
        finally:
            for task in crowd:
                task.cancel()
    assert busy.authority not in {reply.served for reply in replies}
    await eventually(lambda: queue() == 0)


async def test_get_is_answered_by_some_engine(client):
    async with client.session.get(f"{client.stack.gateway}/v1/models") as response:
        assert response.status == 200
        assert (await response.json())["data"][0]["id"] == client.stack.state.plan.model
