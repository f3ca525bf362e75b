"""KV events from a real publisher: what it says ends up in the log, holes are filled, and who is gone holds nothing."""

import asyncio
import contextlib
import resource
import time

import msgspec
import pytest
import zmq
import zmq.asyncio

from shunter.scraper.core.cluster import Source
from shunter.scraper.core.dialect import DIALECTS
from shunter.scraper.shell.kvevents import KvEvents, Patience
from shunter.snapshot import BLOCK_LOG, Begun, Cleared, Dropped, Endpoint, Held, MappedLogReader, decode_statement, names_of

# Descriptors that are open in any process; poll wants to be allowed as many as it is asked about.
FEW = 3
END = b"\xff" * 8
PROMPT = list(range(1000, 1256))


HASTY = Patience(idle_s=0.3, cooldown_s=0.0)


def stored(at, *, count=4):
    """The ``at``-th stride of PROMPT as vLLM announces it."""
    hashes = [at * 4 + each for each in range(count)]
    return {
        "type": "BlockStored",
        "block_hashes": hashes,
        "parent_block_hash": hashes[0] - 1 if at else None,
        "token_ids": PROMPT[at * 64 : at * 64 + 16 * count],
        "block_size": 16,
        "medium": "GPU",
    }


class Engine:
    """What vLLM opens with --kv-events-config: PUB, and ROUTER which repeats what is kept."""

    def __init__(self, context, *, keep=100, topic_in_replay=True):
        self.context = context
        self.keep = keep
        self.topic_in_replay = topic_in_replay
        self.asked = []
        self.sequence = 0
        self.kept = []
        self.events_port = self.replay_port = 0

    async def start(self):
        self.publisher = self.context.socket(zmq.XPUB)
        self.router = self.context.socket(zmq.ROUTER)
        for socket in (self.publisher, self.router):
            socket.setsockopt(zmq.LINGER, 0)
        self.events_port = await self._bind(self.publisher, self.events_port)
        self.replay_port = await self._bind(self.router, self.replay_port)
        self.answering = asyncio.create_task(self._answer())

    @staticmethod
    async def _bind(socket, port):
        if not port:
            return socket.bind_to_random_port("tcp://127.0.0.1")
        async with asyncio.timeout(10):
            while True:  # a socket that was closed gives its port back a little later
                try:
                    socket.bind(f"tcp://127.0.0.1:{port}")
                except zmq.ZMQError:
                    await asyncio.sleep(0.01)
                else:
                    return port

    async def subscribed(self):
        async with asyncio.timeout(10):
            assert (await self.publisher.recv()) == b"\x01"

    async def publish(self, *events, silently=False):
        payload = msgspec.msgpack.encode([time.time(), list(events), 0])
        self.kept = [*self.kept, (self.sequence, payload)][-self.keep :]
        if not silently:
            await self.publisher.send_multipart([b"kv@pod@model", self.sequence.to_bytes(8, "big"), payload])
        self.sequence += 1

    async def _answer(self):
        while True:
            who, empty, start = await self.router.recv_multipart()
            self.asked.append(int.from_bytes(start, "big"))
            topic = [b"kv@pod@model"] if self.topic_in_replay else []
            for sequence, payload in list(self.kept):
                if sequence >= self.asked[-1]:
                    await self.router.send_multipart([who, empty, *topic, sequence.to_bytes(8, "big"), payload])
            await self.router.send_multipart([who, empty, *topic, END, b""])

    async def stop(self):
        self.answering.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.answering
        self.publisher.close()
        self.router.close()

    async def restart(self):
        """Another process at the same ports, which has cached and published nothing."""
        await self.stop()
        self.sequence, self.kept = 0, []
        await self.start()
        await self.subscribed()


class World:
    """What a picker that reads the log believes."""

    def __init__(self, directory):
        self.log = MappedLogReader(directory / BLOCK_LOG)
        self.now_ns = 0
        self.held = set()

    def look(self):
        self.now_ns += 2_000_000_000
        batch = self.log.read(self.now_ns)
        for record in batch.records if batch else ():
            match decode_statement(record):
                case Held(tier="gpu", slot=5, incarnation=9) as held:
                    self.held |= set(held.names)
                case Dropped() as dropped:
                    self.held -= set(dropped.names)
                case Begun() | Cleared():
                    self.held.clear()
        return self.held

    def strides(self):
        """How many strides of PROMPT are held from its beginning; -1 if anything else is."""
        names = names_of(PROMPT, 16)
        held = self.look()
        return len(held) if held == set(names[: len(held)]) else -1


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


