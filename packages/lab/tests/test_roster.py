"""A sidecar remembers who failed: one that hangs costs a request now and then, and not each one."""

import asyncio
import logging
from contextlib import AsyncExitStack

import pytest
from aiohttp import web

from shunter.lab.shell.sidecar import Sidecar

CHAT = "/v1/chat/completions"
DEADLINE_S = 30.0
# Every hang costs a test so much; who answers has to within it, however busy the machine is.
PATIENCE_S = 2.0
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
BODY = {"messages": [{"role": "user", "content": [PICTURE]}]}


class Stub:
    """An engine that does as `does` says: "well", "nonsense", "hang", or "meet" somebody who will not come; or a status."""

    def __init__(self):
        self.does, self.asked, self.address, self.leads = "well", 0, "", ""
        self.let_go = asyncio.Event()

    async def handle(self, request):
        self.asked += 1
        body = await request.json()
        if self.does == "hang" or (self.does == "meet" and "bootstrap_room" in body):
            await self.let_go.wait()
        if isinstance(self.does, int):
            return web.Response(status=self.does, headers={"Location": self.leads})
        return web.json_response({"kv_transfer_params": {"a": 1}} if self.does == "well" else {})


class Scene:
    """Two stubs that prefill or encode, one that decodes, its sidecar, and the time."""

    def __init__(self, http):
        self.http, self.now_s = http, 0.0
        self.first, self.second, self.decoder = Stub(), Stub(), Stub()

    async def ask(self, *named, header="x-prefiller-host-port"):
        """Ask for an answer, whoever computes its prompt, and return how often each stub was asked for it."""
        before = [each.asked for each in (self.first, self.second)]
        headers = {header: ",".join(each.address for each in named)}
        async with self.http.post(self.sidecar.url + CHAT, json=BODY, headers=headers) as answer:
            assert answer.status == 200, "it costs no answer, whatever it costs"
        return [each.asked - then for each, then in zip((self.first, self.second), before, strict=True)]

    def samples(self, name):
        samples = [each for family in self.sidecar.registry.collect() for each in family.samples if each.name == name]
        return {tuple(each.labels.values()): each.value for each in samples}


@pytest.fixture
async def scene(http):
    """A scene in which nobody is waited for for long: scene(**options of the sidecar)."""
    async with AsyncExitStack() as stack:

        async def make(**options):
            made = Scene(http)
            for stub in (made.first, made.second, made.decoder):
                app = web.Application()
                app.add_routes([web.post("/{path:.*}", stub.handle)])
                runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
                await runner.setup()
                stack.push_async_callback(runner.cleanup)
                await web.TCPSite(runner, "127.0.0.1", 0).start()
                stub.address = f"127.0.0.1:{runner.addresses[0][1]}"
            port = int(made.decoder.address.rpartition(":")[2])
            options = {"prefill_timeout_s": PATIENCE_S, "clock": lambda: made.now_s} | options
            made.sidecar = await stack.enter_async_context(Sidecar(port, **options))
            return made

        yield make


async def test_one_that_hangs_costs_one_request_a_penalty(scene):
    made = await scene()
    made.first.does = "hang"
    assert await made.ask(made.first) == [1, 0]
    assert [await made.ask(made.first) for _ in range(3)] == [[0, 0]] * 3
    made.now_s = 1
    assert [await made.ask(made.first) for _ in range(3)] == [[1, 0], [0, 0], [0, 0]]
    made.now_s = 2.9
    assert await made.ask(made.first) == [0, 0], "the second penalty is longer"
    assert made.samples("shunter_sidecar_requests_total") == {("fell_back",): 8}


async def test_one_suspect_is_tried_by_one_request_at_a_time(scene, until):
    made = await scene(prefill_timeout_s=DEADLINE_S)
    made.first.does = 500
    await made.ask(made.first)
    made.now_s, made.first.does = 1, "hang"
    trying = asyncio.create_task(made.ask(made.first))
    await until(lambda: made.first.asked == 2)
    assert await made.ask(made.first, made.second) == [0, 1]
    made.first.does = "well"
    made.first.let_go.set()
    await trying
    assert await made.ask(made.first, made.second) == [1, 0]


async def test_one_that_comes_back_is_used_again(scene):
    made = await scene()
    made.first.does = "hang"
    await made.ask(made.first)
    made.first.does = "well"
    assert await made.ask(made.first, made.second) == [0, 1]
    made.now_s = 1
    assert await made.ask(made.first, made.second) == [1, 0]
    assert await made.ask(made.first, made.second) == [1, 0], "in its penalty no more"


@pytest.mark.parametrize("does", [500, 503, 429, "nonsense"])
async def test_one_that_fails_at_once_is_asked_after_the_others_and_at_last(scene, does):
    made = await scene()
    made.first.does = does
    assert await made.ask(made.first, made.second) == [1, 1]
    assert await made.ask(made.first, made.second) == [0, 1]
    assert await made.ask(made.first) == [1, 0]


