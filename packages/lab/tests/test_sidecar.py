"""The sidecar has prompts computed elsewhere, and whatever goes wrong there the request is answered."""

import asyncio
import json
import time
from contextlib import AsyncExitStack, asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from shunter.lab.errors import ParamsError
from shunter.lab.shell.sidecar import Sidecar, endpoints_of
from shunter.lab.testing import lab_server
from shunter.snapshot import Endpoint, Load, Pool, SnapshotWriter, Topology

CHAT = "/v1/chat/completions"
PROMPT = "word " * 1000
BODY = {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 6, "temperature": 0}


@asynccontextmanager
async def listening(handle):
    """An engine that answers as ``handle`` does."""
    app = web.Application()
    app.add_routes([web.route("*", "/{path:.*}", handle)])
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@pytest.fixture
async def fleet():
    """One engine that prefills, one that decodes, and its sidecar: fleet(**options of the sidecar)."""
    async with AsyncExitStack() as stack:

        async def make(**options):
            prefiller = await stack.enter_async_context(lab_server(speed=500, prompt_tokens_details=True))
            decoder = await stack.enter_async_context(lab_server(speed=500, prompt_tokens_details=True))
            sidecar = await stack.enter_async_context(Sidecar(decoder.port, **options))
            return prefiller, decoder, sidecar

        yield make


def at(server):
    return f"127.0.0.1:{server if isinstance(server, int) else server.port}"


def ask(http, sidecar, *prefillers, path=CHAT, body=BODY, **fields):
    headers = {"x-prefiller-host-port": ",".join(prefillers)} if prefillers else {}
    return http.post(sidecar.url + path, json=body | fields, headers=headers)


def outcomes(sidecar, name="shunter_sidecar_requests"):
    samples = next(family.samples for family in sidecar.registry.collect() if family.name == name)
    return {each.labels["outcome"]: each.value for each in samples if each.name.endswith("_total")}


async def text(answer):
    assert answer.status == 200, await answer.text()
    return (await answer.json())["choices"][0]["message"]["content"]


async def prefilled(http, server):
    """Requests that an engine has finished, by its own metrics."""
    async with http.get(f"{server.url}/metrics") as page:
        lines = (await page.text()).splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:request_success_total"))


async def test_the_prompt_is_computed_by_one_engine_and_the_answer_given_by_another(fleet, http):
    prefiller, decoder, sidecar = await fleet()
    async with ask(http, sidecar) as alone, ask(http, sidecar, at(prefiller)) as divided:
        assert await text(alone) == await text(divided)
        assert (await divided.json())["system_fingerprint"] == decoder.fingerprint
    assert (await prefilled(http, prefiller), await prefilled(http, decoder)) == (1, 2)
    assert outcomes(sidecar) == {"local": 1, "disaggregated": 1}


async def test_who_prefills_may_be_said_by_the_newer_name(fleet, http):
    prefiller, _, sidecar = await fleet()
    headers = {"x-llm-d-prefiller-host-port": at(prefiller)}
    async with http.post(sidecar.url + CHAT, json=BODY, headers=headers) as answer:
        assert await text(answer)
    assert outcomes(sidecar) == {"disaggregated": 1}


async def test_a_stream_is_passed_on_as_it_comes(fleet, http):
    prefiller, decoder, sidecar = await fleet()
    async with ask(http, sidecar, at(prefiller), stream=True, stream_options={"include_usage": True}) as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        *events, done, rest = (await answer.text()).split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    said = [json.loads(each[6:]) for each in events]
    assert said[-1]["system_fingerprint"] == decoder.fingerprint
    assert len(said) == 1 + 6 + 1


@pytest.mark.parametrize("stream", [False, True])
async def test_the_client_learns_what_the_prefiller_had_cached(fleet, http, stream):
    """To the decoder every block was cached: it has fetched them."""
    prefiller, _, sidecar = await fleet()
    told = []
    for _ in range(2):
        options = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
        async with ask(http, sidecar, at(prefiller), **options) as answer:
            data = await answer.text()
            last = data.split("\n\n")[-3][6:] if stream else data
            told.append(json.loads(last)["usage"]["prompt_tokens_details"]["cached_tokens"])
    assert told[0] == 0
    assert told[1] > 500


