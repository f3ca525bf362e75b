"""What a real Envoy does with generated bootstraps.

``ENVOY_PATH`` runs them on another version: all pass on 1.38 to 1.40, those of the profiles lean and strict on 1.37.
"""

import asyncio
import io
import json
import socket

import aiohttp
import pytest
from msgspec.structs import replace

from shunter.envoyconf import EnvoyRefusedError, bootstrap, load_intent
from shunter.envoyconf.core.names import DESTINATION, PICKER_HEADERS, SERVED

pytestmark = pytest.mark.envoy

all_profiles = pytest.mark.parametrize("profile", ["lean", "usage", "strict", "headers", "full"])
fails_open = pytest.mark.parametrize("profile", ["lean", "usage", "headers", "full"])


async def logged(envoy, count):
    """Return the access log once it has that many lines."""
    async with asyncio.timeout(20):
        while len(lines := envoy.access_log()) < count:  # noqa: ASYNC110 # a file has no event to wait for
            await asyncio.sleep(0.02)
    return lines


@fails_open
async def test_without_a_picker_a_post_is_answered_by_load_balancing(profile, scene):
    async with scene.envoy(scene.bootstrap(picker=scene.nobody, profile=profile)) as envoy:
        for _ in range(4):
            status, _, _ = await scene.ask(envoy, size=100_000)
            assert status == 200
    assert [len(body) for each in scene.upstreams for _, _, body in each.requests] == [100_000] * 4


async def test_full_would_not_fail_open_without_its_health_check(scene):
    resource = scene.bootstrap(picker=scene.nobody, profile="full")
    del resource["static_resources"]["clusters"][1]["health_checks"]
    async with scene.envoy(resource) as envoy:
        status, _, _ = await scene.ask(envoy)
    assert status == 503


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="there is no IPv6 here")
async def test_all_addresses_are_those_of_both_families(scene):
    async with scene.envoy(scene.bootstrap(listeners=[{"address": "::", "port": 0}])) as envoy:
        port = envoy.url.rpartition(":")[2]
        for host in ("127.0.0.1", "[::1]"):
            status, _, _ = await scene.ask(replace(envoy, listeners={"http": f"{host}:{port}"}))
            assert status == 200


@all_profiles
async def test_fail_close_refuses_without_a_picker(profile, scene):
    resource = scene.bootstrap(picker=scene.nobody, failure_mode="FailClose", profile=profile)
    async with scene.envoy(resource) as envoy:
        status, text, headers = await scene.ask(envoy)
        (line,) = await logged(envoy, 1)
    assert (status, headers["content-type"]) == (503, "application/json")
    assert json.loads(text)["error"]["code"] == "no_endpoint_picker"
    assert "ext_proc_error" in line["details"]
    assert all(each.requests == [] for each in scene.upstreams)


@all_profiles
async def test_the_pick_is_followed_logged_and_shown(profile, scene):
    picked = scene.pickers[0].pick = scene.upstreams[1].authority
    async with scene.envoy(scene.bootstrap(profile=profile, observability={"servedHeader": True})) as envoy:
        for _ in range(5):
            status, text, headers = await scene.ask(envoy, "/v1/completions?key=secret")
            assert (status, text, headers[SERVED]) == (200, picked, picked)
        status, text, _ = await scene.ask(envoy, "/v1/models", method="GET")
        assert (status, text) == (200, picked)
        lines = await logged(envoy, 6)
    assert "secret" not in str(lines)
    line = lines[0]
    assert line["pick"] == line["served"] == picked
    assert (line["status"], line["attempts"], line["ticket"]) == (200, 1, "7-1")
    assert (line["method"], line["path"], line["route"]) == ("POST", "/v1/completions", "llama:/")
    assert line["duration_ms"] >= line["first_byte_ms"] >= 0


