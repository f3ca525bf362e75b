"""The control plane beside real Envoys: what they are given, and that no request is lost while it changes."""

import asyncio
import itertools
import json

import pytest

from shunter.envoyconf import load_intent
from shunter.envoyconf.core.envoy.dynamic import divide
from shunter.envoyconf.core.envoy.remote import from_control_plane, remote_bootstrap
from shunter.envoyconf.core.output import Settings
from shunter.envoyconf.core.schema import envoy_schema
from shunter.envoyconf.core.versions import Version
from shunter.envoyconf.core.xds.kinds import Kind
from shunter.envoyconf.core.xds.members import Member
from shunter.envoyconf.shell import envoy
from shunter.envoyconf.shell.ads import Server
from shunter.envoyconf.testing import running_envoy

pytestmark = pytest.mark.envoy

SETTINGS = Settings(envoy_version=Version(1, 36))
both_forms = pytest.mark.parametrize("form", ["DELTA_GRPC", "GRPC"])


class Plane:
    """A control plane whose intent is changed by hand, and Envoys of it."""

    def __init__(self, scene):
        self.scene = scene
        self.clock = itertools.count()
        self.server = None
        self.port = 0

    async def start(self):
        self.server = Server(envoy_schema(), lambda: float(next(self.clock)))

    async def listen(self):
        self.port = await self.server.start("127.0.0.1", self.port)

    def intent(self, *, pools=("llama",), **fields):
        scene = self.scene
        every = [
            {
                "name": name,
                "endpoints": [scene.upstreams[number % 2].authority],
                "picker": {"addresses": [scene.pickers[0].address]},
            }
            for number, name in enumerate(pools)
        ]
        routes = [{"pool": name, "prefix": f"/{name}"} for name in pools[1:]] + [{"pool": pools[0]}]
        plane = {"addresses": [f"127.0.0.1:{self.port or 1}"]}
        whole = {"pools": every, "routes": routes, "listeners": [{"port": 0}], "controlPlane": plane}
        return load_intent(json.dumps(whole | fields))

    async def serve(self, **fields):
        await self.server.replace(divide(self.intent(**fields), SETTINGS, from_control_plane))

    def bootstrap(self, form, node="one", **fields):
        resource = remote_bootstrap(self.intent(**fields), SETTINGS)
        resource["dynamic_resources"]["ads_config"]["api_type"] = form
        resource["node"]["id"] = node
        return resource

    def current(self, *nodes):
        """Say whether these have accepted everything."""
        seen = {each.node.id: each for each in self.server.report().clients if each.connected}
        return all(node in seen and all(held.current for held in seen[node].kinds.values()) for node in nodes)


@pytest.fixture
async def plane(scene):
    plane = Plane(scene)
    await plane.start()
    await plane.serve()
    await plane.listen()
    yield plane
    await plane.server.stop()


@pytest.fixture(params=["1.36.2", "1.40.0"])
def binary(request, monkeypatch):
    monkeypatch.delenv("ENVOY_PATH", raising=False)
    return envoy.find(request.param) or pytest.skip(f"not here: shunter envoyconf fetch-envoy --version {request.param}")


@both_forms
async def test_envoy_takes_up_endpoints_routes_and_pools(form, binary, plane, scene, until):
    async with running_envoy(plane.bootstrap(form), binary) as gateway:
        assert (await scene.ask(gateway))[:2] == (200, scene.upstreams[0].authority)
        await until(lambda: plane.current("one"))
        host, port = scene.upstreams[1].authority.split(":")
        await plane.server.move({"pool/llama": [Member(host, int(port))]})
        await until(lambda: plane.current("one"))
        assert (await scene.ask(gateway))[1] == scene.upstreams[1].authority
        await plane.serve(pools=("llama", "qwen"))
        await until(lambda: plane.current("one"))
        assert (await scene.ask(gateway, "/qwen/v1/models"))[:2] == (200, scene.upstreams[1].authority)
        assert (await scene.ask(gateway))[1] == scene.upstreams[0].authority
        await plane.serve(pools=("llama",))
        await until(lambda: plane.current("one"))
        assert (await scene.ask(gateway, "/qwen/v1/models"))[:2] == (200, scene.upstreams[0].authority)
    report = plane.server.report()
    assert report.refused == {}
    assert not report.clients[0].connected
    assert report.clients[0].node.version == binary.parent.name


