import asyncio
import time
from contextlib import AsyncExitStack

import aiohttp
import msgspec
import pytest
from aiohttp import web
from click.testing import CliRunner

from shunter.lab.testing import lab_server
from shunter.rollout.cli import main
from shunter.rollout.core.sight import Holders
from shunter.rollout.core.spec import read_rollout

DEADLINE_S = 60

ROLLOUT = """
kind: Rollout
name: review-v2
model: review
from: {model: review-v1, source: /a/v1}
to: {model: review-v2, source: /a/v2}
pool: engines
traffic: {rewriteFile: review.yaml}
pickers: ["http://127.0.0.1:9090"]
steps: [1, 10, 100]
pause: 60s
deadline: 10m
"""


@pytest.fixture
def make_rollout():
    """The rollout of these tests, with some lines more."""

    def make(*lines, without=()):
        kept = [line for line in ROLLOUT.splitlines() if line.partition(":")[0] not in without]
        return read_rollout("rollout.yaml", "\n".join([*kept, *lines]).encode())

    return make


@pytest.fixture
def eventually():
    """Await the first true answer of a function."""

    async def eventually(ask):
        deadline = time.monotonic() + DEADLINE_S
        while True:
            answer = ask()
            answer = await answer if asyncio.iscoroutine(answer) else answer
            if answer:
                return answer
            assert time.monotonic() < deadline, f"still {answer!r}"
            await asyncio.sleep(0.01)

    return eventually


@pytest.fixture
def hold():
    """Who has a model, of endpoints that are called a, b, …"""

    def hold(having="", lacking="", silent=""):
        return Holders(tuple(having), tuple(lacking), tuple(silent))

    return hold


class VirtualClock:
    """A clock of which an hour is over as soon as nobody has anything else to do."""

    def __init__(self):
        self._now_s = 1_000_000.0

    def now_s(self):
        return self._now_s

    async def sleep(self, seconds):
        self._now_s += seconds
        await asyncio.sleep(0)


@pytest.fixture
def virtual_clock():
    return VirtualClock()


class FakePicker:
    """A picker's pages: endpoints are real servers whose lists it asks for, the split is that of a rewrite's file."""

    def __init__(self, servers, path):
        self.servers = servers
        self.path = path
        self.requests = {"review-v1": 0, "review-v2": 0}
        self.errors = {"review-v1": 0, "review-v2": 0}
        self.rate = 200
        self.engine = "vllm"

    async def fleet(self, _):
        async with aiohttp.ClientSession() as session:
            rows = [await self._row(session, server) for server in self.servers]
        shares = self._shares()
        splits = [{"rule": "r", "model": "review", "shares": [{"model": m, "wanted": w} for m, w in shares.items()]}]
        return web.json_response({"snapshot_age_s": 0.1, "endpoints": rows, "splits": splits if shares else []})

    async def metrics(self, _):
        for model, share in self._shares().items():
            self.requests[model] += int(self.rate * share)
        lines = [
            f'{name}{{model_name="review",target_model_name="{model}"{more}}} {value}'
            for model in self.requests
            for name, more, value in (
                ("llm_d_epp_request_total", "", self.requests[model]),
                ("llm_d_epp_request_error_total", ',error_code="500"', self.errors[model]),
                ("llm_d_epp_request_running", "", 0),
            )
        ]
        return web.Response(text="\n".join(["# TYPE llm_d_epp_request_total counter", *lines, ""]))

    def _shares(self):
        if not self.path.exists():
            return {}
        (rule,) = msgspec.yaml.decode(self.path.read_bytes())["spec"]["rules"]
        total = sum(target["weight"] for target in rule["targets"])
        return {target["modelRewrite"]: target["weight"] / total for target in rule["targets"]}

    async def _row(self, session, server):
        async with session.get(f"{server.url}/v1/models") as answer:
            models = [card["id"] for card in (await answer.json())["data"]]
        return {
            "authority": f"127.0.0.1:{server.port}",
            "ready": True,
            "health": "fresh",
            "pools": ["default/engines"],
            "engine": self.engine,
            "models": models,
        }


@pytest.fixture
async def fake_picker(tmp_path):
    """Two lab servers with the old version, and a picker that knows them; ``url`` is the picker's."""
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(lab_server(loras=["review-v1"], max_loras=2)) for _ in range(2)]
        picker = FakePicker(servers, tmp_path / "review.yaml")
        app = web.Application()
        app.add_routes([web.get("/debug/fleet", picker.fleet), web.get("/metrics", picker.metrics)])
        runner = web.AppRunner(app)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        picker.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield picker


@pytest.fixture
def file(fake_picker, tmp_path):
    """A rollout's file that needs no patience."""
    path = tmp_path / "rollout.yaml"
    path.write_text(f"""
kind: Rollout
name: review-v2
model: review
from: {{model: review-v1, source: /a/v1}}
to: {{model: review-v2, source: /a/v2}}
pool: engines
traffic: {{rewriteFile: {fake_picker.path}}}
pickers: ["{fake_picker.url}"]
steps: [10, 100]
pause: 0s
""")
    return path


@pytest.fixture
def told(tmp_path):
    """Run ``shunter rollout`` with some arguments; return the code and what it printed."""

    async def told(*arguments):
        words = [*map(str, arguments), "--state", str(tmp_path / "state")]
        result = await asyncio.to_thread(CliRunner().invoke, main, words)
        return result.exit_code, result.output

    return told
