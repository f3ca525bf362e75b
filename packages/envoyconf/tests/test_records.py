"""What a real Envoy tells a pool's collector."""

import gzip
import json

import pytest

from shunter.envoyconf.core.envoy.usage import PATHS

pytestmark = pytest.mark.envoy

told = pytest.mark.parametrize("profile", ["lean", "usage", "strict", "headers", "full"])


@pytest.fixture
async def collector(scene):
    async with scene.collector.serving() as collector:
        yield collector


@told
async def test_a_request_is_told_of_at_its_end(profile, scene, collector):
    picked = scene.pickers[0].pick = scene.upstreams[1].authority
    async with scene.envoy(scene.bootstrap(profile=profile, collector=collector.address)) as envoy:
        await scene.ask(envoy, "/v1/completions?key=secret")
        (record,) = await collector.hear(1)
    assert record.pop("duration_ms") * 1000 + 1000 > record.pop("first_us") > 0
    assert (record.pop("releases", None) == "yes") is (profile in {"strict", "headers"})
    assert {name for name in PATHS if record.pop(name, "absent") is None} == (set(PATHS) if profile == "usage" else set())
    assert record == {
        "type": "DownstreamEnd",
        "id": "7-1",
        "pick": picked,
        "host": picked,
        "status": 200,
        "flags": "-",
        "attempts": 1,
        "sent": len(picked),
        "content": "text/plain; chars",
    }


@told
async def test_a_request_that_lasts_is_told_of_every_second_but_logged_once(profile, scene, collector):
    upstream = scene.upstreams[0]
    scene.pickers[0].pick, upstream.pieces = upstream.authority, [b"one", b"two"]
    upstream.go.release()
    async with scene.envoy(scene.bootstrap(profile=profile, collector=collector.address)) as envoy:
        async with scene.client.post(envoy.url, data=b"x") as answer:
            live = await collector.hear(2)
            upstream.go.release()
            assert await answer.read() == b"onetwo"
        *_, last = await collector.hear(3)
        lines = envoy.access_log()
    assert {(each["type"], each["host"], each["id"]) for each in live} == {("DownstreamPeriodic", upstream.authority, "7-1")}
    assert last["type"] == "DownstreamEnd"
    assert len(lines) <= 1


async def test_a_retry_tells_who_answered_and_who_was_meant(scene, collector):
    ready = scene.upstreams[0].authority
    scene.pickers[0].pick = f"{scene.nobody},{ready}"
    async with scene.envoy(scene.bootstrap(endpoints=[scene.nobody, ready], collector=collector.address)) as envoy:
        await scene.ask(envoy)
        (record,) = await collector.hear(1)
    assert (record["attempts"], record["host"], record["pick"]) == (2, ready, f"{scene.nobody},{ready}")


async def test_without_a_picker_a_record_has_no_pick(scene, collector):
    async with scene.envoy(scene.bootstrap(picker=scene.nobody, collector=collector.address)) as envoy:
        await scene.ask(envoy)
        (record,) = await collector.hear(1)
    assert (record["status"], record["pick"], record["id"]) == (200, None, None)


async def test_records_wait_for_a_collector_that_is_away(scene, collector):
    port = int(scene.nobody.rpartition(":")[2])
    async with scene.envoy(scene.bootstrap(collector=scene.nobody)) as envoy:
        for _ in range(20):
            await scene.ask(envoy)
        scene.held.close()
        async with collector.serving(port):
            assert len(await collector.hear(20)) == 20