async def test_nobody_is_told_who_served_unless_asked_for(scene):
    scene.pickers[0].pick = scene.upstreams[1].authority
    async with scene.envoy(scene.bootstrap()) as envoy:
        _, _, headers = await scene.ask(envoy)
    assert SERVED not in headers


async def test_a_pick_is_found_among_the_addresses_of_a_name(scene):
    picked = scene.pickers[0].pick = scene.upstreams[1].authority
    named = [each.authority.replace("127.0.0.1", "localhost") for each in scene.upstreams]
    async with scene.envoy(scene.bootstrap(endpoints=named)) as envoy:
        for _ in range(5):
            _, text, _ = await scene.ask(envoy)
            assert text == picked


async def test_full_tells_the_picker_who_served(scene):
    picked = scene.pickers[0].pick = scene.upstreams[0].authority
    async with scene.envoy(scene.bootstrap(profile="full")) as envoy:
        await scene.ask(envoy)
    (stream,) = scene.pickers[0].asked
    (answered,) = [message for message in stream if "responseHeaders" in message]
    assert answered["metadataContext"]["filterMetadata"]["envoy.lb"][SERVED] == picked


async def test_lean_tells_the_picker_nothing_of_the_response(scene):
    scene.pickers[0].pick = scene.upstreams[0].authority
    async with scene.envoy(scene.bootstrap()) as envoy:
        await scene.ask(envoy)
    (stream,) = scene.pickers[0].asked
    assert [next(key for key in message if key.startswith("re")) for message in stream] == ["requestHeaders", "requestBody"]


@pytest.mark.parametrize("first", ["dead", "unready"])
async def test_retries_walk_the_list_of_the_picker(first, scene):
    unready, ready = scene.upstreams
    unready.status = 503
    scene.pickers[0].pick = f"{scene.nobody if first == 'dead' else unready.authority},{ready.authority}"
    async with scene.envoy(scene.bootstrap(endpoints=[scene.nobody, unready.authority, ready.authority])) as envoy:
        status, text, _ = await scene.ask(envoy, size=2_000_000)
        (line,) = await logged(envoy, 1)
    assert (status, text) == (200, ready.authority)
    assert (line["attempts"], line["served"]) == (2, ready.authority)
    assert [len(body) for _, _, body in ready.requests] == [2_000_000]


async def test_behind_the_end_of_the_list_load_balancing_avoids_what_failed(scene):
    ready = scene.upstreams[0].authority
    scene.pickers[0].pick = scene.nobody
    async with scene.envoy(scene.bootstrap(endpoints=[scene.nobody, ready])) as envoy:
        for _ in range(5):
            status, text, _ = await scene.ask(envoy)
            assert (status, text) == (200, ready)


async def test_429_is_for_the_client(scene):
    busy, idle = scene.upstreams
    busy.status = 429
    scene.pickers[0].pick = f"{busy.authority},{idle.authority}"
    async with scene.envoy(scene.bootstrap()) as envoy:
        status, _, _ = await scene.ask(envoy)
    assert status == 429
    assert idle.requests == []


@pytest.mark.parametrize("guarded", [True, False])
async def test_a_client_cannot_steer(guarded, scene):
    inside, outside = scene.upstreams
    resource = scene.bootstrap(endpoints=[inside.authority], picker=scene.nobody)
    if not guarded:  # the probe below would notice
        (listener,) = resource["static_resources"]["listeners"]
        del listener["filter_chains"][0]["filters"][0]["typed_config"]["early_header_mutation_extensions"]
    forged = dict.fromkeys(PICKER_HEADERS, outside.authority) | {"x-llm-d-inference-objective": "chat"}
    async with scene.envoy(resource) as envoy:
        _, text, _ = await scene.ask(envoy, headers=forged)
    assert text == inside.authority
    assert outside.requests == []
    ((_, headers, _),) = inside.requests
    arrived = {name.lower() for name in headers}
    assert "x-llm-d-inference-objective" in arrived
    assert arrived & set(PICKER_HEADERS) == (set() if guarded else set(PICKER_HEADERS))


