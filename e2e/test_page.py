"""The picker's web page upon a real stack, in a real Chromium. SHUNTER_SCREENSHOTS=1 paints the pictures of docs/page.md."""

import asyncio
import os
import random
import re
import signal
import socket
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hack.observability.chromium import HOW, find_chromium, running_chromium

from shunter.lab.testing import lab_server
from shunter.stack.testing import running_stack

browsing = pytest.mark.skipif(find_chromium() is None, reason=HOW)

DEADLINE_MS = 60_000
IMAGES = Path(__file__).parents[1] / "docs" / "images"

CONFIG = """
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
featureGates: [flowControl]
plugins:
- type: queue-scorer
- type: kv-cache-utilization-scorer
- type: prefix-cache-scorer
- type: concurrency-detector
  parameters: {maxConcurrency: 6}
flowControl:
  maxRequests: "200"
  defaultRequestTTL: 20s
  saturationDetector: {pluginRef: concurrency-detector}
schedulingProfiles:
- name: default
  plugins:
  - {pluginRef: queue-scorer, weight: 2}
  - {pluginRef: kv-cache-utilization-scorer, weight: 2}
  - {pluginRef: prefix-cache-scorer, weight: 3}
"""

MANIFESTS = """
apiVersion: llm-d.ai/v1alpha2
kind: InferenceModelRewrite
metadata: {name: assistant-canary}
spec:
  poolRef: {name: engines}
  rules:
  - matches: [{model: {value: assistant}}]
    targets:
    - {modelRewrite: assistant-v1, weight: 90}
    - {modelRewrite: assistant-v2, weight: 10}
---
apiVersion: llm-d.ai/v1alpha2
kind: InferenceObjective
metadata: {name: batch}
spec: {poolRef: {name: engines}, priority: -1}
"""


@pytest.fixture
def page():
    """Open the page of a stack."""

    @asynccontextmanager
    async def page(stack, **options):
        async with running_chromium(find_chromium()) as browser:
            context = await browser.new_context(
                **({"viewport": {"width": 1280, "height": 800}, "color_scheme": "dark"} | options)
            )
            page = await context.new_page()
            page.set_default_timeout(DEADLINE_MS)
            complaints = []
            page.on("console", lambda message: message.type == "error" and complaints.append(message.text))
            page.on("pageerror", lambda error: complaints.append(str(error)))
            await page.goto(url(stack))
            await page.locator("#connection", has_text="live").wait_for()
            yield page
            assert complaints == []

    return page


def url(stack):
    return next(line.split()[1] for line in stack.output.splitlines() if line.split()[:1] == ["page"])


@browsing
async def test_a_request_is_explained_from_its_arrival_to_its_end(page, connect, lean, eventually):
    client = connect(lean)
    async with page(lean) as shown:
        hostile = "<img src=x onerror=alert(1)>"
        reply = await client.chat("hello", model=hostile)
        await shown.locator("#decisions .model", has_text=hostile).first.wait_for()
        await client.log(reply.request_id)  # Envoy has told the collector too, or is about to
        served = (await client.chat("what is a shunter?")).request_id
        await eventually(
            lambda: any(each.request_id == served and each.outcome and each.outcome.status for each in lean.decisions())
        )
        await shown.locator("#wanted").fill(served)
        await shown.get_by_role("button", name="Explain").click()
        dialog = await shown.locator("#why[open]").inner_text()
    assert served in dialog
    assert "Scores" in dialog
    assert "200" in dialog.partition("How it ended")[2]


