"""What a real Envoy does where routes differ: in profile, host, weight, or by a header that names the model."""

import asyncio
import collections
import json

import pytest

from shunter.envoyconf.core.names import SERVED

pytestmark = pytest.mark.envoy

CHAT = "/v1/chat/completions"


def two_pools(scene, **fields):
    """Return pools a and b, each with one model server and the picker that names it, or with what ``fields`` say instead."""
    pools = []
    for name, upstream, picker in zip("ab", scene.upstreams, scene.pickers, strict=True):
        picker.pick = upstream.authority
        asked = {"addresses": [picker.address], "failureMode": "FailClose", "collector": scene.nobody}
        pools.append({"name": name, "endpoints": [upstream.authority], "picker": asked | fields})
    return pools


async def test_each_route_has_the_profile_it_asks_for(scene):
    """Four routes to one pool; what its picker is sent of each says which filter asked."""
    picked = scene.pickers[0].pick = scene.upstreams[0].authority
    routes = [
        {"pool": "llama", "prefix": f"/{profile}", "profile": profile} for profile in ("strict", "headers", "full", "native")
    ]
    picker = {"addresses": [scene.pickers[0].address], "failureMode": "FailClose", "collector": scene.nobody}
    pools = [{"name": "llama", "endpoints": [picked], "picker": picker}]
    async with scene.envoy(scene.bootstrap(pools=pools, routes=[*routes, {"pool": "llama"}])) as envoy:
        for path in ("/lean", "/strict", "/headers", "/full", "/native"):
            assert (await scene.ask(envoy, path))[:2] == (200, picked)
    sent = {}
    for stream in scene.pickers[0].asked:
        headers = stream[0]["requestHeaders"]["headers"]["headers"]
        path = next(each["rawValue"] for each in headers if each["key"] == ":path")
        sent[path] = [next(key for key in message if key.startswith("re")) for message in stream]
    assert [sorted(set(kinds)) for kinds in sent.values()] == [
        ["requestBody", "requestHeaders"],
        ["requestBody", "requestHeaders"],
        ["requestBody", "requestHeaders", "responseHeaders"],
        ["requestBody", "requestHeaders", "responseBody", "responseHeaders"],
    ]


async def test_headers_tells_the_picker_who_served_and_that_the_stream_is_not_the_request(scene):
    picked = scene.pickers[0].pick = scene.upstreams[1].authority
    async with scene.envoy(scene.bootstrap(profile="headers")) as envoy:
        await scene.ask(envoy)
    ((first, *others),) = scene.pickers[0].asked
    assert first["metadataContext"]["filterMetadata"]["shunter"] == {"end": "record"}
    (answered,) = [message for message in others if "responseHeaders" in message]
    assert answered["metadataContext"]["filterMetadata"]["envoy.lb"][SERVED] == picked


@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize("failure_mode", ["FailOpen", "FailClose"])
async def test_headers_lets_go_of_a_response_that_has_begun(failure_mode, begun, scene):
    """While its picker is still owed the response's headers, a request dies with it: the price of the profile."""
    upstream = scene.upstreams[0]
    scene.pickers[0].pick, upstream.pieces, upstream.type = upstream.authority, [b"one", b"two"], "text/event-stream"
    upstream.held = not begun
    resource = scene.bootstrap(profile="headers", failure_mode=failure_mode)
    async with scene.envoy(resource) as envoy:
        asking = asyncio.create_task(scene.client.post(envoy.url, data=b"x"))
        if begun:
            upstream.go.release()
            answer = await asking
            assert await answer.content.readexactly(3) == b"one"
        else:
            async with asyncio.timeout(10):
                while not upstream.requests:  # noqa: ASYNC110 # a list has no event to wait for
                    await asyncio.sleep(0.02)
        await scene.pickers[0].die()
        upstream.held = False
        upstream.go.release()
        upstream.go.release()
        if begun:
            assert await answer.content.read() == b"two"
        else:
            answer = await asking
            assert answer.status == 503
        answer.close()