async def test_one_that_refuses_a_request_is_asked_for_the_next(scene):
    made = await scene()
    made.first.does = 400
    for _ in range(2):
        assert await made.ask(made.first, made.second) == [1, 1]
    assert made.samples("shunter_sidecar_failures_total") == {("prefill", "rejected"): 2}
    assert made.samples("shunter_sidecar_failing") == {}


@pytest.mark.parametrize("connector", ["nixlv2", "sglang"])
async def test_one_whose_blocks_cannot_be_fetched_is_asked_after_the_others(scene, connector):
    made = await scene(connector=connector)
    made.decoder.does = 500
    headers = {"x-prefiller-host-port": made.first.address}
    async with made.http.post(made.sidecar.url + CHAT, json=BODY, headers=headers) as answer:
        assert answer.status == 500, "the engine's own"
    made.decoder.does = "well"
    assert made.samples("shunter_sidecar_failing") == {("prefill", made.first.address, "blocks"): 1}
    assert await made.ask(made.first, made.second) == [0, 1]
    assert await made.ask(made.first) == [1, 0]
    assert made.samples("shunter_sidecar_failing") == {}


async def test_sglangs_that_hang_are_left_out_as_well(scene):
    made = await scene(connector="sglang")
    made.first.does, made.decoder.does = "hang", "meet"
    assert [await made.ask(made.first) for _ in range(3)] == [[1, 0], [0, 0], [0, 0]]
    assert made.samples("shunter_sidecar_failing") == {("prefill", made.first.address, "timeout"): 1}


async def test_a_client_that_leaves_makes_room_for_the_next_try(scene, until):
    made = await scene(prefill_timeout_s=DEADLINE_S)
    made.first.does = 500
    await made.ask(made.first)
    made.now_s, made.first.does = 1, "hang"
    leaving = asyncio.create_task(made.ask(made.first))
    await until(lambda: made.first.asked == 2)
    leaving.cancel()
    made.first.does = "well"

    async def tried():
        return await made.ask(made.first, made.second) == [1, 0]

    await until(tried)


async def test_the_metrics_and_the_log_name_who_fails_and_say_when_it_works(scene, caplog):
    caplog.set_level(logging.INFO, "shunter")
    made = await scene()
    made.first.does = "hang"
    await made.ask(made.first)
    assert made.samples("shunter_sidecar_failing") == {("prefill", made.first.address, "timeout"): 1}
    made.now_s = 1
    await made.ask(made.first)
    assert made.samples("shunter_sidecar_failing") == {("prefill", made.first.address, "timeout"): 2}
    assert made.samples("shunter_sidecar_failures_total") == {("prefill", "timeout"): 2}
    made.first.does, made.now_s = "well", 4
    await made.ask(made.first)
    assert made.samples("shunter_sidecar_failing") == {}
    name, why = made.first.address, f"no answer within {PATIENCE_S:g} s"
    assert [(each.levelname, each.getMessage()) for each in caplog.records] == [
        ("WARNING", f"prefill by {name} failed: {why}; until it works one request at a time tries it"),
        ("INFO", f"prefill by {name} works again, after 4.0 s"),
    ]


async def test_whatever_a_name_is_the_metrics_can_be_written(scene):
    made = await scene(metrics_port=0)
    head = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 2\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", made.sidecar.port)
    writer.write(head + b'x-prefiller-host-port: \xff"\\:1\r\n\r\n{}')
    assert (await reader.read()).startswith(b"HTTP/1.1 200")
    writer.close()
    async with made.http.get(f"http://127.0.0.1:{made.sidecar.metrics_port}/metrics") as page:
        assert page.status == 200
        assert 'reason="unreachable"' in await page.text()


async def test_nobody_sends_a_sidecar_elsewhere(scene):
    """Whom it may ask is known of the address that is named, and not of one to which that leads."""
    made = await scene(allowed=lambda address: address == made.first.address)
    made.first.does, made.first.leads = 307, f"http://{made.second.address}/"
    assert await made.ask(made.first) == [1, 0]


async def test_pictures_are_taken_from_an_encoder_that_hangs_to_the_others(scene):
    made = await scene(encoder_connector="ec-example")
    made.first.does = "hang"
    header = "x-encoder-hosts-ports"
    assert await made.ask(made.first, made.second, header=header) == [1, 0]
    assert await made.ask(made.first, made.second, header=header) == [0, 1]
    assert await made.ask(made.first, header=header) == [0, 0]
    assert made.samples("shunter_sidecar_encodings_total") == {("failed",): 1, ("encoded",): 1, ("left",): 1}
    assert made.samples("shunter_sidecar_failing") == {("encode", made.first.address, "timeout"): 1}
    assert await made.ask(made.first) == [1, 0], "who cannot encode may yet prefill"
