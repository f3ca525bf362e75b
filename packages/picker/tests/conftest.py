import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import grpc
import grpc.aio
import pytest
import uvloop
from envoy.config.core.v3 import base_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc
from prometheus_client.parser import text_string_to_metric_families

from shunter.picker import config
from shunter.picker.core.fleet import Roster
from shunter.picker.core.judge import FleetJudge
from shunter.picker.core.ledger import Ledger
from shunter.picker.core.overview import look
from shunter.picker.core.tables import Tally
from shunter.picker.plugins import CATALOGUE, register
from shunter.snapshot import Endpoint, Health, Load, LoadRow, Pool, SnapshotWriter, Topology, View

NOW_NS = 100_000_000_000
DEADLINE_S = 60
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def pytest_asyncio_loop_factories(config, item):
    """The worker runs on uvloop, whose transports differ in detail from asyncio's."""
    loops = {"asyncio": asyncio.new_event_loop}
    return loops | {"uvloop": uvloop.new_event_loop} if item.path.stem in ("test_native", "test_h2spec", "test_tls") else loops


@pytest.fixture
def dice():
    return random.Random(1)


@pytest.fixture
def make_view():
    """rows are LoadRow fields per endpoint (None: no row at all); endpoints are pod-0, pod-1 … at 10.0.0.1, 10.0.0.2 …"""

    def make(*rows, endpoints=None, now_ns=NOW_NS, **resources):
        endpoints = endpoints or [{} for _ in rows]
        made = tuple(
            Endpoint(**{"slot": at, "incarnation": 1, "name": f"pod-{at}", "address": f"10.0.0.{at + 1}", "port": 8000} | extra)
            for at, extra in enumerate(endpoints)
        )
        resources.setdefault("pools", (Pool(name="pool"),))
        topology = Topology(epoch=1, generation=1, endpoints=made, **resources)
        fresh = {"health": Health.FRESH, "sampled_ns": now_ns}
        loads = [
            LoadRow(**{"slot": endpoint.slot, "incarnation": endpoint.incarnation} | fresh | row)
            for endpoint, row in zip(made, rows, strict=True)
            if row is not None
        ]
        return View(topology, Load.of(loads, epoch=1, topology_generation=1, published_ns=now_ns))

    return make


@pytest.fixture
def make_fleet(make_view):
    def make(*rows, ledger=None, now_ns=NOW_NS, pool=None, **kwargs):
        return Roster(ledger or Ledger(), pool=pool).fleet(make_view(*rows, now_ns=now_ns, **kwargs), now_ns)

    return make


@pytest.fixture
def make_judge(make_view):
    """A judge over this view, or over rows of load; ``judge.see(view)`` shows it another one."""

    def make(*rows, view=None, text=config.DEFAULT, seed=1, **kwargs):
        shown = [view or make_view(*rows)]
        judge = FleetJudge(config.load(text).policy, lambda _now_ns: shown[0], random.Random(seed), **kwargs)
        judge.see = lambda another: shown.__setitem__(0, another)
        return judge

    return make


@pytest.fixture
def register_plugin():
    """Register plugins for one test."""
    before = dict(CATALOGUE)
    yield register
    CATALOGUE.clear()
    CATALOGUE.update(before)


@pytest.fixture
def eventually():
    """Await the first true answer of an async function."""

    async def eventually(ask, deadline_s=DEADLINE_S):
        deadline = time.monotonic() + deadline_s
        while not (answer := await ask()):
            assert time.monotonic() < deadline, f"still {answer!r}"
            await asyncio.sleep(0.01)
        return answer

    return eventually


@pytest.fixture
def publish(tmp_path):
    """Publish fresh endpoints at these ports of 127.0.0.1 into tmp_path."""
    writer = SnapshotWriter(tmp_path)

    def publish(*ports, generation=1):
        now_ns = time.monotonic_ns()
        endpoints = tuple(
            Endpoint(slot=at, incarnation=1, name=f"pod-{at}", address="127.0.0.1", port=port, pools=(0,))
            for at, port in enumerate(ports)
        )
        topology = Topology(epoch=1, generation=generation, pools=(Pool(name="p"),), endpoints=endpoints)
        writer.publish_topology(topology, now_ns)
        fresh = {"health": Health.FRESH, "sampled_ns": now_ns, "waiting": 1.0, "running": 2.0, "kv_usage": 0.5}
        rows = [LoadRow(slot=at, incarnation=1, **fresh) for at in range(len(ports))]
        writer.publish_load(Load.of(rows, epoch=1, topology_generation=generation, published_ns=now_ns))

    yield publish
    writer.close()


class PageSource:
    """What the admin pages ask of a supervisor, as a test sets it."""

    def __init__(self, view):
        self.view = view
        self.tallied = Tally()
        self.learnt = None
        self.decided = []
        self.hindered = []
        self.reported = []
        self.levels = []
        self.looks = 0
        self.asked = 0

    def overview(self):
        self.looks += 1
        return look(self.view, None, self.tallied, NOW_NS)

    def tally(self):
        return self.tallied

    def learned(self):
        return self.learnt

    def workers(self):
        return self.reported

    def hindrances(self):
        return self.hindered

    def reloads(self):
        return {}

    def pool(self):
        return "default"

    def shadow(self):
        return None

    def service_levels(self):
        return self.levels

    def trial(self):
        return None

    def configuration(self):
        return "plugins: []\n"

    async def decisions(self, last, request_id):
        self.asked += 1
        return [each for each in self.decided if request_id in {None, each["request_id"]}][:last]