@pytest.mark.parametrize("status", [400, 404, 429, 500, 503, 200])
async def test_a_prefiller_that_refuses_or_talks_nonsense_is_not_needed(fleet, http, status):
    async def handle(_):
        return web.Response(status=status, text='{"kv_transfer_params": 5}')

    _, decoder, sidecar = await fleet()
    async with listening(handle) as port, ask(http, sidecar, at(port)) as answer:
        assert await text(answer)
    assert outcomes(sidecar) == {"fell_back": 1}
    assert await prefilled(http, decoder) == 1


async def test_a_prefiller_that_is_not_there_is_not_needed(fleet, http, unused_port):
    _, _, sidecar = await fleet()
    for address in (f"127.0.0.1:{unused_port}", "nowhere", ":::", "127.0.0.1:99999"):
        async with ask(http, sidecar, address) as answer:
            assert await text(answer)
    assert outcomes(sidecar) == {"fell_back": 4}


async def test_a_prefiller_that_dies_on_the_way_is_not_needed(fleet, http):
    async def handle(request):
        await request.read()
        request.transport.abort()
        return web.Response()

    _, _, sidecar = await fleet()
    async with listening(handle) as port, ask(http, sidecar, at(port)) as answer:
        assert await text(answer)
    assert outcomes(sidecar) == {"fell_back": 1}


async def test_a_prefiller_that_never_answers_is_not_waited_for_for_ever(fleet, http):
    stuck = asyncio.Event()

    async def handle(_):
        await stuck.wait()
        return web.Response()

    _, _, sidecar = await fleet(prefill_timeout_s=0.05)
    async with listening(handle) as port, ask(http, sidecar, at(port)) as answer:
        assert await text(answer)
        stuck.set()
    assert outcomes(sidecar) == {"fell_back": 1}


async def test_the_next_prefiller_is_asked(fleet, http, unused_port):
    prefiller, _, sidecar = await fleet()
    async with ask(http, sidecar, f"127.0.0.1:{unused_port}", at(prefiller)) as answer:
        assert await text(answer)
    assert outcomes(sidecar) == {"disaggregated": 1}
    assert await prefilled(http, prefiller) == 1


async def test_a_decoder_that_cannot_fetch_the_blocks_computes_them(http):
    """vLLM answers 500 where the prefiller has died between the two legs."""
    seen = []

    async def decode(request):
        body = await request.json()
        seen.append(body.get("kv_transfer_params"))
        return web.json_response({"id": "x"}, status=500 if seen[-1] else 200)

    async with (
        lab_server(speed=500) as prefiller,
        listening(decode) as port,
        Sidecar(port) as sidecar,
        ask(http, sidecar, at(prefiller)) as answer,
    ):
        assert (answer.status, await answer.json()) == (200, {"id": "x"})
    assert [each is None for each in seen] == [False, True]
    assert outcomes(sidecar) == {"fell_back": 1}


async def test_only_endpoints_of_the_pool_are_asked(fleet, http, tmp_path, until):
    asked = []

    async def handle(request):
        asked.append(request.path)
        return web.Response()

    allowed = endpoints_of(tmp_path)
    prefiller, _, sidecar = await fleet(allowed=allowed)
    async with ask(http, sidecar, at(prefiller)) as answer:
        assert answer.status == 403, "before the first snapshot nobody is known"
    publish(tmp_path, prefiller.port)
    await until(lambda: allowed(at(prefiller)))
    async with ask(http, sidecar, at(prefiller)) as answer:
        assert await text(answer)
    async with listening(handle) as port, ask(http, sidecar, at(prefiller), at(port)) as answer:
        assert answer.status == 403
        assert "no endpoint of the pool" in (await answer.json())["error"]["message"]
    assert asked == []
    assert outcomes(sidecar) == {"denied": 2, "disaggregated": 1}