@pytest.fixture
async def engine():
    with zmq.asyncio.Context() as context:
        engine = Engine(context)
        await engine.start()
        yield engine
        await engine.stop()


@pytest.fixture
async def follow(tmp_path):
    tasks, opened = [], []

    def start(engine, *, replay=True, anew=False, **ports):
        if anew or not opened:
            opened.append(KvEvents(tmp_path, patience=HASTY, **ports))
        kv_events = opened[-1]
        own = {} if ports else {"kv_events_port": engine.events_port, "kv_replay_port": engine.replay_port if replay else None}
        source = Source("127.0.0.1", 1, "/metrics", DIALECTS["vllm"], **own)
        assert kv_events.publishes(source)
        endpoint = Endpoint(slot=5, incarnation=9, name="vllm-0", address="127.0.0.1", port=8000, rank=1)
        tasks.append(asyncio.create_task(kv_events.follow(endpoint, source)))
        return tasks[-1]

    start.opened = opened
    yield start
    for task in tasks:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    for each in opened:
        each.close()


@contextlib.contextmanager
def no_descriptors():
    """Nothing that is not open yet can be opened."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (FEW, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_where_descriptors_are_missing_an_engine_is_followed_once_there_are_some(
    engine, follow, world, until, caplog, monkeypatch
):
    monkeypatch.setattr("shunter.scraper.shell.kvevents.AGAIN_S", 0.01)
    with no_descriptors():
        first = follow(engine)
        await until(lambda: "kv-blocks.log: Too many open files" in follow.opened[0].trouble)
    await engine.subscribed()
    first.cancel()
    async with asyncio.timeout(10):
        assert await engine.publisher.recv() == b"\x00"
    with no_descriptors():
        follow(engine)
        sentence = "KV events of 127.0.0.1:8000 are not followed: Too many open files in the scraper"
        await until(lambda: follow.opened[0].trouble == sentence)
    await engine.subscribed()
    await engine.publish(stored(0))
    await until(lambda: world.strides() == 1)
    assert not follow.opened[0].trouble
    assert caplog.text.count("default/vllm-0: KV events are not followed") == 1


async def test_what_is_published_is_in_the_log(engine, follow, world, until):
    follow(engine)
    await engine.subscribed()
    await engine.publish(stored(0))
    await engine.publish(stored(1), stored(2))
    await until(lambda: world.strides() == 3)
    await engine.publish({"type": "BlockRemoved", "block_hashes": [11], "medium": "GPU"})
    await until(lambda: world.strides() == 2)
    await engine.publish({"type": "AllBlocksCleared"})
    await until(lambda: world.strides() == 0)


@pytest.mark.parametrize("topic_in_replay", [True, False])
async def test_what_was_published_before_is_repeated(engine, follow, world, until, topic_in_replay):
    engine.topic_in_replay = topic_in_replay
    await engine.publish(stored(0))
    await engine.publish(stored(1))
    follow(engine)
    await until(lambda: world.strides() == 2)
    assert engine.asked == [0]


async def test_a_gap_is_filled_by_a_replay_from_there(engine, follow, world, until):
    follow(engine)
    await engine.subscribed()
    await engine.publish(stored(0))
    await until(lambda: world.strides() == 1)
    await engine.publish(stored(1), silently=True)
    await engine.publish(stored(2))
    await until(lambda: world.strides() == 3)
    assert engine.asked[-1] == 1


async def test_a_gap_that_cannot_be_filled_clears_what_was_known(engine, follow, world, until):
    engine.keep = 1
    follow(engine)
    await engine.subscribed()
    await engine.publish(stored(0))
    await until(lambda: world.strides() == 1)
    await engine.publish({"type": "BlockRemoved", "block_hashes": [3], "medium": "GPU"}, silently=True)
    await engine.publish(stored(1))
    await until(lambda: world.strides() == 0)
    await engine.publish(stored(0))
    await engine.publish(stored(1))
    await until(lambda: world.strides() == 2)


async def test_what_was_heard_and_what_was_lost_is_counted_while_an_endpoint_is_followed(engine, follow, world, until):
    engine.keep = 1
    task = follow(engine)
    await engine.subscribed()
    (kv_events,) = follow.opened
    counts = kv_events.counts["127.0.0.1:8000"]
    await engine.publish(stored(0))
    await until(lambda: counts.publications == 1)
    await engine.publish(stored(1), silently=True)
    for taken, publication in enumerate((stored(0), stored(1) | {"token_ids": "?"}, stored(0)), 2):
        await engine.publish(publication)
        await until(lambda taken=taken: counts.publications == taken)
    assert kv_events.counts["127.0.0.1:8000"] is counts
    assert (counts.gaps, counts.lost, counts.unreadable, counts.replays, counts.restarts) == (1, 1, 1, 2, 1)
    assert counts.blocks == 4
    task.cancel()
    await until(lambda: not kv_events.counts)


async def test_without_a_replay_socket_it_goes_on_from_where_it_joined(engine, follow, world, until):
    await engine.publish(stored(0))
    await engine.publish(stored(1))
    follow(engine, replay=False)
    await engine.subscribed()
    await engine.publish(stored(0))
    await until(lambda: world.strides() == 1)


async def test_a_replay_socket_that_is_silent_holds_nobody_up_for_long(engine, follow, world, until):
    engine.answering.cancel()
    follow(engine)
    await engine.subscribed()
    await engine.publish(stored(0))
    await until(lambda: world.strides() == 1)


async def test_what_is_repeated_may_be_no_longer_than_what_is_published(engine, follow, world, until, monkeypatch):
    monkeypatch.setattr("shunter.scraper.shell.kvevents.MAX_MESSAGE_BYTES", 10_000)
    await engine.publish(stored(0) | {"more": "x" * 20_000}, silently=True)
    follow(engine)
    await engine.subscribed()
    await until(lambda: engine.asked)
    last = stored(0) | {"token_ids": list(range(64))}
    await engine.publish(stored(1), last)
    await until(lambda: world.look() >= set(names_of(range(64), 16)))
    assert world.held == set(names_of(range(64), 16))


async def test_an_engine_that_is_restarted_has_nothing(engine, follow, world, until):
    follow(engine)
    await engine.subscribed()
    await engine.publish(stored(0))
    await engine.publish(stored(1))
    await until(lambda: world.strides() == 2)
    await engine.restart()
    await until(lambda: world.strides() == 0)
    await engine.publish(stored(0))
    await until(lambda: world.strides() == 1)


async def test_numbers_that_begin_anew_are_another_engine(engine, follow, world, until):
    follow(engine)
    await engine.subscribed()
    for at in range(3):
        await engine.publish(stored(at))
    await until(lambda: world.strides() == 3)
    engine.sequence, engine.kept = 0, []
    await engine.publish(stored(0))
    await until(lambda: world.strides() == 1)


async def test_what_cannot_be_read_clears_what_was_known(engine, follow, world, until):
    follow(engine)
    await engine.subscribed()
    await engine.publish(stored(0))
    await until(lambda: world.strides() == 1)
    await engine.publish(stored(1) | {"token_ids": "?"})
    await until(lambda: world.strides() == 0)
    await engine.publish(stored(0))
    await until(lambda: world.strides() == 1)
    await engine.publisher.send_multipart([b"topic", b"short", b""])
    await until(lambda: world.strides() == 0)


async def test_who_is_not_followed_any_longer_holds_nothing(engine, follow, world, until):
    task = follow(engine)
    await engine.subscribed()
    await engine.publish(stored(0))
    await until(lambda: world.strides() == 1)
    task.cancel()
    await until(lambda: world.strides() == 0)


async def test_the_next_scraper_learns_everything_anew(engine, follow, world, until):
    task = follow(engine)
    await engine.subscribed()
    for at in range(3):
        await engine.publish(stored(at))
    await until(lambda: world.strides() == 3)
    task.cancel()
    follow(engine, anew=True)
    await until(lambda: engine.asked == [0, 0])
    await until(lambda: world.strides() == 3)


async def test_ranks_publish_at_consecutive_ports(engine, follow, world, until):
    follow(engine, events_port=engine.events_port - 1, replay_port=engine.replay_port - 1)
    await engine.subscribed()
    await engine.publish(stored(0))
    await until(lambda: world.strides() == 1)
    assert engine.asked == [0]


async def test_more_endpoints_than_zeromq_has_sockets_by_default(engine, follow, world, until):
    for _ in range(400):
        follow(engine, replay=False)
    async with asyncio.timeout(20):
        await engine.publisher.recv()
    await engine.publish(stored(0))
    await until(lambda: world.strides() == 1)


def test_who_does_not_publish_is_not_followed(tmp_path):
    assert not KvEvents(tmp_path).publishes(Source("127.0.0.1", 1, "/metrics", DIALECTS["vllm"]))
    assert not list(tmp_path.iterdir())
