"""What it costs to route by the model: CPU µs per request of a real Envoy, and of the body router where there is one.

Three gateways take turns, with the same picker behind them: routes that go by the path only, routes by the model that Envoy
reads itself, and routes by the model that a body router names. Clock ticks of the kernel, so each turn is some seconds long.
"""

import asyncio
import contextlib
import io
import json
import os
import platform
import statistics
import sys
import tempfile
from pathlib import Path

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer

from shunter.envoyconf import bootstrap, load_intent
from shunter.envoyconf.testing import running_envoy
from shunter.picker.core.limits import Budget, Limits
from shunter.picker.core.session import Session
from shunter.picker.testing import StubJudge
from shunter.picker.transport.health import Health
from shunter.picker.transport.native import NativeServer

__all__ = ["main"]

ROUNDS = 5
REQUESTS = 1500
AT_ONCE = 8
SIZES_KB = (1, 64)
BASES = """\
kind: ConfigMap
metadata: {name: a, labels: {inference.networking.k8s.io/bbr-managed: "true"}}
data: {baseModel: a}
"""


def cpu_us(pid):
    """CPU of a process and of its children that live (proc(5)), in µs."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") * 1e6
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return own + sum(map(cpu_us, children))


@contextlib.asynccontextmanager
async def body_router(directory):
    """A body router of one worker; yields its pid and address."""
    config = directory / "bases.yaml"
    config.write_text(BASES)
    options = ["--port", "0", "--health-port", "0", "--admin-port", "0", "--workers", "1", "--runtime", str(directory / "run")]
    command = [sys.executable, "-m", "shunter.picker", "run", "--role", "body-router", "--config", str(config), *options]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    address = ""
    try:
        async for line in process.stderr:
            text = line.decode()
            if "ext_proc on" in text:
                address = text.partition("ext_proc on ")[2].partition(",")[0]
            if "ready" in text.split():
                break
        draining = asyncio.create_task(process.stderr.read())
        yield process.pid, address
        process.terminate()
        await draining
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        await process.wait()


def intent(way, upstream, picker, router):
    """The gateway that goes by the path, by what Envoy reads, or by what a body router says."""
    pools = [{"name": name, "endpoints": [upstream], "picker": {"addresses": [picker]}} for name in ("a", "b")]
    models = {} if way == "path" else {"models": ["a"]}
    routes = [{"pool": "a", "prefix": "/v1"} | models, {"pool": "b"}]
    extra = {"bodyRouter": {"addresses": [router]}} if way == "router" else {}
    quiet = {"accessLog": "none"}
    return {"pools": pools, "routes": routes, "listeners": [{"port": 0}], "observability": quiet} | extra


async def load(client, url, body):
    """Send REQUESTS requests, AT_ONCE at a time."""
    left = iter(range(REQUESTS))

    async def send():
        for _ in left:
            async with client.post(f"{url}/v1/chat/completions", data=io.BytesIO(body)) as answer:
                await answer.read()
                assert answer.status == 200

    await asyncio.gather(*[send() for _ in range(AT_ONCE)])


async def measure():
    """Print one line for each way and size."""
    app = web.Application(client_max_size=1 << 30)

    async def respond(request):
        await request.read()
        return web.Response()

    app.router.add_post("/{path:.*}", respond)
    limits = Limits()
    async with contextlib.AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(TestServer(app, host="127.0.0.1"))
        authority = f"127.0.0.1:{upstream.port}"
        judge = StubJudge((authority,))
        server = NativeServer(lambda: Session(judge, limits, Budget(limits.buffered_bytes)), Health(), limits)
        picker = f"127.0.0.1:{await server.start('127.0.0.1', 0)}"
        stack.push_async_callback(server.stop)
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        router_pid, router = await stack.enter_async_context(body_router(directory))
        headers = {"content-type": "application/json"}
        client = await stack.enter_async_context(aiohttp.ClientSession(headers=headers))
        envoys = {}
        for way in ("path", "envoy", "router"):
            resource = bootstrap(load_intent(json.dumps(intent(way, authority, picker, router))))
            envoys[way] = await stack.enter_async_context(running_envoy(resource))
        for size_kb in SIZES_KB:
            body = json.dumps({"messages": [{"role": "user", "content": "x" * size_kb * 1024}], "model": "a"}).encode()
            spent = {way: [] for way in envoys}
            for _ in range(ROUNDS):
                for way, envoy in envoys.items():
                    before = cpu_us(envoy.process.pid), cpu_us(router_pid)
                    await load(client, envoy.url, body)
                    after = cpu_us(envoy.process.pid), cpu_us(router_pid)
                    spent[way].append([(late - soon) / REQUESTS for soon, late in zip(before, after, strict=True)])
            for way, turns in spent.items():
                envoy_us, router_us = (statistics.median(column) for column in zip(*turns, strict=True))
                print(f"{size_kb:>4} KB  by {way:<7} Envoy {envoy_us:6.0f} µs   body router {router_us:5.0f} µs")


def main():
    """Measure, and say where."""
    print(f"Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} cores; medians of {ROUNDS} turns\n")
    asyncio.run(measure())


if __name__ == "__main__":
    main()
