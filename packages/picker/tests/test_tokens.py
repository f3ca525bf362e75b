"""Asking engines for tokens: the right question, once, beside the requests; what does not come is left out."""

import asyncio
import contextlib
import json
import time

import msgspec
import pytest
from aiohttp import web

from shunter.picker import config
from shunter.picker.core.precise import Precise, PreciseSettings, Want
from shunter.picker.core.prefix import PrefixIndex, PrefixSettings
from shunter.picker.core.request import read
from shunter.picker.core.tables import COUNTERS_BYTES, Counters
from shunter.picker.shell.tokens import MAX_PROMPT_BYTES, MAX_WAITING, MAX_WAITING_BYTES, Tokeniser, question
from shunter.picker.shell.worker import Settings, Worker
from shunter.snapshot import BLOCK_LOG, Held, encode_statement, map_log, names_of
from shunter.snapshot.log import LEAST_BYTES

TEXT = " word" * 200
TOKENS = list(range(200))


def request_of(path, **body):
    request = read({":path": path}, json.dumps({"model": "client-name"} | body).encode())
    return msgspec.structs.replace(request, target_model="m")


def completion(text=TEXT):
    return request_of("/v1/completions", prompt=text)


class Engine:
    """An engine's /tokenize, which answers as it is told."""

    def __init__(self):
        self.asked = []
        self.answer = {"tokens": TOKENS, "count": len(TOKENS), "max_model_len": 4096}
        self.status = 200
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def start(self):
        app = web.Application()
        app.add_routes([web.post("/tokenize", self._tokenize)])
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.authority = f"127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self):
        await self._runner.cleanup()

    async def _tokenize(self, request):
        self.asked.append(await request.json())
        await self.may_answer.wait()
        body = self.answer if isinstance(self.answer, bytes) else json.dumps(self.answer).encode()
        return web.Response(body=body, status=self.status)


@pytest.fixture
async def engine():
    engine = Engine()
    await engine.start()
    yield engine
    await engine.stop()


@pytest.fixture
def precise():
    precise = Precise(PreciseSettings(producer="p"), PrefixIndex(PrefixSettings()), lambda _: None)
    precise.holders.read([encode_statement(Held(0, 1, "gpu", 16, None, (1,)))])
    return precise


@pytest.fixture
def make_tokeniser(precise):
    """A tokeniser; ``counted()`` is what it counted."""

    def make():
        counters = Counters(bytearray(COUNTERS_BYTES))
        counters.begin(1, pid=0, now_ns=0)
        tokeniser = Tokeniser(precise, counters)
        tokeniser.counted = counters.tally
        return tokeniser

    return make


@pytest.fixture
async def tokeniser(precise, make_tokeniser):
    tokeniser = make_tokeniser()
    running = asyncio.create_task(tokeniser.run())
    yield tokeniser
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    assert precise.ask is None


@pytest.fixture
def want(engine, precise):
    def make(request=None, *, key=None, authority=None):
        request = request or completion()
        hashes = precise._index.hash(request.prompt, b"")
        key = precise._key(request.prompt, hashes) if key is None else key
        return Want(key, hashes, request, 0, 1, authority or engine.authority)

    return make


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  a server's answer makes it true
            await asyncio.sleep(0.005)


async def test_a_prompt_is_known_once_it_was_asked_for(tokeniser, engine, precise, want):
    tokeniser.ask(want())
    await until(lambda: tokeniser.counted().tokenised == 1)
    assert engine.asked == [{"model": "m", "prompt": TEXT}]
    assert precise.spellings.knows(want().key, [16])


async def test_chat_is_asked_for_with_all_that_its_template_needs(tokeniser, engine, want):
    messages = [{"role": "user", "content": TEXT}]
    tools = [{"type": "function", "function": {"name": "f"}}]
    tokeniser.ask(want(request_of("/v1/chat/completions", messages=messages, tools=tools)))
    await until(lambda: tokeniser.counted().tokenised == 1)
    assert engine.asked == [{"model": "m", "messages": messages, "tools": tools}]


async def test_a_prompt_that_is_tokens_needs_nobody(tokeniser, engine, precise, want):
    request = request_of("/v1/completions", prompt=list(range(1000, 1640)))
    ids = want(request)
    tokeniser.ask(ids)
    await until(lambda: tokeniser.counted().tokenised == 1)
    assert not engine.asked
    names = precise.spellings.find(ids.key, ids.hashes, len(request.prompt), (16, False)).names
    assert names == names_of(range(1000, 1640), 16)