async def test_underscores_are_refused(scene):
    async with scene.envoy(scene.bootstrap()) as envoy:
        status, _, _ = await scene.ask(envoy, headers={DESTINATION.replace("-", "_"): scene.upstreams[1].authority})
    assert status == 400
    assert scene.pickers[0].asked == []


async def test_lean_answers_413_above_the_body_limit(scene):
    scene.pickers[0].pick = scene.upstreams[0].authority
    async with scene.envoy(scene.bootstrap(limits={"bodyBytes": 2_000_000})) as envoy:
        for size, expected in ((1_900_000, 200), (2_100_000, 413)):
            status, text, _ = await scene.ask(envoy, size=size)
            assert status == expected
    assert json.loads(text)["error"] == {
        "message": "Payload Too Large",
        "type": "invalid_request_error",
        "param": None,
        "code": "payload_too_large",
    }


@all_profiles
async def test_what_envoy_answers_itself_is_an_openai_error(profile, scene):
    scene.pickers[0].pick = scene.nobody
    async with scene.envoy(scene.bootstrap(endpoints=[scene.nobody], profile=profile)) as envoy:
        status, text, headers = await scene.ask(envoy)
    assert (status, headers["content-type"]) == (503, "application/json")
    error = json.loads(text)["error"]
    assert (error["type"], error["code"]) == ("server_error", "URX,UF")
    assert "upstream connect error" in error["message"]


async def test_what_an_engine_answers_is_its_own(scene):
    for each in scene.upstreams:
        each.status = 503
    scene.pickers[0].pick = ",".join(each.authority for each in scene.upstreams)
    async with scene.envoy(scene.bootstrap()) as envoy:
        status, text, _ = await scene.ask(envoy)
    assert status == 503
    assert text in {each.authority for each in scene.upstreams}


async def test_strict_tells_the_picker_that_the_stream_is_not_the_request(scene):
    scene.pickers[0].pick = scene.upstreams[0].authority
    async with scene.envoy(scene.bootstrap(profile="strict")) as envoy:
        await scene.ask(envoy)
    ((first, *others),) = scene.pickers[0].asked
    assert first["metadataContext"]["filterMetadata"] == {"shunter": {"end": "record"}}
    assert not any("responseHeaders" in message for message in others)


async def test_strict_asks_another_worker_for_one_that_is_gone(scene):
    picked = scene.pickers[0].pick = scene.upstreams[1].authority
    resource = scene.bootstrap(profile="strict")
    cluster = next(each for each in resource["static_resources"]["clusters"] if each["name"] == "picker/llama")
    (endpoints,) = cluster["load_assignment"]["endpoints"]
    gone = json.loads(json.dumps(endpoints["lb_endpoints"][0]))
    gone["endpoint"]["address"]["socket_address"]["port_value"] = int(scene.nobody.rpartition(":")[2])
    endpoints["lb_endpoints"].append(gone)
    async with scene.envoy(resource) as envoy:
        for _ in range(6):
            status, text, _ = await scene.ask(envoy, size=20_000)
            assert (status, text) == (200, picked)


@pytest.mark.parametrize(("profile", "survives"), [("lean", True), ("strict", True), ("strict with trailers", False)])
async def test_a_response_under_way_survives_its_picker(profile, survives, scene):
    upstream = scene.upstreams[0]
    scene.pickers[0].pick, upstream.pieces = upstream.authority, [b"one", b"two"]
    resource = scene.bootstrap(profile=profile.split()[0])
    if "with" in profile:  # a stream that is open until the end is a stream that can be cut
        filters = resource["static_resources"]["listeners"][0]["filter_chains"][0]["filters"]
        ext_proc = filters[0]["typed_config"]["http_filters"][1]["typed_config"]
        ext_proc["processing_mode"] = ext_proc["processing_mode"] | {"response_trailer_mode": "SEND"}
    upstream.go.release()
    async with scene.envoy(resource) as envoy, scene.client.post(envoy.url, data=b"x") as answer:
        assert await answer.content.readexactly(3) == b"one"
        await scene.pickers[0].die()
        upstream.go.release()
        if survives:
            assert await answer.content.read() == b"two"
        else:
            with pytest.raises(aiohttp.ClientPayloadError):
                await answer.content.read()