async def test_viewers_that_never_read_take_nothing_from_the_picks(connect, lean):
    client, (host, port) = connect(lean), urlsplit(url(lean)).netloc.split(":")
    with ExitStack() as deaf:
        for _ in range(17):  # one more than may look
            viewer = deaf.enter_context(socket.create_connection((host, int(port))))
            viewer.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        replies = [await client.chat(f"wagon {n}") for n in range(20)]
        for reply in replies:
            assert (reply.status, (await client.decision(reply.request_id)).chosen[0]) == (200, reply.served)
        async with client.session.get(url(lean) + "metrics") as response:
            (dropped,) = re.findall(r"^shunter_picker_page_clients_dropped_total (.*)$", await response.text(), re.MULTILINE)
    assert float(dropped) >= 1
    async with asyncio.timeout(DEADLINE_MS / 1000):  # their places are free again for the tests that follow
        while True:
            async with client.session.get(url(lean) + "events") as response:
                if response.status == 200:
                    break
            await asyncio.sleep(0.1)


@browsing
async def test_an_endpoint_that_dies_is_told_of_and_so_is_a_worker(page, connect):
    with running_stack("--engines", "3") as stack:
        async with page(stack) as shown:
            await shown.locator("#verdict.well").wait_for()
            os.kill(stack.state.pids["engine-1"], signal.SIGKILL)
            await shown.locator("#verdict", has_text="engine-1 does not answer").wait_for()
            assert await shown.locator("#heat .away .name").all_inner_texts() == ["engine-1"]
            os.kill(stack.workers()[0]["pid"], signal.SIGKILL)
            await shown.locator("#verdict", has_text="Worker 0 was started again once").wait_for()
            await shown.locator("#workers", has_text="signal ×1").wait_for()


@asynccontextmanager
async def load(client, clients=26):
    """Keep the stack busy with conversations that share beginnings, some of low priority, some for a rewritten model."""

    async def talk(seed):
        dice = random.Random(seed)
        headers = {"x-gateway-inference-objective": "batch"} if seed % 5 == 0 else {}
        while True:
            prompt = f"You are assistant {dice.randrange(6)}. " * dice.randrange(40, 160) + str(dice.random())
            model = {"model": "assistant"} if dice.random() < 0.3 else {}
            await client.chat(prompt, headers=headers, max_tokens=dice.randrange(16, 160), stream=True, **model)
            await asyncio.sleep(dice.random() * 0.5)

    tasks = [asyncio.create_task(talk(seed)) for seed in range(clients)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@browsing
@pytest.mark.skipif(not os.environ.get("SHUNTER_SCREENSHOTS"), reason="paints docs/images with SHUNTER_SCREENSHOTS=1")
async def test_the_pictures_of_the_docs(page, connect, tmp_path):
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "manifests.yaml").write_text(MANIFESTS)
    options = ["--config", str(tmp_path / "config.yaml"), "--manifests", str(tmp_path / "manifests.yaml"), "--dialect", "vllm"]
    IMAGES.mkdir(exist_ok=True)
    async with AsyncExitStack() as engines, AsyncExitStack() as mortal:
        for at in range(8):
            owner = mortal if at == 3 else engines
            server = await owner.enter_async_context(
                lab_server(loras=("assistant-v1", "assistant-v2"), max_loras=2, dialect="vllm")
            )
            options += ["--backend", server.url]
        with ExitStack() as stacks:
            stack = await asyncio.to_thread(stacks.enter_context, running_stack(*options))
            async with load(connect(stack)):
                async with page(stack) as shown:
                    await asyncio.sleep(75)  # the small charts show some past
                    await shown.locator("#heat .cell").nth(2).click()
                    await shown.screenshot(path=IMAGES / "page-dark.png", full_page=True)
                    await shown.locator("#decisions li button").nth(12).click()
                    await asyncio.sleep(1)
                    await shown.screenshot(path=IMAGES / "page-why.png")
                async with page(stack, color_scheme="light") as shown:
                    await mortal.aclose()
                    await shown.locator("#verdict", has_text="backend-3 does not answer").wait_for()
                    await asyncio.sleep(12)
                    await shown.screenshot(path=IMAGES / "page-light.png")
                async with page(stack, viewport={"width": 390, "height": 844}) as shown:
                    await asyncio.sleep(8)
                    await shown.screenshot(path=IMAGES / "page-phone.png")
