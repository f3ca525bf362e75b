"""A pool's overflow on a real Envoy: who gets what the pool refuses, and what the provider learns of us."""

import asyncio
import contextlib
import json
import ssl

import pytest
import trustme
from aiohttp import web
from envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb

from shunter.envoyconf import IntentError, bootstrap, load_intent
from shunter.envoyconf.core.output import Settings
from shunter.envoyconf.core.versions import Version

pytestmark = pytest.mark.envoy

PROFILES = ["lean", "usage", "strict", "headers", "full", "native"]
PRIVATE = {
    "authorization": "Bearer client-key",
    "cookie": "session=1",
    "x-api-key": "client-key",
    "x-session-id": "s1",
    "openai-organization": "org-client",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
}


@pytest.fixture(scope="session")
def authority():
    return trustme.CA()


@contextlib.asynccontextmanager
async def serving(provider, certificate):
    """Serve a provider by TLS on localhost, and tell which names its clients asked for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    provider.asked_for = []
    context.sni_callback = lambda _socket, name, _context: provider.asked_for.append(name)
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{path:.*}", provider.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        provider.authority = f"localhost:{runner.addresses[0][1]}"
        yield provider
    finally:
        await runner.cleanup()


@pytest.fixture
async def provider(scene, authority, tmp_path):
    """A provider, and what an intent says of it."""
    provider = type(scene.upstreams[0])()
    (tmp_path / "key").write_text("provider-key")
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    async with serving(provider, authority.issue_cert("localhost")):
        provider.intent = {
            "address": provider.authority,
            "caFile": str(tmp_path / "ca.pem"),
            "credentialFile": str(tmp_path / "key"),
        }
        yield provider


def pool_of(scene, provider, number=None, name="llama", **fields):
    """Return a pool with all model servers, or one of them, and with an overflow if there is a provider."""
    upstreams = scene.upstreams if number is None else scene.upstreams[number : number + 1]
    picker = scene.pickers[number or 0]
    picker.pick = ",".join(each.authority for each in upstreams)
    return {
        "name": name,
        "endpoints": [each.authority for each in upstreams],
        "picker": {"addresses": [picker.address], "failureMode": "FailClose", "collector": scene.collector_address},
        **({"overflow": provider.intent} if provider else {}),
        **fields,
    }


@pytest.fixture
async def scene(scene):
    async with scene.collector.serving():
        scene.collector_address = scene.collector.address
        yield scene


def refuse(scene, status):
    for each in scene.upstreams:
        each.status = status


@pytest.mark.parametrize(("profile", "status"), [*((profile, 429) for profile in PROFILES), ("lean", 503)])
async def test_what_the_picked_refuse_the_provider_takes(profile, status, scene, provider):
    async with scene.envoy(scene.bootstrap(pools=[pool_of(scene, provider)], profile=profile)) as envoy:
        assert (await scene.ask(envoy))[1] in {each.authority for each in scene.upstreams}
        assert provider.requests == []
        refuse(scene, status)
        answered = await scene.ask(envoy, "/v1/chat/completions?a=b", size=3_000_000, headers=PRIVATE)
        records = await scene.collector.hear(2)
    assert answered[:2] == (200, provider.authority)
    ((path, headers, body),) = provider.requests
    assert (path, len(body)) == ("/v1/chat/completions", 3_000_000)
    told = {name.lower(): value for name, value in headers.items()}
    assert told.pop("authorization") == "Bearer provider-key"
    assert told.pop("host") == provider.authority
    assert told.keys() <= {"accept", "accept-encoding", "content-length", "content-type", "transfer-encoding", "user-agent"}
    assert provider.asked_for == ["localhost"]
    before = [record for each in scene.upstreams for record in each.requests]
    assert len(before) == 1 + 3  # the pool was tried as often as without an overflow
    assert all("provider-key" not in str(record) for record in before)
    assert records[-1]["host"] == "envoy://overflow/llama/"
    assert records[-1]["attempts"] == 4


async def test_without_a_model_server_that_can_be_reached(scene, provider):
    pool = pool_of(scene, provider) | {"endpoints": [scene.nobody]}
    resource = scene.bootstrap(pools=[pool])
    async with scene.envoy(resource) as envoy:
        assert (await scene.ask(envoy))[:2] == (200, provider.authority)
    for cluster in resource["static_resources"]["clusters"]:  # as when all Pods are gone
        if cluster["name"] == "pool/llama":
            cluster["load_assignment"]["endpoints"] = []
    async with scene.envoy(resource) as envoy:
        assert (await scene.ask(envoy))[:2] == (200, provider.authority)


async def test_a_stream_comes_through_as_it_is_written(scene, provider):
    refuse(scene, 429)
    provider.pieces, provider.type = [b"data: one\n\n", b"data: two\n\n"], "text/event-stream"
    async with scene.envoy(scene.bootstrap(pools=[pool_of(scene, provider)])) as envoy:
        provider.go.release()
        async with scene.client.post(envoy.url, data=b"{}") as answer:
            async with asyncio.timeout(20):
                assert await answer.content.readline() == b"data: one\n"
                provider.go.release()
                assert (await answer.content.read()).endswith(b"data: two\n\n")


async def test_what_the_provider_refuses_is_the_answer(scene, provider):
    refuse(scene, 429)
    provider.status = 429
    async with scene.envoy(scene.bootstrap(pools=[pool_of(scene, provider)])) as envoy:
        assert (await scene.ask(envoy))[:2] == (429, provider.authority)
    assert len(provider.requests) == 1


async def test_other_refusals_are_the_pools_own(scene, provider):
    refuse(scene, 400)
    async with scene.envoy(scene.bootstrap(pools=[pool_of(scene, provider)])) as envoy:
        assert (await scene.ask(envoy))[0] == 400
    assert provider.requests == []


@pytest.mark.parametrize("wrong", ["authority", "name"])
async def test_nobody_else_is_taken_for_the_provider(wrong, scene, provider, authority, tmp_path):
    refuse(scene, 429)
    issuer = trustme.CA() if wrong == "authority" else authority
    impostor = type(provider)()
    async with serving(impostor, issuer.issue_cert("localhost" if wrong == "authority" else "other.test")):
        provider.intent["address"] = impostor.authority
        async with scene.envoy(scene.bootstrap(pools=[pool_of(scene, provider)])) as envoy:
            status, text, headers = await scene.ask(envoy)
    assert (status, headers["content-type"]) == (503, "application/json")
    assert "remote connection failure" in json.loads(text)["error"]["message"]
    assert impostor.requests == []


async def test_without_a_key_the_provider_gets_none(scene, provider):
    refuse(scene, 429)
    del provider.intent["credentialFile"]
    async with scene.envoy(scene.bootstrap(pools=[pool_of(scene, provider)])) as envoy:
        assert (await scene.ask(envoy, headers=PRIVATE))[:2] == (200, provider.authority)
    assert "client-key" not in str(provider.requests)


async def test_pools_by_weight_spill_each_for_itself(scene, provider):
    refuse(scene, 429)
    pools = [pool_of(scene, provider, 0, "rich"), pool_of(scene, None, 1, "poor")]
    route = {"pools": [{"name": "rich"}, {"name": "poor"}]}
    async with scene.envoy(scene.bootstrap(pools=pools, routes=[route])) as envoy:
        answers = [await scene.ask(envoy) for _ in range(20)]
    statuses = [status for status, _, _ in answers]
    assert statuses.count(200) == len(provider.requests) > 0
    assert statuses.count(429) == 20 - len(provider.requests) > 0


def test_an_envoy_that_cannot_send_the_key_is_told_apart():
    overflow = {"address": "api.openai.com:443", "credentialFile": "/k"}
    pool = {"name": "a", "endpoints": ["h:1"], "picker": {"addresses": ["h:2"]}, "overflow": overflow}
    intent = load_intent(json.dumps({"pools": [pool]}))
    with pytest.raises(
        IntentError,
        match=r"overflow of pool a needs envoy\.clusters\.composite, which Envoy has since 1\.37; this is for 1\.36",
    ):
        bootstrap(intent, Settings(envoy_version=Version(1, 36)))


@pytest.mark.parametrize(
    ("address", "tls", "host"),
    [("api.openai.com:443", True, "api.openai.com"), ("llm:4000", False, "llm:4000"), ("[::1]:80", False, "[::1]")],
)
def test_the_provider_is_called_by_its_name(address, tls, host):
    pool = {"name": "a", "endpoints": ["h:1"], "picker": {"addresses": ["h:2"]}, "overflow": {"address": address, "tls": tls}}
    resource = bootstrap(load_intent(json.dumps({"pools": [pool]})))
    assert f'"host_rewrite_literal": "{host}"' in json.dumps(resource)


@pytest.mark.parametrize("profile", ["lean", "usage", "strict", "headers", "full"])
async def test_what_the_picker_refuses_the_provider_takes_too(profile, scene, provider):
    """The picker names the cluster that it was told of, as ours does; a client that names it gets nowhere."""
    picker = scene.pickers[0]
    pool = pool_of(scene, provider)
    picker.named = lambda: refer(picker)
    async with scene.envoy(scene.bootstrap(pools=[pool], profile=profile)) as envoy:
        answered = await scene.ask(envoy, size=20_000)
        records = await scene.collector.hear(1)
        del picker.named
        passed = await scene.ask(envoy, headers={"x-shunter-overflow": "overflow/llama"})
    assert picker.called[0]["x-shunter-overflow"] == "overflow/llama 429 503"
    assert answered[:2] == (200, provider.authority)
    ((_, headers, body),) = provider.requests
    assert len(body) == 20_000
    assert headers["Authorization"] == "Bearer provider-key"
    assert "x-shunter-overflow" not in {name.lower() for name in headers}
    assert records[0]["host"] == "envoy://overflow/llama/"
    assert passed[1] in {each.authority for each in scene.upstreams}


def refer(picker):
    """Return what a picker answers that sends a request on: a header with the first word that it was told, and no pick."""
    cluster = picker.called[-1]["x-shunter-overflow"].split()[0]
    option = HeaderValueOption(header=HeaderValue(key="x-shunter-overflow", raw_value=cluster.encode()))
    return pb.CommonResponse(header_mutation=pb.HeaderMutation(set_headers=[option]), clear_route_cache=True), None


@pytest.mark.parametrize("profile", ["lean", "full"])
async def test_where_the_model_decides_the_other_pools_picker_is_not_asked(profile, scene, provider):
    pools = [pool_of(scene, provider, 0, "a"), pool_of(scene, None, 1, "b")]
    routes = [{"pool": name, "models": [name]} for name in ("a", "b")]
    scene.pickers[0].named = lambda: refer(scene.pickers[0])
    async with scene.envoy(scene.bootstrap(pools=pools, routes=routes, profile=profile)) as envoy:
        answers = []
        for model in ("a", "b"):
            async with scene.client.post(f"{envoy.url}/v1/completions", json={"model": model}) as answer:
                answers.append((answer.status, await answer.text()))
    assert answers == [(200, provider.authority), (200, scene.upstreams[1].authority)]
    assert [len(picker.asked) for picker in scene.pickers] == [1, 1]
