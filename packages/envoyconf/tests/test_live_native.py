"""What a real Envoy does in the profile native, where nobody is asked."""

import asyncio
import io
import json

import pytest

pytestmark = pytest.mark.envoy

KEYS = [f"session-{number}" for number in range(12)]


def native(scene, affinity=None, **fields):
    pool = {"name": "llama", "endpoints": [each.authority for each in scene.upstreams]}
    route = {"pool": "llama", **({} if affinity is None else {"affinity": affinity})}
    return scene.bootstrap(**({"pools": [pool], "routes": [route], "profile": "native"} | fields))


async def chat(scene, envoy, headers=None, **body):
    """Return the status and who answered."""
    sent = {"content-type": "application/json"} | (headers or {})
    async with scene.client.post(envoy.url, data=io.BytesIO(json.dumps(body).encode()), headers=sent) as answer:
        return answer.status, await answer.text()


async def served(scene, envoy, requests):
    """Return who answered each of some requests, given as (headers, body)."""
    answers = [await chat(scene, envoy, headers, **body) for headers, body in requests]
    assert {status for status, _ in answers} == {200}
    return [who for _, who in answers]


PLACES = {
    "header": lambda key: ({"x-session-id": key}, {}),
    "cookie": lambda key: ({"cookie": f"theme=dark; session={key}"}, {}),
    "body": lambda key: ({}, {"prompt_cache_key": key}),
    "body, second choice": lambda key: ({}, {"user": key, "prompt": "x" * 3_000_000}),
}
ANYWHERE = {"header": "x-session-id", "cookie": "session"}


@pytest.mark.parametrize("place", PLACES)
async def test_requests_with_a_key_stay_together_and_keys_spread(place, scene):
    async with scene.envoy(native(scene, ANYWHERE)) as envoy:
        first = await served(scene, envoy, map(PLACES[place], KEYS))
        again = await served(scene, envoy, map(PLACES[place], KEYS))
    assert again == first
    assert len(set(first)) == 2


async def test_the_first_place_counts(scene):
    """A key is nobody's header: what a model server sees is what the client sent."""
    async with scene.envoy(native(scene, ANYWHERE)) as envoy:
        alone = await served(scene, envoy, map(PLACES["header"], KEYS))
        crowd = [(PLACES["header"](key)[0] | PLACES["cookie"]("c")[0], {"user": "u"}) for key in KEYS]
        assert await served(scene, envoy, crowd) == alone
    headers = {name.lower() for each in scene.upstreams for _, sent, _ in each.requests for name in sent}
    assert "x-affinity" not in headers
    assert not any("shunter" in name for name in headers)


async def test_the_key_of_a_cookie_is_that_of_its_own_name(scene):
    async with scene.envoy(native(scene, {"cookie": "session", "body": []})) as envoy:
        headers = [({"cookie": f"mysession=x{n}; session=same"}, {}) for n in range(8)]
        assert len(set(await served(scene, envoy, headers))) == 1
        without = [({"cookie": "mysession=same"}, {}) for _ in range(20)]
        assert len(set(await served(scene, envoy, without))) == 2


@pytest.mark.parametrize("body", [{}, {"user": 7}, {"user": {"a": 1}}, {"user": None}, {"user": ""}])
async def test_without_a_key_load_decides(body, scene):
    """A number is a key too; whatever else is not text is none."""
    async with scene.envoy(native(scene)) as envoy:
        answers = await served(scene, envoy, [({}, body)] * 20)
    assert len(set(answers)) == (1 if body.get("user") == 7 else 2)


async def test_a_body_that_is_no_json_is_served(scene):
    async with scene.envoy(native(scene)) as envoy:
        for data, type_ in ((b"{", "application/json"), (b"", "application/json"), (b"--x", "multipart/form-data")):
            async with scene.client.post(envoy.url, data=io.BytesIO(data), headers={"content-type": type_}) as answer:
                assert answer.status == 200


