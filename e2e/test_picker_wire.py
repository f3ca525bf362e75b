"""Real Envoy and the picker's transports: TLS each way it can be had, and connections that grow old under load."""

import asyncio
import contextlib

import aiohttp
import pytest
import trustme
from aiohttp import web
from aiohttp.test_utils import TestServer

from shunter import envoyconf
from shunter.envoyconf import FailureMode, Intent, Listener, Picker, PickerTls, Pool, Profile, bootstrap
from shunter.envoyconf.testing import running_envoy
from shunter.picker.core.events import ResponseBody, ResponseHeaders
from shunter.picker.core.limits import Budget, Limits
from shunter.picker.core.session import Session
from shunter.picker.testing import StubJudge
from shunter.picker.transport import native, services, wire
from shunter.picker.transport.grpcio import GrpcServer
from shunter.picker.transport.health import Health
from shunter.picker.transport.native import NativeServer
from shunter.picker.transport.tls import Tls

pytestmark = pytest.mark.envoy

NAME = "picker.example"
DEADLINE_S = 60
SLOW, EVENTS = b"data: x\n\n", 10


@pytest.fixture(params=[NativeServer, GrpcServer], ids=["native", "grpcio"])
def transport(request):
    return request.param


class Scene:
    """A picker, an Envoy that asks it, and two model servers of which the picker always names the second."""

    async def ask(self, path="/v1/completions"):
        async with self.session.post(self.envoy.url + path, json={"model": "m", "prompt": "p"}) as answer:
            return answer.status, await answer.text()

    async def stats(self, name):
        """Return the value of a statistic of the picker's cluster."""
        async with self.session.get(f"http://{self.envoy.admin}/stats?filter=^cluster.picker/pool.{name}$") as answer:
            return int((await answer.text()).rpartition(":")[2])


async def answer(request):
    if request.path.endswith("/slow"):
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(EVENTS):
            await response.write(SLOW)
            await asyncio.sleep(0.05)
        return response
    host, port = request.transport.get_extra_info("sockname")
    return web.Response(text=f"{host}:{port}")


@pytest.fixture
def scene(transport):
    @contextlib.asynccontextmanager
    async def scene(trusting=None, *, profile=Profile.LEAN, failure_mode=FailureMode.OPEN, **server_fields):
        async with contextlib.AsyncExitStack() as stack:
            made = Scene()
            endpoints = []
            for _ in range(2):
                app = web.Application()
                app.router.add_route("*", "/{path:.*}", answer)
                server = await stack.enter_async_context(TestServer(app, host="127.0.0.1"))
                endpoints.append(f"127.0.0.1:{server.port}")
            made.named = endpoints[1]
            made.judge, made.health, limits = StubJudge([made.named]), Health(), Limits()
            budget = Budget(limits.buffered_bytes)
            made.server = transport(lambda: Session(made.judge, limits, budget), made.health, limits, **server_fields)
            made.health.set_ready(True)
            port = await made.server.start("127.0.0.1", 0)
            stack.push_async_callback(made.server.stop)
            picker = Picker(addresses=(f"127.0.0.1:{port}",), tls=trusting, failure_mode=failure_mode)
            pools = (Pool(name="pool", endpoints=tuple(endpoints), picker=picker),)
            patient = envoyconf.Limits(pick_timeout_seconds=DEADLINE_S)  # a busy machine must not look like a lost pick
            resource = bootstrap(Intent(pools=pools, listeners=(Listener(port=0),), profile=profile, limits=patient))
            made.envoy = await stack.enter_async_context(running_envoy(resource))
            made.session = await stack.enter_async_context(aiohttp.ClientSession())
            yield made

    return scene