@pytest.fixture
def make_source(make_view):
    """A source for the pages of a picker with these rows of load."""
    return lambda *rows, **options: PageSource(make_view(*rows, **options))


def header(name, value):
    return base_pb2.HeaderValue(key=name, raw_value=value.encode())


class Lean:
    """One stream as Envoy has it in the profile lean."""

    def __init__(self, channel, metadata=None):
        process = channel.stream_stream(
            "/envoy.service.ext_proc.v3.ExternalProcessor/Process",
            request_serializer=ext_proc.ProcessingRequest.SerializeToString,
            response_deserializer=ext_proc.ProcessingResponse.FromString,
        )
        self.stream = process(metadata=metadata)

    async def begin(self):
        request = ext_proc.ProcessingRequest()
        request.request_headers.headers.headers.extend(
            [header(":path", "/v1/chat/completions"), header(":method", "POST"), header("x-request-id", "r-1")]
        )
        request.protocol_config.request_body_mode = 2
        await self.stream.write(request)
        await self.stream.read()

    async def ask(self, body):
        request = ext_proc.ProcessingRequest()
        request.request_body.body = json.dumps(body).encode()
        request.request_body.end_of_stream = True
        await self.stream.write(request)
        return await self.stream.read()

    async def end(self):
        await self.stream.done_writing()
        await self.stream.read()


@pytest.fixture
def ask_pick():
    """Send a body to an address as Envoy does, end the stream, and return the picker's answer to it."""

    async def ask_pick(address, body=CHAT, **options):
        async with grpc.aio.insecure_channel(address) as channel:
            lean = Lean(channel, **options)
            await lean.begin()
            answer = await lean.ask(body)
            await lean.end()
            return answer

    return ask_pick


@pytest.fixture
def hold_pick():
    """Hold a stream open, after the choice or (``decided=False``) before the body has come."""

    @asynccontextmanager
    async def hold_pick(address, *, decided=True):
        async with grpc.aio.insecure_channel(address) as channel:
            lean = Lean(channel)
            await lean.begin()
            if decided:
                await lean.ask(CHAT)
            yield lean
            lean.stream.cancel()

    return hold_pick


@pytest.fixture
def keep_asking():
    """Ask one pick after the other over several connections, whatever becomes of them."""

    async def ask(address):
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.min_reconnect_backoff_ms", 100)]
        async with grpc.aio.insecure_channel(address, options) as channel:
            while True:
                with suppress(grpc.aio.AioRpcError):
                    lean = Lean(channel)
                    await lean.begin()
                    await lean.ask(CHAT)
                    await lean.end()
                await asyncio.sleep(0.02)

    @asynccontextmanager
    async def keep_asking(address, channels):
        tasks = [asyncio.create_task(ask(address)) for _ in range(channels)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    return keep_asking


class Picker:
    """A ``shunter picker run`` of two workers, and what its pages say."""

    def __init__(self, directory, *options):
        self.config = directory / "config.yaml"
        if not self.config.exists():
            self.configure("queue-scorer")
        self.log = directory / f"log-{time.monotonic_ns()}"
        paths = ["--config", self.config, "--snapshot", directory, "--runtime", directory / "runtime"]
        command = [sys.executable, "-m", "shunter.picker", "run", *map(str, paths), "--health-port=0", "--admin-port=0"]
        defaults = [] if any(option.startswith("--port") for option in options) else ["--port=0"]
        defaults += [] if any(option.startswith("--workers") for option in options) else ["--workers=2"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen([*command, *defaults, *options], stderr=log, start_new_session=True)

    def configure(self, plugin, more=""):
        """Write what it reads at the next reload."""
        document = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins:\n"
        self.config.write_text(f"{document}- type: {plugin}\n{more}")

    @property
    def text(self):
        return self.log.read_text()

    @property
    def admin(self):
        return f"http://127.0.0.1:{re.search(r'admin pages on port ([0-9]+)', self.text)[1]}"

    async def get(self, path):
        timeout = aiohttp.ClientTimeout(total=DEADLINE_S)
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(self.admin + path) as response:
            return response.status, await response.text()

    async def workers(self):
        return json.loads((await self.get("/debug/workers"))[1])

    async def samples(self):
        families = text_string_to_metric_families((await self.get("/metrics"))[1])
        return {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}

    def children(self):
        tasks = Path(f"/proc/{self.process.pid}/task")
        return {int(child) for task in tasks.iterdir() for child in (task / "children").read_text().split()}

    def signal(self, number):
        self.process.send_signal(number)

    async def ended(self):
        return await asyncio.to_thread(self.process.wait, DEADLINE_S)


@pytest.fixture
async def run_picker(tmp_path, publish, eventually):
    """Start pickers in tmp_path and wait until all workers are ready."""
    started = []
    publish(7001, 7002)

    async def run(*options, ready=True):
        picker = Picker(tmp_path, *options)
        started.append(picker)

        async def up():
            assert picker.process.poll() is None, picker.text
            return "admin pages on" in picker.text and all(w["ready"] for w in await picker.workers())

        if ready:
            await eventually(up)
        return picker

    yield run
    for picker in started:
        known = [os.pidfd_open(pid) for pid in picker.children()] if picker.process.poll() is None else ()
        picker.process.kill()
        picker.process.wait()
        for child in known:  # a stopped one does not notice that it is an orphan
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(child, signal.SIGKILL)
            os.close(child)
        assert "Traceback" not in picker.text, picker.text


@pytest.fixture
def is_gone():
    """Tell whether a process is dead, whoever has to reap it."""

    def is_gone(pid):
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] == "Z"
        except (FileNotFoundError, ProcessLookupError):  # the latter if it goes while it is read
            return True

    return is_gone