async def test_what_envoy_refuses_is_shown_and_changes_nothing(binary, plane, scene, until):
    async with running_envoy(plane.bootstrap("DELTA_GRPC"), binary) as gateway:
        await until(lambda: plane.current("one"))
        good = divide(plane.intent(), SETTINGS, from_control_plane)
        bad = divide(plane.intent(pools=("llama", "qwen")), SETTINGS, from_control_plane)
        bad.resources[Kind.CLUSTER]["pool/qwen"]["lb_policy"] = "CLUSTER_PROVIDED"  # which no EDS cluster does
        del bad.resources[Kind.CLUSTER]["pool/qwen"]["load_balancing_policy"]
        await plane.server.replace(bad)
        await until(lambda: plane.server.report().refused)
        (seen,) = plane.server.report().clients
        assert "pool/qwen" in seen.kinds["CDS"].refused
        assert not seen.kinds["RDS"].current
        assert (await scene.ask(gateway, "/qwen/v1/models"))[:2] == (200, scene.upstreams[0].authority)
        await plane.server.replace(good)
        await until(lambda: plane.current("one"))
        assert plane.server.report().clients[0].kinds["CDS"].refused is None


@both_forms
async def test_no_stream_ends_and_no_request_fails_while_everything_changes(form, plane, scene, until):
    busy, idle = scene.upstreams
    busy.pieces = [b"data: %d\n\n" % number for number in range(3)]
    async with running_envoy(plane.bootstrap(form), await asyncio.to_thread(envoy.ensure)) as gateway:
        streams = [asyncio.create_task(scene.ask(gateway)) for _ in range(8)]
        await until(lambda: len(busy.requests) == 8)
        busy.pieces = None
        failed, stop = [], asyncio.Event()

        async def ask_on():
            while not stop.is_set():
                for path in ("/v1/chat/completions", "/qwen/v1/models"):
                    status, text, _ = await scene.ask(gateway, path)
                    if status != 200:
                        failed.append((path, status, text))

        asking = asyncio.create_task(ask_on())
        host, port = idle.authority.split(":")
        changes = [
            lambda: plane.server.move({"pool/llama": [Member(host, int(port))]}),
            lambda: plane.serve(pools=("llama", "qwen")),
            lambda: plane.serve(pools=("qwen", "llama")),
            lambda: plane.serve(pools=("llama", "qwen"), limits={"connectTimeoutSeconds": 1}),
            lambda: plane.serve(pools=("llama", "qwen", "phi")),
            lambda: plane.serve(pools=("phi", "llama")),
            lambda: plane.serve(pools=("llama",)),
        ]
        for change in changes:
            await change()
            await until(lambda: plane.current("one"))
            busy.go.release()  # for one piece of one stream
        await plane.server.stop()
        await plane.start()
        await plane.serve(pools=("llama", "qwen") if form == "DELTA_GRPC" else ("llama",))
        await plane.listen()
        await until(lambda: plane.current("one"))
        stop.set()
        await asking
        for _ in range(24):
            busy.go.release()
        answers = await asyncio.gather(*streams)
    assert failed == []
    assert [(status, text) for status, text, _ in answers] == [(200, "data: 0\n\ndata: 1\n\ndata: 2\n\n")] * 8
    assert plane.server.report().refused == {}


async def test_whatever_an_intent_can_say_is_accepted(plane, scene, until):
    collector, listener = (
        {"collector": scene.nobody, "addresses": [scene.nobody]},
        {"name": "llm", "port": 0, "hosts": ["*.llm.test"]},
    )
    pools = [
        {
            "name": "llama",
            "endpoints": [scene.upstreams[0].authority],
            "picker": collector,
            "overflow": {"address": "llm.example.com:443"},
        },
        {"name": "qwen", "endpoints": [scene.upstreams[1].authority], "picker": collector},
    ]
    shares = [{"name": "llama", "weight": 9}, {"name": "qwen"}]
    routes = [
        {"pool": "qwen", "prefix": "/native", "profile": "native"},
        {"pool": "qwen", "prefix": "/full", "profile": "full", "hosts": ["full.llm.test"]},
        {"pools": shares, "models": ["a", "b"]},
        {"pool": "llama"},
    ]
    fields = {
        "pools": pools,
        "routes": routes,
        "listeners": [{"port": 0}, listener],
        "profile": "usage",
        "security": {"apiKeys": [{"client": "alice", "key": "secret"}], "rateLimits": [{"requests": 5, "by": "x-client-id"}]},
        "observability": {"tracing": {"collector": scene.nobody}},
    }
    intent, newest = load_intent(json.dumps(fields)), Settings()
    await plane.server.replace(divide(intent, newest, from_control_plane))
    bootstrap = remote_bootstrap(
        load_intent(json.dumps(fields | {"controlPlane": {"addresses": [f"127.0.0.1:{plane.port}"]}})), newest
    )
    async with running_envoy(bootstrap, scene.binary):
        await until(lambda: plane.current("shunter"))
    assert plane.server.report().refused == {}