async def test_a_prompt_that_became_known_meanwhile_is_not_asked_for(tokeniser, engine, precise, want):
    precise.learn(want(), TOKENS)
    tokeniser.ask(want())
    await until(lambda: not tokeniser._asked)
    assert not engine.asked


async def test_a_prompt_is_asked_for_once_at_a_time(tokeniser, engine, want):
    engine.may_answer.clear()
    tokeniser.ask(want())
    tokeniser.ask(want())
    await until(lambda: engine.asked)
    engine.may_answer.set()
    await until(lambda: tokeniser.counted().tokenised == 1)
    assert len(engine.asked) == 1


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (404, {}),
        (500, {}),
        (200, b"no JSON"),
        (200, b'{"x":' + b"[" * 100_000),
        (200, {"tokens": "x"}),
        (200, {"tokens": [-1]}),
        (200, {"tokens": [2**32] * 64}),
    ],
)
async def test_an_engine_that_cannot_is_left_alone_for_a_while(tokeniser, engine, want, status, answer):
    engine.status, engine.answer = status, answer
    tokeniser.ask(want())
    await until(lambda: tokeniser.counted().untokenised == 1)
    tokeniser.ask(want(key=2))
    await until(lambda: not tokeniser._asked)
    assert len(engine.asked) == 1
    tokeniser.ask(want(request_of("/v1/chat/completions", messages=[{"role": "user", "content": TEXT}])))
    await until(lambda: len(engine.asked) == 2)  # it may know another kind


async def test_a_prompt_that_the_engine_refuses_is_its_own_fault(tokeniser, engine, want):
    engine.status = 400
    tokeniser.ask(want(key=1))
    await until(lambda: not tokeniser._asked)
    engine.status = 200
    tokeniser.ask(want(key=2))
    await until(lambda: tokeniser.counted().tokenised == 1)
    assert tokeniser.counted().untokenised == 0


async def test_nobody_at_the_address(tokeniser, engine, want):
    await engine.stop()
    tokeniser.ask(want())
    await until(lambda: tokeniser.counted().untokenised == 1)


def test_too_many_and_too_long_are_left_out(make_tokeniser, want):
    tokeniser = make_tokeniser()
    for key in range(MAX_WAITING + 5):
        tokeniser.ask(want(key=key))
    assert tokeniser.counted().untokenised == 5
    other = make_tokeniser()
    other.ask(want(completion("x" * (MAX_PROMPT_BYTES + 1)), key=1))
    assert other.counted().untokenised == 1


def test_long_prompts_that_wait_do_not_take_all_memory(make_tokeniser, want):
    tokeniser = make_tokeniser()
    long = want(completion("x" * (MAX_WAITING_BYTES // 20)), key=0)
    for key in range(25):
        tokeniser.ask(msgspec.structs.replace(long, key=key))
    assert tokeniser.counted().untokenised >= 5


@pytest.mark.parametrize(
    "request_",
    [
        request_of("/v1/completions", prompt=["a", "b"]),
        request_of("/v1/responses", input="a"),
        request_of("/v1/messages", messages=[{"role": "user", "content": "a"}]),
        request_of("/elsewhere"),
    ],
)
def test_what_no_engine_would_tokenise_as_it_computes_it_is_not_asked(request_):
    assert question(request_) is None


CONFIG = """
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: precise-prefix-cache-producer
- type: prefix-cache-scorer
  parameters: {prefixMatchInfoProducerName: precise-prefix-cache-producer}
"""


async def test_a_worker_reads_the_log_and_asks_for_what_it_needs(tmp_path, publish, ask_pick, engine):
    port = int(engine.authority.split(":")[1])
    publish(port)
    worker = Worker(config.load(CONFIG).policy, Settings(snapshot=tmp_path, port=0, health_port=0, drain_s=0.2))
    address = f"127.0.0.1:{await worker.start()}"
    try:
        endpoint = worker._reader.view(time.monotonic_ns()).topology.endpoints[0]
        log = map_log(tmp_path / BLOCK_LOG, LEAST_BYTES)
        log.append(encode_statement(Held(endpoint.slot, endpoint.incarnation, "gpu", 16, None, (1,))))
        precise = worker.judge.precise
        assert "--kv-events-port" in worker.status().complaints["precise-prefix-cache-producer"]
        await until(lambda: precise.holders.sizes)
        await ask_pick(address, body={"model": "m", "messages": [{"role": "user", "content": TEXT}]})
        await until(lambda: len(precise.spellings))
        assert not worker.status().complaints
        assert [each["model"] for each in engine.asked] == ["m"]
    finally:
        await worker.drain()