@all_profiles
async def test_each_pool_asks_its_own_picker(profile, scene):
    pools = []
    for name, upstream, picker in zip(("one", "two"), scene.upstreams, scene.pickers, strict=True):
        picker.pick = upstream.authority
        asked = {"addresses": [picker.address], "failureMode": "FailClose", "collector": scene.nobody}
        pools.append({"name": name, "endpoints": [upstream.authority], "picker": asked})
    routes = [{"prefix": "/one", "pool": "one"}, {"pool": "two"}]
    async with scene.envoy(scene.bootstrap(pools=pools, routes=routes, profile=profile)) as envoy:
        for path, expected in (("/one/v1", 0), ("/one", 0), ("/onex", 1), ("/", 1)):
            _, text, _ = await scene.ask(envoy, path)
            assert text == scene.upstreams[expected].authority
    assert [len(picker.asked) for picker in scene.pickers] == [2, 2]


async def test_an_envoy_that_does_not_start_says_why(scene):
    resource = scene.bootstrap()
    resource["static_resources"]["clusters"].pop(0)
    with pytest.raises(EnvoyRefusedError, match="unknown cluster 'pool/llama'"):
        async with scene.envoy(resource):
            pass


@all_profiles
@pytest.mark.parametrize("fallback", [True, False])
async def test_envoy_routes_by_the_model_that_it_reads_itself(profile, fallback, scene):
    pools = []
    for name, upstream, picker in zip(("a", "b"), scene.upstreams, scene.pickers, strict=True):
        picker.pick = upstream.authority
        asked = {"addresses": [picker.address], "failureMode": "FailClose", "collector": scene.nobody}
        pools.append({"name": name, "endpoints": [upstream.authority], "picker": asked})
    routes = [{"pool": "b", "models": ["m2", "m3"]}, {"pool": "a", **({} if fallback else {"models": ["m1"]})}]
    resource = bootstrap(
        load_intent(json.dumps({"pools": pools, "routes": routes, "profile": profile, "listeners": [{"port": 0}]}))
    )
    first, second = (each.authority for each in scene.upstreams)

    async def ask(envoy, body, **headers):
        data = io.BytesIO(body if isinstance(body, bytes) else json.dumps(body).encode())
        headers = {"content-type": "application/json; charset=utf-8"} | headers
        async with scene.client.post(f"{envoy.url}/v1/completions", data=data, headers=headers) as answer:
            return answer.status, await answer.text()

    async with scene.envoy(resource) as envoy:
        for size in (10, 3_000_000):
            prompt = "x" * size
            assert await ask(envoy, {"prompt": prompt, "model": "m1"}) == (200, first)
            assert await ask(envoy, {"model": "m2", "prompt": prompt}) == (200, second)
            assert await ask(envoy, {"model": "m3", "prompt": prompt}, **{"x-gateway-model-name": "m1"}) == (200, second)
        for body in ({"prompt": "no model"}, {"model": "m4"}, {"model": {"m": 2}}, b'{"model": "m2"', b""):
            status, text = await ask(envoy, body)
            if fallback:
                assert (status, text) == (200, first)
            else:
                assert (status, json.loads(text)["error"]["code"]) == (404, "model_not_found")
        assert await ask(envoy, {"model": "m2"}, **{"content-type": "application/x-www-form-urlencoded"}) == (200, second)
    assert [len(picker.asked) for picker in scene.pickers] == [7 if fallback else 2, 5]
