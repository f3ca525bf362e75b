"""KV events of the lab server: a listener that replays them knows exactly what the cache knows, and tokens are the engine's."""

import asyncio

import msgspec
import pytest
import zmq
import zmq.asyncio
from click.testing import CliRunner

from shunter.lab.cli import main
from shunter.lab.core.engine import Engine
from shunter.lab.core.kvevents import Announcer
from shunter.lab.core.params import params_from
from shunter.lab.errors import ParamsError
from shunter.lab.testing import lab_server


class World:
    """What the events say: block hash → tokens of the prompt up to its end, adapter and salt."""

    def __init__(self):
        self.known = {}

    def take(self, payload):
        for event in msgspec.msgpack.decode(payload)[1] if payload else ():
            match event["type"]:
                case "BlockStored":
                    self._store(event)
                case "BlockRemoved":
                    for block in event["block_hashes"]:
                        del self.known[block]
                case "AllBlocksCleared":
                    self.known.clear()
        return self.known

    def _store(self, event):
        size, parent = event["block_size"], event["parent_block_hash"]
        before = self.known[parent] if parent is not None else ()
        for at, block in enumerate(event["block_hashes"]):
            tokens = tuple(event["token_ids"][at * size : at * size + size])
            before = (*before, (tokens, tuple(event["extra_keys"][at] or ())))
            assert self.known.setdefault(block, before) == before


@pytest.fixture
def watched():
    """An engine of a few blocks, and its announcer."""

    def make(**params):
        engine = Engine(params_from({"block_size": 4, "num_blocks": 12, "max_model_len": 40} | params))
        engine.cache.watch = announcer = Announcer(4)
        return engine, announcer

    return make


def submit(engine, announcer, request, now_s=0.0):
    announcer.asked(request)
    engine.submit(request, now_s)


def test_the_blocks_of_a_prompt_and_its_answer_are_stored(watched, request_of, finish):
    engine, announcer = watched()
    request = request_of("a", prompt=8, output=9)
    submit(engine, announcer, request)
    finish(engine)
    known = World().take(announcer.batch(1.0))
    tokens = (*request.prompt, *request.output)
    assert sorted(len(chain) for chain in known.values()) == [1, 2, 3, 4]
    longest = max(known.values(), key=len)
    assert tuple(token for block, _ in longest for token in block) == tokens[:16]
    assert announcer.batch(2.0) is None


def test_adapter_and_salt_stand_where_vllm_has_them(watched, request_of, finish):
    engine, announcer = watched(max_loras=1)
    submit(engine, announcer, request_of("a", prompt=8, output=1, adapter="lora-b", cache_salt="salt"))
    finish(engine)
    (event,) = msgspec.msgpack.decode(announcer.batch(1.0))[1]
    assert (event["lora_name"], event["extra_keys"]) == ("lora-b", [["lora-b", "salt"], ["lora-b"]])


def test_a_listener_knows_what_the_cache_knows(watched, request_of, finish):
    engine, announcer = watched()
    world, now_s = World(), 0.0
    for at in range(40):
        request = request_of(at, prompt=6 + at % 14, output=1 + at % 5, seed=at % 6)
        submit(engine, announcer, request, now_s)
        finish(engine)
        now_s = max(now_s + 1.0, engine._now_s)
        known = world.take(announcer.batch(now_s))
        path = engine.cache.path(*request.pieces(4))
        expected = engine.cache.match(path, len(request.prompt)) // 4
        chain = [tuple(request.prompt[start : start + 4]) for start in range(0, len(request.prompt) - 3, 4)]
        held = {tuple(block for block, _ in each) for each in known.values()}
        matched = 0
        while matched < len(chain) and tuple(chain[: matched + 1]) in held:
            matched += 1
        assert matched == expected
        assert len(known) == engine.cache.known + engine.cache.used


@pytest.fixture
async def listen():
    with zmq.asyncio.Context() as context:
        sockets = []

        def connect(kind, port):
            socket = context.socket(kind)
            socket.linger = 0
            socket.connect(f"tcp://127.0.0.1:{port}")
            if kind == zmq.SUB:
                socket.subscribe("kv@")
            sockets.append(socket)
            return socket

        yield connect
        for socket in sockets:
            socket.close()


