"""A worker with all the streams it takes, behind a real Envoy: another worker picks; without one it is as if none lived."""

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
from shunter.picker.core.limits import Limits
from shunter.picker.shell.worker import Settings, Worker

pytestmark = pytest.mark.envoy
REQUESTS = 8


@pytest.mark.parametrize("transport", ["native", "grpcio"])
@pytest.mark.parametrize("profile", ["lean", "full"])
async def test_another_worker_picks_and_without_one_it_is_as_if_none_lived(profile, transport, publish, tmp_path):
    try:
        binary = ensure()
    except EnvoyMissingError as error:
        pytest.skip(f"no Envoy: {str(error).splitlines()[0]}")

    async def answer(_):
        return web.json_response({})

    app = web.Application()
    app.router.add_post("/v1/completions", answer)
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(TestServer(app, host="127.0.0.1"))
        publish(server.port)
        client = await stack.enter_async_context(aiohttp.ClientSession())

        async def start(limits):
            settings = Settings(snapshot=tmp_path, port=0, health_port=0, drain_s=0.2, transport=transport, limits=limits)
            worker = Worker(config.load().policy, settings)
            address = f"127.0.0.1:{await worker.start()}"
            stack.push_async_callback(worker.drain)
            return worker.judge.counters, address

        async def statuses(*pickers):
            asked = {"addresses": [*pickers], "failureMode": "FailOpen"}
            pool = {"name": "p", "endpoints": [f"127.0.0.1:{server.port}"], "picker": asked}
            intent = {"pools": [pool], "profile": profile, "listeners": [{"port": 0}]}
            async with running_envoy(bootstrap(load_intent(json.dumps(intent))), binary) as envoy:
                for _ in range(REQUESTS):
                    async with client.post(f"{envoy.url}/v1/completions", json={"model": "m", "prompt": "hello"}) as reply:
                        yield reply.status

        full, full_at = await start(Limits(streams=0))
        other, other_at = await start(Limits())
        assert {status async for status in statuses(full_at, other_at)} == {200}
        assert full.tally().turned_away > 0
        assert other.tally().picks == REQUESTS
        # What is streamed to the picker as it comes Envoy cannot send on without it.
        assert {status async for status in statuses(full_at)} == {200 if profile == "lean" else 503}
        assert (full.tally().picks, other.tally().picks) == (0, REQUESTS)
