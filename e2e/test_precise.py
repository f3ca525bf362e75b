"""From an engine's cache to a choice: KV events, the scraper, its log, the picker and a real Envoy."""

import asyncio
import contextlib
import itertools
import time

import aiohttp
import pytest

from shunter import envoyconf
from shunter.envoyconf import Intent, Listener, Picker, Pool, bootstrap
from shunter.envoyconf.testing import running_envoy
from shunter.lab.testing import lab_server
from shunter.picker import config
from shunter.picker.shell.worker import Settings, Worker
from shunter.scraper.core.cadence import Cadence
from shunter.scraper.shell.files import Files
from shunter.scraper.shell.kvevents import KvEvents
from shunter.scraper.shell.service import Scraper
from shunter.snapshot import SnapshotWriter

pytestmark = pytest.mark.envoy

ENGINES = 3
BLOCK_SIZE = 16
DEADLINE_S = 60
CONFIG = """
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: precise-prefix-cache-producer
  parameters: {speculativeTTL: 1ms}
- type: prefix-cache-scorer
  parameters: {prefixMatchInfoProducerName: precise-prefix-cache-producer}
"""


def chat(prompt, **more):
    return {"model": "lab/llama-3-8b", "messages": [{"role": "user", "content": prompt}], "max_tokens": 2} | more


def text(seed):
    """A prompt of some 600 tokens that begins like no other."""
    return "".join(f" {seed}-{at}" for at in range(300))


class Scene:
    """Three lab servers that publish, and an Envoy with a picker that knows them through the scraper alone."""

    async def ask(self, prompt, *, url=None):
        """Return which server answered."""
        async with self.session.post(f"{url or self.envoy.url}/v1/chat/completions", json=chat(prompt)) as answer:
            body = await answer.json()
            assert answer.status == 200, body
            return body["system_fingerprint"]

    def cached(self):
        """Return by name what share of the last prompt that was tokenised each engine announces to have cached."""
        entry = next(reversed(self.precise.spellings._whole.values()))
        names = entry.names[BLOCK_SIZE, False]
        held = self.precise.holders.match(names, time.monotonic_ns())
        return {
            self.worker.judge.fleet(time.monotonic()).endpoints[slot].name: count / len(names) for slot, count in held.items()
        }

    async def until(self, condition):
        async with asyncio.timeout(DEADLINE_S):
            while not (value := condition()):  # noqa: ASYNC110  another task makes it true
                await asyncio.sleep(0.01)
        return value


@pytest.fixture
async def scene(tmp_path):
    async with contextlib.AsyncExitStack() as stack:
        made = Scene()
        engine = {"speed": 1000, "num_blocks": 256, "block_size": BLOCK_SIZE, "kv_events_port": 0, "kv_replay_port": 0}
        made.servers = [await stack.enter_async_context(lab_server(name=f"lab-{at}", **engine)) for at in range(ENGINES)]
        entries = [
            f"- {{name: {each.name}, address: 127.0.0.1, port: {each.port}, "
            f"kvEventsPort: {each.kv_events.events_port}, kvReplayPort: {each.kv_events.replay_port}}}\n"
            for each in made.servers
        ]
        file = tmp_path / "endpoints.yaml"
        file.write_text("endpoints:\n" + "".join(entries))
        writer = stack.enter_context(contextlib.closing(SnapshotWriter(tmp_path)))
        kv_events = stack.enter_context(contextlib.closing(KvEvents(tmp_path)))
        scraping = asyncio.create_task(Scraper(Files(file), writer, cadence=Cadence(0.01, 0.05), kv_events=kv_events).run())
        stack.push_async_callback(_end, scraping)
        worker = Worker(config.load(CONFIG).policy, Settings(snapshot=tmp_path, port=0, health_port=0, drain_s=0.2))
        port = await worker.start()
        stack.push_async_callback(worker.drain)
        made.worker, made.precise = worker, worker.judge.precise
        pool = Pool(
            name="pool",
            endpoints=tuple(f"127.0.0.1:{each.port}" for each in made.servers),
            picker=Picker(addresses=(f"127.0.0.1:{port}",)),
        )
        patient = envoyconf.Limits(pick_timeout_seconds=DEADLINE_S)  # a busy machine must not look like a lost pick
        resource = bootstrap(Intent(pools=(pool,), listeners=(Listener(port=0),), limits=patient))
        made.envoy = await stack.enter_async_context(running_envoy(resource))
        made.session = await stack.enter_async_context(aiohttp.ClientSession())
        await made.until(lambda: not worker.hindrances())
        yield made


async def _end(task):
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_a_prompt_goes_where_it_is_cached_and_not_where_it_was_sent(scene):
    await asyncio.gather(*[scene.ask("warm up " + text(at), url=each.url) for at, each in enumerate(scene.servers)])
    await scene.until(lambda: len(scene.precise.holders.block_sizes) == ENGINES)
    prompt = text("prompt")
    sent = await scene.ask(prompt)  # by a guess; it is tokenised there
    await scene.until(lambda: len(scene.precise.spellings) and scene.cached().get(sent) == 1.0)
    holder = next(each for each in scene.servers if each.name != sent)
    await scene.ask(prompt, url=holder.url)  # it comes there by another way than this picker
    await scene.until(lambda: scene.cached() == {sent: 1.0, holder.name: 1.0})
    full = next(each for each in scene.servers if each.name == sent)
    for at in itertools.count():  # until nothing of it is left where it was sent
        if sent not in scene.cached():
            break
        await scene.ask(text(f"filler {at}"), url=full.url)
    assert await scene.ask(prompt) == holder.name
    assert await scene.ask(prompt + " and more") == holder.name


async def test_an_engine_that_ends_holds_nothing(scene):
    prompt = text("prompt")
    await asyncio.gather(*[scene.ask(prompt, url=each.url) for each in scene.servers])
    await scene.until(lambda: len(scene.precise.holders.block_sizes) == ENGINES)
    await scene.ask(prompt)
    await scene.until(lambda: len(scene.precise.spellings) and len(scene.cached()) == ENGINES)
    gone = scene.servers[0]
    await gone.kv_events.stop()
    await scene.until(lambda: gone.name not in scene.cached())