@pytest.mark.parametrize("profile", ["lean", "usage", "strict", "headers", "full", "native"])
@pytest.mark.parametrize("by_model", [False, True])
async def test_weighted_pools_each_ask_their_own_picker(by_model, profile, scene):
    route = {"pools": [{"name": "a", "weight": 1}, {"name": "b", "weight": 3}], "models": ["m"] if by_model else []}
    resource = scene.bootstrap(pools=two_pools(scene), routes=[route], profile=profile)
    async with scene.envoy(resource) as envoy:
        answers = collections.Counter()
        for _ in range(80):
            body, headers = json.dumps({"model": "m"}), {"content-type": "application/json"}
            async with scene.client.post(envoy.url + CHAT, data=body, headers=headers) as answer:
                assert answer.status == 200
                answers[await answer.text()] += 1
    served = [answers[each.authority] for each in scene.upstreams]
    assert 5 <= served[0] <= 40  # of 80, where 20 are expected: six standard deviations
    asked = [len(each.asked) for each in scene.pickers]
    assert asked == ([0, 0] if profile == "native" else served)


async def test_turned_on_by_the_route_one_picker_would_be_asked_for_both_pools(scene):
    resource = scene.bootstrap(
        pools=two_pools(scene), routes=[{"pools": [{"name": "a", "weight": 1}, {"name": "b", "weight": 1}]}]
    )
    manager = resource["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    (route,) = manager["route_config"]["virtual_hosts"][0]["routes"]
    first, second = route["route"]["weighted_clusters"]["clusters"]
    route["typed_per_filter_config"] = first.pop("typed_per_filter_config")
    del second["typed_per_filter_config"]
    async with scene.envoy(resource) as envoy:
        for _ in range(20):
            await scene.ask(envoy)
    assert [len(each.asked) for each in scene.pickers] == [20, 0]


async def test_a_pool_without_weight_gets_nothing(scene):
    route = {"pools": [{"name": "a", "weight": 0}, {"name": "b", "weight": 1}]}
    async with scene.envoy(scene.bootstrap(pools=two_pools(scene), routes=[route])) as envoy:
        for _ in range(10):
            assert (await scene.ask(envoy))[1] == scene.upstreams[1].authority


@pytest.mark.parametrize("by_model", [False, True])
async def test_hosts_choose_the_routes_and_others_are_not_found(by_model, scene):
    """Where bodies are read, no picker may be asked for a host that nobody serves."""
    routes = [
        {"pool": "a", "hosts": ["*.example.com"]},
        {"pool": "b", "hosts": ["b.example.com", "elsewhere.example.org"]},
        *([{"pool": "a", "models": ["m"], "prefix": "/m", "hosts": ["m.example.com"]}] if by_model else []),
    ]
    resource = scene.bootstrap(
        pools=two_pools(scene), routes=routes, listeners=[{"port": 0, "hosts": ["*.example.com", "example.net"]}]
    )
    first, second = (each.authority for each in scene.upstreams)
    async with scene.envoy(resource) as envoy:
        for host, expected in {
            "a.example.com": first,
            "deep.b.example.com": first,
            "b.example.com": second,
            "B.Example.com:8080": second,
            "example.com": None,
            "example.net": None,
            "elsewhere.example.org": None,
        }.items():
            status, text, _ = await scene.ask(envoy, headers={"host": host})
            assert (status, text if expected else None) == ((200, expected) if expected else (404, None))
    assert [len(each.asked) for each in scene.pickers] == [2, 2]


async def test_clients_name_the_model_in_a_header(scene):
    """Also in one that only gateways may set elsewhere; without it no route for models matches, whatever the body says."""
    routes = [{"pool": "a", "models": ["m1"]}, {"pool": "b", "models": ["m2", "m3"]}]
    resource = scene.bootstrap(pools=two_pools(scene), routes=routes, modelHeader="x-gateway-model-name")
    async with scene.envoy(resource) as envoy:
        for model, expected in (("m1", 0), ("m2", 1), ("m3", 1)):
            status, text, _ = await scene.ask(envoy, headers={"x-gateway-model-name": model})
            assert (status, text) == (200, scene.upstreams[expected].authority)
        for headers in ({}, {"x-gateway-model-name": "m4"}, {"x-model": "m1"}):
            status, text, _ = await scene.ask(envoy, headers=headers)
            assert (status, json.loads(text)["error"]["code"]) == (404, "model_not_found")
    assert [len(each.asked) for each in scene.pickers] == [1, 2]


async def test_model_servers_may_speak_http_2(scene):
    """A gRPC server is one that understands nothing else."""
    pools = two_pools(scene)
    pools[0] |= {"http2": True, "endpoints": [scene.pickers[1].address]}
    scene.pickers[0].pick = scene.pickers[1].address
    async with scene.envoy(scene.bootstrap(pools=pools, routes=[{"pool": "a"}])) as envoy:
        status, _, headers = await scene.ask(envoy, headers={"content-type": "application/grpc", "te": "trailers"})
    assert (status, headers["content-type"]) == (200, "application/grpc")
