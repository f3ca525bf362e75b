"""What it costs Envoy that weights move, and which sessions move with them: the profile native over a hundred endpoints.

A real Envoy (Maglev with bounded load, one worker thread), fed by the control plane's server in this process. Endpoints are
addresses of 127.0.0.0/8, all one server that says at which it was asked. CPU is Envoy's, without any requests.

    python hack/bench_weights.py [--endpoints 100] [--page docs/gateway/xds.md]
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import time
from pathlib import Path

import aiohttp
from aiohttp import web

from shunter.envoyconf import load_intent
from shunter.envoyconf.core.envoy.dynamic import divide
from shunter.envoyconf.core.envoy.remote import from_control_plane, remote_bootstrap
from shunter.envoyconf.core.output import Settings
from shunter.envoyconf.core.schema import envoy_schema
from shunter.envoyconf.core.xds.members import Member
from shunter.envoyconf.core.xds.weights import LADDER, USUAL, Reading, Weights
from shunter.envoyconf.shell.ads import Server
from shunter.envoyconf.testing import running_envoy

KEYS = 1000
WATCH_S = 8.0
CLOCK = os.sysconf("SC_CLK_TCK")
BEGIN, END = "<!-- hack/bench_weights.py -->", "<!-- end of weights -->"


@contextlib.asynccontextmanager
async def upstream(addresses):
    """Serve at all of these, and give the port."""

    async def answer(request):
        return web.Response(text=request.transport.get_extra_info("sockname")[0])

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    port = 0
    for address in addresses:
        await web.TCPSite(runner, address, port).start()
        port = runner.addresses[0][1]
    yield port
    await runner.cleanup()


def cpu_s(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / CLOCK


async def settle(server):
    """Wait until Envoy has accepted everything."""
    while not all(held.current for seen in server.report().clients for held in seen.kinds.values()):  # noqa: ASYNC110 # no bell
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.2)  # the worker thread gets the new table after the main thread has accepted it


async def placed(session, url):
    """Return where each key goes, ten at a time."""
    limit = asyncio.Semaphore(10)

    async def ask(key):
        async with limit, session.get(f"{url}/", headers={"x-session-id": f"session-{key}"}) as answer:
            return await answer.text()

    return await asyncio.gather(*(ask(key) for key in range(KEYS)))


async def burn(pid, server, pushes):
    """Return Envoy's CPU in percent of a core while ``pushes`` go to it, ten a second."""
    start_s, began = cpu_s(pid), time.perf_counter()
    while time.perf_counter() - began < WATCH_S:
        if members := next(pushes):
            await server.move({"pool/llama": members})
        await asyncio.sleep(0.1)
    return (cpu_s(pid) - start_s) / (time.perf_counter() - began) * 100


async def measure(count):
    """Return rows of the table."""
    addresses = [f"127.1.{number >> 8}.{(number & 255) + 1}" for number in range(count)]
    dice = random.Random(7)
    async with upstream(addresses) as port, aiohttp.ClientSession() as session:
        affinity = {"header": "x-session-id", "body": []}
        pool = {"name": "llama", "endpoints": [f"{address}:{port}" for address in addresses]}
        whole = {"pools": [pool], "profile": "native", "routes": [{"pool": "llama", "affinity": affinity}]}
        whole |= {"listeners": [{"port": 0}], "observability": {"accessLog": "none"}}
        server = Server(envoy_schema(), time.monotonic)
        await server.replace(divide(load_intent(json.dumps(whole)), Settings(), from_control_plane))
        plane = {"controlPlane": {"addresses": [f"127.0.0.1:{await server.start('127.0.0.1', 0)}"]}}
        async with running_envoy(remote_bootstrap(load_intent(json.dumps(whole | plane)), Settings())) as envoy:

            def members(changed=None):
                return [
                    Member(address, port, weight)
                    for number, address in enumerate(addresses)
                    if (weight := (changed or {}).get(number, LADDER[USUAL]))
                ]

            async def moved(changed):
                await server.move({"pool/llama": members()})
                await settle(server)
                before = await placed(session, envoy.url)
                await server.move({"pool/llama": members(changed)})
                await settle(server)
                after = await placed(session, envoy.url)
                return sum(old != new for old, new in zip(before, after, strict=True)) / KEYS * 100

            def steady():
                while True:
                    yield None

            def wild():
                while True:
                    yield members({number: dice.choice(LADDER) for number in range(count)})

            def tame():
                weights = Weights()
                while True:
                    readings = {number: Reading(waiting=dice.random() * 30, running=8.0) for number in range(count)}
                    yield members(weights.update(readings, time.monotonic()))

            rows = {
                "sessions moved, %: nothing changed": await moved({}),
                "sessions moved, %: one endpoint, one step down": await moved({0: LADDER[USUAL - 1]}),
                "sessions moved, %: one endpoint, to the least weight": await moved({0: LADDER[0]}),
                "sessions moved, %: a tenth of them, one step down": await moved(
                    dict.fromkeys(range(count // 10), LADDER[USUAL - 1])
                ),
                "sessions moved, %: one endpoint leaves": await moved({0: 0}),
            }
            pid = envoy.process.pid
            rows |= {
                "Envoy's CPU, % of a core: no pushes": await burn(pid, server, steady()),
                "Envoy's CPU, % of a core: gauges that jump (0 to 30 waiting) ten times a second": await burn(
                    pid, server, tame()
                ),
                "Envoy's CPU, % of a core: every weight anew ten times a second": await burn(pid, server, wild()),
            }
        await server.stop()
    return rows


def main():
    """Measure and print, or put into a page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--endpoints", type=int, default=100)
    parser.add_argument("--page", type=Path, help="put the table between the markers of this page")
    given = parser.parse_args()
    rows = asyncio.run(measure(given.endpoints))
    text = "\n".join(
        [f"| {given.endpoints} endpoints | |", "|---|---|", *(f"| {key} | {value:.1f} |" for key, value in rows.items())]
    )
    print(text)
    if given.page:
        page = given.page.read_text()
        before, rest = page.split(BEGIN)
        given.page.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