def publish(directory, port):
    writer = SnapshotWriter(directory)
    now_ns = time.monotonic_ns()
    endpoint = Endpoint(slot=0, incarnation=1, name="p", address="127.0.0.1", port=port, pools=(0,))
    writer.publish_topology(Topology(epoch=1, generation=1, pools=(Pool(name="p"),), endpoints=(endpoint,)), now_ns)
    writer.publish_load(Load.of([], epoch=1, topology_generation=1, published_ns=now_ns))
    writer.close()


@pytest.mark.parametrize("fields", [{"n": 2}, {"messages": "hi"}, {"prompt": ["a", "b"]}])
async def test_what_cannot_be_divided_is_the_engines_own_affair(fleet, http, fields):
    prefiller, decoder, sidecar = await fleet()
    path = "/v1/completions" if "prompt" in fields else CHAT
    divided = ask(http, sidecar, at(prefiller), path=path, **fields)
    async with divided as answer, http.post(decoder.url + path, json=BODY | fields) as own:
        assert answer.status == own.status
    assert await prefilled(http, prefiller) == 0


async def test_everything_else_goes_through(fleet, http):
    _, decoder, sidecar = await fleet()
    for path in ("/v1/models", "/version", "/nothing?a=b"):
        async with http.get(sidecar.url + path) as answer, http.get(decoder.url + path) as own:
            assert (answer.status, await answer.read()) == (own.status, await own.read())
    async with http.get(sidecar.url + "/health") as answer:
        assert answer.status == 200
    async with http.get(sidecar.url + "/metrics") as answer:
        assert "vllm:num_requests_running" in await answer.text(), "the engine's, for the scraper"


async def test_an_engine_that_is_gone_is_a_502(http, unused_port):
    async with Sidecar(unused_port) as sidecar, ask(http, sidecar) as answer:
        assert answer.status == 502
        assert f"127.0.0.1:{unused_port} does not answer" in (await answer.json())["error"]["message"]


async def test_an_answer_that_breaks_off_breaks_off_for_the_client(http):
    async def decode(request):
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: 1\n\n")
        request.transport.abort()
        return response

    async with listening(decode) as port, Sidecar(port) as sidecar, ask(http, sidecar) as answer:
        with pytest.raises(aiohttp.ClientError):
            await answer.read()


async def test_its_own_metrics_have_a_port_of_their_own(fleet, http):
    _, _, sidecar = await fleet(metrics_port=0)
    async with ask(http, sidecar) as answer:
        await answer.read()
    async with http.get(f"http://127.0.0.1:{sidecar.metrics_port}/metrics") as page:
        assert 'shunter_sidecar_requests_total{outcome="local"} 1.0' in await page.text()


async def test_a_taken_port_is_said(fleet):
    _, decoder, sidecar = await fleet()
    for options in ({"port": sidecar.port}, {"metrics_port": sidecar.port}):
        with pytest.raises(ParamsError, match=f"cannot listen on 127.0.0.1:{sidecar.port}"):
            async with Sidecar(decoder.port, **options):
                pass


class Meeting:
    """Two SGLang engines that wait for each other at the room that their requests name."""

    def __init__(self):
        self.rooms = {"prefill": {}, "decode": {}}
        self.met = asyncio.Event()

    def engine(self, stage, status=200):
        async def handle(request):
            body = await request.json()
            if status != 200:
                return web.Response(status=status)
            if "bootstrap_room" in body:
                self.rooms[stage] = {name: body[name] for name in body if name.startswith("bootstrap")}
                if all(self.rooms.values()):
                    self.met.set()
                await self.met.wait()
            return web.json_response({"by": stage, "divided": "bootstrap_room" in body})

        return handle


async def test_sglangs_engines_meet(http):
    meeting = Meeting()
    async with (
        listening(meeting.engine("prefill")) as first,
        listening(meeting.engine("decode")) as second,
        Sidecar(second, connector="sglang", bootstrap_port=7777) as sidecar,
        ask(http, sidecar, at(first)) as answer,
    ):
        assert await answer.json() == {"by": "decode", "divided": True}
    assert meeting.rooms["prefill"] == meeting.rooms["decode"]
    assert meeting.rooms["prefill"].items() >= {"bootstrap_host": "127.0.0.1", "bootstrap_port": 7777}.items()