@pytest.mark.parametrize(("body", "headers", "status"), [(["user"], {}, 413), ([], {}, 200), (["user"], {"x-key": "a"}, 200)])
async def test_bodies_are_kept_only_if_a_key_may_stand_there(body, headers, status, scene):
    resource = native(scene, {"body": body, "header": "x-key"}, limits={"bodyBytes": 2_000_000})
    async with scene.envoy(resource) as envoy:
        sent = io.BytesIO(json.dumps({"prompt": "x" * 2_100_000}).encode())
        headers |= {"content-type": "application/json"}
        async with scene.client.post(envoy.url, data=sent, headers=headers) as answer:
            assert answer.status == status


async def test_a_server_that_has_more_than_its_share_is_relieved_of_sessions(scene):
    """Of one session's requests at the same time it takes its share and a quarter, and one more; the next go elsewhere."""
    for each in scene.upstreams:
        each.held = True
    async with scene.envoy(native(scene)) as envoy:
        asking = []
        async with asyncio.timeout(10):
            for number in range(8):
                asking.append(asyncio.create_task(chat(scene, envoy, user="one")))
                while sum(len(each.requests) for each in scene.upstreams) <= number:  # noqa: ASYNC110 # lists have no events
                    await asyncio.sleep(0.01)
        taken = sorted(len(each.requests) for each in scene.upstreams)
        for each in scene.upstreams:
            each.held = False
            for _ in range(8):
                each.go.release()
        assert {status for status, _ in await asyncio.gather(*asking)} == {200}
    assert taken == [2, 6]


async def test_a_server_that_is_gone_costs_a_few_retries_and_then_nothing(scene):
    alive = scene.upstreams[0].authority
    pool = {"name": "llama", "endpoints": [scene.nobody, alive]}
    async with scene.envoy(native(scene, pools=[pool])) as envoy:
        for key in KEYS * 2:
            assert await chat(scene, envoy, user=key) == (200, alive)
        for _ in range(20):
            assert await chat(scene, envoy) == (200, alive)
        attempts = [each["attempts"] for each in envoy.access_log()]
    assert attempts.count(1) >= len(attempts) - 12


async def test_models_hosts_and_weights_route_as_in_other_profiles(scene):
    """Of a route with weights a session has one pool, by its key."""
    pools = [
        {"name": name, "endpoints": [each.authority], "picker": {"addresses": [scene.nobody]}}
        for name, each in zip("ab", scene.upstreams, strict=True)
    ]
    first, second = (each.authority for each in scene.upstreams)
    routes = [
        {"pool": "a", "models": ["m1"]},
        {"pool": "b", "models": ["m2"], "profile": "lean"},
        {"pools": [{"name": "a"}, {"name": "b"}], "models": ["m3"]},
    ]
    async with scene.envoy(native(scene, pools=pools, routes=routes)) as envoy:
        for key in KEYS:
            assert await chat(scene, envoy, model="m1", user=key) == (200, first)
            assert await chat(scene, envoy, model="m2", user=key) == (200, second)
        both = await served(scene, envoy, [({}, {"model": "m3", "user": key}) for key in KEYS])
        assert await served(scene, envoy, [({}, {"model": "m3", "user": key}) for key in KEYS]) == both
        assert set(both) == {first, second}
        assert (await chat(scene, envoy, model="m4", user="u"))[0] == 404


async def test_the_collector_is_told(scene):
    pool = {"name": "llama", "endpoints": [scene.upstreams[0].authority]}
    async with scene.collector.serving() as collector:
        pool["picker"] = {"collector": collector.address}
        async with scene.envoy(native(scene, pools=[pool])) as envoy:
            await chat(scene, envoy)
            await chat(scene, envoy, user="one")
            records = await collector.hear(2)
    assert [(each["host"], each["status"], each["id"]) for each in records] == [(pool["endpoints"][0], 200, None)] * 2