PROMPT = {"model": "lab/llama-3-8b", "prompt": "the quick brown fox jumps over the lazy dog " * 8, "max_tokens": 1}


async def replay(listen, port, start=0):
    """Ask for everything from ``start`` on, as vLLM's protocol has it."""
    dealer = listen(zmq.DEALER, port)
    await dealer.send_multipart([b"", start.to_bytes(8, "big")])
    answers = []
    while True:
        empty, topic, sequence, payload = await dealer.recv_multipart()
        assert empty == b""
        if sequence == b"\xff" * 8:
            return answers
        answers.append((topic, int.from_bytes(sequence, "big"), payload))


async def test_a_server_publishes_and_repeats(http, listen, until):
    async with lab_server(speed=1000, kv_events_port=0, kv_replay_port=0) as server:
        subscriber = listen(zmq.SUB, server.kv_events.events_port)
        seen = []

        async def heard():
            async with http.post(f"{server.url}/v1/completions", json=PROMPT | {"cache_salt": str(len(seen))}) as answer:
                assert answer.status == 200
            seen.append(None)
            return await subscriber.poll(50)

        await until(heard)  # a subscription takes a moment
        topic, sequence, payload = await subscriber.recv_multipart()
        assert topic.startswith(b"kv@127.0.0.1:")
        answers = await replay(listen, server.kv_events.replay_port)
        assert [each for _, each, _ in answers] == list(range(len(answers)))
        assert answers[int.from_bytes(sequence, "big")] == (topic, int.from_bytes(sequence, "big"), payload)
        later = await replay(listen, server.kv_events.replay_port, len(answers) - 1)
        assert later[0] == answers[-1]  # more may have been published meanwhile


async def test_tokenize_tells_what_is_computed(http, listen, until):
    async with lab_server(speed=1000, kv_events_port=0, kv_replay_port=0) as server:
        async with http.post(f"{server.url}/tokenize", json={"model": PROMPT["model"], "prompt": PROMPT["prompt"]}) as answer:
            told = await answer.json()
        chat = {"model": PROMPT["model"], "messages": [{"role": "user", "content": PROMPT["prompt"]}], "max_tokens": 1}
        async with http.post(f"{server.url}/tokenize", json=chat) as answer:
            chat_told = await answer.json()
        for path, body in (("completions", PROMPT), ("chat/completions", chat)):
            async with http.post(f"{server.url}/v1/{path}", json=body) as answer:
                assert answer.status == 200
        wanted = {tuple(each["tokens"][: each["count"] // 16 * 16]) for each in (told, chat_told)}
        assert all(each["count"] == len(each["tokens"]) for each in (told, chat_told))

        async def published():
            world = World()
            for _, _, payload in await replay(listen, server.kv_events.replay_port):
                world.take(payload)
            return wanted <= {tuple(token for block, _ in each for token in block) for each in world.known.values()}

        await until(published)


async def test_tokenize_refuses_as_a_completion_would(http):
    async with lab_server() as server:
        for body in ({"model": "nobody", "prompt": "x"}, {"prompt": ""}, {"messages": []}):
            async with http.post(f"{server.url}/tokenize", json=body) as answer:
                assert answer.status in {400, 404}


def test_a_replay_of_nothing_is_refused():
    result = CliRunner().invoke(main, ["serve", "--port", "0", "--kv-replay-port", "5558"])
    assert result.exit_code == 2
    assert "--kv-events-port" in result.output


@pytest.mark.parametrize(("option", "port"), [("kv_events_port", "events_port"), ("kv_replay_port", "replay_port")])
async def test_a_port_that_is_taken_is_named_and_nothing_is_left(option, port):
    async with lab_server(kv_events_port=0, kv_replay_port=0) as server:
        before = asyncio.all_tasks()
        with pytest.raises(ParamsError, match=f"--{option.replace('_', '-')}"):
            async with lab_server(**{"kv_events_port": 0, option: getattr(server.kv_events, port)}):
                pytest.fail("two listen at one port")
        assert asyncio.all_tasks() == before
