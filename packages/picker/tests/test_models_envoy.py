"""One listener of a real Envoy, one picker, two pools: the model in the body decides, and each pool's own rules hold."""

import contextlib
import io
import json
import time

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from shunter.envoyconf import EnvoyMissingError, bootstrap, load_intent
from shunter.envoyconf.shell.envoy import ensure
from shunter.envoyconf.testing import running_envoy
from shunter.picker import config
from shunter.picker.shell.worker import Settings, Worker
from shunter.snapshot import (
    Endpoint,
    Health,
    Load,
    LoadRow,
    Pool,
    Rewrite,
    RewriteRule,
    SnapshotWriter,
    Target,
    Topology,
)

pytestmark = pytest.mark.envoy

BASES = {"llama": "llama", "food-review": "llama"}
POOLS = ("llama", "qwen")


class Engine:
    """Says who it is, and what it was asked."""

    def __init__(self, name):
        self.name = name

    async def answer(self, request):
        body = await request.json()
        told = {name: request.headers.get(name) for name in ("x-gateway-model-name", "x-gateway-base-model-name")}
        return web.json_response({"engine": self.name, "asked": body["model"], "size": len(body["prompt"])} | told)

    @contextlib.asynccontextmanager
    async def serving(self):
        app = web.Application(client_max_size=1 << 30)
        app.router.add_post("/{path:.*}", self.answer)
        async with TestServer(app, host="127.0.0.1") as server:
            self.port = server.port
            yield self


class Scene:
    """``ask`` sends a request for a model and returns status and answer."""

    def __init__(self, url, client, picker, router):
        self.url = url
        self.client = client
        self.picker = picker
        self.router = router

    async def ask(self, model, size=10, **headers):
        body = {"prompt": "x" * size} | ({} if model is None else {"model": model})
        data = io.BytesIO(json.dumps(body).encode())
        headers["content-type"] = "application/json"
        async with self.client.post(f"{self.url}/v1/completions", data=data, headers=headers) as answer:
            return answer.status, await answer.json()


def publish(writer, engines):
    now_ns = time.monotonic_ns()
    endpoints = tuple(
        Endpoint(slot=at, incarnation=1, name=f"pod-{at}", address="127.0.0.1", port=engine.port, pools=(at,))
        for at, engine in enumerate(engines)
    )
    rules = (RewriteRule(models=("qwen",), targets=(Target(model="qwen-v2"),)),)
    topology = Topology(
        epoch=1,
        generation=1,
        pools=tuple(Pool(name=name) for name in POOLS),
        endpoints=endpoints,
        rewrites=(Rewrite(name="to-v2", pool="qwen", rules=rules),),
    )
    writer.publish_topology(topology, now_ns)
    fresh = {"health": Health.FRESH, "sampled_ns": now_ns, "waiting": 0.0, "running": 0.0, "kv_usage": 0.5}
    rows = [LoadRow(slot=at, incarnation=1, **fresh) for at in range(len(engines))]
    writer.publish_load(Load.of(rows, epoch=1, topology_generation=1, published_ns=now_ns))


def set_router_mode(resource, mode):
    manager = resource["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    router = next(each for each in manager["http_filters"] if each["name"].endswith("body_router"))
    trailers = "SEND" if mode == "FULL_DUPLEX_STREAMED" else "SKIP"
    router["typed_config"]["processing_mode"] |= {"request_body_mode": mode, "request_trailer_mode": trailers}


# How the body router is asked: as envoyconf has it, and as other gateways have it.
ROUTER_MODES = ("BUFFERED", "FULL_DUPLEX_STREAMED")


@pytest.fixture(params=[(profile, mode) for profile in ("lean", "full", "strict") for mode in ROUTER_MODES], ids="-".join)
async def scene(request, tmp_path):
    profile, mode = request.param
    try:
        binary = ensure()
    except EnvoyMissingError as error:
        pytest.skip(f"no Envoy: {str(error).splitlines()[0]}")
    async with contextlib.AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(Engine(name).serving()) for name in POOLS]
        writer = stack.enter_context(contextlib.closing(SnapshotWriter(tmp_path)))
        publish(writer, engines)
        workers = []
        for bases in (None, BASES):
            settings = Settings(snapshot=tmp_path, port=0, health_port=0, drain_s=0.2, serve_models=True)
            worker = Worker(config.load().policy, settings, bases=bases)
            workers.append((worker, f"127.0.0.1:{await worker.start()}"))
            stack.push_async_callback(worker.drain)
        (picker, picker_address), (router, router_address) = workers
        asked = {"addresses": [picker_address], "failureMode": "FailClose", "collector": "127.0.0.1:1"}
        intent = {
            "listeners": [{"port": 0}],
            "profile": profile,
            "bodyRouter": {"addresses": [router_address]},
            "pools": [
                {"name": name, "endpoints": [f"127.0.0.1:{engine.port}"], "picker": asked, "inferencePool": f"default/{name}"}
                for name, engine in zip(POOLS, engines, strict=True)
            ],
            "routes": [{"pool": "llama", "baseModels": ["llama"]}, {"pool": "qwen", "models": ["qwen"]}],
        }
        resource = bootstrap(load_intent(json.dumps(intent)))
        set_router_mode(resource, mode)
        envoy = await stack.enter_async_context(running_envoy(resource, binary))
        client = await stack.enter_async_context(aiohttp.ClientSession())
        yield Scene(envoy.url, client, picker, router)


async def test_the_model_decides_which_pool_serves_it(scene):
    for size in (10, 3_000_000):  # more than Envoy's own limit for a body
        assert await scene.ask("food-review", size) == (
            200,
            {
                "engine": "llama",
                "asked": "food-review",
                "size": size,
                "x-gateway-model-name": "food-review",
                "x-gateway-base-model-name": "llama",
            },
        )
        status, answer = await scene.ask("qwen", size, **{"x-gateway-base-model-name": "llama"})
        assert (status, answer["engine"], answer["asked"], answer["size"]) == (200, "qwen", "qwen-v2", size)
        assert answer["x-gateway-base-model-name"] == ""
    decisions = [(each["pool"], each["rule"]) for each in scene.picker.explain(4).entries]
    assert decisions == [("default/qwen", "InferenceModelRewrite default/to-v2"), ("default/llama", None)] * 2


@pytest.mark.parametrize("model", ["mistral", None])
async def test_a_model_that_no_pool_serves_is_not_found(scene, model):
    status, answer = await scene.ask(model, **{"x-gateway-model-name": "qwen"})
    assert (status, answer["error"]["code"]) == (404, "model_not_found")
    assert scene.picker.explain(1).entries == ()


async def test_the_body_router_lists_the_models_of_all_pools(scene):
    async with scene.client.get(f"{scene.url}/v1/models") as answer:
        assert (answer.status, answer.content_type) == (200, "application/json")
        assert [model["id"] for model in (await answer.json())["data"]] == ["food-review", "llama"]


async def test_without_a_body_router_nothing_goes_anywhere(scene):
    await scene.router.drain(0)
    status, answer = await scene.ask("qwen")
    assert (status, answer["error"]["code"]) == (503, "no_endpoint_picker")
