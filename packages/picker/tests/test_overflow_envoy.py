"""A pool without model servers, behind an Envoy that has an overflow: the picker refuses, and a provider answers."""

import contextlib
import json

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from shunter.envoyconf import EnvoyMissingError, bootstrap, load_intent
from shunter.envoyconf.shell.envoy import ensure
from shunter.envoyconf.testing import running_envoy
from shunter.picker import config
from shunter.picker.shell.worker import Settings, Worker

pytestmark = pytest.mark.envoy


@pytest.mark.parametrize("transport", ["native", "grpcio"])
@pytest.mark.parametrize("profile", ["lean", "strict", "full"])
async def test_what_the_picker_refuses_goes_to_the_provider(profile, transport, publish, tmp_path):
    try:
        binary = ensure()
    except EnvoyMissingError as error:
        pytest.skip(f"no Envoy: {str(error).splitlines()[0]}")

    async def answer(request):
        return web.json_response({"asked": await request.json()})

    app = web.Application()
    app.router.add_post("/v1/completions", answer)
    publish()  # of a pool that has lost all
    async with contextlib.AsyncExitStack() as stack:
        provider = await stack.enter_async_context(TestServer(app, host="127.0.0.1"))
        settings = Settings(snapshot=tmp_path, port=0, health_port=0, drain_s=0.2, transport=transport)
        worker = Worker(config.load().policy, settings)
        asked = {"addresses": [f"127.0.0.1:{await worker.start()}"], "failureMode": "FailClose", "collector": "127.0.0.1:1"}
        stack.push_async_callback(worker.drain)
        pool = {"name": "p", "endpoints": ["127.0.0.1:1"], "picker": asked}
        client = await stack.enter_async_context(aiohttp.ClientSession())
        answers = []
        for overflow in (None, {"address": f"127.0.0.1:{provider.port}", "tls": False}):
            intent = {
                "pools": [pool | ({"overflow": overflow} if overflow else {})],
                "profile": profile,
                "listeners": [{"port": 0}],
            }
            async with running_envoy(bootstrap(load_intent(json.dumps(intent))), binary) as envoy:
                body = {"model": "m", "prompt": "hello"}
                async with client.post(f"{envoy.url}/v1/completions", json=body) as reply:
                    answers.append((reply.status, (await reply.json()).get("asked")))
    assert answers == [(503, None), (200, body)]
