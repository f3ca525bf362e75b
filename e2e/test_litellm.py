"""LiteLLM's proxy in front of a whole stack, with another provider behind it.

Runs where ``hack/litellm/install`` has put it; docs/gateway/litellm.md shows this configuration.
"""

import asyncio
import contextlib
import json
import os
import signal
from pathlib import Path

import pytest
from aiohttp import ClientError, web
from aiohttp.test_utils import TestServer

from shunter.envoyconf.shell.envoy import tools_dir
from shunter.stack.shell import ports
from shunter.stack.testing import running_stack

LITELLM = tools_dir() / "litellm" / "bin" / "litellm"
PAGE = Path(__file__).parents[1] / "docs" / "gateway" / "litellm.md"
READY_S = 120  # it imports half of PyPI
QUIET = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "DISABLE_ADMIN_UI": "True", "NO_DOCS": "True"}

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not LITELLM.exists(), reason="no LiteLLM: hack/litellm/install")]


def documented(places):
    """Return the configuration of the documentation, with addresses and names of this test's."""
    text = PAGE.read_text().partition("```yaml\n")[2].partition("```")[0]
    for place, name in places.items():
        assert place in text
        text = text.replace(place, name)
    return text


OBJECTIVE = """
apiVersion: inference.networking.x-k8s.io/v1alpha2
kind: InferenceObjective
metadata: {name: urgent}
spec: {priority: 7, poolRef: {name: engines}}
"""


class Provider:
    """What LiteLLM falls back to: it answers its own name, and keeps what it was asked."""

    def __init__(self):
        self.asked = []

    async def answer(self, request):
        self.asked.append((dict(request.headers), await request.json()))
        message = {"role": "assistant", "content": "from afar"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
        return web.json_response(
            {"id": "1", "object": "chat.completion", "created": 1, "model": "hosted", "choices": [choice], "usage": usage}
        )


@pytest.fixture
async def provider():
    provider = Provider()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", provider.answer)
    async with TestServer(app, host="127.0.0.1") as server:
        provider.url = f"http://127.0.0.1:{server.port}/v1"
        yield provider


@contextlib.asynccontextmanager
async def litellm(config, directory, session):
    """Run LiteLLM with a configuration, and tell its URL when it serves."""
    (directory / "litellm.yaml").write_text(config)
    with contextlib.ExitStack() as held:
        port = ports.claim({"litellm": 0}, held)["litellm"]
    with (directory / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(str(LITELLM), "--config", str(directory / "litellm.yaml"), "--host", "127.0.0.1", "--port", str(port)),
            env={**os.environ, **QUIET, "LITELLM_MASTER_KEY": "sk-ours", "PROVIDER_KEY": "theirs"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        url = f"http://127.0.0.1:{port}"
        try:
            async with asyncio.timeout(READY_S):
                while True:
                    assert process.returncode is None, (directory / "log").read_text()[-2000:]
                    with contextlib.suppress(ClientError):
                        async with session.get(f"{url}/health/liveliness") as answer:
                            if answer.status == 200:
                                break
                    await asyncio.sleep(0.2)
            yield url
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            await process.wait()


async def test_litellm_in_front_of_the_stack(connect, provider, tmp_path):
    """Chats, streams and headers reach the picker; when the gateway is gone, the provider answers."""
    (tmp_path / "objects.yaml").write_text(OBJECTIVE)
    with running_stack("--manifests", str(tmp_path / "objects.yaml")) as stack:
        client = connect(stack)
        model = stack.state.plan.model
        places = {"http://127.0.0.1:8080": stack.gateway, "MODEL": model, "https://api.openai.com/v1": provider.url}
        async with litellm(documented(places), tmp_path, client.session) as url:
            headers = {"authorization": "Bearer sk-ours", "x-gateway-inference-objective": "urgent"}

            async def chat(**body):
                return await client.chat("hello", url=url, headers=headers, model="llama", **body)

            for stream in (False, True):
                reply = await chat(stream=stream)
                assert (reply.status, bool(reply.text)) == (200, True)
                decision = await client.decision(reply.request_id)  # found by the client's own x-request-id
                assert (decision.model, decision.priority) == (model, 7)
                line = await client.log(reply.request_id)
                assert (line["status"], line["served"]) == (200, decision.chosen[0])
            assert provider.asked == []

            os.kill(stack.process.pid, signal.SIGTERM)
            await asyncio.to_thread(stack.process.wait, 60)
            asking = {"model": "llama", "messages": [{"role": "user", "content": "hello"}]}
            reply = await client.post(json.dumps(asking).encode(), url=url, headers=headers)
            assert (reply.status, reply.text) == (200, "from afar")
    ((told, asked),) = provider.asked
    assert asked["model"] == "gpt-5-mini"
    assert told["Authorization"] == "Bearer theirs"
    assert told["x-gateway-inference-objective"] == "urgent"  # as the page warns; the client's key is not among them