class Files:
    """Certificates of a picker and of a gateway, each with the CA that the other should trust."""

    def __init__(self, directory):
        self.ca, self.client_ca, self.directory = trustme.CA(), trustme.CA(), directory
        for name, issued in (("picker", self.ca.issue_cert(NAME)), ("gateway", self.client_ca.issue_cert("gateway.example"))):
            issued.cert_chain_pems[0].write_to_path(directory / f"{name}.crt")
            issued.private_key_pem.write_to_path(directory / f"{name}.key")
        for name, ca in (("ca", self.ca), ("client-ca", self.client_ca), ("other", trustme.CA())):
            ca.cert_pem.write_to_path(directory / f"{name}.crt")
        self.tls = Tls(directory / "picker.crt", directory / "picker.key")
        self.mutual = Tls(directory / "picker.crt", directory / "picker.key", directory / "client-ca.crt")
        self.shown = {"cert_file": str(directory / "gateway.crt"), "key_file": str(directory / "gateway.key")}

    def trust(self, ca="ca", name=NAME):
        return {"ca_file": str(self.directory / f"{ca}.crt"), "server_name": name}


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


@pytest.mark.parametrize("profile", [Profile.LEAN, Profile.FULL])
@pytest.mark.parametrize("way", ["anybody", "verified", "mutual"])
async def test_over_tls_a_request_goes_where_the_picker_says(scene, files, way, profile):
    tls = PickerTls(**(files.trust() if way != "anybody" else {}), **(files.shown if way == "mutual" else {}))
    async with scene(tls, profile=profile, tls=files.mutual if way == "mutual" else files.tls) as running:
        assert {await running.ask() for _ in range(5)} == {(200, running.named)}
        assert len(running.judge.picked) == 5
        assert await running.stats("ssl.handshake") >= 1


@pytest.mark.parametrize(
    ("fault", "statistic"),
    [("another CA", "ssl.fail_verify_error"), ("another name", "ssl.fail_verify_san"), ("no certificate", "ssl.handshake")],
)
async def test_who_does_not_trust_each_other_does_without(scene, files, fault, statistic):
    trust = {
        "another CA": files.trust(ca="other"),
        "another name": files.trust(name="other.example"),
        "no certificate": files.trust(),
    }[fault]
    async with scene(PickerTls(**trust), tls=files.mutual if fault == "no certificate" else files.tls) as running:
        assert (await running.ask())[0] == 200
        assert not running.judge.asks
        assert await running.stats(statistic) >= 1


async def test_without_tls_on_one_side_a_gateway_that_fails_closed_says_503(scene, files):
    async with scene(None, failure_mode=FailureMode.CLOSE, tls=files.tls) as running:
        assert (await running.ask())[0] == 503
        assert not running.judge.asks


@pytest.mark.parametrize(("way", "profile"), [("plain", Profile.LEAN), ("tls", Profile.LEAN), ("plain", Profile.FULL)])
async def test_old_connections_go_under_load_and_no_pick_is_lost(scene, files, way, profile, monkeypatch):
    monkeypatch.setattr(native, "SWEEP_S", 0.05)
    theirs, ours = (PickerTls(**files.trust()), files.tls) if way == "tls" else (None, None)
    async with scene(theirs, profile=profile, tls=ours, max_age_s=0.3) as running:
        asked = 0

        async def load(path):
            nonlocal asked
            while await running.stats("upstream_cx_total") < 8:
                asked += 1
                status, text = await running.ask(path)
                assert status == 200
                assert text == (SLOW.decode() * EVENTS if path.endswith("/slow") else running.named)

        async with asyncio.timeout(DEADLINE_S):
            await asyncio.gather(*(load("/v1/completions") for _ in range(8)), *(load("/v1/slow") for _ in range(8)))
        assert len(running.judge.picked) == asked


@pytest.mark.parametrize("profile", [Profile.FULL])  # by its name an Envoy that cannot have it leaves this test out
@pytest.mark.parametrize("transport", [NativeServer], ids=["native"])
async def test_what_envoy_writes_is_read_on_the_short_way(scene, monkeypatch, profile):
    def count(module, name):
        seen, read = [], getattr(module, name)
        monkeypatch.setattr(module, name, lambda message: seen.append(message) or read(message))
        return seen

    long_way, events = count(wire, "_decode"), count(services, "read")
    async with scene(profile=profile) as running:
        for _ in range(3):
            assert await running.ask("/v1/slow") == (200, SLOW.decode() * EVENTS)
    kinds = [type(event) for event in map(wire.decode, events)]
    assert kinds.count(ResponseHeaders) == 3
    assert ResponseBody not in kinds  # those are the many, and all of a kind
    assert not long_way