@pytest.mark.parametrize("filtered", [True, False])
async def test_a_collector_hears_of_its_own_pool_only(filtered, scene, collector):
    pools = [
        {"name": name, "endpoints": [upstream.authority], "picker": {"addresses": [scene.nobody], "collector": place}}
        for name, upstream, place in zip(("one", "two"), scene.upstreams, (collector.address, None), strict=True)
    ]
    resource = scene.bootstrap(pools=pools, routes=[{"prefix": "/one", "pool": "one"}, {"pool": "two"}])
    if not filtered:  # the check below would notice
        manager = resource["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
        del manager["access_log"][-1]["filter"]
    async with scene.envoy(resource) as envoy:
        for path in ("/two", "/one", "/two", "/one"):
            await scene.ask(envoy, path)
        records = await collector.hear(2 if filtered else 4)
    assert ({each["host"] for each in records} == {scene.upstreams[0].authority}) is filtered


OPENAI = {"prompt_tokens": 11, "completion_tokens": 13, "prompt_tokens_details": {"cached_tokens": 8}}
RESPONSES = {"input_tokens": 11, "output_tokens": 13, "input_tokens_details": {"cached_tokens": 8}}
ANTHROPIC = {"input_tokens": 11, "output_tokens": 13, "cache_read_input_tokens": 8, "cache_creation_input_tokens": 3}
FULL = {"prompt": 11, "completion": 13, "cached": 8}
MESSAGES = {"prompt": 11, "completion": 13, "cache_read": 8, "cache_write": 3}
NOTHING = {}


def events(*payloads):
    return [b"data: %s\n\n" % (each if isinstance(each, bytes) else json.dumps(each).encode()) for each in payloads]


def plain(usage):
    return [json.dumps({"id": "x", "usage": usage}).encode()]


STARTED = {"type": "message_start", "message": {"usage": ANTHROPIC | {"output_tokens": 1}}}
CHUNK = {"choices": [{"delta": {"content": "x"}}], "usage": None}


@pytest.mark.parametrize(
    ("type_", "pieces", "expected"),
    [
        pytest.param("application/json", plain(OPENAI), FULL, id="completions"),
        pytest.param("application/json; charset=utf-8", plain(OPENAI), FULL, id="completions, charset"),
        pytest.param("application/json", plain(RESPONSES), FULL, id="responses"),
        pytest.param("application/json", plain(ANTHROPIC), MESSAGES, id="messages"),
        pytest.param("application/json", plain(OPENAI | {"prompt_tokens_details": None}), {**FULL, "cached": None}, id="null"),
        pytest.param("application/json", [b"{}"], NOTHING, id="no usage"),
        pytest.param("application/json", [b"no json"], NOTHING, id="no JSON"),
        pytest.param("text/plain", plain(OPENAI), NOTHING, id="text"),
        pytest.param(
            "text/event-stream; charset=utf-8",
            events(CHUNK, {"choices": [], "usage": OPENAI}, b"[DONE]"),
            FULL,
            id="stream of completions",
        ),
        pytest.param(
            "text/event-stream",
            events({"type": "response.created", "response": {}}, {"type": "x", "response": {"usage": RESPONSES}}),
            FULL,
            id="stream of responses",
        ),
        pytest.param(
            "text/event-stream",
            events(STARTED, {"type": "message_delta", "usage": {"output_tokens": 13}}),
            MESSAGES,
            id="stream of messages",
        ),
        pytest.param("text/event-stream", events(CHUNK, b"[DONE]"), NOTHING, id="stream without usage"),
    ],
)
async def test_usage_tells_the_tokens(type_, pieces, expected, scene, collector):
    upstream = scene.upstreams[0]
    scene.pickers[0].pick, upstream.type, upstream.pieces = upstream.authority, type_, pieces
    for _ in pieces:
        upstream.go.release()
    async with scene.envoy(scene.bootstrap(profile="usage", collector=collector.address)) as envoy:
        status, text, _ = await scene.ask(envoy)
        (record,) = await collector.hear(1)
    assert (status, text) == (200, b"".join(pieces).decode())
    assert {name: record[name] for name in PATHS} == dict.fromkeys(PATHS) | expected


async def test_usage_cannot_read_what_is_compressed(scene, collector):
    upstream = scene.upstreams[0]
    scene.pickers[0].pick = upstream.authority
    upstream.type, upstream.pieces = "application/json", [gzip.compress(plain(OPENAI)[0])]
    upstream.go.release()
    async with scene.envoy(scene.bootstrap(profile="usage", collector=collector.address)) as envoy:
        async with scene.client.post(envoy.url, data=b"x") as answer:
            assert gzip.decompress(await answer.read()) == plain(OPENAI)[0]
        (record,) = await collector.hear(1)
    assert {record[name] for name in PATHS} == {None}


async def test_a_rule_for_what_is_missing_would_overwrite_what_was_told(scene, collector):
    upstream = scene.upstreams[0]
    scene.pickers[0].pick = upstream.authority
    upstream.type, upstream.pieces = "text/event-stream", events({"usage": OPENAI}, b"[DONE]")
    for _ in upstream.pieces:
        upstream.go.release()
    resource = scene.bootstrap(profile="usage", collector=collector.address)
    manager = resource["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    parser = manager["http_filters"][2]["typed_config"]["response_rules"]["content_parser"]["typed_config"]
    for each in parser["rules"]:
        each["rule"]["on_error"] = each["rule"]["on_present"] | {"value": -1}
    async with scene.envoy(resource) as envoy:
        await scene.ask(envoy)
        (record,) = await collector.hear(1)
    assert record["prompt"] != FULL["prompt"]