async def test_an_sglang_decoder_does_not_wait_for_who_will_not_come(http):
    meeting = Meeting()
    async with listening(meeting.engine("prefill", 503)) as first, listening(meeting.engine("decode")) as second:
        async with Sidecar(second, connector="sglang") as sidecar, ask(http, sidecar, at(first)) as answer:
            assert await answer.json() == {"by": "decode", "divided": False}
        meeting.met.set()
    assert outcomes(sidecar) == {"fell_back": 1}


PICTURES = [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{name}"}} for name in ("AAAA", "BBBB", "CCCC")]
PICTURED = BODY | {"messages": [{"role": "user", "content": [*PICTURES, {"type": "text", "text": PROMPT}]}]}


@pytest.fixture
async def gallery(tmp_path):
    """Engines that share what they encode, and a sidecar: gallery(how many that encode, **options of the sidecar).

    Returns those that encode, one that prefills, one that decodes, and the sidecar.
    """
    async with AsyncExitStack() as stack:

        async def make(encoders, **options):
            whole = {"speed": 500, "media_tokens": 20, "ec_storage": tmp_path}
            roles = [{"mm_encoder_only": True}] * encoders + [{}] * 2
            *others, prefiller, decoder = [await stack.enter_async_context(lab_server(**whole, **role)) for role in roles]
            sidecar = await stack.enter_async_context(Sidecar(decoder.port, encoder_connector="ec-example", **options))
            return others, prefiller, decoder, sidecar

        yield make


def show(http, sidecar, *encoders, body=PICTURED, spelling="x-encoder-hosts-ports", **headers):
    return http.post(sidecar.url + CHAT, json=body, headers={spelling: ",".join(encoders)} | headers)


def encodings(sidecar):
    return outcomes(sidecar, "shunter_sidecar_encodings")


def encoded(server):
    return server.engine.tally.encodings["computed"]


async def test_pictures_are_encoded_in_turn_before_the_prompt_is_computed(gallery, http):
    (first, second), prefiller, decoder, sidecar = await gallery(2)
    headers = {"x-prefiller-host-port": at(prefiller)}
    async with show(http, sidecar, at(first), at(second), **headers) as answer:
        assert await text(answer)
        assert (await answer.json())["system_fingerprint"] == decoder.fingerprint
    assert [encoded(each) for each in (first, second, prefiller, decoder)] == [2, 1, 0, 0]
    assert prefiller.engine.tally.encodings["storage"] == 3
    assert (outcomes(sidecar), encodings(sidecar)) == ({"disaggregated": 1}, {"encoded": 3})


async def test_whoever_decodes_may_compute_the_prompt_with_what_others_encoded(gallery, http):
    (encoder,), _, decoder, sidecar = await gallery(1)
    async with show(
        http, sidecar, at(encoder), spelling="x-llm-d-encoder-hosts-ports", body=PICTURED | {"n": 2, "temperature": 1}
    ) as answer:
        assert len((await answer.json())["choices"]) == 2
    assert (encoded(encoder), decoder.engine.tally.encodings["storage"]) == (3, 3)
    assert outcomes(sidecar) == {"local": 1}


async def test_the_text_is_the_same_as_from_one_engine(gallery, http):
    (encoder,), prefiller, _, sidecar = await gallery(1)
    async with show(http, sidecar, at(encoder), **{"x-prefiller-host-port": at(prefiller)}) as answer:
        divided = await text(answer)
    async with lab_server(speed=500, media_tokens=20) as alone, show(http, alone) as answer:
        assert await text(answer) == divided


async def test_whoever_encodes_is_asked_for_one_picture_and_no_word(gallery, http):
    _, _, _, sidecar = await gallery(0)
    asked = []

    async def handle(request):
        asked.append(await request.json())
        return web.json_response({})

    body = PICTURED | {"stream": True, "model": "lab/llama-3-8b"}
    body["messages"] = [*PICTURED["messages"], {"role": "user", "content": [PICTURES[0]]}, {"role": "user", "content": "hm"}]
    async with listening(handle) as port, show(http, sidecar, at(port), body=body) as answer:
        assert answer.status == 200
        await answer.read()
    asked.sort(key=str)
    assert asked == [
        {"model": "lab/llama-3-8b", "messages": [{"role": "user", "content": [each]}], "max_tokens": 1, "stream": False}
        for each in PICTURES
    ]


async def test_an_encoder_that_fails_is_not_needed(gallery, http, unused_port):
    _, prefiller, _, sidecar = await gallery(0)

    async def handle(_):
        return web.Response(status=500)

    async with listening(handle) as port:
        nobody = at(port), f"127.0.0.1:{unused_port}", "nowhere"
        async with show(http, sidecar, *nobody, **{"x-prefiller-host-port": at(prefiller)}) as answer:
            assert await text(answer)
    assert (encodings(sidecar), encoded(prefiller)) == ({"failed": 3}, 3)


async def test_who_may_not_be_asked_to_encode_is_left_out(gallery, http):
    allowed = set()
    (encoder,), _, decoder, sidecar = await gallery(1, allowed=allowed.__contains__)
    allowed.add(at(encoder))

    async def handle(_):
        raise AssertionError

    async with listening(handle) as port:
        async with show(http, sidecar, at(port), at(encoder)) as answer:
            assert await text(answer)
        assert (encodings(sidecar), encoded(decoder)) == ({"encoded": 3}, 0)
        async with show(http, sidecar, at(port)) as answer:
            assert await text(answer)
    assert encodings(sidecar) == {"encoded": 3, "denied": 3}


async def test_nobody_is_asked_to_encode_unless_somebody_wants_it(fleet, http):
    _, _, sidecar = await fleet()

    async def handle(_):
        raise AssertionError

    async with listening(handle) as port, show(http, sidecar, at(port), body=BODY) as answer:
        assert await text(answer)


@pytest.mark.parametrize(
    "body", [BODY, PICTURED | {"messages": "hi"}, {"prompt": "hi"}, {"messages": [{"content": [PICTURES]}]}]
)
async def test_where_there_is_no_picture_no_encoder_is_asked(gallery, http, body):
    _, _, _, sidecar = await gallery(0)

    async def handle(_):
        raise AssertionError

    async with listening(handle) as port, show(http, sidecar, at(port), body=body) as answer:
        await answer.read()
    assert encodings(sidecar) == {}


async def test_only_so_many_pictures_are_asked_for_at_once(gallery, http, monkeypatch):
    monkeypatch.setattr("shunter.lab.shell.sidecar.ENCODED_AT_ONCE", 2)
    _, _, _, sidecar = await gallery(0)
    asked, full, released = [], asyncio.Event(), asyncio.Event()

    async def handle(_):
        asked.append(1)
        if len(asked) == 2:
            full.set()
        await released.wait()
        return web.json_response({})

    async def shown(port):
        async with show(http, sidecar, at(port)) as answer:
            return await text(answer)

    async with listening(handle) as port:
        answered = asyncio.create_task(shown(port))
        await full.wait()
        async with http.get(f"{sidecar.url}/v1/models") as answer:  # time enough for one more
            await answer.read()
        assert len(asked) == 2
        released.set()
        assert await answered
    assert encodings(sidecar) == {"encoded": 3}


async def test_of_more_pictures_than_a_prompt_may_have_none_is_asked_for(gallery, http, monkeypatch):
    monkeypatch.setattr("shunter.lab.shell.sidecar.MOST_MEDIA", 2)
    (encoder,), _, _, sidecar = await gallery(1)
    async with show(http, sidecar, at(encoder)) as answer:
        assert await text(answer)
    assert (encodings(sidecar), encoded(encoder)) == ({"left": 3}, 0)
