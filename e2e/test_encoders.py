"""Pictures are encoded by some engines, prompts computed by others and answered by yet others."""

import asyncio
import base64
import os
import secrets
import signal

import pytest

from shunter.stack.core.fleet import explain
from shunter.stack.testing import running_stack

pytestmark = pytest.mark.envoy


@pytest.fixture(scope="module")
def stages():
    """One engine that encodes, two that prefill, two that decode, which tests leave as they found it."""
    with running_stack("--disaggregated", "--encoders", "1", "--speed", "20") as stack:
        yield stack


def picture():
    """One that nobody has seen."""
    shown = base64.b64encode(secrets.token_bytes(48)).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{shown}"}}


def question(*pictures):
    return [{"type": "text", "text": f"{secrets.token_hex(4)}: what is it?"}, *pictures]


def engines(stack, role):
    return [engine for engine in stack.state.plan.engines if engine.role == role]


async def count(client, role, line):
    """What engines of a role tell of a series together; of those that decode, the engines behind the sidecars."""
    total = 0.0
    for engine in engines(client.stack, role):
        async with client.session.get(f"http://{engine.authority}/metrics") as page:
            total += sum(float(each.split()[-1]) for each in (await page.text()).splitlines() if each.startswith(line))
    return total


def encodings(stack, source):
    return f'shunter_lab_encodings_total{{engine="0",model_name="{stack.state.plan.model}",source="{source}"}}'


async def counts(client):
    """Who has answered requests and encoded pictures, and for whom others had encoded them."""
    lines = {name: encodings(client.stack, name) for name in ("computed", "storage")} | {
        "answered": "vllm:request_success_total"
    }
    return {
        (role, what): await count(client, role, line)
        for role in ("encode", "prefill", "decode")
        for what, line in lines.items()
    }


@pytest.fixture
def ask(connect, stages):
    """Ask for one answer; returns it, and by how much the engines' counts have grown: those that have."""

    async def run(content, **fields):
        client = connect(stages)
        before = await counts(client)
        reply = await client.chat(content, temperature=0, **fields)
        assert reply.status == 200, reply.body
        grown = {name: now - before[name] for name, now in (await counts(client)).items()}
        return reply, {name: by for name, by in grown.items() if by}

    return run


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
async def test_one_engine_encodes_another_prefills_and_a_third_decodes(connect, stages, ask, streamed):
    reply, grown = await ask(question(picture(), picture()), stream=streamed)
    assert reply.text
    assert grown == {
        ("encode", "answered"): 2,
        ("encode", "computed"): 2,
        ("prefill", "answered"): 1,
        ("prefill", "storage"): 2,
        ("decode", "answered"): 1,
    }
    decision = await connect(stages).decision(reply.request_id)
    (encoder,) = engines(stages, "encode")
    assert decision.others["encode"].chosen == (encoder.authority,)
    assert any(line.startswith("  profile encode: ") for line in explain(decision, decision.at_s))


async def test_the_text_is_the_same_as_from_one_engine(connect, stages, ask):
    content = question(picture())
    divided, _ = await ask(content)
    alone = await connect(stages).chat(content, temperature=0, url=f"http://{engines(stages, 'prefill')[0].authority}")
    assert divided.text == alone.text


async def test_a_picture_that_was_shown_before_is_not_encoded_anew(ask):
    shown = picture()
    await ask(question(shown))
    reply, grown = await ask(question(shown))
    assert reply.text
    assert not {name for name in grown if name[1] == "computed"}


async def test_without_a_picture_nobody_is_asked_to_encode(connect, stages, ask):
    reply, grown = await ask(f"{secrets.token_hex(4)}: nothing to see")
    assert grown == {("prefill", "answered"): 1, ("decode", "answered"): 1}
    assert "encode" not in (await connect(stages).decision(reply.request_id)).others


async def test_every_picture_is_seen_although_the_encoder_dies_over_some(connect):
    """Slow engines, so that it dies while it encodes; then, and when it is gone, whoever prefills encodes itself."""
    with running_stack("--disaggregated", "--encoders", "1", "--speed", "1") as stack:
        client = connect(stack)
        content = question(*(picture() for _ in range(12)))
        asked = asyncio.create_task(client.chat(content, max_tokens=2, temperature=0))
        (victim,) = engines(stack, "encode")
        async with asyncio.timeout(60):
            while not await count(client, "encode", "vllm:num_requests_running"):  # noqa: ASYNC110  it tells nobody
                await asyncio.sleep(0.02)
        os.kill(stack.state.pids[victim.name], signal.SIGKILL)
        replies = [await asked, await client.chat(question(picture()), max_tokens=2)]
        assert [reply.status for reply in replies] == [200, 200]
        assert await count(client, "prefill", encodings(stack, "computed"))
        alone = f"http://{engines(stack, 'prefill')[0].authority}"
        assert (await client.chat(content, max_tokens=2, temperature=0, url=alone)).text == replies[0].text
